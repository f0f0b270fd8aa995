"""Faults by the thousand, and what they came to: ``python -m benchmarks.faults --help``."""
