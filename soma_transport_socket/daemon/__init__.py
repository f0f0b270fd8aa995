"""The daemon's process: accepts clients, and gives each a worker process; owns no filters."""
