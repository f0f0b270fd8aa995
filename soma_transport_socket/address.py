"""Where the socket lies: its default path, binding and connecting, and who is at the other end."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
import stat
import struct
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from soma_core.errors import StartFailed
from soma_core.transport import Deadline

_LONGEST_PATH = 107 if sys.platform.startswith("linux") else 103
_PROBE = 2.0  # seconds for a daemon to accept, or to refuse
_QUEUE = 1024  # clients that wait to be accepted, for themselves or with a question
_FULL = 0.01  # seconds between tries while it is full
_DARWIN_LOCAL_PEERCRED = 1


def default_path() -> Path:
    """The path of a user's own daemon: in the session's runtime directory where there is one."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime:
        return Path(runtime) / "soma" / "soma.sock"
    return Path(tempfile.gettempdir()) / f"soma-{os.getuid()}" / "soma.sock"


def bind(path: Path, *, for_others: bool = False) -> tuple[socket.socket, int]:
    """Listen at a path: a socket of mode 0600, in a directory made with mode 0700.

    A socket that nobody listens at any more is replaced.

    Args:
        path: The path.
        for_others: Whether other users are to reach it: then the modes are 0666 and 0711, and
            whoever listens must ask who is there (:func:`peer_uid`).

    Returns:
        The socket, and the inode of its file, which is that of no other as long as it is open.

    Raises:
        StartFailed: A daemon listens there already, or the place is not safe or not usable.
    """
    _prepare_directory(path.parent, for_others=for_others)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o111 if for_others else 0o177)
    try:
        with _alone_in(path.parent):
            _bind_or_replace(listening, path)
            inode = path.stat().st_ino  # before anybody can know of it, and replace it
            listening.listen(_QUEUE)
    except OSError as error:
        listening.close()
        raise StartFailed(f"cannot listen at {path}: {error.strerror or error}") from error
    except BaseException:
        listening.close()
        raise
    finally:
        os.umask(before)
    return listening, inode


def _prepare_directory(directory: Path, *, for_others: bool) -> None:
    try:
        _make_directory(directory, 0o711 if for_others else 0o700)
        status = directory.stat()
    except OSError as error:
        raise StartFailed(f"cannot use the directory {directory}: {error.strerror}") from error
    if for_others and not status.st_mode & (stat.S_IXGRP | stat.S_IXOTH):
        raise StartFailed(
            f"other users cannot enter {directory}, where the socket would be; choose another "
            f"path, or run chmod o+x {directory}"
        )
    resolved = directory.resolve()
    for place in (directory, resolved, *resolved.parents):
        if _others_may_replace_files_in(place):
            raise StartFailed(
                f"other users may replace files in {place}; choose a directory of your own"
            )


def _others_may_replace_files_in(directory: Path) -> bool:
    status, link = directory.stat(), directory.lstat()
    if not {status.st_uid, link.st_uid} <= {os.getuid(), 0}:
        return True
    open_to_others = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return bool(open_to_others and not status.st_mode & stat.S_ISVTX)


def _make_directory(directory: Path, mode: int) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        return
    directory.chmod(mode)


@contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    """Keep other daemons that start from judging a socket that is bound but not yet listening."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _lock(descriptor, directory)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, directory: Path) -> None:
    deadline = Deadline.after(_PROBE)
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if deadline.over():
                raise StartFailed(
                    f"{directory} is locked by another process (flock); end that, or choose "
                    "another path"
                ) from None
        time.sleep(_FULL)


def _bind_or_replace(listening: socket.socket, path: Path) -> None:
    with _short(path) as address:
        try:
            listening.bind(address)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            _remove_stale(path, address)
            listening.bind(address)


def _remove_stale(path: Path, address: str) -> None:
    if not stat.S_ISSOCK(path.lstat().st_mode):
        raise StartFailed(f"{path} exists and is not a socket; remove it or choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE)
        try:
            probe.connect(address)
        except ConnectionRefusedError:
            path.unlink()
        except (TimeoutError, BlockingIOError):  # its queue is full
            raise StartFailed(f"a daemon at {path} is held up; stop it first") from None
        else:
            raise StartFailed(f"a daemon already listens at {path}; stop it or choose another path")


def connect(path: Path, timeout: float | None, owner: int | None = None) -> socket.socket:
    """Connect to the daemon at a path, which must belong to a known user: it is trusted.

    Args:
        path: The path.
        timeout: Seconds; None waits for ever.
        owner: The user whose daemon it is; None is one's own.

    Raises:
        StartFailed: Another user listens there.
        OSError: Nobody listens there.
        TimeoutError: Its queue stayed full.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout)
        with _short(path) as address:
            _connect(connection, address, timeout)
        found = peer_uid(connection)
        if found != (os.getuid() if owner is None else owner):
            wanted = "you" if owner is None else f"user {owner}"
            raise StartFailed(
                f"the daemon at {path} belongs to user {found}, not to {wanted}; its replies could "
                "run code here, so it is not used. If that user may have your data, connect with "
                f"owner={found} and pickle='never'"
            )
    except BaseException:
        connection.close()
        raise
    return connection


def _connect(connection: socket.socket, address: str, timeout: float | None) -> None:
    """Connect; a daemon whose queue of clients is full is waited for."""
    deadline = Deadline.after(timeout)
    while True:
        try:
            return connection.connect(address)
        except BlockingIOError:  # with a timeout the kernel does not wait in our place
            if timeout is None or deadline.over():
                raise TimeoutError("the daemon's queue of clients stayed full") from None
        time.sleep(_FULL)


@contextmanager
def _short(path: Path) -> Iterator[str]:
    """A form of a path that fits into a socket address."""
    if len(os.fsencode(path)) <= _LONGEST_PATH:
        yield str(path)
        return
    if not os.path.isdir("/proc/self/fd"):
        raise StartFailed(
            f"the path {path} is longer than the {_LONGEST_PATH} bytes that a socket may have here"
        )
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def hung_up(connection: socket.socket) -> bool:
    """Whether the other end is closed; what it sent before may still wait to be read."""
    poller = select.poll()
    poller.register(connection, 0)
    return bool(poller.poll(0))


def peer_uid(connection: socket.socket) -> int:
    """The user at the other end of a connection, as the kernel knows it."""
    if sys.platform == "darwin":
        credentials = connection.getsockopt(0, _DARWIN_LOCAL_PEERCRED, 76)
        return int(struct.unpack_from("=I", credentials, 4)[0])
    size = struct.calcsize("3i")
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    return int(struct.unpack("3i", credentials)[1])
