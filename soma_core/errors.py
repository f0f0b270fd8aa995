"""Every error that soma raises, and the codes that error replies carry.

::

    SomaError
    ├── PluginError
    │   ├── PluginNotFound        no installed plugin has that name
    │   ├── PluginLoadFailed      it is installed, and importing it failed
    │   ├── PluginConflict        two distributions claim one name
    │   ├── PluginApiMismatch     it was built for another version of the plugin interface
    │   └── PluginUnavailable     what is installed beside it lacks what it needs
    ├── ProtocolError             a message that breaks the protocol; carries an ErrorCode
    ├── TransportError
    │   ├── StartFailed           the worker did not come up
    │   ├── ChannelClosed         the channel is closed, by us or by the other end
    │   ├── WorkerDied            the worker process ended while the host needed it
    │   └── DeadlineExceeded      a call did not end in time (also a TimeoutError)
    ├── RemoteError               the worker answered with an error reply
    ├── QueueFull                 no more calls may wait for the workers of a pool
    ├── IncompatibleWorker        host and worker cannot exchange what they must
    └── StateLost                 a restarted worker no longer has a node's newest state
"""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from contextlib import suppress
from enum import StrEnum
from functools import lru_cache
from types import TracebackType
from typing import Any

from pydantic import ValidationError

from soma_core.raised import Raised, read, sources_agree, traceback_from, without_first

__all__ = [
    "ChannelClosed",
    "DeadlineExceeded",
    "ErrorCode",
    "IncompatibleWorker",
    "PluginApiMismatch",
    "PluginConflict",
    "PluginError",
    "PluginLoadFailed",
    "PluginNotFound",
    "PluginUnavailable",
    "ProtocolError",
    "QueueFull",
    "Refused",
    "RemoteError",
    "SomaError",
    "StartFailed",
    "StateLost",
    "TransportError",
    "WorkerDied",
]


class ErrorCode(StrEnum):
    """What kind of failure an error reply reports; the fixed list of the protocol."""

    MALFORMED = "malformed"
    INVALID_COMMAND = "invalid_command"
    UNKNOWN_COMMAND = "unknown_command"
    UNKNOWN_NODE = "unknown_node"
    UNKNOWN_FILTER = "unknown_filter"
    LOAD_FAILED = "load_failed"
    FILTER_FAILED = "filter_failed"
    SCHEMA_MISMATCH = "schema_mismatch"
    PICKLE_REFUSED = "pickle_refused"
    INCOMPATIBLE = "incompatible"
    TOO_LARGE = "too_large"
    INTERRUPTED = "interrupted"
    INVALID_STATE = "invalid_state"
    NO_GRADIENTS = "no_gradients"
    REFUSED = "refused"
    INTERNAL = "internal"


class SomaError(Exception):
    """The base of every error that soma raises on purpose. All of them pickle and copy."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self), self.args, vars(self))


def _restored(
    kind: type[SomaError], args: tuple[object, ...], attributes: dict[str, Any]
) -> SomaError:
    """An error as it was, without its constructor, which may want more than ``args``."""
    error = kind.__new__(kind, *args)
    error.args = args
    vars(error).update(attributes)
    return error


class PluginError(SomaError):
    """A plugin is missing, broken, ambiguous or out of date."""


class PluginNotFound(PluginError):
    """No installed distribution provides a plugin of the wanted name."""


class PluginLoadFailed(PluginError):
    """A plugin is installed, but importing it raised; the cause is chained."""


class PluginConflict(PluginError):
    """Two installed distributions claim the same plugin name."""


class PluginApiMismatch(PluginError):
    """A plugin declares another version of the plugin interface than this soma has."""


class PluginUnavailable(PluginError):
    """A plugin works, but not with what is installed: another version of a library, say.

    Raise it where an entry point is loaded. ``soma plugins`` then does not count it as broken.
    """


class ProtocolError(SomaError):
    """A message breaks the protocol, or asks for what cannot be done.

    Inside a worker this is the exception that becomes an error reply with its code.

    Args:
        code: What kind of failure it is.
        message: What came, what was expected, and what to do.
        node_id: The node that it is about, where there is one.
        remote_type: The name of the exception class that caused it, where there is one.
        where: The place in the message that is wrong, as keys and indices, where that is known.
    """

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        *,
        node_id: str | None = None,
        remote_type: str | None = None,
        where: tuple[str | int, ...] = (),
    ) -> None:
        super().__init__(message)
        self.code = code
        self.node_id = node_id
        self.remote_type = remote_type
        self.where = where


class Refused(ProtocolError):
    """A plugin refuses a command: raise it in ``soma_execute``.

    The host gets a RemoteError with the code ``refused``.

    Args:
        reason: Why, and what to do.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(ErrorCode.REFUSED, reason)


class TransportError(SomaError):
    """A worker could not be started, reached, or kept."""


class StartFailed(TransportError):
    """The worker did not come up, or did not answer in time."""


class ChannelClosed(TransportError):
    """The channel is closed: by ``close()``, or by the other end.

    Args:
        message: Which end closed it, as far as that is known.
        sent: Whether the other end may have received some of the message that was being sent.
    """

    def __init__(self, message: str, *, sent: bool = False) -> None:
        super().__init__(message)
        self.sent = sent


class WorkerDied(TransportError):
    """The worker process ended while the host needed it.

    Args:
        message: How it ended, with the tail of its stderr.
        exit_code: Its exit status, or None if a signal ended it or the status is unknown.
        signal: The name of the signal that ended it (``"SIGKILL"``), or None.
        stderr: The last lines that it wrote to stderr.
        command: The command that was running (``"FIT"``), or None.
        node_id: The node that the command was for, or None.
        sent: Whether the worker may have received some of the command.
    """

    def __init__(
        self,
        message: str,
        *,
        exit_code: int | None = None,
        signal: str | None = None,
        stderr: str = "",
        command: str | None = None,
        node_id: str | None = None,
        sent: bool = True,
    ) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.signal = signal
        self.stderr = stderr
        self.command = command
        self.node_id = node_id
        self.sent = sent

    @property
    def facts(self) -> dict[str, Any]:
        """What another error about the same death says as well."""
        return {
            "exit_code": self.exit_code,
            "signal": self.signal,
            "stderr": self.stderr,
            "command": self.command,
            "node_id": self.node_id,
        }


class DeadlineExceeded(TransportError, TimeoutError):
    """A call did not end within its timeout, or made no progress within its stall timeout.

    Args:
        message: Which call, after how long, and what became of the worker.
        worker_survived: Whether the worker gave up the command and can be used on.
    """

    def __init__(self, message: str, *, worker_survived: bool) -> None:
        super().__init__(message)
        self.worker_survived = worker_survived


class QueueFull(SomaError):
    """As many calls wait for the workers of a pool as may: try again later."""


class IncompatibleWorker(SomaError):
    """Host and worker differ in a version that must agree; the message names both sides."""


class StateLost(SomaError):
    """A worker was restarted and a node's newest state is held by nobody."""


class RemoteError(SomaError):
    """The worker answered a command with an error reply.

    The instance raised is also of the built-in types that the exception in the worker was of, so
    ``except ValueError`` catches a filter's ``LinAlgError``; a group of exceptions is one here
    too. Build one with :meth:`from_reply`. Python prints it with the lines of the worker's
    traceback and with its causes; where their sources are not on this machine, the traceback is
    a note instead.

    ``args``, and attributes such as ``errno``, are those of the exception where they are plain
    data; else ``args`` is the message alone.

    Attributes:
        code: The reply's :class:`ErrorCode`.
        remote_type: The name of the exception class in the worker, or None.
        node_id: The node that failed, or None.
        command: The command that failed, or None.
        remote_traceback: The traceback as text, or an empty string.
        plugins: What plugins of the worker said of the command, by plugin.
    """

    def __init__(
        self,
        message: str,
        *,
        code: ErrorCode = ErrorCode.INTERNAL,
        remote_type: str | None = None,
        node_id: str | None = None,
        command: str | None = None,
        remote_traceback: str = "",
    ) -> None:
        Exception.__init__(self, message)
        self._text = message
        self._raised: dict[str, Any] | None = None
        self._trace: TracebackType | None = None
        self.code = code
        self.remote_type = remote_type
        self.node_id = node_id
        self.command = command
        self.remote_traceback = remote_traceback
        self.plugins: dict[str, Any] = {}

    def __str__(self) -> str:
        return self._text

    def __reduce__(self) -> tuple[Any, ...]:
        reply = {
            "error": self._text,
            "code": str(self.code),
            "type": self.remote_type,
            "node_id": self.node_id,
            "cmd": self.command,
            "traceback": self.remote_traceback,
            "exception": self._raised,
            "meta": self.plugins,
        }
        return _from_reply_with_notes, (reply, getattr(self, "__notes__", []))

    def shorten(self) -> None:
        """Leave nothing in its traceback but what ran in the worker.

        Called where the user called soma: what lies between says nothing to him.
        """
        self.__traceback__ = self._trace

    def take_frames(self, error: BaseException, *, leave_out: str = "") -> None:
        """Have the frames of the exception that it is about, which was raised in this process.

        Args:
            error: The exception.
            leave_out: The folder of a package whose frames are left out where they come first.
        """
        if self._trace is not None:
            self.__traceback__ = self._trace = without_first(error.__traceback__, leave_out)
        for mine, its in (
            (self.__cause__, error.__cause__),
            (self.__context__, error.__context__),
            *zip(getattr(self, "exceptions", ()), getattr(error, "exceptions", ()), strict=False),
        ):
            if isinstance(mine, RemoteError) and its is not None:
                mine.take_frames(its)

    @staticmethod
    def from_reply(reply: dict[str, Any]) -> RemoteError:
        """Build the exception of an error reply (``"ok": false``).

        Args:
            reply: Its fields; one that is not of its type counts as absent.
        """
        texts = {key: value for key, value in reply.items() if isinstance(value, str)}
        remote_type, code = texts.get("type"), texts.get("code")
        raised = _raised(reply.get("exception")) or Raised(bases=[remote_type or ""])
        error = _rebuilt(
            raised,
            texts.get("error") or remote_type or "the worker gave no reason",
            code=ErrorCode(code) if code in set(ErrorCode) else ErrorCode.INTERNAL,
            remote_type=remote_type,
            node_id=texts.get("node_id"),
            command=texts.get("cmd"),
            remote_traceback=texts.get("traceback") or "",
        )
        if isinstance(said := reply.get("meta"), dict):
            error.plugins = said
        if error.remote_traceback and error.__traceback__ is None:
            error.add_note("The traceback in the worker:\n" + error.remote_traceback.rstrip())
        return error


class _RemoteGroup(RemoteError, ExceptionGroup[Exception]):
    """A group of exceptions in the worker; ``except*`` splits it like any other."""

    def derive(self, excs: Sequence[Any], /) -> Any:
        return _new_group(type(self), self.message, excs, str(self), self._facts())

    def _facts(self) -> dict[str, Any]:
        names = ("code", "remote_type", "node_id", "command", "remote_traceback")
        return {name: getattr(self, name) for name in names}


def _from_reply_with_notes(reply: dict[str, Any], notes: list[str]) -> RemoteError:
    error = RemoteError.from_reply(reply)
    if notes:
        error.__notes__ = list(notes)
    return error


def _raised(content: Any) -> Raised | None:
    """What a reply says of the exception; None where that is nothing or makes no sense."""
    try:
        return Raised.model_validate(content)
    except ValidationError:
        return None


def _rebuilt(raised: Raised, text: str, **facts: Any) -> RemoteError:
    """The exception of a description, with those that it leads to."""
    remote_type = facts["remote_type"]
    members = [_member(member, facts) for member in raised.exceptions]
    kind = _class_for(remote_type, tuple(raised.bases), grouped=bool(members))
    if members:
        title = (raised.args or [text])[0]
        error: RemoteError = _new_group(kind, str(title), members, text, facts)
    else:
        error = kind(text, **facts)
        if raised.args is not None:
            error.args = tuple(read(raised.args))
    _add_attributes(error, raised.attributes)
    for note in raised.notes:
        error.add_note(note)
    if raised.stack and sources_agree(raised.stack):
        error.__traceback__ = error._trace = traceback_from(raised.stack)
    if raised.context is not None:
        error.__context__ = _member(raised.context, facts)
    if raised.cause is not None:
        error.__cause__ = _member(raised.cause, facts)
    error._raised = raised.model_dump(exclude_defaults=True)
    return error


def _member(member: Raised, facts: dict[str, Any]) -> RemoteError:
    """An exception that another one leads to: of the same command."""
    text = member.error or member.type or "an exception without a text"
    return _rebuilt(member, text, **{**facts, "remote_type": member.type, "remote_traceback": ""})


def _new_group(
    kind: type[Any], title: str, members: Sequence[Exception], text: str, facts: dict[str, Any]
) -> Any:
    group: Any = ExceptionGroup.__new__(kind, title, members)
    RemoteError.__init__(group, text, **facts)
    group.args = (title, list(members))
    return group


def _add_attributes(error: RemoteError, attributes: dict[str, Any]) -> None:
    for name, value in attributes.items():
        if name not in vars(error) and not name.startswith("_") and not hasattr(RemoteError, name):
            with suppress(AttributeError, TypeError, ValueError):  # not what its class wants there
                setattr(error, name, read(value))


@lru_cache(maxsize=256)
def _class_for(
    remote_type: str | None, bases: tuple[str, ...], *, grouped: bool
) -> type[RemoteError]:
    """The RemoteError class that is also of built-in classes.

    Args:
        remote_type: The name of the exception's own class.
        bases: Names of built-in classes, the nearest first; any other name is passed over.
        grouped: Whether it holds other exceptions.
    """
    root = _RemoteGroup if grouped else RemoteError
    kinds: list[type] = []
    for name in bases:
        kind: Any = getattr(builtins, name, None)
        if _can_be_base(kind) and not any(issubclass(nearer, kind) for nearer in (root, *kinds)):
            kinds.append(kind)
    of_soma = remote_type is None or remote_type in __all__
    name, qualname = "RemoteError", "RemoteError"
    if not of_soma:  # doctest compares what follows the last dot, if it is to ignore the module
        name, qualname = f"RemoteError[{remote_type}]", f"RemoteError.{remote_type}"
    for chosen in (kinds, kinds[:1]):
        with suppress(TypeError, ValueError):  # no object can be of all, or no class has the name
            return type(name, (root, *chosen), {"__module__": __name__, "__qualname__": qualname})
    return root


def _can_be_base(kind: object) -> bool:
    """Whether an error may be of that class, and means no end of an iteration by it."""
    if not (isinstance(kind, type) and issubclass(kind, Exception)):
        return False
    return not issubclass(kind, (BaseExceptionGroup, StopIteration, StopAsyncIteration))
