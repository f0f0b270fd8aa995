"""Training at home: the same networks and the same steps in plain PyTorch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

BATCH = 64
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Network:
    """Fully connected layers with Adam: what ``torch.MLP`` is told, and what it stands for."""

    sizes: tuple[int, ...]
    seed: int
    lr: float = 1e-3
    dropout: float = 0.0
    loss: str = "cross_entropy"

    @property
    def as_filter(self) -> tuple[str, dict[str, Any]]:
        """The registered filter and its configuration."""
        return "torch.MLP", self.config

    @property
    def config(self) -> dict[str, Any]:
        """The configuration of the filter."""
        return {
            "sizes": list(self.sizes),
            "seed": self.seed,
            "lr": self.lr,
            "dropout": self.dropout,
            "loss": self.loss,
        }

    def build(self) -> nn.Sequential:
        """The layers; torch's random numbers go on from the network's seed."""
        torch.manual_seed(self.seed)
        layers: list[nn.Module] = []
        for width, following in zip(self.sizes[:-1], self.sizes[1:], strict=True):
            layers += [nn.Linear(width, following), nn.ReLU()]
            layers += [nn.Dropout(self.dropout)] if self.dropout else []
        return nn.Sequential(*layers[: -2 if self.dropout else -1])


class Home:
    """A chain of networks, each with an Adam of its own, trained in this process.

    Args:
        networks: In the order of the chain. At most one has dropout: it draws from the stream
            of random numbers that its seed began, which is torch's own here.
        named: One optimizer over the whole chain instead: a class of ``torch.optim`` as
            ``name``, and its arguments.
    """

    def __init__(
        self, networks: Mapping[str, Network], named: Mapping[str, Any] | None = None
    ) -> None:
        built = {name: networks[name].build() for name in sorted(networks, key=_draws(networks))}
        self.parts = {name: built[name] for name in networks}
        self._chain = nn.Sequential(*self.parts.values())
        if named is None:
            self._optimizers = [
                torch.optim.Adam(self.parts[name].parameters(), lr=network.lr)
                for name, network in networks.items()
            ]
        else:
            arguments = {key: value for key, value in named.items() if key != "name"}
            chosen = getattr(torch.optim, named["name"])
            self._optimizers = [chosen(self._chain.parameters(), **arguments)]

    def step(self, x: Array, y: Array) -> float:
        """One training step on one batch; returns the loss before it."""
        for optimizer in self._optimizers:
            optimizer.zero_grad()
        out = self._chain(torch.from_numpy(x))
        loss = nn.functional.cross_entropy(out, torch.from_numpy(y))
        loss.backward()
        for optimizer in self._optimizers:
            optimizer.step()
        return loss.item()

    def epoch(self, x: Array, y: Array, order: Array | None = None) -> float:
        """One pass over the data in batches; returns the mean loss over its rows."""
        total = 0.0
        for rows in batches(len(x), order):
            batch = x[rows], y[rows]
            total += len(batch[0]) * self.step(*batch)
        return total / len(x)


def batches(count: int, order: Array | None = None) -> Iterator[Any]:
    """The rows of each batch: slices, or parts of an order."""
    for start in range(0, count, BATCH):
        rows = slice(start, start + BATCH)
        yield rows if order is None else order[rows]


def _draws(networks: Mapping[str, Network]) -> Any:
    """Orders networks so that the one that draws random numbers in training comes last."""
    return lambda name: networks[name].dropout > 0
