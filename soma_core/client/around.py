"""What plugins do around the calls of a worker: ``soma_call``, for whoever blocks or awaits."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Any, TypeVar

from soma_core.client.arguments import check_meta
from soma_core.client.calls import Call
from soma_core.client.steps import Steps, through
from soma_core.errors import Refused
from soma_core.plugins.manager import Around

T = TypeVar("T")


def with_plugins(plugins: Sequence[Around], steps: Steps[T]) -> Steps[T]:
    """The same steps, with plugins around each call."""

    def send(call: Call) -> Steps[Any]:
        return _around([plugin for plugin in plugins if plugin.covers(call)], call)

    return through(send, steps)


def _around(plugins: Sequence[Around], call: Call) -> Steps[Any]:
    """One call, with plugins around it; returns its reply."""
    if not plugins:
        return (yield call)
    plugin, *inner = plugins
    wrapper = plugin.begin(call)
    _begin(plugin, wrapper)
    try:
        _check(plugin, call)
        reply = yield from _around(inner, call)
    except GeneratorExit:
        wrapper.close()
        raise
    except BaseException as error:
        return _end(plugin, wrapper, call, partial(wrapper.throw, error), error)
    return _end(plugin, wrapper, call, partial(wrapper.send, reply), None)


def _begin(plugin: Around, wrapper: Generator[None, Any, Any]) -> None:
    try:
        next(wrapper)
    except StopIteration:
        raise _wrong(plugin, "returned before it yielded") from None
    except Refused as refused:
        _name(plugin, refused)
        raise


def _check(plugin: Around, call: Call) -> None:
    """Refuse what a plugin put into a call and a worker would not take."""
    meta = call.fields.get("meta")
    if meta is not None:
        try:
            check_meta(meta)
        except TypeError as error:
            raise TypeError(f"the plugin {plugin.name!r}: {error}") from None


def _end(
    plugin: Around,
    wrapper: Generator[None, Any, Any],
    call: Call,
    advance: Callable[[], None],
    raised: BaseException | None,
) -> Any:
    """What a wrapper returns of a call that has ended."""
    try:
        advance()
    except StopIteration as end:
        if not isinstance(end.value, call.reply):
            raise _wrong(plugin, f"returned {end.value!r:.80}") from None
        return end.value
    except Refused as refused:
        if refused is not raised:
            _name(plugin, refused)
        raise
    wrapper.close()
    raise _wrong(plugin, "yielded twice")


def _wrong(plugin: Around, did: str) -> TypeError:
    return TypeError(
        f"the plugin {plugin.name!r}: soma_call yields once and returns what that gave, or another "
        f"reply of its class; it {did}"
    )


def _name(plugin: Around, refused: Refused) -> None:
    refused.args = (f"the plugin {plugin.name!r} refuses this: {refused}",)
