"""Training in a worker beside the same training at home: ``python -m benchmarks.training``."""
