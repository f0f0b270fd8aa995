"""The suite of transports, by subject."""
