"""A session: one engine on the main thread, and clients that come and go.

The daemon hands over each client's connection with a ``join`` event. The main thread waits for
all connections at once and executes one message at a time, each client in its turn.

A SIGINT means that the daemon has sent an event while a command runs, a SIGIO that a client has
which interrupts by messages. The handler looks whose command is to be given up: if it is the one
that runs, it is interrupted; if it is one that still waits, it is answered without having been
executed; and the command of another client goes on.
"""

from __future__ import annotations

import logging
import os
import selectors
import socket
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import FrameType

from soma_core.errors import ChannelClosed, ErrorCode, ProtocolError
from soma_core.serve import Host, Inbox, Interrupts, RecordForwarder, Responder
from soma_core.streams import SharedMemory, SocketStream, StreamChannel, StreamLimits
from soma_core.transport import Message, close_in_forked_child
from soma_transport_socket import address
from soma_transport_socket.messages import Attached, PicklePolicy, SessionEvent, receive
from soma_transport_socket.worker.activity import SharedActivity
from soma_transport_socket.worker.printing import Printing

_log = logging.getLogger("soma.session")
_SLOWEST = 10.0  # seconds for a client to take its reply, while all others wait


class _Client:
    """A client of the session."""

    def __init__(self, number: int, attached: Mapping[Attached, int]) -> None:
        self.number = number
        self.connection = socket.socket(fileno=attached["connection"])
        self.pipe = attached.get("output")
        self.gone = False
        memory = None
        if "memory" in attached:
            memory = SharedMemory(socket.socket(fileno=attached["memory"]), initiate=False)
        self.channel = StreamChannel(
            SocketStream(self.connection),
            StreamLimits.from_environment(),
            memory,
            recallable=False,  # no client holds up the others
        )
        self.inbox = Inbox(self.channel)
        self.host = Host(self.inbox)

    def hung_up(self) -> bool:
        """Whether nobody would receive a reply any more."""
        return self.gone or address.hung_up(self.connection)

    def send(self, message: Message) -> None:
        self.channel.send(message, _SLOWEST)

    def receive_no_more(self) -> None:
        """Take no more of it than what it has sent already."""
        with suppress(OSError):  # it is gone already
            self.connection.shutdown(socket.SHUT_RD)


class SessionServer:
    """Serves the clients of one session."""

    def __init__(
        self, events: socket.socket, activity: SharedActivity, pickle: PicklePolicy
    ) -> None:
        self._process = os.getpid()
        self._events = events
        self._activity = activity
        self._printing = Printing()
        self._ending = self._events_ended = False
        self._arrivals: deque[tuple[int, dict[Attached, int]]] = deque()
        self._clients: dict[int, _Client] = {}
        self._perhaps_more: dict[int, _Client] = {}
        self._running: _Client | None = None
        self._interrupts = SessionInterrupts(self._is_interrupted)
        self._records = RecordForwarder()
        self._responder = Responder(
            pickle=pickle,
            interrupts=self._interrupts,
            watch=self._begin,
            records=self._records,
        )
        self._selector = selectors.DefaultSelector()
        self._selector.register(events, selectors.EVENT_READ)
        for inherited in (events, self._selector):
            close_in_forked_child(inherited)

    def run(self) -> None:
        """Serve until SHUTDOWN, or until nobody comes any more and the last client has left."""
        self._interrupts.arm()
        with self._records.installed():
            self._serve_all()
        self._interrupts.disarm()
        self._responder.engine.close()

    def _serve_all(self) -> None:
        while not self._responder.finished:
            self._admit_arrivals()
            if self._ending and not self._clients:
                break
            for client in self._ready_clients():
                self._serve(client)
                if self._responder.finished:
                    break
        for client in self._clients.values():
            client.channel.close()

    def _admit_arrivals(self) -> None:
        while self._arrivals:
            number, attached = self._arrivals.popleft()
            client = self._clients[number] = _Client(number, attached)
            self._selector.register(client.connection, selectors.EVENT_READ, client)
            if self._ending:
                client.receive_no_more()

    def _ready_clients(self) -> list[_Client]:
        """Clients that sent something, or may have: each gets one turn."""
        ready, self._perhaps_more = self._perhaps_more, {}
        for key, _ in self._selector.select(0 if ready or self._arrivals else None):
            if key.data is None:
                self._receive_between_commands()
            else:
                ready[key.data.number] = key.data
        return list(ready.values())

    def _receive_between_commands(self) -> None:
        """Receive events when there is nothing to interrupt."""
        for event in self._receive_events():
            self._note_gone(event)

    def _receive_events(self) -> list[SessionEvent]:
        """Receive what was sent; arrivals and the end are noted, the rest is returned."""
        received = []
        while not self._events_ended:
            try:
                event, attached = receive(SessionEvent, self._events)
            except BlockingIOError:
                break
            if event is None:
                self._ending = self._events_ended = True
                self._selector.unregister(self._events)
            elif event.kind == "finish":
                self._ending = True
                for client in self._clients.values():
                    client.receive_no_more()
            elif event.kind == "join":
                self._arrivals.append((event.client, attached))
            else:
                received.append(event)
        return received

    def _note_gone(self, event: SessionEvent) -> None:
        if event.kind == "gone" and event.client in self._clients:
            self._clients[event.client].gone = True

    def _is_interrupted(self) -> bool:
        """Within a command: find out whose is to be given up; true if it is the one that runs."""
        running = self._running
        if running is None:
            return False  # the main loop receives, and must not miss what this would take
        interrupted = False
        events = self._receive_events()
        self._admit_arrivals()
        for event in events:
            self._note_gone(event)
            if event.client in (0, running.number):
                interrupted = True
            elif event.kind == "interrupt" and event.client in self._clients:
                self._give_up_first(self._clients[event.client])
        for client in self._clients.values():
            if client.inbox.announced:
                interrupted |= self._look_at(client)
        return interrupted

    def _look_at(self, client: _Client) -> bool:
        """Look at what a client has sent meanwhile; true if it interrupts the command that runs."""
        inbox = client.inbox
        inbox.look()
        if client is self._running:
            return inbox.names(self._interrupts.running)
        while (message := inbox.take_settled()) is not None:
            self._answer_unexecuted(client, message)
        if inbox.has_waiting:  # the selector knows only of what was not read
            self._perhaps_more[client.number] = client
        return False

    def _give_up_first(self, client: _Client) -> None:
        """Give up the command of a client that waits for another client's to end."""
        try:
            message = client.inbox.receive(0.0)
        except (TimeoutError, ChannelClosed, ProtocolError):
            return  # the main loop sees what it is
        self._answer_unexecuted(client, message)

    def _answer_unexecuted(self, client: _Client, message: Message) -> None:
        reason = "another client's command ran all the time, and this one was not started"
        error = ProtocolError(ErrorCode.INTERRUPTED, reason)
        try:
            client.channel.send(self._responder.decline(message, error), 0.0)
        except (TimeoutError, ChannelClosed):
            client.gone = True

    def _serve(self, client: _Client) -> None:
        """Take one message of a client's, if there is one, and answer it."""
        try:
            message = client.inbox.receive(0.0)
        except TimeoutError:
            if client.gone:
                self._remove(client)
        except ChannelClosed:
            self._remove(client)
        except ProtocolError as error:
            self._send(client, self._responder.refuse(error))
        else:
            self._execute(client, message)

    def _execute(self, client: _Client, message: Message) -> None:
        self._running = client
        self._interrupts.inbox = client.inbox if client.inbox.announced else None
        self._printing.turn_to(client.pipe)
        try:
            reply = self._responder.respond(message, client.send, client.host)
            self._activity.end()
            self._send(client, reply)
        finally:
            self._running = None

    def _begin(self, command: str, node_id: str | None) -> None:
        """Within a command that is about to run: write it down, and look if it is still wanted.

        In this order nothing is missed: from now on the daemon knows whose command it has to
        interrupt when a client hangs up, and those that hung up before are seen here.
        """
        if self._running is not None:
            self._activity.begin(self._running.number, command, node_id)
            if self._running.hung_up():
                raise KeyboardInterrupt("the client is gone")

    def _send(self, client: _Client, reply: Message) -> None:
        try:
            client.send(reply)
        except (TimeoutError, ChannelClosed):
            if os.getpid() == self._process:
                self._remove(client)
            else:  # a filter forked, and this is its child, which serves nobody
                self._responder.finished = True
        else:
            self._perhaps_more[client.number] = client

    def _remove(self, client: _Client) -> None:
        del self._clients[client.number]
        self._perhaps_more.pop(client.number, None)
        self._selector.unregister(client.connection)
        client.channel.close()
        if client.pipe is not None:
            self._printing.forget(client.pipe)


class SessionInterrupts(Interrupts):
    """Signals of a session: they end the command that runs only if its own client wants that."""

    def __init__(self, is_interrupted: Callable[[], bool]) -> None:
        super().__init__(by_wire=True)
        self._is_interrupted = is_interrupted
        self._looking = False
        self._look_again = False

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self._looking:  # a second signal, while the first is attended to
            self._look_again = True
            return
        self._looking, self._look_again, interrupted = True, True, False
        try:
            while self._look_again:
                self._look_again = False
                interrupted |= self._is_aborted()
                interrupted |= self._is_interrupted()
        except Exception:
            _log.exception("an interrupt could not be attended to")
        finally:
            self._looking = False
        if interrupted:
            self._end(frame)

    _look = _handle
