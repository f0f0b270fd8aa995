"""Streams: chunks of data through a chain, pulled one by one by whoever reads the results."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

from soma_core.client.arguments import as_node_ids
from soma_core.models import rows
from soma_core.models.chains import ChainNode, check_chain
from soma_core.models.filters import FilterMeta, StreamMode

Run = Callable[[Sequence[str], Any], Any]


@dataclass(frozen=True)
class StreamPlan:
    """How chunks go through a chain.

    Attributes:
        node_ids: The chain.
        barriers: The nodes that need all the data at once.
        evolving: The nodes that learn from each chunk before they run it.
    """

    node_ids: Sequence[str]
    barriers: Collection[str]
    evolving: Collection[str]

    @classmethod
    def of(cls, node_ids: Sequence[str], metas: Mapping[str, FilterMeta]) -> StreamPlan:
        """How chunks go through a chain, by the stream modes of its nodes.

        Raises:
            ValueError: There are none, or neighbours declare what cannot fit together; the
                message names the edge.
        """
        node_ids = as_node_ids(node_ids)
        if not node_ids:
            raise ValueError("node_ids is a list of at least one node id, got []")
        chain = {key: metas.get(key, FilterMeta(name=key)) for key in node_ids}
        check_chain(ChainNode.of(node_id, chain[node_id]) for node_id in node_ids)
        modes = {node_id: meta.stream_mode for node_id, meta in chain.items()}
        return cls(
            node_ids,
            barriers={key for key, mode in modes.items() if mode is StreamMode.BARRIER},
            evolving={key for key, mode in modes.items() if mode is StreamMode.EVOLVING},
        )

    def segments(self) -> list[list[str]]:
        """The chain cut before each barrier; the first segment may be empty."""
        starts = [index for index, node_id in enumerate(self.node_ids) if node_id in self.barriers]
        return [list(self.node_ids[a:b]) for a, b in pairwise([0, *starts, len(self.node_ids)])]

    def learns(self, segment: Iterable[str]) -> bool:
        """Whether one of the nodes learns from each chunk."""
        return not set(self.evolving).isdisjoint(segment)


def stream(plan: StreamPlan, chunks: Iterable[Any], run: Run) -> Generator[Any, None, None]:
    """Run chunks through a chain; a chunk is taken when its result is asked for.

    Before a node that needs all the data at once everything is gathered; behind it, the data
    goes on in chunks of the old sizes if it has as many rows as before, else in one.

    Args:
        chunks: The data; closed with this generator if it can be.
        run: Runs some nodes of the chain: ``run(node_ids, x)``.

    Raises:
        ValueError: Chunks that must be gathered cannot be put together.
    """
    source = iter(chunks)
    try:
        first, *others = plan.segments()
        flow: Iterator[Any] = (run(first, chunk) if first else chunk for chunk in source)
        for segment in others:
            flow = _from_barrier(segment, flow, run)
        yield from flow
    finally:
        close = getattr(source, "close", None)
        if callable(close):
            close()


def _from_barrier(segment: Sequence[str], flow: Iterator[Any], run: Run) -> Iterator[Any]:
    barrier, *behind = segment
    gathered = list(flow)
    if not gathered:
        return
    x, sizes = gather(gathered)
    del gathered
    for piece in split(run([barrier], x), sizes):
        yield run(behind, piece) if behind else piece


def gather(chunks: Sequence[Any]) -> tuple[Any, list[int | None]]:
    """Chunks put together, and the number of rows of each.

    Raises:
        ValueError: They cannot be.
    """
    return rows.concatenate(chunks), [rows.count(chunk) for chunk in chunks]


def split(out: Any, sizes: Sequence[int | None]) -> Iterator[Any]:
    """Data in chunks of these sizes if it has as many rows, else in one."""
    known = [size for size in sizes if size is not None]
    if len(known) < len(sizes) or not 0 < sum(known) == rows.count_if_equal(out):
        yield out
        return
    for end, size in zip(accumulate(known), known, strict=True):
        yield rows.take(out, slice(end - size, end))
