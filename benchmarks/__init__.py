"""The same work over soma and its peers, in one run: ``python -m benchmarks --help``."""
