"""demo: scikit-learn's digits learned in a worker, over each transport, one of them killed."""

from soma_core.cli.demo.command import demo

__all__ = ["demo"]
