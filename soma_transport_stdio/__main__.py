"""The daemon: ``python -m soma_transport_stdio`` serves an engine on stdin and stdout."""

import faulthandler
import gc
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace


def _leave_the_current_directory() -> None:
    """Take the directory that ``-m`` puts first off the module search path.

    A ``pickle.py`` or ``torch.py`` that lies there must not replace the real one.
    """
    if not sys.flags.safe_path:
        sys.path.pop(0)


def _take_the_wire() -> tuple[int, int]:
    """Keep stdin and stdout for the protocol, out of reach of whatever a filter does to them.

    What filters print goes to stderr, and what they read is at its end.
    """
    read_fd, write_fd = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    try:
        os.dup2(2, 1)
    except OSError:  # started without a stderr
        os.dup2(nothing, 1)
    os.close(nothing)
    return read_fd, write_fd


def _variable(text: str) -> tuple[str, str]:
    from urllib.parse import unquote

    name, value = text.split("=", 1)  # without one argparse says what was expected
    return name, unquote(value)


def _arguments() -> "Namespace":
    from argparse import ArgumentParser

    parser = ArgumentParser("python -m soma_transport_stdio", description=__doc__)
    parser.add_argument(
        "--pickle",
        choices=("same-user", "never"),
        default="same-user",
        help="never: refuse pickles (default: %(default)s)",
    )
    parser.add_argument(
        "--memory-limit", type=int, metavar="BYTES", help="memory of its own at most"
    )
    parser.add_argument(
        "--nice", type=int, default=0, metavar="N", help="lower its priority by N (0 to 19)"
    )
    parser.add_argument(
        "--env",
        action="append",
        default=[],
        type=_variable,
        metavar="NAME=VALUE",
        help="set an environment variable, with %%20 for a space and so on; may be repeated",
    )
    return parser.parse_args()


def _limit(arguments: "Namespace") -> None:
    if arguments.memory_limit is not None:
        from soma_core.serve import limit_memory

        limit_memory(arguments.memory_limit)
    os.nice(arguments.nice)


def main() -> None:
    """Serve until SHUTDOWN or the end of input.

    Takes ``--pickle=never``, ``--env=NAME=VALUE``, ``--memory-limit=BYTES`` and ``--nice=N``.
    """
    gc.disable()  # while modules are imported, which stay: there is nothing to collect
    _leave_the_current_directory()
    read_fd, write_fd = _take_the_wire()
    if sys.stderr is not None:
        faulthandler.enable()  # the stack of a crash in native code goes there
    arguments = _arguments()
    os.environ.update(arguments.env)  # libraries read it once
    # Before what needs them: deep in a chain of imports Python may fetch and give back a page of
    # its stack at each call, which doubles the time that numpy takes.
    import numpy  # noqa: F401
    from pydantic import BaseModel  # noqa: F401

    from soma_core.serve import default_signals, exit_now, hold_lifeline, inherited_side

    default_signals()
    hold_lifeline()
    _limit(arguments)
    side = inherited_side()
    from soma_core.serve import become_worker, serve
    from soma_core.streams import SharedMemory, StreamChannel, StreamLimits, open_stream

    become_worker()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    memory = None if side is None else SharedMemory(side, initiate=False)
    limits = StreamLimits.from_environment()
    channel = StreamChannel(open_stream(read_fd, write_fd), limits, memory)
    gc.freeze()
    gc.enable()
    serve(channel, limits=limits, pickle=arguments.pickle)
    exit_now()


if __name__ == "__main__":
    main()
