"""A host that calls, is interrupted, and looks whether all is as before."""

from __future__ import annotations

import faulthandler
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

from benchmarks.interrupts.calls import KINDS, User
from soma_core.testing import OpenResources

_RELEASED = 20.0  # seconds
_KEPT = 3  # descriptors that are opened once and kept
_pressed = 0


def _press(signum: int, frame: FrameType | None) -> NoReturn:
    """What Python does at SIGINT, counted."""
    global _pressed
    _pressed += 1
    raise KeyboardInterrupt


def _tell(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _one_call(call: Callable[[Any], object], x: Any, seconds: float) -> str:
    """Make one call, and wait until it was pressed, during the call or afterwards."""
    global _pressed
    _pressed = 0
    told = "interrupted"
    try:
        _tell(f"calls {seconds}")
        call(x)
        told = "result"
        while not _pressed:
            time.sleep(0.01)
    except KeyboardInterrupt:
        pass
    while not _pressed:  # nobody else may raise it
        time.sleep(0.01)
    return told


def _use(user: User[Any], chance: random.Random, presses: int) -> None:
    """Call again and again; how long a call takes is seen first, to press in its midst."""
    for _ in range(presses):
        call, x = chance.choice(user.calls()), user.data()
        sys.stderr.write(f"{call.__name__} with {x.nbytes:,} bytes\n")
        begun = time.perf_counter()
        call(x)
        seconds = time.perf_counter() - begun
        user.check()
        told = _one_call(call, x, seconds)
        try:
            user.check()
            now = user.pids()
            if user.changes(call):  # a pool replaces a worker that is half changed
                user.before = now
            assert now == user.before, f"other processes: {user.before} became {now}"
        except Exception as error:
            error.add_note(f"after a call which gave: {told}")
            raise
        _tell(told)


def main() -> None:
    """Run as ``python -m benchmarks.interrupts.host KIND WHERE PATH SEED PRESSES``."""
    kind, where, path, seed, presses = sys.argv[1:]
    faulthandler.enable()
    signal.signal(signal.SIGINT, _press)
    options: dict[str, Any] = {"transport": "stdio"}
    if where != "stdio":
        options = {"transport": "socket", "path": path}
    if where == "session":
        options["session"] = "pressed"
    before = OpenResources.of()
    user = KINDS[kind](options, random.Random(seed))
    try:
        _use(user, random.Random(f"calls of {seed}"), int(presses))
    finally:
        user.close()
        del user  # a pool keeps what it learned
    now = before.wait_until_released(_RELEASED)
    deadline = time.monotonic() + _RELEASED
    while threading.active_count() > 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == 1, f"threads are left: {threading.enumerate()}"
    assert now.memory_files <= before.memory_files, f"{before} became {now}"
    assert now.descriptors <= before.descriptors + _KEPT, f"{before} became {now}"


if __name__ == "__main__":
    main()
