"""Classes: made as they are, not by the program's metaclass and ``__init_subclass__``.

These ran where the class was defined. What they need, such as its attributes and the keywords that
it was defined with, is not there yet when it is made, and what they did is part of its content.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import cloudpickle.cloudpickle as _cloudpickle

from soma_core.wire.definitions.registry import registry


def make(
    metaclass: type,
    name: str,
    bases: tuple[Any, ...],
    namespace: dict[str, Any],
    tracked: str | None,
    options: tuple[tuple[str, Any], ...],
) -> Any:
    """A class without its content, of what cloudpickle makes one of.

    Where a filter pickles its objects by itself, cloudpickle says by ``tracked`` which class it is.
    """
    made = new(metaclass, name, bases, dict(options), lambda begun: begun.update(namespace))
    return _cloudpickle._lookup_class_or_track(tracked, made)


def new(
    metaclass: Any,
    name: str,
    bases: tuple[Any, ...],
    options: dict[str, Any],
    fill: Callable[[Any], object],
) -> Any:
    """What ``types.new_class`` makes, less what the program would do to it."""
    maker = next(kind for kind in metaclass.__mro__ if registry.known(kind) is None)
    resolved = types.resolve_bases(bases)
    namespace = maker.__prepare__(name, resolved, **options)
    if resolved is not bases:
        namespace["__orig_bases__"] = bases
    fill(namespace)
    with ExitStack() as stack:
        for base in _of_program(resolved):
            stack.enter_context(_without_hooks(base))
        made = maker.__new__(metaclass, name, resolved, namespace, **options)
        maker.__init__(made, name, resolved, namespace, **options)
    return made


def _of_program(bases: tuple[type, ...]) -> Iterator[type]:
    """All that the program defined of what a class is derived from."""
    lines = dict.fromkeys(kind for base in bases for kind in base.__mro__)
    return (kind for kind in lines if registry.known(kind) is not None)


@contextmanager
def _without_hooks(kind: type) -> Iterator[None]:
    """Take away what a class does when another is derived from it."""
    hooks = {name: vars(kind)[name] for name in _HOOKS if name in vars(kind)}
    for name in hooks:
        type.__delattr__(kind, name)
    try:
        yield
    finally:
        for name, hook in hooks.items():
            type.__setattr__(kind, name, hook)


_HOOKS = ("__init_subclass__", "__pydantic_init_subclass__")
