"""Recordings, run again and compared."""
