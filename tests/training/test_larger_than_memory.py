"""Data that is larger than memory: in chunks that the host makes, and in files of the worker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import soma_core as soma

X = np.arange(90, dtype="f4").reshape(30, 3)
Y = X.sum(axis=1)


class Rows(soma.Filter):
    """Remembers what it has seen."""

    def fit(self, x: Any, y: Any = None) -> Any:
        raise AssertionError("partial_fit is there")

    def partial_fit(self, x: Any, y: Any, state: Any) -> Any:
        assert x.flags.writeable
        return {
            "x": [*state.get("x", []), *x[:, 0].tolist()],
            "y": [*state.get("y", []), *([] if y is None else y.tolist())],
            "sizes": [*state.get("sizes", []), len(x)],
        }

    def forward(self, x: Any, state: Any) -> Any:
        return x


class Begins(Rows):
    """Begins with the sum of all targets."""

    def initial_state(self, y: Any) -> Any:
        return {"x": [float(y.sum())]}


class Median(soma.Filter):
    def meta(self) -> soma.FilterMeta:
        return super().meta().replace(stream_mode="Barrier")

    def fit(self, x: Any, y: Any = None) -> Any:
        return {"median": np.median(x, axis=0)}

    def forward(self, x: Any, state: Any) -> Any:
        return x - state["median"]


def chunks() -> Iterator[tuple[Any, Any]]:
    for start, end in ((0, 8), (8, 9), (9, 30)):
        yield X[start:end], Y[start:end]


def test_chunks_are_fitted_in_order_batch_by_batch(worker: Any) -> None:
    worker.load({"rows": Rows()})
    found = worker.batched_fit(["rows"], chunks(), batch_size=5)
    assert found.states["rows"]["x"] == X[:, 0].tolist()
    assert found.states["rows"]["y"] == Y.tolist()
    assert found.states["rows"]["sizes"] == [5, 3, 1, 5, 5, 5, 5, 1]


def test_a_chunk_is_taken_when_the_worker_has_learned_from_the_one_before(worker: Any) -> None:
    worker.load({"rows": Rows()})
    seen = []

    def watched() -> Iterator[tuple[Any, Any]]:
        for chunk in chunks():
            seen.append(len(worker.get_state("rows").fit_state.get("x", [])))
            yield chunk

    worker.batched_fit(["rows"], watched())
    assert seen == [0, 8, 9]


class DataLoader:
    """Gives batches as torch's does: in lists."""

    def __iter__(self) -> Iterator[Any]:
        return map(list, chunks())


def test_a_data_loader_is_gone_through_in_each_epoch(inline: Any) -> None:
    inline.load({"rows": Rows()})
    found = inline.batched_fit(["rows"], DataLoader(), epochs=2)
    assert found.states["rows"]["x"] == X[:, 0].tolist() * 2


def test_a_function_gives_new_chunks_for_each_epoch(inline: Any) -> None:
    inline.load({"rows": Rows()})
    reports: list[dict[str, Any]] = []
    epochs: list[Any] = []
    found = inline.batched_fit(
        ["rows"], chunks, epochs=2, batch_size=30, progress=reports.append, on_epoch=epochs.append
    )
    assert found.states["rows"]["x"] == X[:, 0].tolist() * 2
    assert [(r["epoch"], r["batch"], r.get("batches")) for r in reports] == [
        (1, 1, None),
        (1, 2, None),
        (1, 3, None),
        (1, 3, 3),
        (2, 1, None),
        (2, 2, None),
        (2, 3, None),
        (2, 3, 3),
    ]
    assert [report["epoch"] for report in epochs] == [1, 2]


def test_a_network_learns_from_chunks_as_from_all_the_data(inline: Any) -> None:
    pytest.importorskip("soma_filters_torch")
    inline.load({"net": ("torch.MLP", {"sizes": [3, 4, 1], "seed": 1})})
    y = Y[:, None]
    cut = [(X[start : start + 10], y[start : start + 10]) for start in (0, 10, 20)]
    options = {"batch_size": 5, "epochs": 3, "validation": (X, y)}
    whole = inline.batched_fit(["net"], X, y, **options)
    state = inline.get_state("net").data
    chunked = inline.batched_fit(["net"], lambda: iter(cut), **options)
    assert chunked.history == whole.history
    assert inline.get_state("net").data == state


@pytest.mark.parametrize("shuffle", [False, True])
def test_all_outputs_of_chunks_are_collected_in_the_order_of_their_rows(
    inline: Any, shuffle: bool
) -> None:
    inline.load({"rows": Rows()})
    options = {"batch_size": 4, "epochs": 2, "shuffle": shuffle, "seed": 1, "collect": "all"}
    found = inline.batched_fit(["rows"], chunks, **options)
    assert np.array_equal(found.result, X)


def test_chunks_may_have_no_targets(inline: Any) -> None:
    inline.load({"rows": Rows()})
    found = inline.batched_fit(["rows"], iter([(X, None)]))
    assert found.states["rows"]["y"] == []


def test_what_a_source_of_chunks_raises_ends_the_fit(inline: Any) -> None:
    inline.load({"rows": Rows()})

    def broken() -> Iterator[tuple[Any, Any]]:
        yield X, Y
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        inline.batched_fit(["rows"], broken())
    assert inline.batched_fit(["rows"], X, Y).states["rows"]["x"] == X[:, 0].tolist()


@pytest.mark.parametrize(
    ("x", "options", "error", "message"),
    [
        (chunks(), {"epochs": 2}, ValueError, "give a function that returns a new iterator"),
        (chunks(), {"y": Y}, ValueError, "they bring their targets, so leave y out"),
        (iter([]), {}, ValueError, "there is no chunk of data in epoch 1"),
        (iter([X]), {}, TypeError, r"a chunk is a tuple \(x, y\).* got a ndarray"),
    ],
)
def test_chunks_that_cannot_be_fitted_are_refused(
    inline: Any, x: Any, options: Any, error: type[Exception], message: str
) -> None:
    inline.load({"rows": Rows()})
    with pytest.raises(error, match=message):
        inline.batched_fit(["rows"], x, **options)


def test_a_node_that_needs_all_rows_at_once_is_named(inline: Any) -> None:
    inline.load({"median": Median()})
    with pytest.raises(soma.RemoteError, match="'median' is a Barrier: it needs all the data"):
        inline.batched_fit(["median"], chunks())


def write(path: Path, form: str) -> tuple[soma.DataFile, soma.DataFile]:
    if form == "npz":
        np.savez(path / "d.npz", names=np.zeros(5), x=X, y=Y)
        return soma.DataFile(path / "d.npz", "x"), soma.DataFile(path / "d.npz", "y")
    stored = {
        "npy": (X, Y),
        "columns first": (np.asfortranarray(X), Y),
        "big-endian": (X.astype(">f4"), Y.astype(">f4")),
    }[form]
    for name, array in zip(("x.npy", "y.npy"), stored, strict=True):
        np.save(path / name, array)
    return soma.DataFile(path / "x.npy"), soma.DataFile(path / "y.npy")


@pytest.mark.parametrize("form", ["npy", "npz", "columns first", "big-endian"])
def test_a_worker_reads_the_rows_of_a_file_by_itself(
    worker: Any, tmp_path: Path, form: str
) -> None:
    worker.load({"rows": Rows()})
    x, y = write(tmp_path, form)
    options = {"batch_size": 7, "epochs": 2, "collect": "all"}
    for shuffle in ({}, {"shuffle": True, "seed": 3}):
        from_file = worker.batched_fit(["rows"], x, y, **options, **shuffle)
        sent = worker.batched_fit(["rows"], X, Y, **options, **shuffle)
        assert from_file.states == sent.states
        assert from_file.result.dtype == np.float32
        assert np.array_equal(from_file.result, X)


def test_files_are_read_without_pickles_too(tmp_path: Path) -> None:
    pytest.importorskip("soma_filters_sklearn")
    x, y = write(tmp_path, "npz")
    filters = {"sgd": ("sklearn.SGDRegressor", {"random_state": 0})}
    with soma.connect("inline", filters=filters, pickle="never") as worker:
        from_file = worker.batched_fit(["sgd"], x, y).states["sgd"]
        sent = worker.batched_fit(["sgd"], X, Y).states["sgd"]
    assert repr(from_file) == repr(sent)


def test_a_barrier_and_an_initial_state_see_all_rows_of_a_file(inline: Any, tmp_path: Path) -> None:
    inline.load({"median": Median(), "rows": Begins()})
    x, y = write(tmp_path, "npy")
    states = inline.batched_fit(["median", "rows"], x, y).states
    assert np.array_equal(states["median"]["median"], np.median(X, axis=0))
    assert states["rows"]["x"][0] == Y.sum()


def test_a_relative_path_is_one_of_the_host(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "npy")
    with soma.connect("stdio", filters={"rows": Rows()}, cwd="/") as worker:
        assert len(worker.batched_fit(["rows"], soma.DataFile("x.npy")).states["rows"]["x"]) == 30


@pytest.mark.parametrize(
    ("name", "key", "message"),
    [
        ("none.npy", None, "No such file"),
        ("text.npy", None, "magic string"),
        ("x.npy", "x", "it is no .npz file"),
        ("cut.npy", None, "buffer is too small"),
        ("objects.npy", None, "type object; expected rows"),
        ("number.npy", None, r"of shape \(\)"),
        ("d.npz", None, "expected key= to be one of the arrays in it: names, x, y"),
        ("d.npz", "z", "expected key= to be one of the arrays in it: names, x, y"),
        ("c.npz", "x", "'x' is compressed"),
        ("text.npz", "x", "not a zip file"),
    ],
)
def test_a_file_whose_rows_cannot_be_read_is_refused_with_the_reason(
    inline: Any, tmp_path: Path, name: str, key: str | None, message: str
) -> None:
    write(tmp_path, "npy")
    write(tmp_path, "npz")
    np.savez_compressed(tmp_path / "c.npz", x=X)
    np.save(tmp_path / "objects.npy", np.array([{}], object))
    np.save(tmp_path / "number.npy", np.array(1.0))
    for text in ("text.npy", "text.npz"):
        (tmp_path / text).write_text("hello, this is no array")
    (tmp_path / "cut.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:200])
    inline.load({"rows": Rows()})
    with pytest.raises(soma.RemoteError, match=message) as caught:
        inline.batched_fit(["rows"], soma.DataFile(tmp_path / name, key))
    assert caught.value.code == "invalid_command"
    assert name in str(caught.value)


class Peak(soma.Filter):
    """Measures how much memory the worker holds at most."""

    def fit(self, x: Any, y: Any = None) -> Any:
        raise AssertionError("partial_fit is there")

    def partial_fit(self, x: Any, y: Any, state: Any) -> Any:
        import psutil

        held = psutil.Process().memory_info().rss
        return {"rows": state.get("rows", 0) + len(x), "peak": max(held, state.get("peak", 0))}

    def forward(self, x: Any, state: Any) -> Any:
        return None


@pytest.mark.nightly
@pytest.mark.parametrize("shuffle", [False, True])
def test_a_file_is_read_in_constant_memory(tmp_path: Path, shuffle: bool) -> None:
    rows, columns = 1 << 18, 256
    np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (rows, columns)).flush()
    with soma.connect("stdio", filters={"peak": Peak()}) as worker:
        idle = worker.batched_fit(["peak"], X).states["peak"]["peak"]
        options = {"batch_size": 1 << 12, "shuffle": shuffle}
        state = worker.batched_fit(["peak"], soma.DataFile(tmp_path / "x.npy"), **options).states[
            "peak"
        ]
    assert state["rows"] == rows
    assert state["peak"] - idle < 150 << 20  # of 256 MiB


def test_an_operator_may_forbid_that_hosts_name_files(
    inline: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "x.npy", X)
    inline.load({"rows": Rows()})
    monkeypatch.setenv("SOMA_DATA_FILES", "never")
    for name in ("x.npy", "absent.npy"):
        with pytest.raises(soma.RemoteError, match="SOMA_DATA_FILES=never"):
            inline.batched_fit(["rows"], soma.DataFile(tmp_path / name))
