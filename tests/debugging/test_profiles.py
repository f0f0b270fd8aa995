"""``profile=FILE`` writes where the worker spent the time of a call."""

from __future__ import annotations

import pstats
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import soma_core as soma

from ..support import TRANSPORTS, gate_runs

over_each = pytest.mark.parametrize("transport", gate_runs("inline", "socket", of=TRANSPORTS))


class Busy(soma.Filter):
    def fit(self, x: Any, y: Any = None) -> Any:
        return {"sum": busy(x)}

    def forward(self, x: Any, state: Any) -> Any:
        if x == "fail":
            raise ValueError("failed")
        return busy(x)


def busy(n: int) -> int:
    return sum(square(i) for i in range(n))


def square(i: int) -> int:
    return i * i


def calls(path: Path) -> dict[str, int]:
    """How often each function of this file was called, by name."""
    stats: Any = pstats.Stats(str(path))
    return {name: row[1] for (file, _, name), row in stats.stats.items() if file == __file__}


@over_each
def test_a_profile_counts_the_calls_of_the_filters_own_functions(
    connect: Callable[..., soma.Worker], transport: str, tmp_path: Path
) -> None:
    worker = connect(transport, filters={"busy": Busy()})
    assert worker.forward("busy", 50, profile=tmp_path / "forward.prof") == sum(
        i * i for i in range(50)
    )
    assert calls(tmp_path / "forward.prof")["square"] == 50
    worker.fit("busy", 30, profile=tmp_path / "fit.prof")
    assert calls(tmp_path / "fit.prof")["fit"] == 1
    worker.composite_forward(["busy", "busy"], 3, profile=str(tmp_path / "chain.prof"))
    assert calls(tmp_path / "chain.prof")["forward"] == 2
    worker.composite_fit(["busy"], 5, profile=tmp_path / "composite.prof")
    assert calls(tmp_path / "composite.prof")["fit"] == 1


def test_python_s_own_tools_read_it(connect: Callable[..., soma.Worker], tmp_path: Path) -> None:
    file = tmp_path / "call.prof"
    connect("stdio", filters={"busy": Busy()}).forward("busy", 3, profile=file)
    command = [sys.executable, "-m", "pstats", str(file)]
    done = subprocess.run(command, input="stats square\n", capture_output=True, text=True)
    assert "(square)" in done.stdout


def test_a_call_that_fails_writes_none_and_the_next_one_works(
    connect: Callable[..., soma.Worker], tmp_path: Path
) -> None:
    worker = connect("stdio", filters={"busy": Busy()})
    with pytest.raises(ValueError, match="failed"):
        worker.forward("busy", "fail", profile=tmp_path / "none.prof")
    assert not (tmp_path / "none.prof").exists()
    assert worker.forward("busy", 2, profile=tmp_path / "some.prof") == 1


def test_a_folder_that_does_not_exist_is_named_before_anything_is_sent(
    connect: Callable[..., soma.Worker], tmp_path: Path
) -> None:
    worker = connect("stdio", filters={"busy": Busy()})
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere"):
        worker.forward("busy", 2, profile=tmp_path / "nowhere" / "x.prof")
    assert worker.status().command is None
