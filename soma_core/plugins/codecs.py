"""Codecs: types that plugins add, so that they travel as typed values instead of pickles."""

from __future__ import annotations

import re
from collections.abc import Iterable

from soma_core.errors import PluginConflict, PluginLoadFailed
from soma_core.wire.added_types import Codec

_NAME = re.compile(r"[A-Za-z][\w.-]*\Z")
_WHERE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*\Z")
_TRAVELS_ALREADY = frozenset(
    {
        *(f"builtins:{name}" for name in ("bool", "int", "float", "str", "list", "dict", "tuple")),
        "builtins:NoneType",
        "builtins:bytes",
        "numpy:ndarray",
        "torch:Tensor",
    }
)


def check_codecs(plugin: str, codecs: Iterable[Codec], taken: Iterable[Codec]) -> None:
    """Check what a plugin's ``soma_register_codecs`` returned, beside what is taken already.

    Raises:
        PluginLoadFailed: One of them is not well formed.
        PluginConflict: A name or a type belongs to soma or to another plugin.
    """
    known = list(taken)
    for codec in codecs:
        _check_form(plugin, codec)
        _check_free(plugin, codec, known)
        known.append(codec)


def _check_form(plugin: str, codec: Codec) -> None:
    named = isinstance(codec.name, str) and _NAME.match(codec.name)
    placed = isinstance(codec.target, type) or (
        isinstance(codec.target, str) and _WHERE.match(codec.target)
    )
    provided = isinstance(codec.distribution, str) and _NAME.match(codec.distribution)
    functions = (codec.encode, codec.decode, codec.encode_line or codec.encode)
    if not (named and placed and provided and all(map(callable, functions))):
        raise PluginLoadFailed(
            f"the plugin {plugin!r}: a Codec has a name of letters, digits, '.', '_' and '-', a "
            "target that is a class or its place ('pandas:DataFrame'), encode and decode "
            f"to call, and the name of the distribution to install; got {codec}"
        )


def _check_free(plugin: str, codec: Codec, taken: Iterable[Codec]) -> None:
    if _where(codec) in _TRAVELS_ALREADY:
        raise PluginConflict(
            f"the plugin {plugin!r} adds a codec for {_where(codec)}, which travels as a typed "
            "value already; remove it"
        )
    for other in taken:
        if other.name == codec.name or _where(other) == _where(codec):
            raise PluginConflict(
                f"the plugin {plugin!r} adds the codec {codec.name!r} of {codec.distribution} for "
                f"{_where(codec)}, and {other.distribution} has the codec {other.name!r} for "
                f"{_where(other)}; choose another name, or uninstall one of them"
            )


def _where(codec: Codec) -> str:
    if isinstance(codec.target, str):
        return codec.target
    return f"{codec.target.__module__}:{codec.target.__qualname__}"
