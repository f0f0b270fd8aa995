"""Filters that are registered for these tests alone."""

import os
import sys

from soma_core import Filter, FilterMeta, progress
from soma_core.models.filters import FilterKind


class Echo(Filter):
    """Learns and returns what it is given, and reports progress."""

    def fit(self, x, y=None):
        progress.report(rows=x)
        return {"x": x, "y": y}

    def forward(self, x, state):
        progress.report(state=state)
        return x


class Odd(Filter):
    """Returns what only a pickle could carry, wherever it is asked to."""

    def fit(self, x, y=None):
        progress.report(odd=slice(1, 2))
        return {"odd": slice(1, 2)}

    def forward(self, x, state):
        return slice(1, 2)

    def state_dict(self):
        return {"odd": os.stat_result(range(10))}


class Version(Filter):
    """Says which interpreter it runs in."""

    def forward(self, x, state):
        return ".".join(map(str, sys.version_info[:2]))


class Linear:
    """One weight without an optimizer, which keeps its gradients."""

    def __init__(self):
        import torch

        self.weight = torch.nn.Parameter(torch.ones(1, 1))

    def fit(self, x, y=None):
        return {}

    def forward(self, x, state):
        import torch

        return torch.as_tensor(x, dtype=torch.float32) @ self.weight

    def meta(self):
        return FilterMeta(name="Linear", kind=FilterKind.TRAINABLE, differentiable=True)

    def named_parameters(self):
        return iter([("weight", self.weight)])

    def state_dict(self):
        return {"weight": self.weight.detach()}

    def load_state_dict(self, state):
        self.weight.data.copy_(state["weight"])
