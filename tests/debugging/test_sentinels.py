"""Sentinels of a script are the same object on both sides, wherever they travel."""

from __future__ import annotations

import dataclasses
import pickle

import pytest

from soma_core.wire.pickles import Pickles

from ..support import run_python

SOURCE = """
import sys
import soma_core as soma

MISSING = object()

class Unset:
    def __repr__(self):
        return "unset"

UNSET = Unset()

class Counter:
    def fit(self, x, y=None):
        return {}
    def forward(self, x, state):
        self.count = getattr(self, "count", 0) + 1
        return self.count

counter = Counter()

def is_missing(value=MISSING):
    return value is MISSING

class Looks(soma.Filter):
    def forward(self, x, state):
        found = [is_missing(), is_missing(x["missing"]), x["unset"] is UNSET, x["other"] is MISSING]
        return found, MISSING, UNSET, [UNSET]

if __name__ == "__main__":
    with soma.connect(sys.argv[1], filters={"looks": Looks()}) as worker:
        for _ in range(2):
            x = {"missing": MISSING, "unset": UNSET, "other": object()}
            found, missing, unset, nested = worker.forward("looks", x)
            assert found == [True, True, True, False], found
            assert missing is MISSING and unset is UNSET and nested[0] is UNSET
    with soma.connect("stdio", filters={"a": counter, "b": counter}) as worker:
        assert [worker.forward(node, 1) for node in "aabb"] == [1, 2, 1, 2], "it is no sentinel"
"""


@pytest.mark.nightly
@pytest.mark.parametrize("transport", ["inline", "stdio"])
def test_sentinels_of_a_script_keep_their_identity(transport, tmp_path):
    run_python(SOURCE, transport, directory=tmp_path)


@pytest.mark.parametrize("name", ["MISSING", "KW_ONLY"])
def test_a_value_of_a_module_that_means_something_by_its_identity_is_found_there(name: str) -> None:
    value = getattr(dataclasses, name)
    assert pickle.loads(Pickles().dump([value]))[0] is value


FORKED = """
import os, signal, threading
import cloudpickle.cloudpickle as cloudpickle
from soma_core.wire.definitions.registry import registry
from soma_core.wire.pickles import Pickles

class Own:
    pass

Pickles().dump(Own)

def hold():
    with registry.lock, cloudpickle._DYNAMIC_CLASS_TRACKER_LOCK:
        held.set()
        done.wait()

held, done = threading.Event(), threading.Event()
threading.Thread(target=hold).start()
held.wait()
child = os.fork()
if child == 0:
    signal.alarm(20)
    Pickles().dump([Own, Own()])
    os._exit(0)
done.set()
assert os.waitpid(child, 0)[1] == 0
"""


def test_a_forked_child_pickles_though_another_thread_did_so_at_the_fork(tmp_path):
    run_python(FORKED, directory=tmp_path)
