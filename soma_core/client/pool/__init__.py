"""Several workers with the same filters, behind one queue."""
