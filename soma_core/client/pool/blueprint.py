"""Blueprint: how each worker of a pool is made, and kept equal to the others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from soma_core.channel.contract import Transport
from soma_core.client.results import NodeState
from soma_core.client.worker import Worker

__all__ = ["Blueprint"]


@dataclass
class _Node:
    """A filter and the state that was set last, each with the version that brought it."""

    filter_like: Any
    trainable: bool
    loaded: int
    state: NodeState | None = None
    state_set: int = 0


class Blueprint:
    """The filters and states that every worker of a pool has. Thread-safe.

    Each change makes a new version. It keeps what a worker needs to catch up from any version,
    which does not grow with their number.

    Args:
        make_transport: Makes a transport to start.
        filters: What to load, by node id.
        timeout: Seconds that each call may take, unless it names its own.
        start_timeout: Seconds for HELLO, and for each command that brings a worker up to date.

    Attributes:
        version: That of the last change.
    """

    def __init__(
        self,
        make_transport: Callable[[], Transport],
        filters: Mapping[str, Any],
        *,
        timeout: float | None,
        start_timeout: float | None,
    ) -> None:
        self.make_transport = make_transport
        self._timeout, self._start_timeout = timeout, start_timeout
        self._lock = threading.Lock()
        self._nodes = {node_id: _Node(obj, True, 1) for node_id, obj in filters.items()}
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
            return self.version

    def unload(self, node_ids: Iterable[str]) -> int:
        """Nodes that a worker has forgotten; returns the new version."""
        with self._lock:
            self.version += 1
            for node_id in node_ids:
                self._nodes.pop(node_id, None)
            return self.version

    def set_state(self, node_id: str, state: NodeState) -> int:
        """A state that a worker has; returns the new version."""
        with self._lock:
            self.version += 1
            if node_id in self._nodes:
                self._nodes[node_id].state = state
                self._nodes[node_id].state_set = self.version
            return self.version

    def connect(self, transport: Transport) -> Worker:
        """Start a worker, which holds nothing yet: version 0."""
        return Worker(transport, timeout=self._timeout, start_timeout=self._start_timeout)

    def update(self, worker: Worker, since: int) -> int:
        """Make a worker that has a version equal to the others; returns the version it then has."""
        with self._lock:
            version = self.version
            loads = {key: node for key, node in self._nodes.items() if node.loaded > since}
            gone = [key for key in worker.node_ids if key not in self._nodes]
            states = [
                (key, node.state)
                for key, node in self._nodes.items()
                if node.state is not None and node.state_set > since
            ]
        timeout = self._start_timeout
        if gone:
            worker.unload(gone, timeout=timeout)
        if loads:
            worker.load(
                {key: node.filter_like for key, node in loads.items()},
                trainable={key: node.trainable for key, node in loads.items()},
                timeout=timeout,
            )
        for node_id, state in states:
            worker.set_state(node_id, state, timeout=timeout)
        return version
