"""Loadable: the objects that can be loaded as a filter, and advice about those that cannot."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from inspect import Parameter
from typing import Any

from soma_core.models.calling import accepts
from soma_core.models.filters import Distribution, Filter
from soma_core.plugins.manager import PluginSet

Loadable = Any
"""A Filter, any object with ``fit`` and ``forward``, or a registered filter: ``(name, config)``."""


def adapt(obj: Loadable, plugins: PluginSet) -> Loadable:
    """Let plugins wrap an object that is not a filter by itself."""
    if isinstance(obj, str | tuple | type) or (_is_filter(obj) and not _may_be_raw(obj)):
        return obj
    adapted = plugins.hook.soma_adapt(obj=obj)
    return obj if adapted is None else adapted


def distributions(filters: Mapping[str, Loadable], plugins: PluginSet) -> Iterator[Distribution]:
    """Where each filter may run, as far as this process knows before it is loaded.

    Registered filters are imported here for this; those that only the worker has are skipped.
    """
    for loadable in filters.values():
        try:
            found = adapt(loadable, plugins)
            if isinstance(found, str | tuple):
                name, config = (found, {}) if isinstance(found, str) else found
                found = plugins.filters.load(name)(**config)
            yield found.meta().distribution
        except Exception:  # noqa: S112 - LOAD reports what is wrong with it
            continue


def check_filters(filters: Any) -> None:
    """Refuse what does not say under which id each filter is loaded.

    Raises:
        TypeError: It is no mapping from node ids.
    """
    if not isinstance(filters, Mapping):
        raise TypeError(
            f"filters is a dict from node id to filter, got a {type(filters).__name__}; give "
            '{"name": …}'
        )
    for node_id in filters:
        if not isinstance(node_id, str):
            raise TypeError(f"filters: a node id is a text, got {node_id!r}")


def check_trainable(trainable: Any, filters: Mapping[str, Any]) -> None:
    """Refuse what does not say of these filters whether they are trained.

    Raises:
        TypeError: It is neither a bool nor a mapping from node ids.
        ValueError: It names another node.
    """
    if isinstance(trainable, bool):
        return
    if not isinstance(trainable, Mapping):
        raise TypeError(f"trainable is a bool, or a dict of them by node id, got {trainable!r}")
    others = ", ".join(repr(node_id) for node_id in trainable if node_id not in filters)
    if others:
        raise ValueError(f"trainable names {others}; the filters are {', '.join(filters)}")


def check_filter(node_id: str, loadable: Loadable) -> None:
    """Refuse what cannot be loaded before it is sent.

    Raises:
        TypeError: It is not a filter; the message explains what to do.
    """
    if isinstance(loadable, str):
        return
    if isinstance(loadable, tuple) and len(loadable) == 2 and isinstance(loadable[0], str):
        _check_config(node_id, loadable[1])
        return
    if isinstance(loadable, tuple | list):
        raise TypeError(
            f"filter {node_id!r}: a registered filter is a tuple (name, config), "
            f"got {loadable!r:.80}"
        )
    if isinstance(loadable, type):
        name = loadable.__name__
        raise TypeError(f"filter {node_id!r}: got the class {name}; pass an instance, {name}(…)")
    if not _is_filter(loadable):
        raise TypeError(f"filter {node_id!r}: {_advice(loadable)}")
    if isinstance(loadable, Filter) and not hasattr(loadable, "__pydantic_fields_set__"):
        raise TypeError(
            f"filter {node_id!r}: {type(loadable).__name__}.__init__ has not called "
            "super().__init__(…), with the fields by name; or leave it out, and declare the fields "
            "in the class"
        )
    for method in map(partial(getattr, loadable), ("fit", "forward"), (None, None)):
        if inspect.iscoroutinefunction(method):
            raise TypeError(
                f"filter {node_id!r}: {method.__qualname__} is async, and nobody awaits it; define "
                "it without async, and call asyncio.run within"
            )


def _check_config(node_id: str, config: Any) -> None:
    """Refuse a configuration that JSON cannot hold: it would arrive as something else."""
    if not isinstance(config, Mapping):
        raise TypeError(f"filter {node_id!r}: config is a dict, got {type(config).__name__}")
    for name, value in config.items():
        foreign = next(_not_json(value), None)
        if not isinstance(name, str) or foreign is not None:
            kind = type(name if foreign is None else foreign).__name__
            raise TypeError(
                f"filter {node_id!r}: config is plain JSON data, and {name!r} holds a {kind}; "
                "give a number, a text, a list or a dict of these"
            )


def _not_json(value: Any) -> Iterator[Any]:
    """What in a value JSON cannot hold."""
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        for item in value.values():
            yield from _not_json(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _not_json(item)
    elif not isinstance(value, str | int | float | None):
        yield value


def _is_filter(obj: Any) -> bool:
    forward = getattr(obj, "forward", None)
    fits = callable(getattr(obj, "fit", None))
    if not fits and str(getattr(forward, "__module__", "")).startswith("torch.nn.modules."):
        return False  # its second argument is another input, as of Bilinear and of losses
    prepared = (None,) * hasattr(obj, "prepare")
    return callable(forward) and (
        accepts(forward, None, None, unknown=fits) or accepts(forward, None, None, *prepared)
    )


def _may_be_raw(obj: Any) -> bool:
    """Whether its ``forward`` may have been written for something else than soma.

    It takes whatever it is given, as that of a wrapper of a module does, or beside the data what
    is no state (``mask=None``). With ``fit`` it was not, unless it is an estimator around a module.
    """
    if callable(getattr(obj, "fit", None)) and not hasattr(obj, "get_params"):
        return False
    try:
        parameters = [*inspect.signature(obj.forward).parameters.values()]
    except (TypeError, ValueError):
        return False
    if parameters and parameters[0].kind is Parameter.VAR_POSITIONAL:
        return True
    second = parameters[1] if len(parameters) > 1 else None
    return second is not None and second.name != "state" and second.default is not Parameter.empty


def _advice(obj: Any) -> str:
    if isinstance(obj, Mapping):
        return (
            "got a dict; a registered filter is a tuple (name, config), as in "
            '("acme.Clip", {"quantile": 0.9})'
        )
    kind = f"{type(obj).__module__}.{type(obj).__qualname__}"
    bases = {base.__module__.partition(".")[0] for base in type(obj).__mro__}
    if "torch" in bases:
        return (
            f"{kind} is a module without fit(x, y) and forward(x, state); install "
            f'soma-filters-torch and pass ("torch.Module", {{"module": "{kind}"}}), or give it '
            "these methods"
        )
    if "sklearn" in bases:
        return (
            f"{kind} is an estimator without forward(x, state); install soma-filters-sklearn and "
            f'pass ("sklearn.{type(obj).__name__}", {{…}})'
        )
    with suppress(AttributeError, TypeError, ValueError):  # it is no function, or does not say
        signature = inspect.signature(type(obj).forward)
        return (
            f"{kind}.forward{signature} cannot be called with x and state; "
            f"define forward(self, x, state{', prepared=None' * hasattr(obj, 'prepare')})"
        )
    return f"{kind} has no fit(x, y) and forward(x, state); subclass soma_core.Filter, or add them"
