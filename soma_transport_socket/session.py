"""The worker's side of a session: one engine on the main thread, and clients that come and go.

The supervisor hands over each client's connection on a control socket. The main thread waits for
all connections at once and executes one message at a time, each client in its turn.

A SIGINT means that the supervisor has said something on the control socket while a command runs.
The handler looks whose command is to be given up: if it is the one that runs, it is interrupted;
if it is one that still waits, it is answered without having been executed; and the command of
another client goes on.
"""

from __future__ import annotations

import logging
import select
import socket
from collections import deque
from collections.abc import Callable
from types import FrameType

from soma_core.errors import ChannelClosed, ErrorCode, ProtocolError
from soma_core.serve import Interrupts, Responder
from soma_core.streams import SharedMemory, SocketStream, StreamChannel
from soma_core.transport import Message, close_in_forked_child
from soma_transport_socket import control
from soma_transport_socket.board import Board
from soma_transport_socket.peers import PicklePolicy

__all__ = ["SessionServer"]

_log = logging.getLogger("soma.session")
_SLOWEST = 10.0  # seconds for a client to take its reply, while all others wait


class _Client:
    """A client of the session."""

    def __init__(self, number: int, connection: socket.socket, sides: list[socket.socket]) -> None:
        self.number = number
        self.fd = connection.fileno()
        self.gone = False
        memory = SharedMemory(sides[0], initiate=False) if sides else None
        self.channel = StreamChannel(SocketStream(connection), memory=memory)

    def hung_up(self) -> bool:
        """Whether nobody would hear a reply any more."""
        poller = select.poll()
        poller.register(self.fd, 0)
        return self.gone or bool(poller.poll(0))

    def send(self, message: Message) -> None:
        self.channel.send(message, _SLOWEST)


class SessionServer:
    """Serves the clients of one session.

    Args:
        listen_to: The control socket.
        board: Where to write what runs.
        pickle: Whether pickles are made and read.
    """

    def __init__(self, listen_to: socket.socket, board: Board, pickle: PicklePolicy) -> None:
        close_in_forked_child(listen_to)
        self._control = listen_to
        self._over = self._deaf = False
        self._arrivals: deque[tuple[int, list[int]]] = deque()
        self._clients: dict[int, _Client] = {}
        self._by_fd: dict[int, _Client] = {}
        self._perhaps_more: dict[int, _Client] = {}
        self._running: _Client | None = None
        self._interrupts = _Interrupts(self._look)
        self._responder = Responder.for_policy(pickle, self._interrupts, self._begin)
        self._board = board
        self._poller = select.poll()
        self._poller.register(listen_to, select.POLLIN)

    def run(self) -> None:
        """Serve until SHUTDOWN, or until nobody comes any more and the last client has left."""
        self._interrupts.arm()
        while not self._responder.finished:
            self._let_in()
            if self._over and not self._clients:
                break
            for client in self._with_something_to_say():
                self._serve(client)
                if self._responder.finished:
                    break
        for client in self._clients.values():
            client.channel.close()

    def _let_in(self) -> None:
        while self._arrivals:
            number, descriptors = self._arrivals.popleft()
            connection, *sides = (socket.socket(fileno=fd) for fd in descriptors)
            connection.setblocking(True)
            client = _Client(number, connection, sides)
            self._clients[number] = self._by_fd[client.fd] = client
            self._poller.register(client.fd, select.POLLIN)

    def _with_something_to_say(self) -> list[_Client]:
        """Clients that sent something, or may have: each gets one turn."""
        waiting, self._perhaps_more = self._perhaps_more, {}
        for fd, _ in self._poller.poll(0 if waiting or self._arrivals else None):
            if fd == self._control.fileno():
                self._listen()
            else:
                client = self._by_fd[fd]
                waiting[client.number] = client
        return list(waiting.values())

    def _listen(self) -> None:
        """Hear what was said between two commands: then there is nothing to interrupt."""
        for said in self._hear():
            self._note_gone(said)

    def _hear(self) -> list[control.Said]:
        heard = []
        while not self._deaf:
            try:
                said, descriptors = control.hear(self._control)
            except BlockingIOError:
                break
            if said is None:
                self._over = self._deaf = True
                self._poller.unregister(self._control)
            elif said.what == "finish":
                self._over = True
            elif said.what == "join":
                self._arrivals.append((said.client, descriptors))
            else:
                heard.append(said)
        return heard

    def _note_gone(self, said: control.Said) -> None:
        if said.what == "gone" and said.client in self._clients:
            self._clients[said.client].gone = True

    def _look(self) -> bool:
        """Within a command: hear whose is to be given up; true if it is the one that runs."""
        running = self._running
        if running is None:
            return False  # the main loop listens, and must not miss what this would take
        wanted = False
        said_meanwhile = self._hear()
        self._let_in()
        for said in said_meanwhile:
            self._note_gone(said)
            if said.client in (0, running.number):
                wanted = True
            elif said.what == "interrupt" and said.client in self._clients:
                self._answer_unexecuted(self._clients[said.client])
        return wanted

    def _answer_unexecuted(self, client: _Client) -> None:
        """Give up a command that waits for another client's to end."""
        try:
            message = client.channel.receive(0.0)
        except (TimeoutError, ChannelClosed, ProtocolError):
            return  # the main loop sees what it is
        reason = "another client's command ran all the time, and this one was not started"
        error = ProtocolError(ErrorCode.INTERRUPTED, reason)
        try:
            client.channel.send(self._responder.decline(message, error), 0.0)
        except (TimeoutError, ChannelClosed):
            client.gone = True

    def _serve(self, client: _Client) -> None:
        """Take one message of a client's, if there is one, and answer it."""
        try:
            message = client.channel.receive(0.0)
        except TimeoutError:
            if client.gone:
                self._part_with(client)
        except ChannelClosed:
            self._part_with(client)
        except ProtocolError as error:
            self._send(client, self._responder.refuse(error))
        else:
            self._execute(client, message)

    def _execute(self, client: _Client, message: Message) -> None:
        self._running = client
        try:
            reply = self._responder.respond(message, client.channel.send)
            self._board.end()
            self._send(client, reply)
        finally:
            self._running = None

    def _begin(self, command: str, node_id: str | None) -> None:
        """Within a command that is about to run: tell it, and look once more who wants it.

        In this order nothing is missed: from now on the supervisor knows whose command it has to
        interrupt when a client hangs up, and those that hung up before are seen here.
        """
        if self._running is not None:
            self._board.begin(self._running.number, command, node_id)
            if self._running.hung_up():
                raise KeyboardInterrupt("the client is gone")

    def _send(self, client: _Client, reply: Message) -> None:
        try:
            client.send(reply)
        except (TimeoutError, ChannelClosed):
            self._part_with(client)
        else:
            self._perhaps_more[client.number] = client

    def _part_with(self, client: _Client) -> None:
        del self._clients[client.number], self._by_fd[client.fd]
        self._perhaps_more.pop(client.number, None)
        self._poller.unregister(client.fd)
        client.channel.close()


class _Interrupts(Interrupts):
    """SIGINT of a session: ends the command that runs only if its own client wants that.

    Args:
        look: Finds out whether it is the one that runs.
    """

    def __init__(self, look: Callable[[], bool]) -> None:
        super().__init__()
        self._look = look
        self._looking = False
        self._look_again = False

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self._looking:  # a second signal, while the first is attended to
            self._look_again = True
            return
        self._looking, self._look_again, wanted = True, True, False
        try:
            while self._look_again:
                self._look_again = False
                wanted |= self._look()
        except Exception:
            _log.exception("an interrupt could not be attended to")
        finally:
            self._looking = False
        if wanted:
            super()._handle(signum, frame)
