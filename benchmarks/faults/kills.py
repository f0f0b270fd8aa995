"""SIGKILLs at random moments under load: how soon they are told, and what results came."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psutil

import soma_core as soma
from benchmarks.faults.sites import TRANSPORTS, Site, site
from benchmarks.table import Row, none_of, percentiles
from soma_core.testing import Echo, ProcessMark

_JOBS = 2
_CALLERS = 2  # threads that share one worker
_LATEST = 0.06  # seconds of load before a kill, at most
_LONGEST_START = 0.5
_PATIENCE = 20.0
_SIZES = (1, 1000, 20_000, 200_000)  # numbers: two go inline, two through shared memory
_AT_START = 10  # one kill of so many meets a worker that has not come up yet


@dataclass
class Found:
    """What all kills came to."""

    results: int = 0
    deaths: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    untold: list[str] = field(default_factory=list)


def run(count: int, seed: int) -> list[Row]:
    """Kill so many workers, one after the other in each of a few lanes."""
    found = Found()
    with site() as place, ThreadPoolExecutor(_JOBS) as pool:
        kills = [pool.submit(_kill, place, found, seed * count + number) for number in range(count)]
        for kill in kills:
            kill.result()
        left = place.leftovers() + place.stop()
    size = f"{count:,} SIGKILLs, {found.results:,} results before them"
    slow = np.percentile(found.deaths, 99) if found.deaths else 0.0
    asked, goal = "death to `WorkerDied`", "p99 < 1 s"
    told = f"{len(found.deaths):,} calls under way at a death"
    return [
        Row(asked, goal, percentiles(found.deaths), told, bool(slow < 1.0)),
        none_of("deaths that no call reported as `WorkerDied`", found.untold, size),
        none_of("wrong or mixed-up results", found.wrong, size),
        none_of("processes, descriptors, files left after them", left, size),
    ]


def _kill(place: Site, found: Found, seed: int) -> None:
    chance = random.Random(seed)
    if seed % _AT_START == 0:
        _kill_at_start(found, chance)
        return
    worker = place.connect(TRANSPORTS[seed % 2], filters={"echo": Echo()}, start_timeout=60.0)
    ends: list[tuple[float, BaseException]] = []
    threads = [
        threading.Thread(target=_call, args=[worker, found, ends, chance.random()], daemon=True)
        for _ in range(_CALLERS)
    ]
    pid = worker.ping().pid
    for thread in threads:
        thread.start()
    time.sleep(chance.uniform(0.0, _LATEST))
    killed = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    for thread in threads:
        thread.join(_PATIENCE)
        if thread.is_alive():
            found.untold.append(f"kill {seed}: a call did not end")
    worker.close()
    for ended, error in ends:
        if isinstance(error, soma.WorkerDied) and error.signal == "SIGKILL":
            found.deaths.append(ended - killed)
        else:
            found.untold.append(f"kill {seed}: {error!r}")


def _call(
    worker: soma.Worker, found: Found, ends: list[tuple[float, BaseException]], seed: float
) -> None:
    """Call until the worker dies; every result must be that of its own call."""
    chance = random.Random(seed)
    while True:
        number = chance.random()
        sent = {"number": number, "array": np.full(chance.choice(_SIZES), number)}
        try:
            came: Any = worker.forward("echo", sent, timeout=_PATIENCE)
        except BaseException as error:
            ends.append((time.monotonic(), error))
            return
        found.results += 1
        if came["number"] != number or not np.array_equal(came["array"], sent["array"]):
            found.wrong.append(f"{number} came back as {str(came)[:200]}")


def _kill_at_start(found: Found, chance: random.Random) -> None:
    mark, over = ProcessMark(), threading.Event()

    def kill() -> None:
        time.sleep(chance.uniform(0.0, _LONGEST_START))
        while not over.is_set():
            for process in mark.processes():
                with suppress(psutil.NoSuchProcess):
                    process.kill()
                return

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        with soma.connect("stdio", env=mark.environment, timeout=_PATIENCE) as worker:
            killer.join(_LONGEST_START)
            worker.ping()
    except (soma.StartFailed, soma.WorkerDied):
        pass  # either says it
    except BaseException as error:
        found.untold.append(f"a kill at the start: {error!r}")
    finally:
        over.set()
        killer.join()
        if mark.wait_until_gone(10.0):
            found.untold.append("a worker that was killed at its start is still there")
