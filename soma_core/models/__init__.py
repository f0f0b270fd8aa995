"""What is said of filters, and of the data between them."""
