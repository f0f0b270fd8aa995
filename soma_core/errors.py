"""Every error that soma raises, and the codes that error replies carry.

::

    SomaError
    ├── PluginError
    │   ├── PluginNotFound        no installed plugin has that name
    │   ├── PluginLoadFailed      it is installed, and importing it failed
    │   ├── PluginConflict        two distributions claim one name
    │   └── PluginApiMismatch     it was built for another version of the plugin interface
    ├── ProtocolError             a message that breaks the protocol; carries an ErrorCode
    ├── TransportError
    │   ├── StartFailed           the worker did not come up
    │   ├── ChannelClosed         the channel is closed, by us or by the other end
    │   ├── WorkerDied            the worker process ended while the host needed it
    │   └── DeadlineExceeded      a call did not end in time (also a TimeoutError)
    ├── RemoteError               the worker answered with an error reply
    ├── IncompatibleWorker        host and worker cannot exchange what they must
    └── StateLost                 a restarted worker no longer has a node's newest state
"""

from __future__ import annotations

import builtins
from enum import StrEnum
from functools import lru_cache
from typing import Any

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
    "ProtocolError",
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
    INTERNAL = "internal"


class SomaError(Exception):
    """The base of every error that soma raises on purpose."""


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


class ProtocolError(SomaError):
    """A message breaks the protocol, or asks for what cannot be done.

    Inside a worker this is the exception that becomes an error reply with its code.

    Args:
        code: What kind of failure it is.
        message: What came, what was expected, and what to do.
        node_id: The node that it is about, where there is one.
        remote_type: The name of the exception class that caused it, where there is one.
    """

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        *,
        node_id: str | None = None,
        remote_type: str | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.node_id = node_id
        self.remote_type = remote_type


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


class IncompatibleWorker(SomaError):
    """Host and worker differ in a version that must agree; the message names both sides."""


class StateLost(SomaError):
    """A worker was restarted and a node's newest state is held by nobody."""


class RemoteError(SomaError):
    """The worker answered a command with an error reply.

    Where the remote exception was of a built-in type, the instance raised is also of that
    type, so ``except ValueError`` catches a filter's ``ValueError``. Build one with
    :meth:`from_reply`. The remote traceback is attached as a note, which Python prints.

    Attributes:
        code: The reply's :class:`ErrorCode`.
        remote_type: The name of the exception class in the worker, or None.
        node_id: The node that failed, or None.
        command: The command that failed, or None.
        remote_traceback: The traceback as text, or an empty string.
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
        self.code = code
        self.remote_type = remote_type
        self.node_id = node_id
        self.command = command
        self.remote_traceback = remote_traceback
        if remote_traceback:
            self.add_note("The traceback in the worker:\n" + remote_traceback.rstrip())

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""

    def __reduce__(self) -> tuple[Any, ...]:
        return RemoteError.from_reply, (self._as_reply(),)

    def _as_reply(self) -> dict[str, Any]:
        return {
            "error": str(self),
            "code": str(self.code),
            "type": self.remote_type,
            "node_id": self.node_id,
            "cmd": self.command,
            "traceback": self.remote_traceback,
        }

    @staticmethod
    def from_reply(reply: dict[str, Any]) -> RemoteError:
        """Build the exception that an error reply (``"ok": false``) stands for.

        A field that is not a text counts as absent.
        """
        texts = {key: value for key, value in reply.items() if isinstance(value, str)}
        remote_type = texts.get("type")
        text = texts.get("error") or remote_type or "the worker gave no reason"
        return _class_for(remote_type)(
            text,
            code=_known_code(texts.get("code")),
            remote_type=remote_type,
            node_id=texts.get("node_id"),
            command=texts.get("cmd"),
            remote_traceback=texts.get("traceback") or "",
        )


def _known_code(code: Any) -> ErrorCode:
    return ErrorCode(code) if code in set(ErrorCode) else ErrorCode.INTERNAL


@lru_cache(maxsize=256)
def _class_for(remote_type: str | None) -> type[RemoteError]:
    """The RemoteError class that is also of the named built-in exception type."""
    builtin = getattr(builtins, remote_type, None) if remote_type else None
    if not (isinstance(builtin, type) and issubclass(builtin, Exception)):
        return RemoteError
    name = f"RemoteError[{remote_type}]"
    try:
        combined = type(name, (RemoteError, builtin), {"__module__": __name__})
        combined("probe")
    except TypeError:  # an exception group cannot be built from a text alone
        return RemoteError
    return combined
