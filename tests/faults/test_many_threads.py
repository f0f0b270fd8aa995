"""A worker that many threads use, kill and fork beside: no call is wrong, lost or late."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

import soma_core as soma

from ..support import both, nightly
from ..support import filters as f

CALLS = 120
THREADS = 8
PATIENCE = 30.0  # seconds that no call takes on any machine


def work(x, state):
    number, seconds, what = x
    if what == "die":
        os._exit(3)
    if what == "raise":
        raise ValueError(number)
    f.time.sleep(seconds)
    return number


class User:
    """One of the threads; each of its calls is of another fate."""

    def __init__(self, seed, worker):
        self._random = random.Random(seed)
        self._worker = worker
        self.ended = Counter()

    def use(self):
        for number in range(CALLS // THREADS):
            fates = [self._plain, self._late, self._dies, self._raises, self._killed, self._forked]
            fate = self._random.choices(fates, [60, 15, 4, 10, 3, 2])[0]
            began = time.monotonic()
            try:
                fate(number)
            except soma.SomaError as error:
                self.ended[type(error).__name__] += 1
            else:
                self.ended["answered"] += 1
            assert time.monotonic() - began < PATIENCE

    def _forward(self, number, seconds=0.0, what="", **options):
        assert self._worker.forward("work", (number, seconds, what), **options) == number

    def _plain(self, number):
        self._forward(number, self._random.choice([0.0, 0.0, 0.002]))

    def _late(self, number):
        self._forward(number, 0.05, timeout=self._random.choice([0.0005, 0.01, 0.03]))

    def _dies(self, number):
        self._forward(number, what="die")

    def _raises(self, number):
        with pytest.raises(ValueError, match=str(number)):
            self._forward(number, what="raise")

    def _killed(self, number):
        with suppress(ProcessLookupError, TypeError):  # it may be gone by now
            os.kill(self._worker.status().pid, signal.SIGKILL)
        self._forward(number)

    def _forked(self, number):
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            try:
                self._forward(number)
            except soma.TransportError:
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0


@nightly
@both
def test_calls_of_every_fate_by_many_threads(connect, transport):
    worker = connect(
        transport, filters={"work": f.Apply(work)}, restart="on-crash", interrupt_grace=10.0
    )
    users = [User(number, worker) for number in range(THREADS)]
    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(User.use, users))
    assert worker.forward("work", (1, 0.0, "")) == 1
    ended = sum((user.ended for user in users), Counter())
    assert set(ended) <= {"answered", "WorkerDied", "DeadlineExceeded"}
    assert ended["answered"] > CALLS / 2
