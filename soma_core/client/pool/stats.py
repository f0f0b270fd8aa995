"""PoolStats: what a pool has done, and how long it took."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from soma_core.client.pool.call import CallOutcome, PoolCall

_WINDOW = 1000  # calls of a node whose times are kept


@dataclass(frozen=True)
class NodeStats:
    """The calls of one node, or of one chain.

    The times are seconds from the submission of a call to its result, waiting included, of the
    last 1,000 calls that were done.

    Attributes:
        done: Calls that gave a result.
        failed: Calls that raised, since the first one that was done.
        batches: Commands that ran several calls together.
        batched: The calls that those ran: ``batched / batches`` is the mean size of a batch.
        p50: The time that half of the calls took at most.
        p90: The time that nine of ten calls took at most.
        p99: The time that 99 of 100 calls took at most.
    """

    done: int
    failed: int
    batches: int
    batched: int
    p50: float
    p90: float
    p99: float


@dataclass(frozen=True)
class PoolStats:
    """What a pool does now, and what it has done since it was made.

    Attributes:
        workers: How many workers it has; those that are being replaced count.
        queued: Calls that wait for a worker.
        running: Calls that a worker runs, or that are on their way to it.
        done: Calls that gave a result.
        failed: Calls that raised, those among them that never ran.
        cancelled: Calls that were cancelled.
        refused: Calls that were not submitted, since the queue was full, also until their deadline.
        replaced: Workers that took the place of one that died, was ended or was recycled.
        nodes: The calls of ``submit``, ``map`` and ``forward``: by node id, those of a chain by
            its node ids joined by ``" > "``.
    """

    workers: int
    queued: int
    running: int
    done: int
    failed: int
    cancelled: int
    refused: int
    replaced: int
    nodes: Mapping[str, NodeStats]


@dataclass
class _NodeTally:
    done: int = 0
    failed: int = 0
    batches: int = 0
    batched: int = 0
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=_WINDOW))

    def stats(self) -> NodeStats:
        ranked = sorted(self.seconds)
        quantiles = (_quantile(ranked, share) for share in (0.5, 0.9, 0.99))
        return NodeStats(self.done, self.failed, self.batches, self.batched, *quantiles)


class Tally:
    """Counts what happens in a pool.

    Attributes:
        refused: Calls that found the queue full.
        replaced: Workers that took the place of another one.
    """

    def __init__(self) -> None:
        self._done = self._failed = self._cancelled = self.refused = self.replaced = 0
        self._nodes: dict[str, _NodeTally] = {}

    def add_end(self, call: PoolCall, outcome: CallOutcome) -> None:
        """A call has ended."""
        node = None if call.label is None else self._nodes.get(call.label)
        if outcome is CallOutcome.DONE:
            self._done += 1
            if node is None and call.label is not None:
                node = self._nodes[call.label] = _NodeTally()
            if node is not None:
                node.done += 1
                node.seconds.append(time.monotonic() - call.submitted)
        elif outcome is CallOutcome.FAILED:
            self._failed += 1
            if node is not None:  # a node that never worked may not exist
                node.failed += 1
        else:
            self._cancelled += 1

    def add_batch(self, label: str | None, calls: int) -> None:
        """A command is sent that runs several calls."""
        if label is not None:
            node = self._nodes.setdefault(label, _NodeTally())
            node.batches += 1
            node.batched += calls

    def stats(self, *, workers: int, queued: int, running: int) -> PoolStats:
        """All of it, with what is known elsewhere."""
        return PoolStats(
            workers=workers,
            queued=queued,
            running=running,
            done=self._done,
            failed=self._failed,
            cancelled=self._cancelled,
            refused=self.refused,
            replaced=self.replaced,
            nodes={label: node.stats() for label, node in self._nodes.items() if node.done},
        )


def _quantile(ranked: Sequence[float], share: float) -> float:
    """The smallest value that so large a share of the values does not exceed."""
    return ranked[math.ceil(share * len(ranked)) - 1]
