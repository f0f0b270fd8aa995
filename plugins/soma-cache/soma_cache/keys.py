"""Keys: a hash of everything that a result depends on.

That is the command, the input, and for each node its configuration, its state, its weights, its
code and what is installed. What cannot be hashed without pickling is not kept.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from blake3 import blake3

from soma_cache.code import code_digest
from soma_core import Filter, FilterKind
from soma_core.errors import ProtocolError
from soma_core.execution import FilterFailed, Node, pack

KEY_SIZE = 32
_VERSION = b"soma-cache 3"
_WITHOUT_CODE = (type(None), bool, int, float, complex, str, bytes, np.ndarray)


class Uncacheable(Exception):
    """A result that is not kept; the text says why."""


class Keys:
    """Computes keys, and remembers the hashes of code, which does not change while it is loaded."""

    def __init__(self) -> None:
        self._code: WeakKeyDictionary[type, bytes] = WeakKeyDictionary()

    def key(self, cmd: str, steps: Iterable[tuple[Node, Any]], data: Any) -> bytes:
        """The key of what some nodes, each with a state, make of the input of the first.

        Raises:
            Uncacheable: The result may not be kept, or something in it cannot be hashed.
        """
        hasher = blake3(_VERSION)
        _feed(hasher, cmd.encode())
        _feed(hasher, environment_digest())
        for node, state in steps:
            _feed(hasher, self._identity(node))
            self._feed_value(hasher, f"the state of node {node.node_id!r}", state)
            self._feed_weights(hasher, node)
        self._feed_value(hasher, "the input", data)
        key: bytes = hasher.digest()
        return key

    def _identity(self, node: Node) -> bytes:
        """What the node computes, but for its state."""
        _check_cacheable(node)
        cls, held = type(node.obj), _with_code(node.obj)
        try:
            if cls not in self._code:
                self._code[cls] = code_digest(cls)
            return self._code[cls] + code_digest(*held) + _config_hash(node)
        except RecursionError:
            raise Uncacheable(
                f"what the code of node {node.node_id!r} holds nests too deep"
            ) from None

    def _feed_weights(self, hasher: Any, node: Node) -> None:
        """The parameters that a differentiable node holds beside its state."""
        state_dict = getattr(node.obj, "state_dict", None)
        if not node.differentiable and not callable(state_dict):
            return
        weights = _weights(node, state_dict)
        if not weights:
            raise Uncacheable(f"node {node.node_id!r} holds weights that are not in its state_dict")
        self._feed_value(hasher, f"the weights of node {node.node_id!r}", dict(weights))

    def _feed_value(self, hasher: Any, what: str, value: Any) -> None:
        try:
            header, buffers = pack(value)
        except ProtocolError as error:
            raise Uncacheable(f"{what} is not typed values: {error}") from None
        _feed(hasher, header)
        for buffer in buffers:
            _feed(hasher, buffer)


def _weights(node: Node, state_dict: Any) -> Any:
    if not callable(state_dict):
        return None
    try:
        return node.call(state_dict)
    except FilterFailed as error:
        raise Uncacheable(
            f"node {node.node_id!r} failed to return its weights: {error.cause}"
        ) from None


def _feed(hasher: Any, content: Any) -> None:
    view = memoryview(content)
    hasher.update(view.nbytes.to_bytes(8, "little"))
    if view.nbytes:
        hasher.update(view.cast("B"))


def _check_cacheable(node: Node) -> None:
    meta, name = node.meta, f"node {node.node_id!r}"
    if not isinstance(node.obj, Filter):
        raise Uncacheable(f"{name} is not a soma.Filter, so its configuration cannot be hashed")
    if not meta.deterministic:
        raise Uncacheable(f"{name} is not deterministic (meta)")
    if not meta.cacheable:
        raise Uncacheable(f"{name} is not cacheable (meta)")
    if meta.kind is FilterKind.OPAQUE:
        raise Uncacheable(f"{name} is opaque: what it remembers cannot be known")


def _with_code(obj: Any) -> list[Any]:
    """The fields of a filter that may lead to code, of which its configuration has no more than
    the name."""
    fields = [*vars(obj).values(), *(obj.__pydantic_extra__ or {}).values()]
    return [field for field in fields if not isinstance(field, _WITHOUT_CODE)]


def _config_hash(node: Node) -> bytes:
    try:
        return bytes.fromhex(node.obj.config_hash())
    except TypeError as error:
        raise Uncacheable(f"node {node.node_id!r} has no hash: {error}") from None


@cache
def environment_digest() -> bytes:
    """What is installed, by names and versions: any of it may change a result."""
    hasher = blake3(f"{platform.python_version()} {platform.machine()}".encode())
    for name in sorted(_installed()):
        _feed(hasher, name.encode())
    digest: bytes = hasher.digest()
    return digest


def _installed() -> set[str]:
    """The names of the metadata directories on the path, such as ``numpy-2.1.0.dist-info``."""
    folders = [Path(entry or ".") for entry in sys.path]
    found = (path for folder in folders if folder.is_dir() for path in folder.iterdir())
    return {path.name for path in found if path.suffix in (".dist-info", ".egg-info")}
