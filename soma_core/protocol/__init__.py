"""The protocol: what a message may say, and how Python objects cross in it."""
