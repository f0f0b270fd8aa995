"""The server: workers for hosts that are elsewhere, and models for whoever speaks HTTP."""
