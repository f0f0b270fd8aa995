"""The plugin: a wrapper of ``soma_execute`` that answers what was computed before."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Any

from soma_cache.keys import Keys, Uncacheable
from soma_cache.settings import CacheSettings
from soma_cache.store import MISSING, Store
from soma_core import hookimpl, progress
from soma_core.errors import ProtocolError
from soma_core.execution import (
    CompositeForward,
    CompositeForwardReply,
    Forward,
    ForwardReply,
    Node,
    Reply,
)


class Caching:
    """Keeps the results of FORWARD and COMPOSITE_FORWARD."""

    def __init__(self, settings: CacheSettings) -> None:
        self._settings = settings
        self._counts = {"hits": 0, "misses": 0, "skipped": 0}
        self._opened: tuple[Keys, Store] | None = None

    @hookimpl(wrapper=True, commands={"FORWARD", "COMPOSITE_FORWARD"})
    def soma_execute(self, command: Any, context: Any) -> Generator[None, Reply, Reply]:
        """Answer from the cache, or keep what was computed."""
        keys, store = self._open()
        key, why = _key(keys, command, context)
        found = MISSING if key is None else store.get(key)
        if found is not MISSING:
            context.answer(_reply(command, found))
        reply = yield
        if found is not MISSING:
            return self._told(reply, command, "hits")
        if key is None:
            return self._told(reply, command, "skipped", why)
        return self._told(reply, command, "misses", store.put(key, reply.result))  # type: ignore[attr-defined]

    def _open(self) -> tuple[Keys, Store]:
        """Opened by the first command: until then there may be codecs to come."""
        if self._opened is None:
            self._opened = Keys(), Store(self._settings)
        return self._opened

    def _told(self, reply: Reply, command: Any, outcome: str, why: str | None = None) -> Reply:
        """The reply, with what is said of the cache; the same is an event, if these are wanted."""
        self._counts[outcome] += 1
        progress.report(cache=_OUTCOMES[outcome], nodes=_node_ids(command))
        said = {"last": _OUTCOMES[outcome], **self._counts} | ({"why": why} if why else {})
        _, store = self._open()
        if store.trouble is not None:
            said["trouble"] = store.trouble
        reply.meta = {**(reply.meta or {}), "cache": said}
        return reply


_OUTCOMES = {"hits": "hit", "misses": "miss", "skipped": "skipped"}


def _node_ids(command: Forward | CompositeForward) -> list[str]:
    return [command.node_id] if isinstance(command, Forward) else list(command.node_ids)


def _key(
    keys: Keys, command: Forward | CompositeForward, context: Any
) -> tuple[bytes | None, str | None]:
    """The key of a command's result, or why it has none."""
    try:
        return keys.key(command.cmd, _steps(command, context), command.data), None
    except Uncacheable as reason:
        return None, str(reason)
    except ProtocolError as error:  # such as an unknown node: the engine refuses the command
        return None, str(error)


def _steps(command: Forward | CompositeForward, context: Any) -> Iterable[tuple[Node, Any]]:
    """Each node that the command runs, with its state."""
    if isinstance(command, Forward):
        node = context.nodes.get(command.node_id)
        given = "state" in command.model_fields_set
        return [(node, command.state if given else node.state)]
    if command.evolve:
        raise Uncacheable("nodes may learn from what they are given: evolve")
    states = command.states or {}
    nodes = context.nodes.chain(command.node_ids)
    return [(node, states.get(node.node_id, node.state)) for node in nodes]


def _reply(command: Forward | CompositeForward, result: Any) -> Reply:
    model = ForwardReply if isinstance(command, Forward) else CompositeForwardReply
    return model(result=result)
