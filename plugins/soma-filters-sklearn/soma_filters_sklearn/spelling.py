"""Spelling: estimators, and what configures them, as plain data and back.

``["sklearn.LogisticRegression", {"C": 0.5}]`` is an estimator, and so is its name alone where no
parameter differs from its default. Numbers, texts, lists and dicts whose keys are texts stand for
themselves. What JSON lacks is a dict with the key ``$sklearn``:
``{"$sklearn": "tuple", "items": [1, 2]}``. Parameters have short forms beside.

What :func:`spell` wrote, :func:`build` reads back exactly.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from soma_filters_sklearn.classes import class_at, class_or_none, is_registered, may_be_built
from soma_filters_sklearn.holdings import (
    attributes_learned,
    differing,
    parameters_held,
    parameters_set_on,
    remade,
    settings_beside,
)
from soma_filters_sklearn.literals import NotSpelled, is_tagged, read, tagged, write
from soma_filters_sklearn.parameters import Parameter, parameters_of, takes_any

__all__ = [
    "NotSpelled",
    "build",
    "construct",
    "is_spelling",
    "plain",
    "resolve",
    "spell",
    "spell_object",
    "spell_parameter",
    "unknown_name",
]

_PLAIN = frozenset({type(None), bool, int, float})


def build(value: Any) -> Any:
    """What a value stands for, made anew: objects in place of their spellings.

    Raises:
        ValueError: A path leads to no such class, or a parameter is not one that it has.
    """
    if isinstance(value, str):
        return construct(value, {}) if is_registered(value) else value
    if is_spelling(value):
        return construct(value[0], value[1])
    if isinstance(value, list | tuple):
        return type(value)(build(item) for item in value)
    if type(value) is dict:
        if is_tagged(value):
            return read(value, build)
        return {key: build(item) for key, item in value.items()}
    return copy.deepcopy(value)  # fitting changes the steps of a pipeline in place


def construct(path: str, config: Mapping[str, Any]) -> Any:
    """A new object of the class at a path.

    Raises:
        ValueError: The path leads to no such class, or a parameter is not one that it has.
    """
    found = class_at(path)
    known = parameters_of(found)
    beside = config.keys() - known.keys()
    if beside and not takes_any(found):
        raise ValueError(unknown_name(path, min(beside), known))
    missing = [name for name, item in known.items() if item.required and name not in config]
    if missing:
        raise ValueError(f"{path} cannot be made without {', '.join(missing)}")
    made = found(
        **{
            name: resolve(known.get(name) or Parameter(name), value)
            for name, value in config.items()
        }
    )
    told = parameters_held(made) if beside else known
    for name in sorted(beside):
        if name not in told:
            raise ValueError(unknown_name(path, name, told))
    return made


def resolve(parameter: Parameter, value: Any) -> Any:
    """The value of a parameter to give to an object, from its spelling or short form.

    Raises:
        ValueError: It stands for nothing that the parameter may be.
    """
    built = build(value)
    return built if is_tagged(value) else parameter.lengthen(built)


def is_spelling(value: Any) -> bool:
    """Whether a value spells an object: ``[path, parameters]``."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        return False
    path, config = value
    return isinstance(path, str) and "." in path and type(config) is dict


def spell(value: Any) -> Any:
    """A value in its plain spelling, which :func:`build` reads back.

    Raises:
        NotSpelled: It has none.
    """
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is str:
        return tagged("text", value=value) if is_registered(value) else value
    if kind is list:
        spelled = [spell(item) for item in value]
        return tagged("list", items=spelled) if is_spelling(spelled) else spelled
    if kind is dict and not is_tagged(value) and all(type(key) is str for key in value):
        return {key: spell(item) for key, item in value.items()}
    if may_be_built(kind):
        return list(spell_object(value))
    return write(value, spell)


def plain(value: Any, parameter: Parameter | None = None) -> Any:
    """Plain data in which objects may stand, with these spelled.

    Args:
        value: Data that :func:`build` reads; objects in it are spelled, but for those that have
            no spelling: then it is returned as it is, and has to travel as a pickle.
        parameter: What it is given to, whose short forms are used.
    """
    try:
        return _spell_objects(value if parameter is None else parameter.shorten(value))
    except NotSpelled:
        return value


def _spell_objects(value: Any) -> Any:
    if type(value) is str or is_tagged(value):
        return value
    if type(value) is list:
        return [_spell_objects(item) for item in value]
    if type(value) is dict and all(type(key) is str for key in value):
        return {key: _spell_objects(item) for key, item in value.items()}
    return spell(value)


def spell_parameter(parameter: Parameter, value: Any) -> Any:
    """The value of a parameter in its short form, or in its plain spelling.

    Raises:
        NotSpelled: It has neither.
    """
    short = parameter.shorten(value)
    if short is not value:
        return _spell_short(short, value)
    if type(value) in (str, list) and parameter.lengthen(value) is not value:
        return _in_full(value)  # it looks like the short form of something else
    return spell(value)


def spell_object(value: Any) -> tuple[str, dict[str, Any]]:
    """The path of an object's class, and the parameters that differ from their defaults.

    Raises:
        NotSpelled: A parameter has no plain spelling, it holds more than its parameters
            (it is fitted), or its class cannot be imported.
    """
    title = type(value).__qualname__
    try:
        given = parameters_set_on(value)
        kept = parameters_held(remade(value, given))
        beside = attributes_learned(value) | settings_beside(value)
    except Exception as error:
        raise NotSpelled(f"a {title} that cannot be made anew ({error})") from error
    if beside:
        raise NotSpelled(f"a {title} that holds {', '.join(sorted(beside))}")
    config = _spell_parameters(value, given)
    changed = differing(given, kept)
    if _spell_parameters(value, {name: kept.get(name) for name in changed}) != {
        name: config[name] for name in changed
    }:
        raise NotSpelled(f"a {title} that changes its {', '.join(sorted(changed))}")
    return _path_of(type(value)), config


def _spell_parameters(value: Any, parameters: Mapping[str, Any]) -> dict[str, Any]:
    known = parameters_of(type(value))
    spelled = {}
    for name, item in parameters.items():
        try:
            spelled[name] = spell_parameter(known.get(name) or Parameter(name), item)
        except NotSpelled as error:
            raise NotSpelled(f"{type(value).__qualname__}.{name}: {error}") from None
    return spelled


def unknown_name(title: str, name: str, known: Iterable[str]) -> str:
    """What to say of a parameter that does not exist."""
    names = {one.casefold(): one for one in known}
    close = difflib.get_close_matches(name.casefold(), names, n=1)
    hint = f"did you mean {names[close[0]]!r}? " if close else ""
    return f"{title} has no parameter {name!r}; {hint}it has {', '.join(names.values())}"


def _path_of(kind: type) -> str:
    if class_or_none(f"sklearn.{kind.__name__}") is kind:
        return f"sklearn.{kind.__name__}"
    path = f"{kind.__module__}.{kind.__qualname__}"
    if kind.__module__ == "__main__" or class_or_none(path) is not kind:
        raise NotSpelled(f"a {path}, which other processes cannot import")
    return path


def _spell_short(short: Any, value: Any) -> Any:
    """The short form of a value with its items spelled; in full where that would be misread."""
    if not isinstance(short, list):
        return short
    spelled = [list(map(spell, item)) if type(item) is list else spell(item) for item in short]
    inner = [out for item, out in zip(short, spelled, strict=True) if type(item) is list]
    return _in_full(value) if any(map(is_spelling, [spelled, *inner])) else spelled


def _in_full(value: Any) -> Any:
    """A value that has, or looks like, a short form, in its plain spelling."""
    if type(value) is str:
        return tagged("text", value=value)
    if type(value) is list:
        return tagged("list", items=[spell(item) for item in value])
    return write(value, spell)
