"""The hooks of the project ``soma``: what a plugin module in the group ``soma.plugins`` may define.

A plugin marks its functions with ``soma_core.hookimpl``::

    import soma_core as soma

    SOMA_API_VERSION = 1


    @soma.hookimpl(wrapper=True, commands={"FORWARD"})
    def soma_execute(command, context):
        started = time.perf_counter()
        reply = yield
        print(command.cmd, time.perf_counter() - started)
        return reply

``soma_execute``, ``soma_call``, ``soma_adapt``, ``soma_remote_filter`` and ``soma_open_file`` take
part in the work: what they raise propagates. What ``soma_register_commands`` and
``soma_register_codecs`` raise keeps their plugin from taking part. The others observe: what they
raise is logged and stops nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, overload

import pluggy

if TYPE_CHECKING:
    from soma_core.channel.contract import ExitStatus
    from soma_core.models.filters import FilterMeta

__all__ = ["API_VERSION", "Concern", "hookimpl", "hookspec"]

API_VERSION = 1
"""What a plugin may state as ``SOMA_API_VERSION``; it grows when a hook changes its meaning."""

hookspec = pluggy.HookspecMarker("soma")
_mark = pluggy.HookimplMarker("soma")
_CONCERN = "soma_concern"
F = TypeVar("F", bound=Callable[..., Any])


class Concern(NamedTuple):
    """Which commands a hook implementation takes part in.

    Attributes:
        commands: Their names; None for all.
        nodes: The node ids; None for all.
    """

    commands: frozenset[str] | None = None
    nodes: frozenset[str] | None = None

    @classmethod
    def of(cls, function: Any) -> Concern:
        """What an implementation was marked with."""
        found = getattr(function, _CONCERN, None)
        return found if isinstance(found, Concern) else cls()

    def covers(self, cmd: str, node_ids: frozenset[str]) -> bool:
        """Whether a command is one of them."""
        if self.commands is not None and cmd not in self.commands:
            return False
        return self.nodes is None or bool(self.nodes & node_ids)


@overload
def hookimpl(function: F) -> F: ...


@overload
def hookimpl(
    function: None = None,
    *,
    commands: Iterable[str] | None = None,
    nodes: Iterable[str] | None = None,
    **options: Any,
) -> Callable[[F], F]: ...


def hookimpl(
    function: F | None = None,
    *,
    commands: Iterable[str] | None = None,
    nodes: Iterable[str] | None = None,
    **options: Any,
) -> F | Callable[[F], F]:
    """Mark a function of a plugin as the implementation of the hook of its name.

    Args:
        function: The function, where the marker is used without arguments.
        commands: The commands in which ``soma_execute`` or ``soma_command_finished`` takes part,
            such as ``{"FORWARD"}``; None for all. Other commands do not even call it.
        nodes: The node ids that it takes part in; None for all.
        options: Those of pluggy: ``wrapper``, ``tryfirst``, ``trylast``, ``optionalhook``,
            ``specname``.
    """
    concern = Concern(
        None if commands is None else frozenset(commands),
        None if nodes is None else frozenset(nodes),
    )

    def mark(implementation: F) -> F:
        setattr(implementation, _CONCERN, concern)
        return _mark(implementation, **options)

    return mark if function is None else mark(function)


@hookspec(firstresult=True)
def soma_execute(command: Any, context: Any) -> Any:
    """Execute a command in the worker and return its reply; None leaves it to the next.

    With ``wrapper=True`` it is middleware, for caching, policy or tracing: the outermost is the
    one registered last. A wrapper yields once; one that knows the reply already calls
    ``context.answer(reply)`` before that, and the command is not executed; one that refuses it
    raises :class:`~soma_core.Refused` before that. ``context.abort(command, "why")`` ends one that
    runs, from any thread. Facts about a command that the host should see go into ``reply.meta``.
    Called in the worker's process, on its main thread.

    Args:
        command: The validated command; user data in it is Python objects.
        context: The :class:`~soma_core.engine.engine.Engine`; ``context.nodes.get(node_id)`` is a
            node.
    """


@hookspec(firstresult=True)
def soma_adapt(obj: Any) -> Any:
    """Wrap an object that is not a filter, such as a raw module; None if it is not yours.

    Called in the host's process for each object in ``filters=`` without fit and forward.

    Returns:
        A :class:`~soma_core.Filter`, or ``(registered name, config)``.
    """


@hookspec(firstresult=True)
def soma_remote_filter(worker: Any, node_id: str, meta: FilterMeta) -> Any:
    """Make what ``Worker.filter`` returns for a node; None if the node is not yours.

    Called in the host's process.

    Args:
        worker: The :class:`~soma_core.Worker`.
        node_id: The node.
        meta: What is known of it.

    Returns:
        A :class:`~soma_core.RemoteFilter` that can do more than run the node.
    """


@hookspec
def soma_register_commands() -> Any:
    """Add commands to the protocol, each with a model and a handler.

    Called once in every process that uses plugins, when the plugin is registered: the worker
    executes them and lists them in HELLO, ``soma validate`` and ``soma schema`` know them,
    and a host sends them with ``worker.call("EVALUATE", {...})``.

    Returns:
        A list of :class:`~soma_core.verbs.CommandSpec`.
    """


@hookspec
def soma_register_codecs() -> Any:
    """Add types to those that travel as typed values, between processes and without a pickle.

    Called once in every process that uses plugins, when the plugin is registered. A host and a
    worker name their codecs in HELLO; an object of such a type travels by its codec where both
    have it, and as a pickle, or not at all, where one lacks it.

    Returns:
        A list of :class:`~soma_core.codecs.Codec`.
    """


@hookspec(firstresult=True)
def soma_open_file(path: str, key: Any) -> Any:
    """Open a file that a :class:`~soma_core.DataFile` names; None for other kinds of files.

    Called in the worker's process, for files that soma does not read itself.

    Args:
        path: The file.
        key: Which part of it: a name, a list of names, or None.

    Returns:
        The rows: an object with ``shape``, and ``[selection]`` for a slice or an array of row
        numbers. Its ``order(generator)``, if it has one, is an order of the rows that is random
        and that it can be read in.

    Raises:
        OSError: It cannot be read.
        ValueError: It does not hold what ``key`` asks for.
    """


@hookspec
def soma_preloaded() -> None:
    """``--preload`` has imported its modules. Called in the process that workers are forked from.

    What a plugin imports and builds here, its filters need not at their first use. Look into
    ``sys.modules`` for what is wanted, and start no thread: that would keep the process from
    forking.
    """


@hookspec
def soma_filter_loaded(node_id: str, meta: FilterMeta) -> None:
    """A filter was loaded. Called in the worker's process, once for each node of a LOAD."""


@hookspec
def soma_command_finished(command: Any, seconds: float, error: BaseException | None) -> None:
    """A command was executed. Called in the worker's process, before the reply is sent.

    Args:
        command: The validated command.
        seconds: How long it took.
        error: What it raised, or None.
    """


@hookspec(firstresult=True)
def soma_call(call: Any) -> Any:
    """Take part in a call of the host, from before it waits for its turn until it has ended.

    Called in the host's process; for policy, tracing and metrics. An implementation has
    ``wrapper=True`` and yields once, without waiting for anything: what it yields to is the call,
    whether the host blocks or awaits. The yield gives the reply, or raises what the call raises;
    the wrapper returns that reply or another of its class. One that refuses the call raises
    :class:`~soma_core.Refused` before it yields; nothing is sent then. The outermost is the one
    registered last. Calls that join several of a pool are one; a pool's calls begin when a worker
    has them.

    Args:
        call: ``cmd``, ``node_id``, ``asked`` (``time.monotonic``, when it was asked for),
            ``contexts`` (the :class:`contextvars.Context` of whoever asked, if a pool runs it;
            several if it joins their calls), and ``fields``: what is put into ``fields["meta"]``,
            a dict of plain data, reaches the hooks of the worker as ``command.meta``.
    """


@hookspec
def soma_call_starting(call: Any) -> None:
    """A call has its turn, and is about to be sent. Called in the host's process.

    Args:
        call: As for ``soma_call``.
    """


@hookspec
def soma_call_sent(call: Any) -> None:
    """A call is on its way. Called in the host's process.

    The host has nothing to do until the reply comes: what a plugin does here costs no time, up to
    what the worker takes. A call that could not be sent has none of it.

    Args:
        call: That of ``soma_call_starting``.
    """


@hookspec
def soma_call_finished(call: Any, reply: Any, error: BaseException | None) -> None:
    """A call has ended that had begun. Called in the host's process, once for each start.

    Args:
        call: That of ``soma_call_starting``.
        reply: The reply of the worker, or None; ``reply.meta`` is what its plugins said.
        error: What the call raises, or None.
    """


@hookspec
def soma_worker_starting(transport: str, options: Any) -> None:
    """A worker is about to be started. Called in the host's process by ``soma.connect``."""


@hookspec
def soma_worker_started(transport: str, pid: int, incarnation: str) -> None:
    """A worker answered HELLO. Called in the host's process."""


@hookspec
def soma_worker_exited(transport: str, pid: int, status: ExitStatus | None) -> None:
    """A worker was closed, or found dead. Called in the host's process, once for each worker."""
