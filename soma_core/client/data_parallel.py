"""DataParallel: one training step over several workers that hold replicas of a chain."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

from soma_core.client.worker import Worker
from soma_core.errors import SomaError, StateLost, TransportError
from soma_core.models import rows
from soma_core.wire.weights import dump_weights, load_weights

T = TypeVar("T")

_AT_ONCE = 1 << 15  # elements that are averaged while they are in the processor's cache


class _Shard(NamedTuple):
    """What one worker found on its rows."""

    rows: int
    loss: float
    gradients: dict[str, bytes]


class DataParallel:
    """The same chain of nodes in several workers, over any transports, trained as one.

    A step equals a step of one process on the whole batch, if the loss is a mean over rows and
    no node lets rows of a batch see each other. Nodes that learn by ``fit`` are not fitted here:
    they use what they learned before. Buffers that training changes are averaged by rows, too:
    batch normalization sees the rows of a shard alone, and its statistics are the same in all
    replicas. Random numbers are each worker's own: dropout draws for the rows of a shard.

    Args:
        workers: They hold the nodes; nobody else uses them during a step.
        node_ids: The chain.
        optimizer: A class of ``torch.optim`` and its arguments, as for ``composite_fit``; None
            leaves the step to the optimizers that the nodes own.
        timeout: Seconds for each command; None for ever.

    Raises:
        ValueError: There is no worker, or no node, or a node comes twice.
    """

    def __init__(
        self,
        workers: Sequence[Worker],
        node_ids: Sequence[str],
        *,
        optimizer: Mapping[str, Any] | None = None,
        timeout: float | None = None,
    ) -> None:
        if not workers or not node_ids or len(set(node_ids)) < len(node_ids):
            raise ValueError(
                f"DataParallel needs workers and a chain of different nodes; got {len(workers)} "
                f"workers and {list(node_ids)}"
            )
        self._workers, self._node_ids = list(workers), list(node_ids)
        self._optimizer, self._timeout = optimizer, timeout
        self._lock = threading.Lock()
        self._current: set[int] = {0}

    def __repr__(self) -> str:
        return f"<DataParallel over {len(self._workers)} workers, nodes {self._node_ids}>"

    def synchronize(self) -> None:
        """Copy the full states of one replica to all others; a step does so where it must.

        Raises:
            SomaError: A worker cannot be reached; the others are equal.
        """
        with self._lock:
            source = min(self._current, default=0)
            self._current = {source}
            self._update_others()

    def step(self, x: Any, y: Any) -> float:
        """One training step on a batch, cut by rows among the workers.

        Gradients are averaged by rows in float64 and applied by every replica alike. A step that
        raises has happened in no replica: those that live are as before it, and a worker that
        was replaced is brought to their state by the next step.

        Args:
            x: The data: an array, tensor or list of rows, or columns of rows in a dict.
            y: The targets of the rows.

        Returns:
            The mean loss over the rows, before the step.

        Raises:
            ValueError: There are no rows, ``x`` and ``y`` differ in their number, or a buffer that
                is nothing to average came out different.
            SomaError: A worker died, or refused.
        """
        shards = _shards(x, y, len(self._workers))
        with self._lock:
            self._update_others()
            found = self._call_each(
                lambda worker, shard: self._gradients(worker, *shard), list(enumerate(shards))
            )
            total = sum(shard.rows for shard in found)
            averaged = {
                node_id: _averaged_batch([(s.gradients[node_id], s.rows / total) for s in found])
                for node_id in found[0].gradients
            }
            self._apply({node_id: data for node_id, data in averaged.items() if data is not None})
            return sum(shard.loss * shard.rows for shard in found) / total

    def _gradients(self, worker: Worker, x: Any, y: Any, size: int) -> _Shard:
        loss, gradients = worker.compute_gradients(self._node_ids, x, y, timeout=self._timeout)
        return _Shard(size, loss, gradients)

    def _apply(self, gradients: Mapping[str, bytes]) -> None:
        """Apply in all replicas but one, then in that one: until then it can undo the step."""
        keeper, *others = range(len(self._workers))

        def apply(worker: Worker, _: Any) -> None:
            for node_id, data in gradients.items():
                worker.apply_gradients(
                    node_id, data, optimizer=self._optimizer, timeout=self._timeout
                )

        self._current = {keeper}
        try:
            self._call_each(apply, [(index, None) for index in others])
        except SomaError:
            self._undo(others)
            raise
        self._current = set(others)
        try:
            apply(self._workers[keeper], None)
        except (TransportError, StateLost):
            if not others:
                raise
            return  # every replica that lives has made the step; the next brings this one to it
        except SomaError:
            self._undo(others)
            raise
        self._current = {keeper, *others}

    def _undo(self, indexes: Sequence[int]) -> None:
        """Copy the replica that has not made the step to those that live."""
        states = self._states(0)
        for index in indexes:
            try:
                self._put(index, states)
            except SomaError:
                continue  # the dead one; the error of its step is raised

    def _update_others(self) -> None:
        """Bring all replicas to the state of one that is right."""
        behind = [index for index in range(len(self._workers)) if index not in self._current]
        if behind:
            states = self._states(min(self._current, default=0))
            self._call_each(lambda _, index: self._put(index, states), [(i, i) for i in behind])

    def _states(self, index: int) -> dict[str, Any]:
        worker = self._workers[index]
        return {
            node_id: worker.get_state(node_id, full=True, timeout=self._timeout)
            for node_id in self._node_ids
        }

    def _put(self, index: int, states: Mapping[str, Any]) -> None:
        for node_id, state in states.items():
            self._workers[index].set_state(node_id, state, timeout=self._timeout)
        self._current.add(index)

    def _call_each(
        self, call: Callable[[Worker, Any], T], arguments: Sequence[tuple[int, Any]]
    ) -> list[T]:
        """Call for several workers at the same time; all end before the first error is raised."""
        with ThreadPoolExecutor(max(1, len(arguments)), "soma-data-parallel") as threads:
            futures = [
                threads.submit(call, self._workers[index], argument)
                for index, argument in arguments
            ]
        for (index, _), future in zip(arguments, futures, strict=True):
            if isinstance(future.exception(), TransportError | StateLost):
                self._current.discard(index)
        return [future.result() for future in futures]


def average_states(states: Sequence[bytes], weights: Sequence[float] | None = None) -> bytes:
    """The weighted mean of states in torch's format, as a round of federated training needs it.

    Floating parameters and buffers are averaged in float64; integers (counters of batches)
    are averaged and rounded; what is neither must be equal in all.

    Args:
        states: What ``get_state(...).data`` returned, of the same module in several workers.
        weights: One for each state, such as its number of rows; None weighs them alike.

    Raises:
        ValueError: There is none, the weights do not fit, or the states differ in names or shapes.
    """
    chosen = [1.0] * len(states) if weights is None else [float(weight) for weight in weights]
    total = sum(chosen)
    if not states or len(chosen) != len(states) or min(chosen) < 0 or total <= 0:
        raise ValueError(
            f"average_states needs a weight from 0 on for each state, and a sum above 0; got "
            f"{len(states)} states and the weights {chosen}"
        )
    return _averaged([(data, w / total) for data, w in zip(states, chosen, strict=True)])


def _averaged(parts: Sequence[tuple[bytes, float]]) -> bytes:
    loaded = _loaded(parts)
    averaged = {
        key: _mean(key, [(one[key], share) for one, share in loaded]) for key in loaded[0][0]
    }
    return dump_weights(averaged)


def _loaded(parts: Sequence[tuple[bytes, float]]) -> list[tuple[dict[str, Any], float]]:
    """The weights of several workers by name, made sure to be of the same module.

    Raises:
        ValueError: They differ in names or shapes.
    """
    loaded = [(load_weights(data), share) for data, share in parts]
    shapes: dict[str, Any] = {}
    for number, (one, _) in enumerate(loaded):
        named = isinstance(one, dict) and (not number or one.keys() == loaded[0][0].keys())
        if not named or not all(
            shapes.setdefault(name, getattr(item, "shape", None)) == getattr(item, "shape", None)
            for name, item in one.items()
            if item is not None
        ):
            raise ValueError(f"state {number} does not have the names and shapes of the first")
    return loaded


def _averaged_batch(parts: Sequence[tuple[bytes, float]]) -> bytes | None:
    """What the shards of a batch came to together; None if no shard trains the node.

    A parameter that a shard has no gradient for gets none from its rows.
    """
    loaded = _loaded(parts)
    averaged = {}
    for name in loaded[0][0]:
        given = [(one[name], share) for one, share in loaded if one[name] is not None]
        averaged[name] = _mean(name, given) if given else None
    if all(value is None for value in averaged.values()):
        return None
    return dump_weights(averaged)


def _mean(name: str, parts: Sequence[tuple[Any, float]]) -> Any:
    import torch

    first = parts[0][0]
    if not isinstance(first, torch.Tensor) or first.dtype is torch.bool:
        same = all(
            torch.equal(item, first) if isinstance(first, torch.Tensor) else item == first
            for item, _ in parts
        )
        if not same:
            raise ValueError(f"{name} differs between the states, and is nothing to average")
        return first
    wide = torch.complex128 if first.is_complex() else torch.float64
    exact = first.is_floating_point() or first.is_complex()
    averaged = torch.empty_like(first, memory_format=torch.contiguous_format)
    shares = [share for _, share in parts]
    flat = [item.reshape(-1) for item in (averaged, *(item for item, _ in parts))]
    for start in range(0, averaged.numel(), _AT_ONCE):
        place, *pieces = (item[start : start + _AT_ONCE] for item in flat)
        products = (piece.to(wide) * share for piece, share in zip(pieces, shares, strict=True))
        total = functools.reduce(torch.Tensor.add_, products)
        place.copy_(total if exact else total.round())
    return averaged


def _shards(x: Any, y: Any, count: int) -> list[tuple[Any, Any, int]]:
    for name, value in (("x", x), ("y", y)):
        if not rows.count(value, name):
            raise ValueError(
                f"a step needs rows of x and y; {name} is a {type(value).__name__} without any"
            )
    total = rows.common_count({"x": x, "y": y}) or 0
    used = min(count, total)
    cuts = [slice(total * n // used, total * (n + 1) // used) for n in range(used)]
    return [(rows.take(x, cut), rows.take(y, cut), cut.stop - cut.start) for cut in cuts]
