"""``soma bench``: a measurement on the user's own machine."""

from __future__ import annotations

import json
import os

import pytest

from ..support import nightly
from .conftest import Install, Soma

QUICK = ["--rounds", 1, "--size", 80, "--size", 100_000]


@nightly
def test_the_table_compares_each_transport_with_a_pipe(soma: Soma) -> None:
    done = soma("bench", *QUICK)
    assert done.exit_code == 0, done.output
    for name in ("multiprocessing.Pipe", "soma inline", "soma stdio", "soma socket", "floor"):
        assert name in done.stdout
    assert "10 floats" in done.stdout
    assert "p99" in done.stdout
    assert "µs (" in done.stdout


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


@nightly
def test_a_transport_that_cannot_be_started_is_reported_and_stops_nothing(
    soma: Soma, install: Install
) -> None:
    install("acme", "soma.transports", gone="acme_gone:Transport")
    done = soma("bench", *QUICK)
    assert done.exit_code == 0, done.output
    assert "soma gone took no part: " in done.stderr
    assert "acme_gone" in done.stderr
    assert "soma stdio" in done.stdout


@nightly
def test_the_cpus_of_this_process_are_what_they_were(soma: Soma) -> None:
    before = os.sched_getaffinity(0)
    assert soma("bench", "--pinned", *QUICK).exit_code == 0
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
