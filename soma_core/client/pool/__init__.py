"""Pools in an event loop: the calls that wait, and the slots whose workers do them."""
