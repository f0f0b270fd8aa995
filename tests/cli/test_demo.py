import io
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from soma_core.cli.demo import command
from soma_core.cli.demo.digits import Digits, load_digits
from soma_core.cli.demo.display import show_readings
from soma_core.plugins.catalog import FilterCatalog


@pytest.fixture(scope="module")
def picture(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("demo") / "curve.png"


@pytest.fixture(scope="module")
def shown(picture) -> str:
    pytest.importorskip("soma_filters_sklearn")
    pytest.importorskip("soma_filters_torch")
    drawn = ["--curve", str(picture)] if find_spec("matplotlib") else []
    return run_demo("--epochs", "8", *drawn)


def run_demo(*arguments: str) -> str:
    ended = subprocess.run(
        [sys.executable, "-m", "soma_core.cli", "demo", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_the_demo_trains_over_one_transport_and_shows_what_it_reads():
    pytest.importorskip("soma_filters_sklearn")
    pytest.importorskip("soma_filters_torch")
    shown = run_demo("--transport", "stdio", "--no-kill", "--epochs", "5")
    assert "A worker over stdio" in shown
    assert "socket" not in shown


@pytest.mark.nightly
def test_the_demo_reads_digits_the_same_over_both_transports(shown):
    assert "A worker over stdio" in shown
    assert "A worker over socket" in shown
    assert "identical, bit for bit" in shown


@pytest.mark.nightly
def test_the_demo_shows_the_curve_which_is_the_same_over_both_transports(shown):
    assert re.search(r"MLP over stdio: loss [\d.]+ → [\d.]+\n *[\d.]+ │█", shown)
    assert "8 epochs" in shown
    assert "Over socket every epoch had the same loss, to the last bit." in shown


@pytest.mark.nightly
def test_the_demo_draws_the_curve_where_matplotlib_is_installed(shown, picture):
    pytest.importorskip("matplotlib")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.name in shown


@pytest.mark.nightly
def test_the_demo_shows_the_worker_that_was_killed_and_goes_on(shown):
    assert "WorkerDied: " in shown
    assert "SIGKILL" in shown
    assert "A new worker starts over" in shown


@pytest.mark.nightly
def test_the_demo_imports_neither_torch_nor_sklearn_itself(shown):
    assert "This process has imported neither torch nor sklearn." in shown


@pytest.mark.nightly
def test_the_demo_draws_digits_in_plain_text_where_there_is_no_terminal(shown):
    assert "██" in shown
    assert "\x1b" not in shown


def test_missing_plugins_are_named_with_what_to_install(soma, monkeypatch):
    nothing = FilterCatalog("soma.filters", "filter", find=lambda group: [])
    monkeypatch.setattr(command, "installed_filters", lambda: nothing)
    result = soma("demo")
    assert result.exit_code == 2
    assert "pip install soma-filters-sklearn soma-filters-torch" in result.stderr


def test_the_digits_are_the_1797_of_scikit_learn_in_two_parts():
    pytest.importorskip("soma_filters_sklearn")
    digits = load_digits()
    assert digits.x_train.shape == (1437, 64)
    assert digits.x_test.shape == (360, 64)
    pixels = np.concatenate([digits.x_train, digits.x_test])
    assert (pixels.min(), pixels.max()) == (0, 16)
    labels = np.concatenate([digits.y_train, digits.y_test])
    counts = [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert np.bincount(labels).tolist() == counts


def test_a_misread_digit_is_shown_and_counted():
    images = np.zeros((3, 64))
    digits = Digits(images, np.zeros(3), images, np.array([3, 4, 5]))
    stream = io.StringIO()
    show_readings(Console(file=stream, width=100), digits, np.array([3, 4, 8]))
    assert "a 5, read as 8 ✗" in stream.getvalue()
    assert "1 of 3 test images was misread: 5 as 8" in stream.getvalue()
