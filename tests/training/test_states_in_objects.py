"""What a filter learns in itself, and what the host cannot read, is kept or told as lost."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import soma_core as soma

from ..support import wait_until

LIBRARY = """
import soma_core as soma

class Model:
    def __init__(self, mean, rows):
        self.mean, self.rows = mean, rows

class Center(soma.Filter):
    def fit(self, x, y=None):
        return {"model": Model(float(x.mean()), x), "count": len(x)}

    def forward(self, x, state):
        return x - state["model"].mean
"""
ENTRY_POINTS = "[soma.filters]\nacme.Center = acme_models:Center\n"
X = np.arange(5.0)


class KeepsToItself:
    """Learns in its attributes, as many classes do; what ``fit`` returns is as configured."""

    def __init__(self, *, returns_itself: bool = False) -> None:
        self.returns_itself = returns_itself

    def fit(self, x: Any, y: Any = None) -> Any:
        self.mean = float(np.mean(x))
        return self if self.returns_itself else None

    def forward(self, x: Any, state: Any) -> Any:
        return x - self.mean


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a package that is installed for the worker alone."""
    folder = tmp_path_factory.mktemp("library")
    (folder / "acme_models.py").write_text(LIBRARY)
    (folder / "acme-1.dist-info").mkdir()
    (folder / "acme-1.dist-info/METADATA").write_text(
        "Metadata-Version: 2.1\nName: acme\nVersion: 1\n"
    )
    (folder / "acme-1.dist-info/entry_points.txt").write_text(ENTRY_POINTS)
    return folder


def _kill(worker: soma.Worker) -> None:
    os.kill(worker.ping().pid, signal.SIGKILL)
    wait_until(lambda: not worker.status().alive)


def test_a_state_of_a_library_that_the_host_lacks_is_kept_and_sent_back(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {
        "env": {"PYTHONPATH": str(library)},
        "filters": {"center": ("acme.Center", {})},
        "restart": "on-crash",
    }
    with soma.connect("stdio", **options) as worker:
        state = worker.fit("center", X)
        assert state["count"] == 5
        assert repr(state["model"]).endswith("No module named 'acme_models'>")
        np.testing.assert_array_equal(worker.forward("center", X + 1, state), X - 1)
        worker.save_checkpoint(tmp_path / "it.ckpt")
        _kill(worker)
        np.testing.assert_array_equal(worker.forward("center", X), X - 2)
        worker.fit("center", X * 0)
        worker.load_checkpoint(tmp_path / "it.ckpt")
        np.testing.assert_array_equal(worker.forward("center", X), X - 2)
    with pytest.raises(soma.ProtocolError, match="install it there"):
        state["model"].load()
    monkeypatch.syspath_prepend(library)
    np.testing.assert_array_equal(state["model"].load().rows, X)
    monkeypatch.delitem(sys.modules, "acme_models")


def test_an_opaque_state_is_a_pickle_and_refused_as_one() -> None:
    state = soma.OpaqueState(b"", [], "no such module")
    with (
        soma.connect("inline", pickle="never", filters={"it": ("sklearn.Ridge", {})}) as worker,
        pytest.raises(soma.ProtocolError, match="can only travel as a pickle"),
    ):
        worker.forward("it", X, {"model": state})


@pytest.mark.nightly
@pytest.mark.parametrize("returns_itself", [False, True])
def test_what_an_object_learned_in_itself_is_told_as_lost_unless_it_was_fetched(
    returns_itself: bool,
) -> None:
    filters = {"it": KeepsToItself(returns_itself=returns_itself)}
    with soma.connect("stdio", restart="on-crash", filters=filters) as worker:
        worker.fit("it", X)
        assert worker.metas["it"].kind is soma.FilterKind.OPAQUE
        assert worker.list().nodes["it"].learned
        _kill(worker)
        with pytest.raises(soma.StateLost, match=r"learned last \(by fit\)"):
            worker.forward("it", X)
        worker.fit("it", X)
        worker.get_state("it")
        _kill(worker)
        np.testing.assert_array_equal(worker.forward("it", X), X - 2)


def test_what_an_object_learned_in_itself_is_in_a_checkpoint(tmp_path: Path) -> None:
    with soma.connect("inline", filters={"it": KeepsToItself()}) as worker:
        worker.fit("it", X)
        worker.save_checkpoint(tmp_path / "it.ckpt")
    with soma.connect("inline", filters={"it": KeepsToItself()}) as worker:
        worker.load_checkpoint(tmp_path / "it.ckpt")
        np.testing.assert_array_equal(worker.forward("it", X), X - 2)


def test_going_on_with_an_object_that_learned_in_itself_is_refused() -> None:
    with soma.connect("inline", filters={"it": KeepsToItself()}) as worker:
        worker.fit("it", X)
        with pytest.raises(soma.RemoteError, match="'it' cannot go on from what was learned"):
            worker.batched_fit(["it"], X, resume=True)


class Overshoots:
    """Counts its batches in itself."""

    def __init__(self) -> None:
        self.counts = {"batches": 0}

    def fit(self, x: Any, y: Any = None) -> Any:
        self.counts["batches"] += 1

    def forward(self, x: Any, state: Any) -> Any:
        return np.full(len(x), float(self.counts["batches"]))


def test_an_object_that_learns_in_itself_is_put_back_as_it_was_at_its_best() -> None:
    closeness = {"closeness": lambda y, out: -float(np.abs(y - out).mean())}
    with soma.connect("inline", filters={"node": Overshoots()}) as worker:
        fitted = worker.batched_fit(
            ["node"], X, X * 0 + 2.0, epochs=4, validation=(X, X * 0 + 2.0), metrics=closeness,
            restore_best=True,
        )  # fmt: skip
        assert fitted.best_epoch == 2
        assert worker.forward("node", X)[0] == 2.0
