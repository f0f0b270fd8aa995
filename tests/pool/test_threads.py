"""The numerical libraries of the workers start as many threads as they were given."""

from __future__ import annotations

import os
import sys
from typing import Any

import pytest

import soma_core as soma
from soma_core.channel.threads import available_cores, thread_limits

from ..support import both, either
from ..support import filters as f


def counted(x: Any, state: Any) -> list[int]:
    """How many threads each library that numpy brings uses."""
    import numpy as np
    import threadpoolctl

    np.ones((2, 2)) @ np.ones((2, 2))
    return [library["num_threads"] for library in threadpoolctl.threadpool_info()]


def variables(x: Any, state: Any) -> dict[str, str]:
    return {name: value for name, value in f.os.environ.items() if name.endswith("_THREADS")}


FILTERS = {"counted": f.Apply(counted), "variables": f.Apply(variables)}


@either
@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_cores_are_shared_among_the_workers_of_a_pool(make, transport, n):
    pytest.importorskip("threadpoolctl")
    pool = make(transport, n, filters=FILTERS)
    share = max(1, available_cores() // n)
    used = pool.submit("counted", None).result(60.0)
    assert used
    assert set(used) == {share}
    assert pool.submit("variables", None).result(60.0) == thread_limits(share)


@either
def test_a_replaced_worker_has_the_same_share(make, transport):
    pool = make(transport, 1, filters=FILTERS, threads=1, recycle_after=1)
    for _ in range(2):
        assert set(pool.submit("counted", None).result(60.0)) == {1}


@both
def test_a_given_number_is_what_a_worker_uses(options, transport):
    with soma.connect(transport, filters=FILTERS, threads=1, **options(transport)) as worker:
        assert set(worker.forward("counted", None)) == {1}
        assert worker.forward("variables", None) == thread_limits(1)


@pytest.mark.nightly
def test_no_number_leaves_the_workers_alone(make, monkeypatch):
    for name in thread_limits(1):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "7")
    pool = make("stdio", n=2, filters=FILTERS, threads=None)
    assert pool.submit("variables", None).result(60.0) == {"OPENBLAS_NUM_THREADS": "7"}
    with soma.connect("stdio", filters=FILTERS) as worker:
        assert worker.forward("variables", None) == {"OPENBLAS_NUM_THREADS": "7"}


def test_a_variable_that_was_given_goes_before_the_number():
    env = {"OMP_NUM_THREADS": "5"}
    with soma.connect("stdio", filters=FILTERS, threads=1, env=env) as worker:
        assert worker.forward("variables", None) == {**thread_limits(1), **env}


def test_the_number_reaches_a_worker_behind_a_launcher_that_hands_no_environment_on():
    launcher = ["env", "-i", f"PATH={os.environ['PATH']}"]
    launcher += [f"PYTHONPATH={os.environ.get('PYTHONPATH', '')}"]
    command = [*launcher, sys.executable, "-P", "-m", "soma_transport_stdio"]
    with soma.connect("stdio", filters=FILTERS, threads=1, command=command) as worker:
        assert worker.forward("variables", None) == thread_limits(1)
        assert set(worker.forward("counted", None)) == {1}


def test_the_inline_transport_says_that_it_cannot():
    with pytest.raises(TypeError, match=r"'inline' has no option threads; its options: pickle"):
        soma.connect("inline", threads=1)


@pytest.mark.parametrize("threads", [0, -1, "many"])
def test_a_number_that_is_none_is_refused(threads):
    with pytest.raises(ValueError, match="threads"):
        soma.connect("stdio", threads=threads)
