"""A pool for threads: its workers are served by an event loop in a thread of its own."""
