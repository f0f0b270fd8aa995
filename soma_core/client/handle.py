"""Handle: a worker that was started, and what all that drive one have in common."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress

from soma_core.channel.contract import ExitStatus, Transport
from soma_core.client.engines import RemoteEngine, RestartingEngine
from soma_core.client.recording import Recorder
from soma_core.client.results import WorkerStatus
from soma_core.client.usage import process_usage
from soma_core.client.verbs.verbs import Verbs
from soma_core.client.worker_options import WorkerOptions
from soma_core.wire.pickles import Pickles

CLOSE_GRACE = 2.0
"""Seconds in which a worker that is closed may end by itself."""


class Handle:
    """A worker, started by making this; blocks until it answers.

    Args:
        transport: Not started yet.
        options: How it is started and asked.

    Attributes:
        transport: How it is reached.
        engine: The engine behind it.
        verbs: What can be asked of it.
        recorder: Records the channel, or None; closed with the worker, or if it does not start.

    Raises:
        StartFailed: The worker did not come up.
        IncompatibleWorker: Its versions do not fit this host's.
    """

    def __init__(self, transport: Transport, options: WorkerOptions) -> None:
        allowed = transport.options.pickle != "never"
        codecs = options.plugins.known_codecs()
        pickles = Pickles(allowed=allowed, codecs=codecs, opaque_states=True)
        self.transport = transport
        self.recorder = recorder = options.recorder
        start = RemoteEngine if options.restart == "never" else RestartingEngine
        try:
            self.engine = start(transport, pickles, options)
        except BaseException:
            if recorder is not None:
                recorder.close()
            raise
        self.verbs = Verbs(transport, self.engine, pickles, options)
        self._owned = _Owned(transport, self.engine, recorder)
        weakref.finalize(self, self._owned.drop).atexit = False  # stop_at_exit does it there

    def describe(self, kind: str) -> str:
        """The worker in a few words, for a repr."""
        state = (
            "closed"
            if self.engine.connection.conversation.closed
            else f"pid {self.engine.hello.pid}"
        )
        return f"<{kind} over {self.transport.name}, {state}, nodes {list(self.verbs.metas)}>"

    def status(self) -> WorkerStatus:
        """What is known of the worker without asking it.

        Raises:
            TransportError: This process was forked from the one that started it.
        """
        conversation, hello = self.engine.connection.conversation, self.engine.hello
        conversation.check_owner()
        running = conversation.running
        command, node_id, since = running or (None, None, 0.0)
        ended = conversation.closed or self.transport.poll() is not None
        here = not ended and self.transport.runs_here(hello.pid)
        cpu_seconds, memory_bytes = process_usage(hello.pid) if here else (None, None)
        return WorkerStatus(
            alive=not ended,
            pid=hello.pid,
            incarnation=hello.incarnation,
            command=command,
            node_id=node_id,
            seconds=time.monotonic() - since if running else 0.0,
            restarts=self.engine.restarts,
            cpu_seconds=cpu_seconds,
            memory_bytes=memory_bytes,
            plugins=conversation.plugins_said,
        )

    @property
    def belongs_to_this_process(self) -> bool:
        """Whether this is the process that started it, and not one forked from that."""
        return self.engine.connection.conversation.belongs_to_this_process

    def close(self) -> None:
        """End a private worker, or leave a shared one; at most 5 s. A second call does nothing."""
        self._owned.close(self.transport.stop)

    def shutdown(self) -> None:
        """End the worker, even one that other clients share; it was sent SHUTDOWN before."""
        self._owned.close(self.transport.shutdown)


class _Owned:
    """What a handle has to end, whether somebody closes it or nobody holds it any more."""

    def __init__(
        self, transport: Transport, engine: RemoteEngine, recorder: Recorder | None
    ) -> None:
        self._transport, self._engine, self._recorder = transport, engine, recorder

    def close(self, stop: Callable[[float], ExitStatus | None]) -> None:
        """End the connection, and then the worker: one in a call is interrupted, and ends too."""
        runs = self._engine.connection.conversation.running is not None
        self._engine.close()
        if runs:
            self._transport.interrupt()
        self._engine.notify_exit(stop(CLOSE_GRACE))
        if self._recorder is not None:
            self._recorder.close()

    def drop(self) -> None:
        """Close in a thread: a handle may be collected as garbage in the midst of anything.

        Where no thread can be started the worker is killed, as nobody holds its lifeline.
        """
        conversation = self._engine.connection.conversation
        if conversation.closed or not conversation.belongs_to_this_process:
            return
        if self._transport.in_this_process:
            return
        closing = threading.Thread(
            target=self.close, args=[self._transport.stop], name="soma-close", daemon=True
        )
        with suppress(RuntimeError):
            closing.start()
