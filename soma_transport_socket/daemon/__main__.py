"""The daemon's command line; it serves a Unix socket until SIGTERM."""

import os
import sys
from contextlib import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser


def run(arguments: list[str]) -> int:
    """Parse the arguments and serve; returns the exit status."""
    try:
        return _serve(arguments)
    finally:
        _drop_what_nobody_reads()


def _serve(arguments: list[str]) -> int:
    from soma_core.errors import StartFailed
    from soma_transport_socket.daemon.log import log, log_to_stderr
    from soma_transport_socket.daemon.supervisor import DaemonLimits, Supervisor

    options = _parser().parse_args(arguments)
    usual = "info" if options.log_format == "json" else "warning"
    log_to_stderr(options.log_format, options.log_level or usual)
    path = options.path.absolute()
    _leave_the_directory()
    if options.allow_module:  # workers inherit it
        os.environ["SOMA_ALLOW_MODULES"] = ",".join(options.allow_module)

    def announce() -> None:
        if options.log_format == "text":
            _say(f"listening at {supervisor.path}")
        else:
            log("listening", path=str(supervisor.path), pid=os.getpid())

    limits = DaemonLimits(
        sessions=options.max_sessions,
        workers_per_user=options.max_workers_per_user,
        clients_per_user=options.max_clients_per_user,
        memory=options.memory_limit,
        idle=options.idle_timeout,
        grace=options.grace,
    )
    supervisor = Supervisor(
        path,
        pickle=options.pickle,
        let_in=options.allow_uid,
        preload=options.preload,
        limits=limits,
    )
    try:
        supervisor.run(announce)
    except StartFailed as error:
        _say(str(error))
        return 1
    return 0


def _drop_what_nobody_reads() -> None:
    """Python would try once more to write it, and make the exit status 120."""
    try:
        if sys.stderr is not None:
            sys.stderr.flush()
    except OSError:
        sys.stderr = None


def _leave_the_directory() -> None:
    """Run in ``/``: what lies in the current directory is neither imported nor kept in use."""
    entries = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    absolute = os.pathsep.join(map(os.path.abspath, entries))
    if absolute:
        os.environ["PYTHONPATH"] = absolute
    os.chdir("/")


def _say(text: str) -> None:
    with suppress(OSError, ValueError, AttributeError):  # there is nobody to read it
        sys.stderr.write(f"soma serve socket: {text}\n")


def _parser() -> "ArgumentParser":
    from argparse import ArgumentParser
    from pathlib import Path

    from soma_transport_socket.address import default_path

    parser = ArgumentParser(
        "soma serve socket",
        description="Serve soma workers on a Unix socket: one to each client, and one to each "
        "session, which clients share by its name. SIGTERM lets running commands end first.",
        epilog="Example: soma serve socket --preload torch --idle-timeout 3600",
    )
    add = parser.add_argument
    add("--path", type=Path, default=default_path(), help="where to listen (%(default)s)")
    add(
        "--pickle",
        choices=("same-user", "never"),
        default="same-user",
        help="never: workers refuse pickles, whatever a client asks for (%(default)s)",
    )
    add(
        "--allow-uid",
        metavar="UID",
        type=int,
        action="append",
        default=[],
        help="another user to serve, always without pickles; may be given several times",
    )
    add(
        "--allow-module",
        metavar="MODULES",
        action="extend",
        type=_names,
        default=[],
        help="modules that the configuration of a filter may name and have imported, also where a "
        "client may send no pickles",
    )
    add(
        "--preload",
        metavar="MODULES",
        action="extend",
        type=_names,
        default=[],
        help="modules, as in torch,sklearn, that a zygote process imports once; workers are "
        "forked from it with them, in milliseconds (Linux)",
    )
    add(
        "--idle-timeout",
        metavar="SECONDS",
        type=_seconds,
        help="a session without a client for so long ends (never)",
    )
    add(
        "--max-sessions",
        metavar="N",
        type=_count,
        help="how many sessions there may be at once (any number)",
    )
    add(
        "--max-workers-per-user",
        metavar="N",
        type=_count,
        help="how many workers each user may have at once, those of sessions among them (any)",
    )
    add(
        "--max-clients-per-user",
        metavar="N",
        type=_count,
        help="how many clients each user may have at once (any)",
    )
    add(
        "--memory-limit",
        metavar="BYTES",
        type=_size,
        help="memory of its own that each worker may take, as in 4G; a filter that asks for more "
        "gets a MemoryError (any)",
    )
    add(
        "--grace",
        metavar="SECONDS",
        type=_seconds,
        default=10.0,
        help="after SIGTERM, seconds for running commands to end; a second SIGTERM does not wait "
        "(%(default)g)",
    )
    add(
        "--log-format",
        choices=("text", "json"),
        default="text",
        help="how the log on stderr is written: json has one object a line (%(default)s)",
    )
    add(
        "--log-level",
        choices=("info", "warning"),
        help="info: clients, and how workers start and end (info where the log is json, else "
        "warning)",
    )
    return parser


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _seconds(text: str) -> float:
    from argparse import ArgumentTypeError
    from math import isfinite

    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not isfinite(seconds) or seconds < 0:
        raise ArgumentTypeError(f"a number of seconds is expected, got {text!r}")
    return seconds


def _count(text: str) -> int:
    from argparse import ArgumentTypeError

    if not text.isdecimal():
        raise ArgumentTypeError(f"a whole number is expected, got {text!r}")
    return int(text)


def _size(text: str) -> object:
    from argparse import ArgumentTypeError

    from soma_core.transport import memory_size

    try:
        return memory_size(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None


def main() -> None:
    """Take the current directory off the module search path, then serve."""
    if not sys.flags.safe_path:
        sys.path.pop(0)
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
