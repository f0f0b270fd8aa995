"""A training curve is kept as the losses come, drawn as text, and as a picture by matplotlib."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from soma_core.cli import picture
from soma_core.cli.console import CommandFailed
from soma_core.cli.curve import Curve, text_plot
from soma_core.cli.picture import check_drawing, draw_curves, figure_of

PNG = b"\x89PNG\r\n\x1a\n"


def curve(*losses: float, title: str = "net") -> Curve:
    made = Curve(title)
    for epoch, loss in enumerate(losses, start=1):
        made({"epoch": epoch, "epochs": len(losses), "loss": loss})
    return made


def test_a_curve_has_the_mean_loss_of_each_epoch_and_the_loss_of_each_batch() -> None:
    made = Curve("net")
    for epoch, batch, loss, mean in [(1, 1, 4.0, 4.0), (1, 2, 2.0, 3.0), (2, 1, 1.0, 1.0)]:
        made(
            {"epoch": epoch, "epochs": 2, "batch": batch, "batches": 2}
            | {"loss": loss, "mean_loss": mean}
        )
    assert made.epochs == {1: 3.0, 2: 1.0}
    assert made.batches == [(0.5, 4.0), (1.0, 2.0), (1.5, 1.0)]


def test_the_newest_loss_of_an_epoch_stands_where_no_mean_is_reported() -> None:
    made = curve(3.0, 1.0)
    made({"epoch": 2, "epochs": 2, "loss": 0.5})
    assert made.epochs == {1: 3.0, 2: 0.5}


def test_reports_without_a_loss_make_no_curve() -> None:
    made = Curve("net")
    for report in ({"epoch": 1, "epochs": 1, "loss": None}, {"step": 1, "loss": 0.5}):
        made(report)
    assert not made
    assert curve(0.5)


def test_the_curve_is_that_of_the_last_filter_that_reports() -> None:
    made = curve(3.0, 2.0)
    made({"epoch": 1, "epochs": 5, "loss": 9.0})
    assert (made.epochs, made.batches) == ({1: 9.0}, [(1.0, 9.0)])


def test_the_text_shows_the_losses_over_the_epochs() -> None:
    assert text_plot(curve(4.0, 2.0, 1.0, 0.5), width=8, height=2).plain.splitlines() == [
        "net: loss 4.0000 → 0.5000",
        "4.0000 │██",
        "     0 │████▄▄▂▂",
        "        1      4 epochs",
    ]


@pytest.mark.parametrize(
    ("losses", "lines"),
    [
        ([2.0], ["2.0000 │████", "     0 │████"]),
        ([0.0, 0.0], ["0.0000 │", "     0 │▁▁▁▁"]),
        ([1.0, -1.0], [" 1.0000 │██", "-1.0000 │██▁▁"]),
        ([-1.0, -3.0], ["-1.0000 │██", "-3.0000 │██▁▁"]),
        ([1.0, math.nan], ["1.0000 │██", "     0 │██"]),
        ([math.nan, math.inf], ["1.0000 │", "     0 │"]),
        ([1.0, 3.0, 0.0, 0.0, 4.0, 4.0, 1.0, 1.0], ["4.0000 │  █", "     0 │█▁█▄"]),
    ],
)
def test_the_text_is_drawn_for_any_losses(losses: list[float], lines: list[str]) -> None:
    assert text_plot(curve(*losses), width=4, height=2).plain.splitlines()[1:3] == lines


def test_the_figure_shows_batches_and_epochs_of_each_curve() -> None:
    pytest.importorskip("matplotlib")
    batched = Curve("second")
    for batch, loss in enumerate([3.0, 1.0], start=1):
        mean = {"loss": loss, "mean_loss": (3.0 + loss) / 2}
        batched({"batch": batch, "batches": 2, **mean})
    first, second = figure_of([curve(2.0, 1.0, title="first"), batched]).axes
    assert [first.get_title(), second.get_title()] == ["first", "second"]
    assert [line.get_xydata().tolist() for line in first.lines] == [[[1.0, 2.0], [2.0, 1.0]]]
    assert [line.get_xydata().tolist() for line in second.lines] == [
        [[0.5, 3.0], [1.0, 1.0]],
        [[1.0, 2.0]],
    ]


def validated() -> Curve:
    made = Curve("net")
    for epoch, (loss, accuracy) in enumerate([(2.0, 0.5), (1.0, 0.75)], start=1):
        made(
            {"epoch": epoch, "epochs": 2, "loss": loss}
            | {"validation_loss": 2 * loss, "accuracy": accuracy}
        )
    return made


def test_metrics_are_kept_for_each_epoch_and_told_in_the_text() -> None:
    assert validated().metrics == {
        "validation_loss": {1: 4.0, 2: 2.0},
        "accuracy": {1: 0.5, 2: 0.75},
    }
    assert text_plot(validated(), width=4, height=2).plain.splitlines()[0] == (
        "net: loss 2.0000 → 1.0000, validation_loss 4.0000 → 2.0000, accuracy 0.5000 → 0.7500"
    )


def test_the_figure_shows_other_losses_beside_the_loss_and_metrics_on_an_axis_of_their_own() -> (
    None
):
    pytest.importorskip("matplotlib")
    losses, metrics = figure_of([validated()]).axes
    assert [line.get_label() for line in losses.lines] == ["epochs", "validation_loss"]
    assert losses.lines[1].get_xydata().tolist() == [[1.0, 4.0], [2.0, 2.0]]
    assert [line.get_label() for line in metrics.lines] == ["accuracy"]
    assert metrics.get_ylabel() == "accuracy"
    legend = [text.get_text() for text in metrics.get_legend().get_texts()]
    assert legend == ["epochs", "validation_loss", "accuracy"]


def test_curves_are_drawn_into_a_png_that_shows_something(tmp_path: Any) -> None:
    image = pytest.importorskip("matplotlib.image")
    path = tmp_path / "new" / "curve.png"
    draw_curves([Curve("silent"), curve(2.0, math.nan, 1.0)], path)
    assert path.read_bytes().startswith(PNG)
    pixels = image.imread(path)
    assert np.unique(pixels.reshape(-1, pixels.shape[-1]), axis=0).shape[0] > 10


def test_the_suffix_says_what_is_drawn(tmp_path: Any) -> None:
    pytest.importorskip("matplotlib")
    draw_curves([curve(1.0)], tmp_path / "curve.SVG")
    assert "<svg" in (tmp_path / "curve.SVG").read_text()
    with pytest.raises(CommandFailed, match=r"'curve.gif' should end in .png, .svg, .pdf"):
        check_drawing(tmp_path.__class__("curve.gif"))


def test_without_matplotlib_it_says_what_to_install(monkeypatch: Any, tmp_path: Any) -> None:
    monkeypatch.setattr(picture, "find_spec", lambda name: None)
    with pytest.raises(CommandFailed, match=r"pip install 'soma-core\[plot\]'"):
        check_drawing(tmp_path / "curve.png")


def test_where_no_loss_was_reported_nothing_is_drawn_and_that_is_reported(tmp_path: Any) -> None:
    with pytest.raises(CommandFailed, match="no filter reported a loss"):
        draw_curves([Curve("silent")], tmp_path / "curve.png")


def test_a_picture_that_cannot_be_written_is_reported(tmp_path: Any) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "file").write_text("")
    with pytest.raises(CommandFailed, match=r"cannot write .*curve\.png: "):
        draw_curves([curve(1.0)], tmp_path / "file" / "curve.png")
