"""The measuring commands, in sizes that take seconds; the longer ones run nightly."""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import benchmarks
from benchmarks.ends.kinds import KINDS

from ..support import ROOT, nightly


def run(*arguments: object, timeout: float = 110) -> str:
    command = [sys.executable, "-m", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def cells(table: str, name: str) -> list[str]:
    """The cells of the row of a name."""
    (row,) = re.findall(rf"^\| {re.escape(name)} \|(.*)\|$", table, re.MULTILINE)
    return [cell.strip() for cell in row.split("|")]


def test_every_module_of_the_commands_can_be_imported() -> None:
    found = [module.name for module in pkgutil.walk_packages(benchmarks.__path__, "benchmarks.")]
    assert "benchmarks.training.__main__" in found
    for name in found:
        assert importlib.import_module(name).__doc__


@nightly
def test_contestants_are_compared_in_a_table_and_in_json(tmp_path: Path) -> None:
    names = ["multiprocessing.Pipe", "SharedMemory loop", "soma stdio", "soma socket"]
    printed = run(
        "benchmarks", "--rounds", 1, "--sizes", 80, 200_000, "--cpu", "all",
        "--out", tmp_path, "--contestants", *names,
    )  # fmt: skip
    medians, p99 = printed.split("99th percentile")
    for name in names:
        assert len(cells(medians, name)) == 3
        assert len(cells(p99, name)) == 2
    (measured,) = json.loads((tmp_path / "results.json").read_text())["runs"]
    assert set(measured["contestants"]) == set(names)
    assert (tmp_path / "results.md").read_text().strip() == printed.strip()


@nightly
def test_ways_to_serve_are_compared_in_a_table() -> None:
    printed = run("benchmarks.serving", "--callers", 5, "--seconds", 0.2, "--rounds", 1)
    for name in ("ProcessPoolExecutor", "AsyncWorkerPool", "AsyncWorkerPool, batching"):
        assert len(cells(printed, name)) == 5


@nightly
def test_executors_are_compared_by_their_calls_a_second() -> None:
    printed = run("benchmarks.executors", "--rounds", 1)
    for work in ("a short function", "in chunks of 1,000", "an array of 1 MiB"):
        assert all(float(cell.replace(",", "")) > 0 for cell in cells(printed, work))


def test_a_peer_that_is_not_here_is_reported(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['loky'] = sys.modules['ray'] = sys.modules['zmq'] = None; "
        "from pathlib import Path; from benchmarks import __main__, peers; "
        "peers.SEED = Path('nowhere'); __main__.main()"
    )
    command = [sys.executable, "-c", code, "--rounds", "1", "--sizes", "80", "--cpu", "one"]
    absent = ["loky", "Ray actor", "pyzmq", "original daemon"]
    done = subprocess.run(
        [*command, "--contestants", "multiprocessing.Pipe", *absent],
        cwd=ROOT, capture_output=True, text=True, timeout=110,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for name in absent:
        assert f"{name} took no part: " in done.stdout


@nightly
def test_a_large_array_takes_at_most_two_regions_each_way() -> None:
    printed = run("benchmarks.memory", "--size", 8 << 20)
    for transport in ("stdio", "socket"):
        peak, to, back = map(float, cells(printed, transport))
        assert 1 <= to <= 2
        assert 1 <= back <= 2
        assert peak < 5.5  # and what the allocator keeps, which weighs more than at 64 MiB


@nightly
def test_a_hit_is_compared_with_reading_the_same_bytes() -> None:
    pytest.importorskip("xxhash")
    printed = run("benchmarks.cache", "--rounds", 2, "--size", 1 << 20)
    for name in ("reading", "in the engine: a hit", "through stdio: x * 2, hit"):
        milliseconds, ratio = map(float, cells(printed, name))
        assert milliseconds > 0
        assert ratio > 0


@nightly
def test_frames_by_the_codec_are_compared_with_pickles() -> None:
    pytest.importorskip("pyarrow")
    printed = run("benchmarks.tables", "--rounds", 1, "--size", 1 << 20)
    for kind in ("numbers", "texts", "categories"):
        assert all(float(cell) > 0 for cell in cells(printed, kind))


@nightly
def test_cold_starts_are_compared_with_imports() -> None:
    printed = run("benchmarks.start", "--rounds", 1)
    for name in ("stdio, connect to first reply", "socket, connect to first reply"):
        assert "times python -c 'import numpy'" in cells(printed, name)[1]
    assert "times python -c 'import pydantic, numpy'" in cells(printed, "import soma_core")[1]


@nightly
def test_training_in_a_worker_is_proved_and_measured_by_one_command(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    printed = run("benchmarks.training", "--quick", "--out", tmp_path)
    measured = json.loads((tmp_path / "training.json").read_text())
    cases = {pair["case"] for pair in measured["oracle"]}
    assert len(cases) == 5
    for case in cases:
        assert [cell.split(" after ")[0] for cell in cells(printed, case)] == ["equal", "equal"]
    for transport in ("stdio", "socket"):
        assert len(cells(printed, f"soma {transport}, one BATCHED_FIT")) == 4
        assert 1.0 <= measured["memory_arrays"][f"soma {transport}"] < 1.15
    assert (tmp_path / "training.md").read_text().strip() == printed.strip()


@nightly
def test_what_plugins_cost_a_start_is_compared_with_having_none() -> None:
    printed = run("benchmarks.plugins", "--rounds", 1, "--count", 3)
    assert cells(printed, "no plugins")[1] == ""
    for name in ("3 plugins", "3 plugins with hooks"):
        assert re.fullmatch(r"[+-]\d+%", cells(printed, name)[1])


@nightly
@pytest.mark.timeout(900)
def test_an_end_of_each_kind_over_each_transport_leaves_nothing() -> None:
    cells_of_it = sum(len(kind.transports) for kind in KINDS.values())
    printed = run("benchmarks.ends", "--count", cells_of_it, timeout=800)
    assert printed.count("| 0 | 0 | ") == cells_of_it + 1


@nightly
@pytest.mark.timeout(900)
def test_ctrl_c_at_random_moments_of_calls_of_every_kind_costs_nothing() -> None:
    printed = run("benchmarks.interrupts", "--count", 225, timeout=800)  # nine hosts, 25 times each
    assert printed.count("| 0 | 0 | ") == 9
