"""RunningVerbs: what runs nodes, alone and in chains."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from soma_core.client.arguments import DEFAULT, Meta, Timeout, as_node_ids, check_meta
from soma_core.client.calls import Call, Progress
from soma_core.client.steps import Steps
from soma_core.client.verbs.base import VerbsBase, given
from soma_core.protocol import commands as c


class RunningVerbs(VerbsBase):
    """Running nodes."""

    def forward(
        self,
        node_id: str,
        x: Any,
        state: Any = None,
        *,
        progress: Progress | None = None,
        profile: str | os.PathLike[str] | None = None,
        meta: Meta = None,
        timeout: Timeout = DEFAULT,
    ) -> Steps[Any]:
        """Run one node.

        Args:
            node_id: The node.
            x: The input.
            state: The state to use; None means what the node learned last (``{}`` if nothing).
            progress: Called with what the filter, or a plugin around it, reports.
            profile: A file for a profile of the call in the worker, as cProfile writes it.
            meta: What the hooks of plugins find in ``command.meta``, by name, such as whom the
                call is for; any call takes it.
            timeout: Seconds.
        """
        if type(node_id) is not str or not node_id:
            c.Forward(cmd="FORWARD", node_id=node_id, data=x)  # raises what is wrong with it
        fields = {"cmd": "FORWARD", "node_id": node_id, "data": x}
        uses: tuple[str, ...] = (node_id,)
        if state is not None:
            fields["state"], uses = state, ()
        if meta is not None:
            fields["meta"] = check_meta(meta)
        seconds = self._timeout if timeout is DEFAULT else self._seconds(timeout)
        call = Call(c.Forward, fields, seconds, uses, progress, self._stall_timeout)
        reply = (yield call) if profile is None else (yield from self._profiled(call, profile))
        return reply.result

    def predict(
        self,
        node_id: str,
        x: Any,
        state: Any = None,
        *,
        meta: Meta = None,
        timeout: Timeout = DEFAULT,
    ) -> Steps[Any]:
        """Call a node's ``predict``, whatever its ``forward`` answers.

        Args:
            node_id: The node.
            x: The input.
            state: As for :meth:`forward`.
            meta: As for :meth:`forward`.
            timeout: Seconds.

        Raises:
            RemoteError: The filter has no such method, or it raised.
        """
        return (yield from self._call_method("predict", node_id, x, state, meta, timeout))

    def predict_proba(
        self,
        node_id: str,
        x: Any,
        state: Any = None,
        *,
        meta: Meta = None,
        timeout: Timeout = DEFAULT,
    ) -> Steps[Any]:
        """Call a node's ``predict_proba``; arguments and errors are those of :meth:`predict`."""
        return (yield from self._call_method("predict_proba", node_id, x, state, meta, timeout))

    def transform(
        self,
        node_id: str,
        x: Any,
        state: Any = None,
        *,
        meta: Meta = None,
        timeout: Timeout = DEFAULT,
    ) -> Steps[Any]:
        """Call a node's ``transform``; arguments and errors are those of :meth:`predict`."""
        return (yield from self._call_method("transform", node_id, x, state, meta, timeout))

    def score(
        self,
        node_id: str,
        x: Any,
        y: Any = None,
        state: Any = None,
        *,
        meta: Meta = None,
        timeout: Timeout = DEFAULT,
    ) -> Steps[Any]:
        """Call a node's ``score``: how well it answers, where the targets are known.

        Args:
            node_id: The node.
            x: The input.
            y: The targets.
            state: As for :meth:`forward`.
            meta: As for :meth:`forward`.
            timeout: Seconds.

        Raises:
            RemoteError: The filter has no such method, or it raised.
        """
        return (yield from self._call_method("score", node_id, x, state, meta, timeout, y=y))

    def call_method(
        self,
        method: c.Method,
        node_id: str,
        x: Any,
        y: Any = None,
        *,
        state: Any = None,
        meta: Meta = None,
        timeout: Timeout = DEFAULT,
    ) -> Steps[Any]:
        """Call a method of a node by its name, such as ``"decision_function"``.

        Args:
            method: Its name.
            node_id: The node.
            x: The input.
            y: The targets, for ``"score"``.
            state: As for :meth:`forward`.
            meta: As for :meth:`forward`.
            timeout: Seconds.

        Raises:
            ValueError: ``method`` is none of those that a node may be asked for.
            RemoteError: The filter has no such method, or it raised.
        """
        return (yield from self._call_method(method, node_id, x, state, meta, timeout, y=y))

    def _call_method(
        self,
        method: c.Method,
        node_id: str,
        x: Any,
        state: Any,
        meta: Meta,
        timeout: Timeout,
        **fields: Any,
    ) -> Steps[Any]:
        if state is not None:
            fields["state"] = state
        command = c.CallMethod(cmd="CALL_METHOD", node_id=node_id, method=method, data=x, **fields)
        uses = () if "state" in fields else (node_id,)
        return (yield self._call(command, timeout, meta, uses)).result

    def composite_forward(
        self,
        node_ids: Sequence[str],
        x: Any,
        states: Mapping[str, Any] | None = None,
        *,
        progress: Progress | None = None,
        profile: str | os.PathLike[str] | None = None,
        meta: Meta = None,
        timeout: Timeout = DEFAULT,
    ) -> Steps[Any]:
        """Run a chain of nodes, the output of each being the input of the next.

        Args:
            node_ids: The nodes in order, at least one.
            x: The input of the first.
            states: States by node id; a node without one uses what it learned last.
            progress: As for :meth:`forward`.
            profile: A file for a profile of the call in the worker, as cProfile writes it.
            meta: As for :meth:`forward`.
            timeout: Seconds.

        Raises:
            ValueError: ``states`` names what is no node.
        """
        command = c.CompositeForward(
            cmd="COMPOSITE_FORWARD", node_ids=as_node_ids(node_ids), data=x, **given(states=states)
        )
        if states:
            self._check_nodes("states", states, command.node_ids)
        call = self._call(command, timeout, meta, command.node_ids, progress)
        return (yield from self._profiled(call, profile)).result

    def _check_nodes(self, name: str, named: Iterable[str], chain: list[str]) -> None:
        """Refuse what is neither in the chain nor, as far as is known, in the worker."""
        others = [node_id for node_id in named if node_id not in chain]
        unknown = ", ".join(repr(other) for other in others if other not in self.metas)
        if unknown:
            raise ValueError(f"{name}: there is no node {unknown}; the chain is {', '.join(chain)}")

    def run_segment(
        self,
        segment: Sequence[str],
        x: Any,
        *,
        learns: bool,
        meta: Meta = None,
        timeout: Timeout = DEFAULT,
    ) -> Steps[Any]:
        """Run a chunk through a part of a chain, whose nodes may learn from it first."""
        command = c.CompositeForward(
            cmd="COMPOSITE_FORWARD",
            node_ids=list(segment),
            data=x,
            **given(evolve=learns or None),
        )
        return (yield self._call(command, timeout, meta, segment)).result
