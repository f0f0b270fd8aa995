"""Models of filters and of the data between them."""
