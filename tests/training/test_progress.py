"""How far a fit is can be seen: in a bar, in lines, or by a function of one's own."""

from __future__ import annotations

import io
import re
import sys
import time
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import soma_core as soma
from soma_core import progress
from soma_core.client.progress.display import ProgressDisplay
from soma_core.client.progress.estimate import TrainingProgress
from soma_core.models.rows import count_if_equal


def shown(
    reports: Any,
    *,
    terminal: bool = False,
    rows: int | None = None,
    width: int = 120,
    pause: float = 0.05,
) -> str:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=width)
    with ProgressDisplay(console, "net", rows, pause=pause) as display:
        for report in reports:
            display(report)
    return stream.getvalue()


def epochs(number: int, total: int | None = None) -> list[dict[str, Any]]:
    return [{"epoch": n, "epochs": total or number, "loss": 1 / n} for n in range(1, number + 1)]


def last_line(text: str) -> str:
    """What a terminal shows in the end, without its colours."""
    return re.sub(r"\x1b\[[\d;?]*\w", "", text).strip().splitlines()[-1].rpartition("\r")[2]


class Reporting(soma.Filter):
    """Reports, and learns nothing."""

    reports: list[dict[str, Any]]

    def fit(self, x: Any, y: Any = None) -> Any:
        for report in self.reports:
            progress.report(**report)
        return {}

    def forward(self, x: Any, state: Any) -> Any:
        return x


class Asked(Reporting):
    def fit(self, x: Any, y: Any = None) -> Any:
        return {"watched": progress.is_wanted()}


class Failing(Reporting):
    def fit(self, x: Any, y: Any = None) -> Any:
        raise RuntimeError("half way")


def test_outside_a_terminal_a_long_fit_is_a_few_plain_lines() -> None:
    assert shown(epochs(100)).splitlines() == [
        "net: epoch  20/100  loss 0.0500",
        "net: epoch  40/100  loss 0.0250",
        "net: epoch  60/100  loss 0.0167",
        "net: epoch  80/100  loss 0.0125",
        "net: epoch 100/100  loss 0.0100",
    ]


def test_one_long_epoch_is_a_few_lines_as_well() -> None:
    reports = [{"epoch": 1, "epochs": 1, "batch": n, "batches": 50} for n in range(1, 51)]
    lines = shown(reports).splitlines()
    assert [line.partition("  ")[2] for line in lines] == [f"batch {n}0/50" for n in range(1, 6)]


def test_each_filter_of_a_chain_is_shown_to_its_end() -> None:
    lines = shown([*epochs(2), *epochs(3, 9), *epochs(2)]).splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        "net: epoch 1/2",
        "net: epoch 2/2",
        "net: epoch 2/9",
        "net: epoch 1/2",
        "net: epoch 2/2",
    ]


def test_a_line_is_not_wrapped_however_narrow_the_console() -> None:
    assert len(shown(epochs(1), rows=10, width=10).splitlines()) == 1


def test_the_mean_loss_of_an_epoch_is_shown_rather_than_that_of_its_last_batch() -> None:
    assert "loss 0.2500" in shown([{"batch": 1, "batches": 1, "loss": 9.0, "mean_loss": 0.25}])


def test_the_rate_is_shown_where_the_rows_are_known(monkeypatch: Any) -> None:
    seconds = iter([0.0, 0.0, 2.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(seconds))
    assert shown([{"epoch": 3, "epochs": 3}], rows=1000).endswith("  1,500 rows/s\n")


@pytest.mark.parametrize(
    "report",
    [
        {},
        {"step": 3},
        {"loss": 0.5},
        {"epoch": 1},
        {"epochs": 2},
        {"epoch": "one", "epochs": 2},
        {"epoch": 3, "epochs": 2},
        {"epoch": 0, "epochs": 2},
        {"epoch": 1, "epochs": 0},
        {"epoch": 1.5, "epochs": 2},
        {"epoch": [1], "epochs": {}},
        {"epoch": None, "epochs": None},
        {"batch": 0, "batches": 0},
        {"epoch": 1, "epochs": 1, "batch": 2, "batches": 0},
        {"epoch": 1, "batch": 1, "batches": 4},
    ],
)
def test_a_report_that_does_not_say_how_far_it_is_changes_nothing(report: Any) -> None:
    assert TrainingProgress.from_report(report) is None
    assert shown([report]) == ""


@pytest.mark.parametrize(
    ("reported", "told"),
    [
        (0.5, "loss 0.5000"),
        (3, "loss 3.0000"),
        (np.float32(0.5), "loss 0.5000"),
        (0, "loss 0.0000"),
        (-0.5, "loss -0.5000"),
        (1.5e-7, "loss 1.500e-07"),
        (1e300, "loss 1.000e+300"),
        (float("nan"), "loss nan"),
        (float("-inf"), "loss -inf"),
        ("small", ""),
        (None, ""),
        ([0.5], ""),
        (10**400, ""),
    ],
)
def test_a_loss_of_any_kind_is_shown_or_left_out(reported: Any, told: str) -> None:
    text = shown([{"epoch": np.int64(1), "epochs": np.int64(1), "loss": reported}])
    assert text == f"net: epoch 1/1  {told}".rstrip() + "\n"


def test_in_a_terminal_there_is_a_bar_with_epoch_batch_loss_and_rate() -> None:
    reports = [
        {"epoch": 2, "epochs": 2, "batch": batch, "batches": 30, "loss": 0.5} for batch in (1, 30)
    ]
    line = last_line(shown(reports, terminal=True, rows=64))
    assert re.search(r"net ━+ epoch 2/2 batch 30/30 loss 0\.5000 [\d,]+ rows/s \d:\d\d:\d\d", line)
    assert line.startswith("✓")


def test_other_numbers_that_a_filter_reports_are_shown_beside_the_loss() -> None:
    report = {"epoch": 1, "epochs": 1, "loss": 0.5, "accuracy": 0.875, "note": "text", "n": None}
    assert shown([report]) == "net: epoch 1/1  loss 0.5000  accuracy 0.8750\n"
    assert "loss 0.5000  accuracy 0.8750" in last_line(shown([report], terminal=True))


def test_where_the_number_of_batches_is_not_known_the_epochs_are_shown() -> None:
    reports = [{"epoch": 2, "epochs": 4, "batch": batch, "loss": 0.5} for batch in (1, 2)]
    assert "epoch 2/4 batch 2 loss 0.5000" in last_line(shown(reports, terminal=True, pause=0.0))
    reports.append({"epoch": 2, "epochs": 4, "batch": 3, "batches": 3, "mean_loss": 0.25})
    fractions = [TrainingProgress.from_report(report).fraction for report in reports]
    assert fractions == [0.25, 0.25, 0.5]


def test_the_bar_fits_a_terminal_of_80_columns() -> None:
    report = {"epoch": 100, "epochs": 100, "batch": 45, "batches": 45, "loss": 0.5}
    line = last_line(shown([report], terminal=True, rows=1437, width=80))
    assert len(line) <= 80
    assert "loss 0.5000" in line
    assert "rows/s" in line


def test_the_bar_begins_anew_with_the_next_filter_of_a_chain() -> None:
    line = last_line(shown([*epochs(2), *epochs(1, 2)], terminal=True, pause=0.0))
    assert "epoch 1/2" in line
    assert not line.startswith("✓")


def test_the_bar_changes_no_oftener_than_the_eye_can_tell_but_for_the_end() -> None:
    assert "epoch  1/50" in last_line(shown(epochs(50)[:49], terminal=True, pause=3600.0))
    assert "epoch 50/50" in last_line(shown(epochs(50), terminal=True, pause=3600.0))


def test_what_the_program_prints_to_a_file_does_not_end_up_in_the_bar(capsys: Any) -> None:
    stream = io.StringIO()
    with ProgressDisplay(Console(file=stream, force_terminal=True, width=100), "net"):
        print("a result")  # noqa: T201
        print("a warning", file=sys.stderr)  # noqa: T201
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("a result\n", "a warning\n")
    assert "a result" not in stream.getvalue()


def test_a_program_without_streams_sees_nothing_and_goes_on(monkeypatch: Any) -> None:
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    assert "epoch 1/1" in shown(epochs(1), terminal=True)
    with ProgressDisplay.on_stderr("net") as display:
        display(epochs(1)[0])


@pytest.mark.parametrize(
    ("x", "rows"),
    [
        ([1, 2], 2),
        (np.zeros((3, 2)), 3),
        ({"a": [1, 2, 3, 4]}, 4),
        ({}, None),
        ({"a": "text"}, None),
        ("text", None),
        (None, None),
        (5, None),
        (np.zeros(()), None),
    ],
)
def test_the_rows_of_data_are_counted_where_it_has_rows(x: Any, rows: int | None) -> None:
    assert count_if_equal(x) == rows


def test_a_fit_is_shown_on_stderr_when_asked(inline: soma.Worker, capsys: Any) -> None:
    inline.load({"slow": Reporting(reports=epochs(2))})
    inline.fit("slow", np.zeros(4), progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.fullmatch(
        r"slow: epoch 1/2  loss 1.0000  [\d,]+ rows/s\n"
        r"slow: epoch 2/2  loss 0.5000  [\d,]+ rows/s\n",
        captured.err,
    )


def test_a_chain_is_shown_by_its_nodes(inline: soma.Worker, capsys: Any) -> None:
    inline.load({"a": Reporting(reports=[]), "b": Reporting(reports=epochs(1))})
    inline.composite_fit(["a", "b"], [1.0], progress=True)
    assert capsys.readouterr().err.startswith("a → b: epoch 1/1  loss 1.0000")
    inline.batched_fit(["a"], [1.0] * 3, batch_size=2, progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert [line.rpartition("  ")[0] for line in lines] == [
        "a: epoch 1/1  batch 1/2",
        "a: epoch 1/1  batch 2/2",
    ]


@pytest.mark.parametrize("nobody", [None, False])
def test_nothing_is_asked_of_the_worker_when_nobody_watches(
    inline: soma.Worker, capsys: Any, nobody: Any
) -> None:
    inline.load({"slow": Asked(reports=[])})
    assert inline.fit("slow", 1, progress=nobody) == {"watched": False}
    assert inline.fit("slow", 1, progress=[].append) == {"watched": True}
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("odd", ["yes", 1, []])
def test_what_cannot_be_told_anything_is_refused(inline: soma.Worker, odd: Any) -> None:
    inline.load({"slow": Reporting(reports=[])})
    with pytest.raises(TypeError, match="progress is True, False, or a function of a report"):
        inline.fit("slow", 1, progress=odd)


def test_a_fit_that_fails_ends_the_bar_too(
    inline: soma.Worker, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    inline.load({"slow": Failing(reports=[])})
    with pytest.raises(soma.RemoteError, match="half way"):
        inline.fit("slow", np.zeros(3), progress=True)
    hide, show = "\x1b[?25l", "\x1b[?25h"  # the cursor, as long as there is a bar
    written = capsys.readouterr().err
    assert hide in written.rpartition(show)[0]
    assert hide not in written.rpartition(show)[2]


def test_a_pool_shows_the_fit_of_the_worker_that_makes_it(capsys: Any) -> None:
    with soma.WorkerPool("stdio", 1, filters={"slow": Reporting(reports=epochs(1))}) as pool:
        pool.fit("slow", [1.0], progress=True)
    assert capsys.readouterr().err.startswith("slow: epoch 1/1")


def test_the_mean_loss_that_is_reported_is_the_loss_of_the_epoch_in_the_end(
    inline: soma.Worker, data: Any
) -> None:
    torch = pytest.importorskip("torch")
    inline.load({"net": torch_net(torch)})
    reports: list[dict[str, Any]] = []
    told = inline.batched_fit(
        ["net"], *data, batch_size=32, epochs=3, shuffle=True, seed=1, progress=reports.append
    )
    ends = [report for report in reports if report["batch"] == report["batches"]]
    assert [report["mean_loss"] for report in ends] == told.losses
    losses = [report["loss"] for report in reports[:3]]
    assert told.losses[0] == pytest.approx(np.average(losses, weights=[32, 32, 6]))


def torch_net(torch: Any) -> Any:
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(5, 1)
            self.optimizer = torch.optim.SGD(self.parameters(), lr=0.1)

        def forward(self, x: Any, state: Any = None) -> Any:
            return self.linear(x)

    return Net()
