"""The daemon: ``python -m soma_transport_socket`` serves a Unix socket until SIGTERM."""

import sys


def run(arguments: list[str]) -> int:
    """Parse the arguments and serve; returns the exit status."""
    from argparse import ArgumentParser
    from pathlib import Path

    from soma_core.errors import StartFailed
    from soma_transport_socket.address import default_path
    from soma_transport_socket.supervisor import Supervisor

    parser = ArgumentParser("soma serve socket", description="Serve soma workers on a Unix socket.")
    parser.add_argument("--path", type=Path, default=default_path(), help="where to listen")
    parser.add_argument("--pickle", choices=("same-user", "never"), default="same-user")
    parser.add_argument(
        "--allow-uid",
        metavar="UID",
        type=int,
        action="append",
        default=[],
        help="another user to serve, always without pickles; may be given several times",
    )
    options = parser.parse_args(arguments)
    try:
        supervisor = Supervisor(
            options.path.absolute(), pickle=options.pickle, let_in=options.allow_uid
        )
    except StartFailed as error:
        sys.stderr.write(f"soma serve socket: {error}\n")
        return 1
    sys.stderr.write(f"soma serve socket: listening at {options.path}\n")
    supervisor.run()
    return 0


def main() -> None:
    """Take the current directory off the module search path, then serve."""
    if not sys.flags.safe_path:
        sys.path.pop(0)
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
