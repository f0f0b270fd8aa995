"""A pool of workers: the same filters in several of them, and calls that any of them may run."""
