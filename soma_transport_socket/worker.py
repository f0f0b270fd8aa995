"""The worker's process: serves an engine on a connection that it was handed."""

import faulthandler
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from soma_transport_socket.orders import Order


def shield() -> None:
    """Keep the daemon's stdin and stdout out of reach of filters: what they print is stderr."""
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.close(nothing)


def work(order: "Order", descriptors: "Sequence[int]") -> None:
    """Do what was ordered to the end, and end this process.

    Args:
        order: How to run.
        descriptors: What came with it, owned by this process: the connection, and the side
            socket if there is one; of a session the control socket and the board.
    """
    from soma_core.serve import exit_now

    if sys.stderr is not None:
        faulthandler.enable()  # the stack of a crash in native code goes there
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    for fd in descriptors:
        os.set_inheritable(fd, False)
    if order.memory_limit is not None:
        _limit_memory(order.memory_limit)
    serve = _serve_session if order.shared else _serve_client
    serve(order, *descriptors)
    exit_now()


def _limit_memory(size: int) -> None:
    """Let this process, and each of its children, take so many bytes for itself.

    On Linux that is writable memory of its own: libraries and shared memory do not count, nor
    does address space that was only reserved.
    """
    import resource

    kind = resource.RLIMIT_DATA if sys.platform.startswith("linux") else resource.RLIMIT_AS
    _, hard = resource.getrlimit(kind)
    limit = size if hard == resource.RLIM_INFINITY else min(size, hard)
    resource.setrlimit(kind, (limit, limit))


def _serve_client(order: "Order", connection: int, *sides: int) -> None:
    import socket

    from soma_core.serve import serve
    from soma_core.streams import SharedMemory, SocketStream, StreamChannel

    client = socket.socket(fileno=connection)
    client.setblocking(True)
    memory = None
    if sides:
        memory = SharedMemory(socket.socket(fileno=sides[0]), initiate=False)
    serve(StreamChannel(SocketStream(client), memory=memory), pickle=order.pickle)


def _serve_session(order: "Order", control: int, board: int) -> None:
    import socket

    from soma_transport_socket.board import Board
    from soma_transport_socket.session import SessionServer

    SessionServer(socket.socket(fileno=control), Board(board), order.pickle).run()
    os.close(board)


def main() -> None:
    """Start afresh; the arguments are the order and the descriptors that were inherited."""
    shield()
    from soma_core.serve import hold_lifeline

    hold_lifeline()
    from soma_transport_socket.orders import Order

    work(Order.from_json(sys.argv[1]), [int(fd) for fd in sys.argv[2:]])


if __name__ == "__main__":
    main()
