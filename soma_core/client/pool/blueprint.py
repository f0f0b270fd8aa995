"""Blueprint: what every worker of a pool holds, and how one of them catches up with it."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from soma_core.client.results import NodeState
from soma_core.client.worker import Worker

__all__ = ["Blueprint"]


@dataclass(frozen=True)
class _Node:
    filter_like: Any
    trainable: bool
    since: int


@dataclass(frozen=True)
class _State:
    state: NodeState
    since: int


class Blueprint:
    """The filters and states that every worker of a pool has, each with its version.

    It grows no longer with the number of changes: a worker needs the last one of each node.

    Args:
        filters: What to load, by node id.
    """

    def __init__(self, filters: Mapping[str, Any]) -> None:
        self._lock = threading.Lock()
        self._nodes = {node_id: _Node(obj, True, 1) for node_id, obj in filters.items()}
        self._states: dict[str, _State] = {}
        self.version = 1

    @property
    def node_ids(self) -> list[str]:
        """The nodes that every worker has."""
        return list(self._nodes)

    def load(self, filters: Mapping[str, Any], trainable: bool | Mapping[str, bool]) -> int:
        """Filters that a worker has loaded; returns the new version."""
        with self._lock:
            self.version += 1
            for node_id, obj in filters.items():
                flag = trainable if isinstance(trainable, bool) else trainable.get(node_id, True)
                self._nodes[node_id] = _Node(obj, flag, self.version)
                self._states.pop(node_id, None)
            return self.version

    def unload(self, node_ids: Iterable[str]) -> int:
        """Nodes that a worker has forgotten; returns the new version."""
        with self._lock:
            self.version += 1
            for node_id in node_ids:
                self._nodes.pop(node_id, None)
                self._states.pop(node_id, None)
            return self.version

    def set_state(self, node_id: str, state: NodeState) -> int:
        """A state that a worker has; returns the new version."""
        with self._lock:
            self.version += 1
            self._states[node_id] = _State(state, self.version)
            return self.version

    def bring(self, worker: Worker, since: int, timeout: float | None) -> int:
        """Make a worker equal to the others.

        Args:
            worker: The worker.
            since: The version that it has; 0 for a new one.
            timeout: Seconds for each command.

        Returns:
            The version that it has now.
        """
        with self._lock:
            version = self.version
            nodes = {key: node for key, node in self._nodes.items() if node.since > since}
            gone = [key for key in worker.node_ids if key not in self._nodes]
            states = [(key, held.state) for key, held in self._states.items() if held.since > since]
        if gone:
            worker.unload(gone, timeout=timeout)
        if nodes:
            worker.load(
                {key: node.filter_like for key, node in nodes.items()},
                trainable={key: node.trainable for key, node in nodes.items()},
                timeout=timeout,
            )
        for node_id, state in states:
            worker.set_state(node_id, state, timeout=timeout)
        return version
