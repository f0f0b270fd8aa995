"""Participation: which plugins take part in a command, and what they do around it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from soma_core.errors import Refused
from soma_core.plugins.manager import PluginSet
from soma_core.protocol.commands import Command
from soma_core.protocol.parsing import name_of_command
from soma_core.protocol.replies import REPLY_TO, ForwardReply, LoadReply, Reply

if TYPE_CHECKING:
    from soma_core.engine.engine import Engine

_MOST_PLANS = 1024


class _Plan(NamedTuple):
    """Who takes part in one command on the same nodes.

    Attributes:
        execute: Calls the implementations of ``soma_execute``; None if there are none.
        observers: Those of ``soma_command_finished``.
        reply: The class of the command's reply.
    """

    execute: Any
    observers: tuple[Callable[..., None], ...]
    reply: type[Reply]


class Participation:
    """Runs commands with the plugins that they concern; the others cost nothing.

    Args:
        plugins: The plugins of this process.
        by_node: Whether one of them is concerned by some nodes only.
    """

    def __init__(self, plugins: PluginSet, *, by_node: bool) -> None:
        self._plugins = plugins
        self._by_node = by_node
        self._plans: dict[Any, _Plan] = {}

    @classmethod
    def of(cls, plugins: PluginSet) -> Self | None:
        """That of some plugins; None if none of them takes part in any command."""
        concerns = plugins.concerns()
        if not concerns:
            return None
        return cls(plugins, by_node=any(concern.nodes is not None for concern in concerns))

    def execute(self, command: Command, engine: Engine) -> Reply:
        """Execute a command, as the engine's own method does."""
        key = (type(command), *_node_ids(command)) if self._by_node else type(command)
        plan = self._plans.get(key) or self._new_plan(key, command)
        started = time.perf_counter()
        error: BaseException | None = None
        try:
            run = plan.execute
            reply: Reply = (
                engine.run(command) if run is None else run(command=command, context=engine)
            )
            if not isinstance(reply, plan.reply):
                raise _no_reply(command, plan, reply)
            if type(reply) is LoadReply:
                self._notify_loaded(reply)
            return reply
        except BaseException as caught:
            error = caught
            if isinstance(caught, Refused) and (plugin := self._plugins.raised_by(caught)):
                caught.args = (f"the plugin {plugin!r} refuses this: {caught}",)
            raise
        finally:
            if plan.observers:
                seconds = time.perf_counter() - started
                for observe in plan.observers:
                    observe(command=command, seconds=seconds, error=error)

    def _notify_loaded(self, reply: LoadReply) -> None:
        for node_id, meta in reply.filters.items():
            self._plugins.notify("soma_filter_loaded", node_id=node_id, meta=meta)

    def _new_plan(self, key: Any, command: Command) -> _Plan:
        if len(self._plans) >= _MOST_PLANS:  # a host may name ever other nodes
            self._plans.clear()
        cmd = name_of_command(type(command))
        node_ids = frozenset(_node_ids(command) if self._by_node else ())
        execute = self._plugins.executing(cmd, node_ids)
        observers = tuple(self._plugins.observing(cmd, node_ids))
        reply = REPLY_TO.get(type(command), ForwardReply)
        self._plans[key] = plan = _Plan(execute, observers, reply)
        return plan


def _no_reply(command: Command, plan: _Plan, returned: Any) -> TypeError:
    plugins = ", ".join(repr(one.plugin_name) for one in plan.execute.get_hookimpls()[1:])
    return TypeError(
        f"{name_of_command(type(command))}: soma_execute is to return a {plan.reply.__name__}, and "
        f"returned {returned!r:.80}; a wrapper returns what its yield gave, or another reply of "
        f"that class (who takes part: {plugins})"
    )


def _node_ids(command: Any) -> tuple[str, ...]:
    fields = command.__dict__
    if "node_id" in fields:
        return (fields["node_id"],)
    return tuple(fields.get("node_ids") or ())
