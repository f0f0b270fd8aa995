"""CPython's own tests of executors, over an Executor, where Python came with them."""

from __future__ import annotations

import unittest
from importlib import import_module
from typing import Any

import pytest

import soma_core as soma

from ..support import nightly

pytestmark = nightly

_PACKAGE = "test.test_concurrent_futures"
_PARTS = {  # one module before 3.12, and a module for each after that
    "ExecutorTest": "executor",
    "WaitTests": "test_wait",
    "AsCompletedTests": "test_as_completed",
    "ExecutorShutdownTest": "test_shutdown",
}
_OTHERWISE = {
    "test_map_timeout": "needs a resource that only CPython's own runner grants",
    "test_interpreter_shutdown": "its program imports the executor from concurrent.futures",
    "test_submit_after_interpreter_shutdown": "likewise",
    "test_hang_gh83386": "likewise",
    "test_hang_gh94440": "is of the start methods of multiprocessing",
    "test_max_workers_negative": "the text of the error is our own",
    "test_cancel_futures": "a worker may not have taken a call yet, and then all are cancelled",
}


def _suite(name: str) -> Any:
    """A class of tests of CPython."""
    pytest.importorskip(_PACKAGE, reason="Python came without its tests")
    try:
        return getattr(import_module(f"{_PACKAGE}.{_PARTS[name]}"), name)
    except ModuleNotFoundError:
        return getattr(import_module(_PACKAGE), name)


class _OverSoma(unittest.TestCase):
    """What the tests expect of their base: an executor that is made anew for each."""

    executor_type = soma.Executor
    worker_count = 2
    ctx = "spawn"

    def setUp(self) -> None:
        if self._testMethodName in _OTHERWISE:
            self.skipTest(_OTHERWISE[self._testMethodName])
        self.executor = soma.Executor(self.worker_count)
        self.addCleanup(lambda: self.executor.shutdown(wait=True))


def _over_soma(name: str) -> Any:
    return type(name, (_suite(name), _OverSoma), {"__module__": __name__})


TestExecutor = _over_soma("ExecutorTest")
TestWait = _over_soma("WaitTests")
TestAsCompleted = _over_soma("AsCompletedTests")
TestShutdown = _over_soma("ExecutorShutdownTest")
