"""Literals: values that JSON lacks, as dicts with the key ``$sklearn``, and back.

Each is made anew from numbers, texts and lists: none names anything that could run.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from soma_filters_sklearn.functions import function_at, function_path

Convert = Callable[[Any], Any]

TAG = "$sklearn"
"""The key of a dict that spells a value."""
_TYPES = {kind.__name__: kind for kind in (bool, int, float, complex, str, bytes, object)}
_NUMBERS = frozenset("biuf")
_LARGEST_EXACT = 8  # bytes of a number that Python's own hold exactly
_LONGEST_RANGE = 1_000_000


class NotSpelled(Exception):
    """A value that has no plain spelling, such as a fitted estimator or a lambda.

    The message names it, and the parameters on the way to it.
    """


def tagged(tag: str, **content: Any) -> dict[str, Any]:
    """The spelling of a value that is no plain data by itself."""
    return {TAG: tag, **content}


def is_tagged(value: Any) -> bool:
    """Whether a value is such a spelling, or a dict that would be taken for one."""
    return type(value) is dict and TAG in value


def write(value: Any, spell: Convert) -> dict[str, Any]:
    """The spelling of a value that JSON lacks.

    Raises:
        NotSpelled: It has none.
    """
    writer = _WRITERS.get(type(value)) or _writer_of_family(value)
    spelled = writer(value, spell)
    if spelled is None:
        name = getattr(value, "__qualname__", "")
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        raise NotSpelled(f"the {kind} {name}" if name else f"a {kind}")
    return spelled


def read(value: dict[str, Any], build: Convert) -> Any:
    """The value of a spelling.

    Raises:
        ValueError: It is none that :func:`write` returns.
    """
    tag = value[TAG]
    if not isinstance(tag, str) or tag not in _READERS:
        raise ValueError(f"{TAG} is one of {', '.join(sorted(_READERS))}; got {tag!r}")
    try:
        return _READERS[tag](value, build)
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise ValueError(f"a {tag!r} is not well formed ({error!r}): {value!r:.200}") from error


def _writer_of_family(value: Any) -> Callable[[Any, Convert], dict[str, Any] | None]:
    if isinstance(value, np.generic):
        return _write_scalar
    if isinstance(value, np.dtype):
        return _write_dtype
    return _write_function if callable(value) and hasattr(value, "__name__") else _write_other


def _write_items(tag: str) -> Callable[[Any, Convert], dict[str, Any]]:
    return lambda value, spell: tagged(tag, items=[spell(item) for item in value])


def _write_dict(value: dict[Any, Any], spell: Convert) -> dict[str, Any]:
    return tagged("dict", items=[[spell(key), spell(item)] for key, item in value.items()])


def _write_steps(value: Any, spell: Convert) -> dict[str, Any]:
    steps = (value.start, value.stop, value.step)
    return tagged(type(value).__name__, items=[spell(item) for item in steps])


def _write_array(value: Any, spell: Convert) -> dict[str, Any] | None:
    plain = value.ravel().tolist()
    if not _exact(value.dtype, "UO"):
        return None
    items = [spell(item) for item in plain]
    return tagged("array", dtype=_name(value.dtype), shape=list(value.shape), items=items)


def _write_scalar(value: Any, spell: Convert) -> dict[str, Any] | None:
    if not _exact(value.dtype, "U"):
        return None
    return tagged("scalar", dtype=_name(value.dtype), value=value.item())


def _write_dtype(value: Any, spell: Convert) -> dict[str, Any] | None:
    return None if value.hasobject or value.fields else tagged("dtype", name=value.str)


def _write_type(value: Any, spell: Convert) -> dict[str, Any] | None:
    name: str = value.__name__
    if _TYPES.get(name) is value:
        return tagged("type", name=name)
    if not issubclass(value, np.generic) or np.dtype(value).type is not value:
        return None
    return tagged("type", name=f"numpy.{np.dtype(value).name}")


def _write_function(value: Any, spell: Convert) -> dict[str, Any] | None:
    path = function_path(value)
    return None if path is None else tagged("function", path=path)


def _write_other(value: Any, spell: Convert) -> dict[str, Any] | None:
    """What only a process that imported its module can hold."""
    stats = sys.modules.get("scipy.stats")
    frozen = getattr(stats, "distributions", None)
    if frozen is not None and isinstance(value, frozen.rv_frozen):
        return _write_distribution(value, spell)
    scorer = sys.modules.get("sklearn.metrics._scorer")
    if scorer is not None and type(value) is scorer._Scorer:
        return _write_scorer(value, spell)
    return None


def _write_distribution(value: Any, spell: Convert) -> dict[str, Any] | None:
    name = value.dist.name
    if type(_distribution(name)) is not type(value.dist):
        return None
    items, named = spell(list(value.args)), spell(dict(value.kwds))
    return tagged("distribution", name=name, items=items, named=named)


def _write_scorer(value: Any, spell: Convert) -> dict[str, Any] | None:
    path = function_path(value._score_func)
    if path is None or vars(value).keys() - _OF_SCORERS:
        return None
    method, named = spell(value._response_method), spell(value._kwargs)
    return tagged("scorer", path=path, sign=value._sign, response_method=method, named=named)


_OF_SCORERS = frozenset({"_score_func", "_sign", "_kwargs", "_response_method"})


def _exact(dtype: np.dtype[Any], others: str) -> bool:
    """Whether Python's own numbers, or other kinds, hold what an array does."""
    numbers = dtype.kind in _NUMBERS and dtype.itemsize <= _LARGEST_EXACT
    return numbers or dtype.kind in others


def _read_array(value: dict[str, Any], build: Convert) -> Any:
    items = [build(item) for item in value["items"]]
    array = np.empty(len(items), object)
    array[:] = items
    return array.reshape(value["shape"]).astype(_plain_dtype(value["dtype"], "UO"))


def _read_scalar(value: dict[str, Any], build: Convert) -> Any:
    return np.array(value["value"], _plain_dtype(value["dtype"], "U"))[()]


def _name(dtype: np.dtype[Any]) -> str:
    """The name of a dtype; texts are as wide as the longest of them."""
    return "U" if dtype.kind == "U" else dtype.str


def _plain_dtype(name: str, others: str) -> np.dtype[Any]:
    dtype = np.dtype(name)
    as_wide_as_it_says = dtype.kind == "U" and name != "U"  # gigabytes, in a few bytes
    if as_wide_as_it_says or not _exact(dtype, others):
        raise ValueError(f"{name!r} is no dtype of numbers, nor that of texts, 'U'")
    return dtype


def _read_range(value: dict[str, Any], build: Convert) -> range:
    numbers = range(*value["items"])
    if len(numbers) > _LONGEST_RANGE:  # whoever looks through it would take hours
        raise ValueError(f"a range has at most {_LONGEST_RANGE:,} numbers")
    return numbers


def _read_type(value: dict[str, Any], build: Convert) -> Any:
    name = value["name"]
    return _TYPES[name] if name in _TYPES else np.dtype(name.removeprefix("numpy.")).type


def _read_distribution(value: dict[str, Any], build: Convert) -> Any:
    found = _distribution(value["name"])
    if found is None:
        raise ValueError(f"{value['name']!r} is no distribution of scipy.stats")
    return found(*build(value["items"]), **build(value["named"]))


def _distribution(name: str) -> Any:
    """A distribution of ``scipy.stats``; None if there is none of that name."""
    stats = importlib.import_module("scipy.stats")
    found = getattr(stats, name, None)
    return found if isinstance(found, stats.rv_continuous | stats.rv_discrete) else None


def _read_scorer(value: dict[str, Any], build: Convert) -> Any:
    from sklearn.metrics import make_scorer

    return make_scorer(
        function_at(value["path"]),
        greater_is_better=value["sign"] > 0,
        response_method=build(value["response_method"]),
        **build(value["named"]),
    )


_WRITERS: dict[type, Callable[[Any, Convert], dict[str, Any] | None]] = {
    tuple: _write_items("tuple"),
    dict: _write_dict,
    slice: _write_steps,
    range: _write_steps,
    np.ndarray: _write_array,
    type: _write_type,
}
_READERS: dict[str, Callable[[dict[str, Any], Convert], Any]] = {
    "array": _read_array,
    "dict": lambda value, build: {build(key): build(item) for key, item in value["items"]},
    "distribution": _read_distribution,
    "dtype": lambda value, build: np.dtype(value["name"]),
    "function": lambda value, build: function_at(value["path"]),
    "list": lambda value, build: [build(item) for item in value["items"]],
    "range": _read_range,
    "scalar": _read_scalar,
    "scorer": _read_scorer,
    "slice": lambda value, build: slice(*build(value["items"])),
    "text": lambda value, build: str(value["value"]),
    "tuple": lambda value, build: tuple(build(item) for item in value["items"]),
    "type": _read_type,
}
