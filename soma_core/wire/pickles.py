"""Pickling and unpickling: the one place where either happens, or is refused."""

from __future__ import annotations

import io
import pickle
import platform
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from types import GeneratorType, ModuleType
from typing import Any

from soma_core.errors import ErrorCode, ProtocolError
from soma_core.wire.added_types import Codecs
from soma_core.wire.locks import renew_in_forked_child


class Pickles:
    """Whether pickles may be made and read on a connection, and how.

    Args:
        allowed: False refuses both: then only typed values travel.
        codecs: What plugins made typed values, which therefore needs no pickle.
        opaque_states: Whether an object in a state that cannot be read here stays bytes, as an
            :class:`~soma_core.wire.opaque.OpaqueState`; else it is an error.

    Attributes:
        allowed: Whether they may. What was refused once is never allowed again.
        by_value: Modules whose functions and classes travel whole, since the other side lacks
            these modules.
    """

    def __init__(
        self, *, allowed: bool = True, codecs: Codecs | None = None, opaque_states: bool = False
    ) -> None:
        self._allowed = allowed
        self.opaque_states = opaque_states
        self.codecs = codecs or Codecs()
        self.by_value: frozenset[ModuleType] = frozenset()

    @property
    def allowed(self) -> bool:
        return self._allowed

    def refuse(self) -> None:
        """Make and read none from now on."""
        self._allowed = False

    def typed_only(self) -> Pickles:
        """The same with pickles refused, for what is typed values by definition."""
        return Pickles(allowed=False, codecs=self.codecs)

    def dump(
        self, obj: object, buffer_callback: Callable[[pickle.PickleBuffer], Any] | None = None
    ) -> bytes:
        """Pickle an object; classes and functions of ``__main__``, and lambdas, by value.

        Large buffers go to the callback, if there is one.

        Raises:
            ProtocolError: ``pickle_refused``, or ``invalid_command`` if it does not pickle.
        """
        name = f"{type(obj).__module__}.{type(obj).__qualname__}"
        if not self._allowed:
            raise ProtocolError(
                ErrorCode.PICKLE_REFUSED,
                f"this {name} can only travel as a pickle{_because(obj)}, which this connection "
                f"refuses; {self._instead(obj)}",
            )
        from soma_core.wire.definitions.writing import write

        try:
            with by_value(self.by_value):
                return write(obj, buffer_callback)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # pickling an object may raise SystemExit as well
            raise ProtocolError(
                ErrorCode.INVALID_COMMAND,
                f"a {name} cannot be sent to another process: {self._why(obj, error)}",
                remote_type=type(error).__name__,
            ) from error

    def _why(self, obj: object, error: BaseException) -> str:
        """What in an object does not pickle, and what to do."""
        from soma_core.wire.definitions.writing import write
        from soma_core.wire.unpicklable import find_culprit

        with by_value(self.by_value):
            culprit = find_culprit(obj, error, lambda part: write(part, lambda buffer: None))
        if culprit.obj is obj:
            remedy = _INSTEAD.get(type(obj), "send plain data, arrays, or an object that pickles")
            return f"{error}; {remedy}"
        kind = f"{type(culprit.obj).__module__}.{type(culprit.obj).__qualname__}"
        of_globals = "uses the global" in culprit.path
        remedy = _INSTEAD.get(type(culprit.obj), _MODULE if of_globals else _LATER)
        return f"{culprit.sentence(kind)}: {culprit.error}; {remedy}"

    def _instead(self, obj: object) -> str:
        """What to do where an object may not travel as a pickle."""
        codec = self.codecs.of(obj)
        if codec is not None:
            return (
                f"the other side lacks the codec {codec.name!r} that carries it otherwise: pip "
                f"install {codec.distribution} there"
            )
        return (
            "use plain data, bytes, numpy arrays or torch tensors, and filters by "
            'registered name: ("acme.Clip", {"quantile": 0.9}). Where each side may run code of '
            "the other's, the transport has an option that allows pickles: pickle='same-user', "
            "trust_server=True over HTTP"
        )

    def load(self, data: Any, buffers: Iterable[Any] = ()) -> Any:
        """Unpickle bytes of a peer that is trusted with running code here.

        Raises:
            ProtocolError: ``pickle_refused``, or ``invalid_command`` if it raised; the message
                says what to do where a module or attribute is missing here.
        """
        if not self._allowed:
            raise ProtocolError(
                ErrorCode.PICKLE_REFUSED,
                "a pickled object came, and this connection refuses pickles; send plain data, "
                "bytes, arrays, or filters by their registered name",
            )
        try:
            return pickle.loads(data, buffers=buffers)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a pickle may raise SystemExit as well
            raise ProtocolError(
                ErrorCode.INVALID_COMMAND,
                f"unpickling failed: {type(error).__name__}: {error}{_remedy(error)}",
                remote_type=type(error).__name__,
            ) from error


class _ByValue:
    """Counts who wants a module pickled by value: cloudpickle's own register is process-wide."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        renew_in_forked_child(self, "_lock", threading.Lock)
        self._wanted: Counter[str] = Counter()

    def add(self, module: ModuleType) -> None:
        import cloudpickle

        with self._lock:
            if module.__name__ not in cloudpickle.list_registry_pickle_by_value():
                cloudpickle.register_pickle_by_value(module)
                self._wanted[module.__name__] += 1
            elif self._wanted[module.__name__]:
                self._wanted[module.__name__] += 1

    def remove(self, module: ModuleType) -> None:
        import cloudpickle

        with self._lock:
            if self._wanted[module.__name__] == 1:
                cloudpickle.unregister_pickle_by_value(module)
            if self._wanted[module.__name__]:
                self._wanted[module.__name__] -= 1


_by_value = _ByValue()


@contextmanager
def by_value(modules: Iterable[ModuleType]) -> Iterator[None]:
    """Within the block, pickle what these modules define by value instead of by name."""
    with ExitStack() as undo:
        for module in modules:
            _by_value.add(module)
            undo.callback(_by_value.remove, module)
        yield


def _because(obj: object) -> str:
    """Why an object needs a pickle, if its class tells that: ``pickled_because``."""
    told = getattr(obj, "pickled_because", "") if hasattr(type(obj), "pickled_because") else ""
    if getattr(getattr(obj, "dtype", None), "hasobject", False):
        told = "its dtype is object: array.astype(str) has another"
    return f" ({told})" if told else ""


_LATER = "make it where it is used (on_load), or leave it out of what is pickled (__getstate__)"
_MODULE = "make it where it is used (on_load), or put the code into a module, which workers import"
_PATH = "send its path, and open it where it is used"
_INSTEAD: dict[type, str] = {
    GeneratorType: "send a list of what it yields",
    **dict.fromkeys((io.TextIOWrapper, io.BufferedReader, io.BufferedWriter, io.FileIO), _PATH),
}


def _remedy(error: BaseException) -> str:
    import cloudpickle

    if isinstance(error, ModuleNotFoundError):
        return (
            f". This process cannot import {error.name!r}: install it there, or have the sender "
            "call cloudpickle.register_pickle_by_value() with that module"
        )
    return (
        f" (here: Python {platform.python_version()}, cloudpickle {cloudpickle.__version__}; the "
        "sender must have the same Python minor version and cloudpickle major version. If it has, "
        "this object cannot be read back from its own pickle: send plain data instead)"
    )
