"""Joined calls: run as one command, cut apart again, and the one that fails is found."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, pairwise
from typing import Any

from soma_core.channel.deadline import NEVER, Deadline
from soma_core.client.pool.batching import Joinable
from soma_core.client.pool.call import PoolCall, asked_in
from soma_core.client.pool.replica import ends_worker
from soma_core.client.pool.stats import Tally
from soma_core.client.steps import Steps
from soma_core.client.verbs.verbs import Verbs
from soma_core.errors import ErrorCode, RemoteError, TransportError, WorkerDied
from soma_core.models import rows


def run_joined(
    calls: Sequence[PoolCall],
    verbs: Verbs,
    watch: Callable[[Iterable[PoolCall]], None],
    tally: Tally,
) -> Steps[bool]:
    """Run calls as one command, and end each with its part of the result.

    If the command fails, each half of the calls is run by itself, and so on: so the call that
    fails is found, and the others succeed. A worker that dies leaves the calls that it had as
    they are, for each to be run alone.

    Args:
        calls: They have begun on the worker.
        watch: Given the calls that have less time than others, which somebody must see to.

    Returns:
        Whether the worker can be used on.
    """
    latest = _share_time(calls, watch)
    groups = [list(calls)] if _may_be_joined(calls, verbs) else [[call] for call in reversed(calls)]
    while groups:
        group = [call for call in groups.pop() if not call.ended]
        if not group:
            continue
        try:
            results = yield from _forward(group, verbs, latest, tally)
        except TransportError as error:
            if not isinstance(error, WorkerDied) or (len(group) == 1 and error.sent):
                _fail(group, error)
            if ends_worker(error):
                return False
        except _UnlikeRows:
            groups += [[call] for call in reversed(group)]
        except _WrongRows as wrong:
            _fail(group, wrong.error(group[0]))
        except Exception as error:
            if len(group) == 1:
                _fail(group, error)
            else:
                half = len(group) // 2
                groups += [group[half:], group[:half]]
        else:
            for call, result in zip(group, results, strict=True):
                call.settle(result)
    return True


def _may_be_joined(calls: Sequence[PoolCall], verbs: Verbs) -> bool:
    """Whether the nodes still are what they were when the calls were submitted: rowwise."""
    metas = (verbs.metas.get(node_id) for node_id in _joinable(calls[0]).node_ids)
    return all(meta is not None and meta.rowwise for meta in metas)


def _share_time(calls: Sequence[PoolCall], watch: Callable[[Iterable[PoolCall]], None]) -> Deadline:
    """Have somebody see to calls that have less time than others; returns the time of those."""
    if all(call.deadline.at is None and _joinable(call).timeout is None for call in calls):
        return NEVER
    ends = [call.deadline.within(_joinable(call).timeout) for call in calls]
    moments = [end.at for end in ends]
    latest = Deadline(None if None in moments else max(at for at in moments if at is not None))
    less = []
    for call, end in zip(calls, ends, strict=True):
        if end.at is not None and end != latest:
            call.due = end
            less.append(call)
    watch(less)
    return latest


def _forward(
    calls: Sequence[PoolCall], verbs: Verbs, latest: Deadline, tally: Tally
) -> Steps[list[Any]]:
    """The result of each call.

    Raises:
        _UnlikeRows: They cannot be run together.
        _WrongRows: There is no telling which rows of the result belong to which call.
        Exception: Whatever the calls on a Worker raise.
    """
    if len(calls) == 1:
        return [(yield from calls[0].run(verbs))]
    parts = [_joinable(call) for call in calls]
    node_ids, meta, timeout = parts[0].node_ids, parts[0].meta, latest.left()
    x = _put_together([part.x for part in parts])
    tally.add_batch(calls[0].label, len(calls))
    if len(node_ids) == 1:
        steps = verbs.forward(node_ids[0], x, meta=meta, timeout=timeout)
    else:
        steps = verbs.composite_forward(node_ids, x, meta=meta, timeout=timeout)
    contexts = tuple(call.context for call in calls if call.context is not None)
    if contexts:
        steps = asked_in(contexts, min(call.submitted for call in calls), steps)
    result = yield from steps
    bounds = accumulate((part.rows for part in parts), initial=0)
    return _cut(result, [slice(*pair) for pair in pairwise(bounds)])


def _put_together(parts: Sequence[Any]) -> Any:
    try:
        return rows.renumbered(rows.concatenate(parts), parts[0])
    except ValueError as error:
        raise _UnlikeRows from error


def _cut(result: Any, selections: Sequence[slice]) -> list[Any]:
    """The selected rows of a result; of a tuple, named or not, those of each of its elements."""
    if isinstance(result, tuple):
        columns = [_cut(element, selections) for element in result]
        make = getattr(result, "_make", type(result))
        return [make(cells) for cells in zip(*columns, strict=True)]
    expected = selections[-1].stop
    try:
        found = rows.count(result, "the result")
    except ValueError as error:
        raise _WrongRows(str(error)) from None
    if found != expected:
        came = f"a {type(result).__name__} without rows" if found is None else f"{found} rows"
        raise _WrongRows(f"it returned {came} for {expected} rows")
    return [rows.renumbered(rows.take(result, selection), result) for selection in selections]


class _UnlikeRows(Exception):
    """Inputs that looked alike cannot be put together."""


class _WrongRows(Exception):
    """A result does not have a row for each row of the input."""

    def error(self, call: PoolCall) -> RemoteError:
        """What each call raises."""
        node_id = _joinable(call).node_ids[-1]
        return RemoteError(
            f"node {node_id!r} says that its rows are independent (rowwise), but {self}; let its "
            "meta() say rowwise=False, or return one row for each",
            code=ErrorCode.FILTER_FAILED,
            node_id=node_id,
            command="FORWARD",
        )


def _fail(calls: Sequence[PoolCall], error: Exception) -> None:
    """End each call with an error of its own, which does not hold the data of the others."""
    for call in calls:
        own = error if len(calls) == 1 else copy.copy(error)
        call.settle(error=own.with_traceback(None))


def _joinable(call: PoolCall) -> Joinable:
    assert call.joinable is not None
    return call.joinable
