"""What the methods of a worker send and make of the replies, once for all that drive them."""
