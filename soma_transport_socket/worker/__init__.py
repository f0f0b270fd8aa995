"""The worker's process: serves an engine to one client, or to those of a session."""
