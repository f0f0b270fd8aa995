"""Ctrl-C at random moments of calls of every kind: what it costs."""
