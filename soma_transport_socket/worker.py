"""The worker's process: serves an engine on a connection that it inherited."""

import os
import sys


def _shield() -> None:
    """Keep the daemon's stdin and stdout out of reach of filters: what they print is stderr."""
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.close(nothing)


def main() -> None:
    """Serve until SHUTDOWN or the end of the connection."""
    _shield()
    from soma_core.process import exit_now, hold_lifeline, inherited_side

    hold_lifeline()
    side = inherited_side()
    import socket

    from soma_core.serve import serve
    from soma_core.streams import SharedMemory, SocketStream, StreamChannel

    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    fd, pickle = int(sys.argv[1]), sys.argv[2]
    os.set_inheritable(fd, False)
    connection = socket.socket(fileno=fd)
    connection.setblocking(True)
    memory = None if side is None else SharedMemory(side, initiate=False)
    channel = StreamChannel(SocketStream(connection), memory=memory)
    serve(channel, pickle=pickle)  # type: ignore[arg-type]
    exit_now()


if __name__ == "__main__":
    main()
