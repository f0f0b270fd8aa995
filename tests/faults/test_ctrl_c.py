"""Ctrl-C at random moments: each is a KeyboardInterrupt in the host, and costs nothing else."""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ..support import nightly, short_directory, socket_daemon

HOST = """
import sys
import numpy as np
import soma_core as soma

class Work(soma.Filter):
    def fit(self, x, y=None):
        return {"learned": x}
    def forward(self, x, state):
        import time
        if isinstance(x, dict):
            if x["how"] == "sleep":
                time.sleep(x["size"])
            for _ in range(x["size"] if x["how"] == "loop" else 0):
                pass
            return x["number"]
        return x

def call(worker, number):
    kind = number % 9
    if kind == 0:
        assert worker.forward("work", number) == number
    elif kind == 1:
        assert worker.forward("work", np.full(10, number)).tolist() == [number] * 10
    elif kind == 2:
        assert worker.forward("work", np.full(20_000, number))[-1] == number
    elif kind == 3:
        size = 1_000_000 + number % 1000
        assert len(worker.forward("work", np.empty(size))) == size
    elif kind == 4:
        result = worker.forward("work", [np.full(4000, number) for _ in range(60)])
        assert [array[0] for array in result] == [number] * 60
    elif kind == 5:
        assert worker.forward("work", {"how": "sleep", "size": 0.01, "number": number}) == number
    elif kind == 6:
        assert worker.forward("work", {"how": "loop", "size": 20_000, "number": number}) == number
    elif kind == 7:
        assert worker.fit("work", [number] * 3) == {"learned": [number] * 3}
    else:
        assert worker.forward("work", "x" * 300_000 + str(number)).endswith(f"x{number}")

def tell(text):
    sys.stdout.write(text + "\\n")
    sys.stdout.flush()

if __name__ == "__main__":
    transport, path, session = sys.argv[1:]
    options = {"path": path, "session": session or None} if path else {}
    with soma.connect(transport, filters={"work": Work()}, **options) as worker:
        pid, number = worker.ping().pid, 0
        worker.fit("work", "first")
        news = "ready"
        while True:
            try:
                if news:
                    tell(news)
                    news = ""
                while True:
                    number += 1
                    call(worker, number)
            except KeyboardInterrupt:
                assert worker.ping(timeout=30.0).pid == pid
                assert worker.get_state("work") is not None
                news = "interrupted"
"""
_NAPS = """
import asyncio, sys
import numpy as np
import soma_core as soma

class Work(soma.Filter):
    def forward(self, x, state):
        import time
        time.sleep(x if isinstance(x, float) else 0.002)
        return x

def tell(text):
    sys.stdout.write(text + "\\n")
    sys.stdout.flush()
"""
POOL = """
if __name__ == "__main__":
    with soma.WorkerPool("stdio", 2, filters={"work": Work()}) as pool:
        news, number, presses = "ready", 0, 0
        while True:
            waits = None
            try:
                if news:
                    tell(news)
                    news = ""
                if presses % 3 == 0:
                    waits = pool.submit("work", 3600.0)
                    waits.result()
                while True:
                    number += 1
                    assert list(pool.map("work", range(10))) == list(range(10))
                    assert pool.submit("work", number).result() == number
                    large = pool.submit("work", np.full(20_000, number)).result()
                    assert large[-1] == number
            except KeyboardInterrupt:
                presses += 1
                assert waits is None or waits.cancel()
                assert pool.submit("work", 7).result(30.0) == 7
                assert pool.stats().replaced == 0
                news = "interrupted"
"""
ASYNC = """
def pid_of(worker):
    status = worker.status()
    return [one.pid for one in status] if isinstance(status, list) else status.pid

async def work(worker):
    number = 0
    while True:
        number += 1
        calls = [worker.forward("work", each) for each in range(6)]
        assert await asyncio.gather(*calls) == list(range(6))
        large = await worker.forward("work", np.full(20_000 * (1 + number % 50), number))
        assert large[-1] == number

async def opened():
    filters = {"work": Work()}
    if sys.argv[1] == "pool":
        return await soma.AsyncWorkerPool("stdio", 2, filters=filters)
    return await soma.connect_async("stdio", filters=filters)

async def is_well(worker, pid):
    assert await worker.forward("work", 7, timeout=30.0) == 7
    assert pid_of(worker) == pid

if __name__ == "__main__":
    with asyncio.Runner() as runner:
        worker = runner.run(opened())
        pid, news = pid_of(worker), "ready"
        while True:
            try:
                if news:
                    tell(news)
                    news = ""
                runner.run(work(worker))
            except KeyboardInterrupt:
                runner.run(is_well(worker, pid))
                news = "interrupted"
"""
WHERE = {"stdio": ("stdio", ""), "socket": ("socket", ""), "session": ("socket", "ctrl-c")}


@pytest.mark.parametrize(
    ("where", "times"),
    [
        ("socket", 15),
        *(pytest.param(where, 1000, marks=nightly, id=f"{where}-1000") for where in WHERE),
    ],
)
def test_ctrl_c_at_any_moment_interrupts_the_call_and_the_worker_goes_on(where, times, tmp_path):
    transport, session = WHERE[where]
    script = tmp_path / "host.py"
    script.write_text(HOST)
    with short_directory() as directory, socket_daemon(directory / "s") as daemon:
        path = "" if transport == "stdio" else str(daemon.path)
        host = started(script, transport, path, session)
        try:
            assert line(host, 60.0) == "ready\n", host.communicate()[1]
            press_and_wait(host, times)
        finally:
            host.kill()
            host.communicate()


@nightly
def test_ctrl_c_while_a_pool_works_costs_no_worker(tmp_path):
    script = tmp_path / "host.py"
    script.write_text(_NAPS + POOL)
    host = started(script)
    try:
        assert line(host, 60.0) == "ready\n", host.communicate()[1]
        press_and_wait(host, 300)
    finally:
        host.kill()
        host.communicate()


@nightly
@pytest.mark.parametrize("what", ["worker", "pool"])
def test_ctrl_c_under_asyncio_cancels_the_task_and_costs_no_worker(what, tmp_path):
    script = tmp_path / "host.py"
    script.write_text(_NAPS + ASYNC)
    host = started(script, what)
    try:
        assert line(host, 60.0) == "ready\n", host.communicate()[1]
        press_and_wait(host, 300)
    finally:
        host.kill()
        host.communicate()


def started(script: Path, *arguments: str) -> subprocess.Popen[str]:
    """A host in a process group of its own, as a shell starts one."""
    return subprocess.Popen(
        [sys.executable, str(script), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def press_and_wait(host: subprocess.Popen[str], times: int) -> None:
    """Send SIGINT to the group of the host, as a terminal does; the next once that was seen."""
    chance = random.Random(times)
    for number in range(times):
        time.sleep(chance.random() * 0.03)
        os.killpg(host.pid, signal.SIGINT)
        told = line(host, 30.0)
        if told != "interrupted\n":
            host.kill()
            pytest.fail(f"Ctrl-C number {number}: {told!r}\n{host.communicate()[1]}")


def line(host: subprocess.Popen[str], timeout: float) -> str:
    """The next line that a host writes; empty if none came in time."""
    ready, _, _ = select.select([host.stdout], [], [], timeout)
    return host.stdout.readline() if ready else ""
