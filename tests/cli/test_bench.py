"""``soma bench``: a measurement on the user's own machine."""

from __future__ import annotations

import json
import os
from contextlib import nullcontext
from typing import Any

import pytest

from soma_core import benchmarking
from soma_core.benchmarking import BASELINE, Contestant, Unavailable
from soma_core.benchmarking.work import STATE, compute

from ..support import nightly
from .conftest import Soma

QUICK = ["--rounds", 1, "--size", 80, "--size", 100_000]


@nightly
def test_json_gives_seconds(soma: Soma) -> None:
    done = soma("bench", "--json", "--pinned", *QUICK)
    assert done.exit_code == 0, done.output
    (run,) = json.loads(done.stdout)["runs"]
    assert run["pinned"] is True
    assert set(run["contestants"]) >= {"multiprocessing.Pipe", "soma stdio", "soma socket"}
    for name, sizes in run["contestants"].items():
        assert set(sizes) == {"80", "100000"}
        for figures in sizes.values():
            assert 0.0 < figures["median_s"] <= figures["p99_s"]
        assert run["start_s"][name] > 0.0
    assert set(run["floor_s"]) == {"80", "100000"}
    assert run["ping_s"] > 0.0


@pytest.fixture
def contestants(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process alone, over a transport and without, and one that cannot take part."""

    def absent(_: None) -> Any:
        raise Unavailable("it needs a daemon")

    here = Contestant(lambda _: nullcontext(lambda x: compute(x, STATE)))
    inline = benchmarking.builtin()["soma inline"]
    chosen = {BASELINE: here, "soma inline": inline, "soma gone": Contestant(absent)}
    monkeypatch.setattr(benchmarking, "builtin", lambda: chosen)


@pytest.mark.usefixtures("contestants")
def test_who_cannot_take_part_is_named_and_the_others_are_compared(soma: Soma) -> None:
    done = soma("bench", "--rounds", 1, "--size", 8001, "--size", 8004)
    assert done.exit_code == 0, done.output
    names = [line.split("  ")[0] for line in done.stdout.splitlines() if line[0] not in " p"]
    assert names == [BASELINE, "soma inline", "floor"]
    assert " ".join(done.stdout.split("\n")[0].split()) == "7.81 KiB first result"
    assert done.stdout.count("µs (") == 1
    assert "soma gone took no part: it needs a daemon" in done.stderr


@pytest.mark.usefixtures("contestants")
def test_the_cpus_of_this_process_are_what_they_were(soma: Soma) -> None:
    before = os.sched_getaffinity(0)
    done = soma("bench", "--pinned", "--json", "--rounds", 1, "--size", 80)
    (run,) = json.loads(done.stdout)["runs"]
    assert run["pinned"] is True
    assert run["absent"] == {"soma gone": "it needs a daemon"}
    assert list(run["contestants"]["soma inline"]) == ["80"]
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize("arguments", [["--size", 7], ["--rounds", 0], ["--size", 1 << 40]])
def test_sizes_and_rounds_out_of_range_are_refused(soma: Soma, arguments: list[object]) -> None:
    done = soma("bench", *arguments)
    assert done.exit_code == 2
    assert f"'{arguments[0]}'" in done.stderr


def test_a_system_that_cannot_pin_says_so(soma: Soma, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_setaffinity")
    done = soma("bench", "--pinned")
    assert done.exit_code == 1
    assert "choose its CPU" in done.stderr
