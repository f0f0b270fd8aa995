import io

from rich.console import Console

from soma_core.cli.progress import FitProgress


def _shown(reports, *, terminal=False, rows=None):
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=120)
    with FitProgress(console, "net", rows) as progress:
        for report in reports:
            progress(report)
    return stream.getvalue()


def test_outside_a_terminal_a_long_fit_is_a_few_plain_lines():
    text = _shown([{"epoch": epoch, "epochs": 100, "loss": 1 / epoch} for epoch in range(1, 101)])
    assert text.splitlines() == [
        "  net: epoch  20/100  loss 0.0500",
        "  net: epoch  40/100  loss 0.0250",
        "  net: epoch  60/100  loss 0.0167",
        "  net: epoch  80/100  loss 0.0125",
        "  net: epoch 100/100  loss 0.0100",
    ]


def test_only_the_last_batch_of_an_epoch_makes_a_line():
    reports = [{"epoch": 1, "epochs": 1, "batch": n, "batches": 3, "loss": None} for n in (1, 2, 3)]
    assert _shown(reports) == "  net: epoch 1/1\n"


def test_reports_without_epochs_are_not_shown():
    assert _shown([{"step": 3}, {"epoch": "one", "epochs": 2}]) == ""


def test_the_rate_is_shown_where_the_rows_are_known():
    assert "rows/s" in _shown([{"epoch": 1, "epochs": 1}], rows=1000)


def test_in_a_terminal_there_is_a_bar():
    text = _shown([{"epoch": 1, "epochs": 2, "loss": 0.5}], terminal=True)
    assert "epoch 1/2" in text
    assert "loss 0.5000" in text
