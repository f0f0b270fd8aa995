"""Many callers of a small model: what a service gets of each way to run it in other processes."""
