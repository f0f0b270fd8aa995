"""A worker says what it holds, to every client of a session."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import soma_core as soma

from ..support import SocketDaemon

Connect = Callable[..., soma.Worker]


class Mean(soma.Filter):
    def fit(self, x: Any, y: Any = None) -> Any:
        return {"mean": sum(x) / len(x)}

    def forward(self, x: Any, state: Any) -> Any:
        return [value - state["mean"] for value in x]


class Wide(soma.Filter):
    columns: int = 2

    def meta(self) -> soma.FilterMeta:
        schema = soma.Schema(dtype="Float64", shape=[soma.Fixed(self.columns)])
        return super().meta().replace(output_schema=schema)

    def forward(self, x: Any, state: Any) -> Any:
        return [0.0] * self.columns


class Double(soma.Filter):
    def forward(self, x: Any, state: Any) -> Any:
        return x * 2


@pytest.fixture
def clients(shared_socket_daemon: SocketDaemon) -> Iterator[tuple[soma.Worker, soma.Worker]]:
    """Two clients of one session."""
    options = {"path": shared_socket_daemon.path, "session": "listing"}
    first = soma.connect("socket", **options)
    second = soma.connect("socket", **options)
    yield first, second
    second.close()
    first.shutdown()


def test_it_lists_nodes_filters_and_versions(connect: Connect) -> None:
    worker = connect("stdio", filters={"mean": Mean(), "double": Double()})
    worker.load({"fixed": Mean()}, trainable=False)
    worker.fit("mean", [1, 3])
    listing = worker.list()
    assert {key: (node.learned, node.trainable) for key, node in listing.nodes.items()} == {
        "mean": (True, True),
        "double": (False, True),
        "fixed": (False, False),
    }
    assert listing.nodes["mean"].meta.name == "Mean"
    assert listing.nodes["mean"].filter is None
    assert listing.versions["soma"] == soma.__version__
    assert "events" in listing.features
    assert listing.filters == sorted(listing.filters)


def test_what_a_filter_declares_follows_the_state_that_is_put_in(connect: Connect) -> None:
    worker = connect("inline", filters={"narrow": Wide(), "wide": Wide(columns=3)})
    worker.set_state("narrow", worker.get_state("wide"))
    assert worker.metas["narrow"] == worker.metas["wide"]


def test_a_state_that_is_put_in_counts_as_learned(connect: Connect) -> None:
    worker = connect("inline", filters={"a": Mean(), "b": Mean()})
    worker.fit("a", [1])
    worker.set_state("b", worker.get_state("a"))
    assert worker.list().nodes["b"].learned


def test_every_client_of_a_session_sees_the_nodes_of_all(
    clients: tuple[soma.Worker, soma.Worker],
) -> None:
    first, second = clients
    first.load({"mean": Mean()})
    first.fit("mean", [1, 3])
    assert second.node_ids == ["mean"]
    assert second.metas["mean"].name == "Mean"
    assert second.filter("mean").forward([2], None) == [0]
    second.load({"double": Double()})
    assert first.node_ids == ["mean", "double"]
    first.unload(["mean"])
    assert second.node_ids == ["double"]


def test_a_second_client_saves_what_the_first_one_trained(
    clients: tuple[soma.Worker, soma.Worker], tmp_path: Path
) -> None:
    first, second = clients
    first.load({"mean": Mean()})
    first.fit("mean", [1, 3])
    second.save_checkpoint(tmp_path / "saved")
    first.fit("mean", [10])
    second.load_checkpoint(tmp_path / "saved")
    assert first.forward("mean", [2]) == [0]


@pytest.mark.parametrize("transport", ["inline", "stdio"])
def test_a_checkpoint_of_no_nodes_is_refused(
    connect: Connect, transport: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="nothing to save"):
        connect(transport).save_checkpoint(tmp_path / "empty")
    assert list(tmp_path.iterdir()) == []


def test_a_closed_client_of_a_session_says_what_it_knew(
    clients: tuple[soma.Worker, soma.Worker],
) -> None:
    first, second = clients
    second.load({"double": Double()})
    second.close()
    assert second.node_ids == ["double"]
    assert "closed" in repr(second)
    assert first.node_ids == ["double"]
