"""Clauses: what a conformance suite promises, as data, and which of its tests covers which."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

Test = TypeVar("Test", bound=Callable[..., Any])


class Capability(Enum):
    """What a transport may lack if its suite lists it in ``lacks``; the value describes it."""

    LINES = "messages of the line dialect are carried"
    ISOLATION = "the engine runs in a process of its own, so that send returns before it is done"
    LOCAL = "the engine's process is on the host's machine"
    INTERRUPTS = "interrupt() ends the command that runs, and the engine lives on"
    KILL = "stop() ends an engine that ignores signals"
    CHILDREN = "what filters started ends with an engine that dies"
    EXIT_STATUS = "poll() and stop() return the status or signal with which the engine ended"
    DIAGNOSTICS = "diagnostics() returns what the engine wrote to its stderr"


@dataclass(frozen=True)
class Clause:
    """One thing that an implementation must do.

    Attributes:
        id: What it is called in reports.
        promise: What must hold, as a sentence.
        needs: The capabilities without which it does not apply.
    """

    id: str
    promise: str
    needs: frozenset[Capability] = frozenset()


def _clauses(*rows: tuple[Any, ...]) -> Mapping[str, Clause]:
    return {id: Clause(id, promise, frozenset(needs)) for id, promise, *needs in rows}


_C = Capability

TRANSPORT_CLAUSES: Mapping[str, Clause] = _clauses(
    ("contract.options", "Options forbid what they do not know, and have pickle."),
    ("contract.before-start", "Nothing but start() needs a started engine, and none raises."),
    ("contract.poll", "poll() is None while the engine runs, and a status after stop()."),
    ("contract.lacks", "What the suite lists in lacks, the transport really lacks."),
    ("order.commands", "Commands that were sent one after the other are answered in this order."),
    ("order.events", "The events of a command come before its reply, none after it."),
    ("boundaries.buffers", "A buffer of any size arrives whole, around every limit."),
    ("boundaries.headers", "A header of any size arrives whole, around every limit."),
    ("boundaries.many-buffers", "Many buffers in one message stay apart, empty ones too."),
    ("boundaries.content", "Bytes that look like the start or the end of a message are content."),
    ("boundaries.malformed", "A message that is no command gets one error reply, and no more."),
    ("buffers.writable", "The buffers of a received message are writable."),
    ("buffers.apart", "Neither side sees what the other does to its memory after a send."),
    ("dialects.frames", "A frame is answered by a frame."),
    ("dialects.lines", "A line is answered by a line, also between frames.", _C.LINES),
    ("timeouts.receive", "receive() with a timeout raises TimeoutError when it is over."),
    ("timeouts.reuse", "A reply that comes after a timeout is received later.", _C.ISOLATION),
    ("timeouts.send", "send() with a timeout ends by it, also if the engine takes nothing.",
     _C.ISOLATION),
    ("timeouts.deadline", "A call ends by its deadline; its error has worker_survived.",
     _C.ISOLATION),
    ("interrupts.survive", "An interrupted command is an error reply; the engine goes on.",
     _C.ISOLATION, _C.INTERRUPTS),
    ("interrupts.message",
     "INTERRUPT ends the command that it names and no other, if HELLO has that feature.",
     _C.ISOLATION),
    ("interrupts.ctrl-c", "Ctrl-C during a call ends the call; the engine goes on.",
     _C.ISOLATION, _C.INTERRUPTS),
    ("interrupts.handler",
     "What a signal handler of the host raises ends the call, as it is; the engine goes on.",
     _C.ISOLATION),
    ("close.idempotent", "close() and stop() may be called again, and do nothing then."),
    ("close.closed", "A closed channel reports closed, and neither sends nor receives."),
    ("close.other-thread", "close() from another thread ends a receive() with ChannelClosed.",
     _C.ISOLATION),
    ("close.ends-engine", "The engine's process is gone after stop().", _C.ISOLATION, _C.LOCAL),
    ("close.ends-stuck-engine", "stop() ends an engine that ignores signals.",
     _C.ISOLATION, _C.LOCAL, _C.KILL),
    ("close.shutdown", "SHUTDOWN is answered, and then the channel ends."),
    ("close.clean", "An engine that is closed runs the exit handlers of its filters.",
     _C.ISOLATION, _C.LOCAL),
    ("close.start-again", "start() after stop() reaches another engine."),
    ("death.during-call", "An engine that dies during a call is reported within seconds.",
     _C.ISOLATION),
    ("death.idle", "An engine that died between calls is reported by the next call.",
     _C.ISOLATION, _C.LOCAL),
    ("death.mid-request", "An engine that dies while a message is sent closes the channel.",
     _C.ISOLATION, _C.LOCAL),
    ("death.mid-reply", "A reply that was cut off by a death is never received.",
     _C.ISOLATION, _C.LOCAL),
    ("death.status", "The signal that ended the engine is named.", _C.ISOLATION, _C.EXIT_STATUS),
    ("death.stderr", "What the engine wrote last to stderr is shown.",
     _C.ISOLATION, _C.DIAGNOSTICS),
    ("hygiene.stdout", "What a filter or its children print cannot get among the replies."),
    ("hygiene.output", "However much a filter prints, the host keeps little of it and goes on.",
     _C.ISOLATION),
    ("hygiene.stdin", "A filter that reads stdin cannot take a command.", _C.ISOLATION),
    ("hygiene.exit", "sys.exit() in a filter is an error reply."),
    ("hygiene.cwd", "A filter that leaves a directory that is gone does no harm.", _C.ISOLATION),
    ("commands.all", "Every command gets its reply."),
    ("values.all", "Every kind of value arrives as what was sent, both ways."),
    ("faults.all", "Every fault ends its call as declared, in time.", _C.ISOLATION, _C.LOCAL),
    ("leaks.descriptors", "Workers that were closed leave no descriptor and no mapping."),
    ("leaks.grandchildren",
     "What a filter started ends when its engine dies, in any group or session.",
     _C.ISOLATION, _C.LOCAL, _C.CHILDREN),
    ("leaks.host", "An engine, and what its filters started, end when the host is killed.",
     _C.ISOLATION, _C.LOCAL, _C.CHILDREN),
    ("leaks.processes", "Workers that were closed leave no child process of the host."),
)  # fmt: skip
"""What every transport must do."""

FILTER_CLAUSES: Mapping[str, Clause] = _clauses(
    ("meta.valid", "meta() returns a FilterMeta, the same one each time, with the right kind."),
    ("meta.schemas", "Inputs and outputs keep to the schemas that meta() declares."),
    ("config.round-trip", "The configuration makes an equal filter, also by way of JSON."),
    ("config.strict", "A field that does not exist is refused."),
    ("config.hash", "Equal filters have equal hashes; what runs does not change them."),
    ("config.hash-elsewhere", "Another process computes the same hash."),
    ("pickling", "A pickled filter returns what the original returns."),
    ("forward.input-kept", "forward() does not change its input."),
    ("forward.state-kept", "forward() does not change the state."),
    ("forward.pure", "forward() leaves nothing on the filter that changes a later result."),
    ("forward.deterministic", "Equal input and state give equal results, if meta() states it."),
    ("forward.rowwise", "Each row gives alone what it gives among others, if meta() states it."),
    ("fit.input-kept", "fit() does not change its input or its targets."),
    ("fit.state-returned", "What fit() learned is in the state, and not on the filter."),
    ("state.round-trip", "A state that travelled gives the results of the one that stayed."),
    ("state.fetched", "Its state can be fetched after it ran, with pickles and without."),
    ("batches", "A chain of this filter can be fitted batch by batch."),
    ("worker", "A worker loads it and returns what it returns here."),
)  # fmt: skip
"""What every filter must do."""


def covers(clause_id: str) -> Callable[[Test], Test]:
    """Mark the test of a suite that covers a clause."""

    def mark(test: Test) -> Test:
        test.clause_id = clause_id  # type: ignore[attr-defined]
        return test

    return mark


def clause_of(test: Any) -> str | None:
    """The id of the clause that a test covers; None if it is no test of a suite."""
    found: str | None = getattr(test, "clause_id", None)
    return found
