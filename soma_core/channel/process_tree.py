"""What comes of a worker: its processes are found, wherever they went, and ended with it.

Three things tell that a process came of a worker. It is in the worker's session. It bears the
worker's mark, a variable of its environment, which children inherit even if they leave the session
and their parents are gone. Or it bears a name: of a worker that a zygote forked, the kernel shows
the environment of the zygote until another program is run.

Where this process is killed too, a guard ends them: a shell that waits for the end of its input,
which takes a millisecond to start and a megabyte of memory.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
import uuid
from contextlib import ExitStack, suppress

from soma_core.channel.deadline import Deadline
from soma_core.channel.forks import close_in_forked_child

TREE_VARIABLE = "SOMA_TREE"
_REAPING = 0.2  # seconds
_TRACKER = b"resource_tracker import main"
_ROUNDS = 5  # a process that is killed may have started another one just before
_GUARD = """
look() {
  others= trackers=
  for pid in $( (grep -lasxzF -e "$1" /proc/[0-9]*/environ
                 grep -lsxF -e "$2" /proc/[0-9]*/comm
                 [ -z "$session" ] || [ $round -ge 5 ] ||
                 grep -lsE -e "[)] [^ZX] [0-9]+ [0-9]+ $session " /proc/[0-9]*/stat) |
                cut -d / -f 3); do
    if grep -qsaF "$3" /proc/$pid/cmdline
    then trackers="$trackers $pid"
    else others="$others $pid"
    fi
  done
}
session= round=0
while read -r line; do session=$line; done
while [ $round -lt 300 ] && look "$@" && [ -n "$others$trackers" ]; do
  [ -z "$others" ] || kill -9 $others
  [ $round -lt 5 ] && [ -n "$others" ] || sleep 0.1
  round=$((round + 1))
done
[ -z "$trackers" ] || kill -9 $trackers
"""


class ProcessTree:
    """The processes that come of one worker; without ``/proc`` (macOS) none are found.

    Attributes:
        mark: The value of the variable ``SOMA_TREE`` that the worker must be given.

    Args:
        patience: Seconds that this process waits for what tidies up; its guard waits for longer.

    Raises:
        OSError: The guard cannot be started.
    """

    def __init__(self, patience: float = 1.0) -> None:
        self._patience = patience
        self.mark = uuid.uuid4().hex
        self._record, self._name = f"{TREE_VARIABLE}={self.mark}", _name(self.mark)
        self._guard: subprocess.Popen[bytes] | None = None
        if not os.path.isdir("/proc/self"):
            return
        with ExitStack() as undo:
            self._held, theirs = socket.socketpair()
            undo.callback(self._held.close)
            with theirs, suppress(FileNotFoundError):  # a system without a shell
                self._guard = subprocess.Popen(
                    ["/bin/sh", "-c", _GUARD, "soma-guard", self._record, self._name, _TRACKER],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env={"PATH": os.environ.get("PATH", os.defpath)},
                    cwd="/",
                    start_new_session=True,
                )
                undo.pop_all()  # it stays open as long as the guard lives
                close_in_forked_child(self._held)

    def led_by(self, leader: int) -> None:
        """Tell the guard which session is the worker's: not all in it need bear the mark.

        Args:
            leader: The pid of the worker, which leads its session.
        """
        if self._guard is not None:
            with suppress(OSError):  # somebody ended the guard
                self._held.sendall(b"%d\n" % leader, socket.MSG_NOSIGNAL)

    def kill(self, leader: int | None) -> bool:
        """Kill all that is left of it, once the worker itself has ended.

        What tidies up after the others, as :mod:`multiprocessing` has one for shared memory, is
        given the moment that it needs once they are gone. On a busy machine that is longer than
        anybody may wait for the news of a death: then the guard waits for it, and kills it after
        half a minute.

        Args:
            leader: The worker, not reaped yet, so that its session is no other's; None if it
                was reaped already.

        Returns:
            Whether something is left to the guard.
        """
        killed: set[int] = set()
        trackers: set[int] = set()
        for turn in range(_ROUNDS):
            members = {pid for pid in _processes() if pid != leader and self._has(pid, leader)}
            trackers = set(filter(_tidies_up, members))
            if members == trackers:
                break
            if turn < _ROUNDS - 1 and any(map(_becomes_another, members - trackers)):
                time.sleep(0.002)
                continue
            _kill(members - trackers)
            killed |= members
        deadline = Deadline.after(self._patience)
        while (trackers := set(filter(_tidies_up, trackers))) and not deadline.over():
            time.sleep(0.002)
        if trackers and self._leave_to_guard():
            return True
        _kill(trackers)
        if os.getpid() == 1:
            _reap(killed | trackers)
        return False

    def _leave_to_guard(self) -> bool:
        guard, self._guard = self._guard, None
        if guard is None:
            return False
        reaping = threading.Thread(target=guard.wait, name="soma-guard", daemon=True)
        with suppress(RuntimeError):  # no thread can be started: then nobody learns how it ends
            reaping.start()
        self._held.close()
        return True

    def _has(self, pid: int, leader: int | None) -> bool:
        try:
            if leader is not None and os.getsid(pid) == leader:
                return True
            with open(f"/proc/{pid}/environ", "rb") as environment:
                if self._record.encode() in environment.read().split(b"\0"):
                    return True
            with open(f"/proc/{pid}/comm", "rb") as name:
                return name.read().strip() == self._name.encode()
        except OSError:  # it has ended meanwhile, or is another user's
            return False

    def release(self) -> None:
        """End the guard, unless something is left that it has to end."""
        guard, self._guard = self._guard, None
        if guard is not None:
            guard.kill()
            guard.wait()
            self._held.close()


def join_process_tree(mark: str) -> None:
    """Count this process, which was forked, and all that it starts among those of a worker.

    Args:
        mark: The ``mark`` of the worker's :class:`ProcessTree`.
    """
    os.environ[TREE_VARIABLE] = mark
    with open("/proc/self/comm", "w") as name:
        name.write(_name(mark))


def _kill(processes: set[int]) -> None:
    for pid in processes:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _tidies_up(pid: int) -> bool:
    """Whether a process runs that removes what others made under a name, once they are gone."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as command:
            return _TRACKER in command.read()
    except OSError:
        return False


def _becomes_another(pid: int) -> bool:
    """Whether a process is about to run a program: what it will be cannot be seen yet."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as command:
            if command.read(1):
                return False
        with open(f"/proc/{pid}/stat", "rb") as status:
            return status.read().rpartition(b")")[2].split()[0] != b"Z"
    except (OSError, IndexError):
        return False


def _reap(orphans: set[int]) -> None:
    """Take up how they ended: whose parents are gone fall to process 1, as a container's first."""
    deadline = Deadline.after(_REAPING)
    while (orphans := {pid for pid in orphans if not _is_reaped(pid)}) and not deadline.over():
        time.sleep(0.002)


def _is_reaped(pid: int) -> bool:
    try:
        if os.waitpid(pid, os.WNOHANG)[0] == 0:
            return False
    except ChildProcessError:  # its parent has not ended yet, or took up how it ended
        return not os.path.exists(f"/proc/{pid}")
    return True


def _name(mark: str) -> str:
    return f"soma-{mark[:10]}"  # the kernel keeps 15 bytes


def _processes() -> list[int]:
    """The processes that run, where the system has a list of them to read."""
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdecimal()]
    except OSError:
        return []
