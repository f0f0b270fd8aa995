"""Ends of every kind by the hundred: what is left after them."""
