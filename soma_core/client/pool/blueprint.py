"""Blueprint: how each worker of a pool is made, and kept equal to the others."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping
from contextvars import Context, copy_context
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from soma_core.channel.contract import Transport
from soma_core.client.recording import Recorder, Recording
from soma_core.client.results import NodeState
from soma_core.client.steps import Steps
from soma_core.client.verbs.verbs import Verbs
from soma_core.client.worker_options import WorkerOptions
from soma_core.models.filters import FilterMeta


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
        options: How each is started and asked; what brings one up to date has the time of a start.
        record: Where the workers are recorded, if they are: ``calls.jsonl`` becomes
            ``calls-1.jsonl`` for the worker with the number 1.

    Attributes:
        timeout: Seconds that each call may take, unless it names its own; None for ever.
        metas: What workers said of the nodes when they were loaded.
        version: That of the last change.
    """

    def __init__(
        self,
        make_transport: Callable[[], Transport],
        filters: Mapping[str, Any],
        options: WorkerOptions,
        record: str | os.PathLike[str] | Recording | None,
    ) -> None:
        self.make_transport = make_transport
        self._options = options
        self.timeout = options.timeout
        if record is not None and not isinstance(record, Recording):
            record = Recording(record)
        self._recording = record
        self._lock = threading.Lock()
        self._nodes = {node_id: _Node(obj, True, 1) for node_id, obj in filters.items()}
        self.metas: Mapping[str, FilterMeta] = {}
        self.version = 1

    @property
    def node_ids(self) -> list[str]:
        """The nodes that every worker has."""
        return list(self._nodes)

    def context(self) -> Context | None:
        """Where a call is asked for that is made now; None if no plugin observes calls."""
        return copy_context() if self._options.plugins.observes_calls else None

    def load(
        self,
        filters: Mapping[str, Any],
        trainable: bool | Mapping[str, bool],
        metas: Mapping[str, FilterMeta],
    ) -> int:
        """Filters that a worker has loaded; returns the new version."""
        with self._lock:
            self.version += 1
            for node_id, obj in filters.items():
                flag = trainable if isinstance(trainable, bool) else trainable.get(node_id, True)
                self._nodes[node_id] = _Node(obj, flag, self.version)
            self.metas = {**self.metas, **metas}
            return self.version

    def unload(self, node_ids: Iterable[str]) -> int:
        """Nodes that a worker has forgotten; returns the new version."""
        with self._lock:
            self.version += 1
            for node_id in node_ids:
                self._nodes.pop(node_id, None)
            self.metas = {key: meta for key, meta in self.metas.items() if key in self._nodes}
            return self.version

    def set_states(self, states: Mapping[str, NodeState]) -> int:
        """States of nodes that a worker has; returns the new version."""
        with self._lock:
            self.version += 1
            for node_id in states.keys() & self._nodes.keys():
                node = self._nodes[node_id]
                node.state, node.state_set = states[node_id], self.version
            return self.version

    def options(self, transport: Transport, number: int) -> WorkerOptions:
        """How to start the worker with a number, which then holds nothing yet: version 0."""
        if self._recording is None:
            return self._options
        path = Path(self._recording.path)
        path = path.with_name(f"{path.stem}-{number}{path.suffix}")
        recording = replace(self._recording, path=path)
        recorder = Recorder(recording, transport.name, transport.options)
        return replace(self._options, recorder=recorder)

    def update(self, verbs: Verbs, since: int) -> Steps[int]:
        """Make a worker that has a version equal to the others; returns the version it then has."""
        with self._lock:
            version = self.version
            loads = {key: node for key, node in self._nodes.items() if node.loaded > since}
            gone = [key for key in verbs.metas if key not in self._nodes]
            states = [
                (key, node.state)
                for key, node in self._nodes.items()
                if node.state is not None and node.state_set > since
            ]
        timeout = self._options.start_timeout
        if gone:
            yield from verbs.unload(gone, timeout=timeout)
        if loads:
            metas = yield from verbs.load(
                {key: node.filter_like for key, node in loads.items()},
                trainable={key: node.trainable for key, node in loads.items()},
                timeout=timeout,
            )
            with self._lock:
                current = {key for key, node in loads.items() if self._nodes.get(key) is node}
                self.metas = {**self.metas, **{key: metas[key] for key in current}}
        for node_id, state in states:
            yield from verbs.set_state(node_id, state, timeout=timeout)
        return version
