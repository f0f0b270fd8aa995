"""The worker's process: serves an engine on a connection that it was handed."""

import faulthandler
import os
import sys
from contextlib import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

    from soma_transport_socket.messages import Attached, WorkerSpec


def shield() -> None:
    """Keep the daemon's stdin and stdout out of reach of filters: what they print is stderr."""
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.close(nothing)


def work(spec: "WorkerSpec", attached: "Mapping[Attached, int]") -> None:
    """Serve to the end, and end this process."""
    from soma_core.serve import become_worker, exit_now, limit_memory

    faulthandler.enable(2)  # the stack of a crash in native code goes there
    become_worker()
    with suppress(AttributeError, ValueError):  # what was imported closed or replaced it
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    for fd in attached.values():
        os.set_inheritable(fd, False)
    if spec.memory_limit is not None:
        limit_memory(spec.memory_limit)
    serve = _serve_session if "events" in attached else _serve_client
    serve(spec, attached)
    exit_now()


def _serve_client(spec: "WorkerSpec", attached: "Mapping[Attached, int]") -> None:
    import signal
    import socket

    from soma_core.serve import serve
    from soma_core.streams import SharedMemory, SocketStream, StreamChannel, StreamLimits
    from soma_transport_socket.messages import FINISH
    from soma_transport_socket.worker.printing import print_to

    if "output" in attached:
        print_to(attached["output"])
        os.close(attached["output"])
    client = socket.socket(fileno=attached["connection"])
    client.setblocking(True)
    signal.signal(FINISH, lambda *_: _receive_no_more(client))
    memory = None
    if "memory" in attached:
        memory = SharedMemory(socket.socket(fileno=attached["memory"]), initiate=False)
    limits = StreamLimits.from_environment()
    serve(StreamChannel(SocketStream(client), limits, memory), limits=limits, pickle=spec.pickle)


def _receive_no_more(client: "socket.socket") -> None:
    import socket

    with suppress(OSError):  # it is gone already
        client.shutdown(socket.SHUT_RD)


def _serve_session(spec: "WorkerSpec", attached: "Mapping[Attached, int]") -> None:
    import socket

    from soma_transport_socket.worker.activity import SharedActivity
    from soma_transport_socket.worker.session import SessionServer

    events = socket.socket(fileno=attached["events"])
    SessionServer(events, SharedActivity(attached["activity"]), spec.pickle).run()
    os.close(attached["activity"])


def main() -> None:
    """Start afresh; the arguments are the specification and the descriptors of the worker."""
    shield()
    # Before what needs them: deep in a chain of imports Python may fetch and give back a page of
    # its stack at each call, which doubles the time that numpy takes.
    import numpy  # noqa: F401
    from pydantic import BaseModel  # noqa: F401

    from soma_core.serve import default_signals, hold_lifeline

    default_signals()
    hold_lifeline()
    from soma_transport_socket.messages import WorkerSpec

    spec = WorkerSpec.model_validate_json(sys.argv[1])
    work(spec, dict(zip(spec.attached, map(int, sys.argv[2:]), strict=True)))


if __name__ == "__main__":
    main()
