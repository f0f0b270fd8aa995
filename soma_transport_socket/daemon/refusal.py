"""Refused: a client does not get what it asked for."""

__all__ = ["Refused"]


class Refused(Exception):
    """A client does not get what it asked for; the text says why, and what to do."""
