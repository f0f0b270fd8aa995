"""Every way to smuggle a pickle past ``pickle="never"`` is refused, and nothing is executed."""

from __future__ import annotations

import base64
import json
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from ormsgpack import Ext, packb

import soma_core as soma
from soma_core import ErrorCode
from soma_core.protocol.dialects import read_fields
from soma_core.serve import Responder
from soma_core.transport import Dialect, Message

from .hostile import hostile_worker


class MakesADirectory:
    """Leaves a directory behind where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.mkdir, (self.path,)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    return tmp_path / "executed"


@pytest.fixture
def evil(trace: Path) -> MakesADirectory:
    return MakesADirectory(trace)


def test_the_pickle_of_these_tests_does_execute_where_it_is_read(evil: Any, trace: Path) -> None:
    pickle.loads(pickle.dumps(evil))
    assert trace.is_dir()


def disguises(evil: Any) -> dict[str, tuple[Any, Sequence[bytearray]]]:
    """The data of a message, and its buffers, that hold a pickle in some way."""
    data = cloudpickle.dumps(evil)
    numbers, b64 = list(data), base64.b64encode(data).decode()
    tag = {"type": "Object", "data": {"b64": b64}}
    return {
        "as the original writes it": ({"__pickle_b64__": b64}, ()),
        "as numbers": ({"type": "Object", "data": numbers}, ()),
        "as base64": (tag, ()),
        "in a frame": (Ext(14, packb([0, []])), [bytearray(data)]),
        "in a frame, with buffers apart": (
            Ext(14, packb([0, [1]])),
            [bytearray(data), bytearray(1)],
        ),
        "in a tuple of a frame": (Ext(3, packb([Ext(14, packb([0, []]))])), [bytearray(data)]),
        "as a key in a frame": (
            Ext(9, packb([[Ext(14, packb([0, []]))], [1]])),
            [bytearray(data)],
        ),
        "in a list of a frame": (Ext(18, packb([1, 0, []])), [bytearray(data)]),
        "in records of a frame": (
            Ext(16, packb([["a"], Ext(18, packb([1, 0, []]))])),
            [bytearray(data)],
        ),
        "in tuples of a frame": (
            Ext(15, packb([[1], [Ext(14, packb([0, []]))]])),
            [bytearray(data)],
        ),
        "in a set of a frame": (
            Ext(17, packb(["set", [[Ext(14, packb([0, []]))]]])),
            [bytearray(data)],
        ),
        "in a list": ([1, [tag]], ()),
        "in an object": ({"a": {"b": tag}}, ()),
        "in Json": ({"type": "Json", "data": {"a": tag}}, ()),
        "in Json in Json": ({"type": "Json", "data": {"type": "Json", "data": tag}}, ()),
        "as a key's value in a spelled dict": ({"$soma": "dict", "items": [["a", tag]]}, ()),
        "in a tuple": ({"$soma": "tuple", "items": [tag]}, ()),
        "as a scalar": ({"$soma": "scalar", "array": tag}, ()),
    }


FORMS = list(disguises(None))


def written(fields: dict[str, Any], buffers: Sequence[bytearray]) -> Message:
    """A frame where there are buffers, else a line."""
    if buffers:
        return Message(packb(fields), buffers)
    return Message(json.dumps(fields).encode(), (), Dialect.LINE)


# What a host sends


@pytest.fixture
def ask() -> Callable[..., dict[str, Any]]:
    """Gives a command to an engine that refuses pickles, and returns the reply."""
    responder = Responder(pickle="never")

    def ask(buffers: Sequence[bytearray] = (), **command: Any) -> dict[str, Any]:
        return read_fields(responder.respond(written(command, buffers), lambda _: None))

    return ask


PLACES: dict[str, Callable[[Any], dict[str, Any]]] = {
    "FIT data": lambda wire: {"cmd": "FIT", "node_id": "a", "data": wire},
    "FIT y": lambda wire: {"cmd": "FIT", "node_id": "a", "data": 1, "y": wire},
    "FORWARD data": lambda wire: {"cmd": "FORWARD", "node_id": "a", "data": wire},
    "FORWARD state": lambda wire: {"cmd": "FORWARD", "node_id": "a", "data": 1, "state": wire},
    "COMPOSITE_FORWARD states": lambda wire: {
        "cmd": "COMPOSITE_FORWARD",
        "node_ids": ["a"],
        "data": 1,
        "states": {"a": wire},
    },
    "COMPOSITE_FIT y": lambda wire: {
        "cmd": "COMPOSITE_FIT",
        "node_ids": ["a"],
        "data": 1,
        "y": wire,
    },
    "BATCHED_FIT data": lambda wire: {"cmd": "BATCHED_FIT", "node_ids": ["a"], "data": wire},
    "SET_STATE fit_state": lambda wire: {
        "cmd": "SET_STATE",
        "node_id": "a",
        "state_b64": "",
        "fit_state": wire,
    },
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("place", PLACES)
def test_a_worker_reads_no_pickle_in_any_place(
    ask: Any, evil: Any, trace: Path, place: str, form: str
) -> None:
    wire, buffers = disguises(evil)[form]
    reply = ask(buffers, **PLACES[place](wire))
    assert (reply["ok"], reply["code"]) == (False, "pickle_refused"), reply
    assert not trace.exists()


@pytest.fixture
def loaded(ask: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """The same engine with a registered filter under the id ``a``."""
    from soma_core.plugins.catalog import installed_filters

    monkeypatch.setattr(installed_filters(), "create", lambda name, config: Counts())
    assert ask(cmd="LOAD", filters=[{"id": "a", "filter": "counts"}])["ok"] is True
    return ask


class Counts:
    """A filter with a plain field."""

    def __init__(self) -> None:
        self.count = 0

    def forward(self, x: Any, state: Any) -> Any:
        return x


def test_load_takes_no_pickled_object(ask: Any, evil: Any, trace: Path) -> None:
    data = pickle.dumps(evil)
    spellings: list[tuple[Any, Sequence[bytearray]]] = [
        (base64.b64encode(data).decode(), ()),
        ({"type": "Bytes", "data": list(data)}, ()),
        (Ext(11, packb([0])), [bytearray(data)]),
        (data, [bytearray(0)]),
    ]
    for spelled, buffers in spellings:
        reply = ask(buffers, cmd="LOAD", filters=[{"id": "a", "pickle_b64": spelled}])
        assert reply["code"] == "pickle_refused"
    assert not trace.exists()


def test_the_configuration_of_a_filter_is_plain_data(
    ask: Any, evil: Any, trace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from soma_core.plugins.catalog import installed_filters

    received: list[Any] = []

    def create(name: str, config: dict[str, Any]) -> Counts:
        received.append(config)
        return Counts()

    monkeypatch.setattr(installed_filters(), "create", create)
    for form, (wire, buffers) in disguises(evil).items():
        config = {form: wire}
        filters = [{"id": "a", "filter": "counts", "config": config}]
        reply = ask(buffers, cmd="LOAD", filters=filters)
        if buffers:
            assert reply["code"] == "pickle_refused"
        else:
            assert received.pop() == config
    assert not received
    assert not trace.exists()


def test_a_state_in_the_cloudpickle_format_is_refused_both_ways(
    loaded: Any, evil: Any, trace: Path
) -> None:
    state = base64.b64encode(pickle.dumps(evil)).decode()
    sent = loaded(cmd="SET_STATE", node_id="a", state_b64=state, format="cloudpickle")
    fetched = loaded(cmd="GET_STATE", node_id="a", format="cloudpickle")
    assert (sent["code"], fetched["code"]) == ("pickle_refused", "pickle_refused")
    assert not trace.exists()


@pytest.mark.parametrize("form", [form for form in FORMS if "frame" not in form])
def test_a_typed_state_holds_no_pickle(loaded: Any, evil: Any, trace: Path, form: str) -> None:
    wire, _ = disguises(evil)[form]
    state = base64.b64encode(json.dumps({"count": wire}).encode()).decode()
    reply = loaded(cmd="SET_STATE", node_id="a", state_b64=state, format="value")
    assert (reply["ok"], reply["code"]) == (False, "invalid_state"), reply
    assert not trace.exists()


@pytest.mark.parametrize("format", [None, "value", "torch", "safetensors"])
def test_the_bytes_of_a_pickle_are_no_state_in_another_format(
    loaded: Any, evil: Any, trace: Path, format: str | None
) -> None:
    state = base64.b64encode(pickle.dumps(evil)).decode()
    reply = loaded(cmd="SET_STATE", node_id="a", state_b64=state, format=format or "value")
    assert reply["code"] == "invalid_state"
    assert not trace.exists()


def test_an_array_of_objects_has_no_spelling_but_a_pickle(ask: Any) -> None:
    for dtype in ("O", "object", "|O", [["a", "O"]], [["a", [["b", "|O8"]]]], "2O", "(2)O"):
        tensor = {"dtype": dtype, "shape": [1], "b64": base64.b64encode(bytes(16)).decode()}
        data = {"type": "Tensor", "data": tensor}
        reply = ask(cmd="FORWARD", node_id="a", data=data)
        assert reply["code"] == "invalid_command", dtype


# What a worker answers


REPLIES: dict[str, tuple[Callable[[soma.Worker], Any], Callable[[Any], dict[str, Any]]]] = {
    "fit": (lambda w: w.fit("a", 1), lambda wire: {"result": wire}),
    "forward": (lambda w: w.forward("a", 1), lambda wire: {"result": wire}),
    "composite_forward": (
        lambda w: w.composite_forward(["a"], 1),
        lambda wire: {"result": wire},
    ),
    "composite_fit": (lambda w: w.composite_fit(["a"], 1), lambda wire: {"result": wire}),
    "composite_fit, fit_states": (
        lambda w: w.composite_fit(["a"], 1),
        lambda wire: {"result": 1, "fit_states": {"a": wire}, "loss": None},
    ),
    "batched_fit": (
        lambda w: w.batched_fit(["a"], [1]),
        lambda wire: {"result": wire, "losses": []},
    ),
    "batched_fit, states": (
        lambda w: w.batched_fit(["a"], [1]),
        lambda wire: {"result": 1, "states": {"a": wire}, "losses": []},
    ),
    "get_state": (
        lambda w: w.get_state("a"),
        lambda wire: {"state_b64": "", "format": "value", "fit_state": wire},
    ),
    "fit, an event": (
        lambda w: w.fit("a", 1, progress=lambda report: None),
        lambda wire: {"event": "progress", "cmd": "FIT", "data": {"report": wire}},
    ),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("place", REPLIES)
def test_a_host_that_refuses_reads_no_pickle_in_any_reply(
    evil: Any, trace: Path, place: str, form: str
) -> None:
    wire, buffers = disguises(evil)[form]
    call, fields = REPLIES[place]
    content = fields(wire)
    reply = written(content if "event" in content else {"ok": True, **content}, buffers)
    worker = hostile_worker(lambda _: reply)
    with pytest.raises(soma.ProtocolError) as caught:
        call(worker)
    assert caught.value.code is ErrorCode.PICKLE_REFUSED
    assert not trace.exists()


def test_the_same_reply_is_read_by_a_host_that_allows_pickles(evil: Any, trace: Path) -> None:
    wire, buffers = disguises(evil)["in a frame"]
    reply = packb({"ok": True, "result": wire})
    hostile_worker(lambda _: Message(reply, buffers), policy="same-user").forward("a", 1)
    assert trace.is_dir()


def test_states_and_gradients_stay_bytes_in_the_host(evil: Any, trace: Path) -> None:
    b64 = base64.b64encode(pickle.dumps(evil)).decode()
    replies = {
        "GET_STATE": packb({"ok": True, "state_b64": b64, "format": "cloudpickle"}),
        "GET_GRADIENTS": packb({"ok": True, "gradients_b64": b64}),
    }
    worker = hostile_worker(lambda cmd: Message(replies[cmd]))
    assert worker.get_state("a").data == worker.get_gradients("a") == pickle.dumps(evil)
    assert not trace.exists()


def test_an_error_reply_names_an_exception_and_builds_nothing_else(trace: Path) -> None:
    for name in ("exec", "open", "SystemExit", "KeyboardInterrupt", "__import__", "Exception"):
        fields = {"ok": False, "error": f"{trace}", "code": "filter_failed", "type": name}
        worker = hostile_worker(lambda _, fields=fields: Message(packb(fields)))
        with pytest.raises(soma.RemoteError, match="executed"):
            worker.forward("a", 1)
    assert not trace.exists()


@pytest.mark.parametrize("field", ["error", "type", "code", "node_id", "cmd", "traceback"])
@pytest.mark.parametrize("nonsense", [5, ["x"], {"a": 1}, None], ids=str)
def test_an_error_reply_of_nonsense_is_an_error_reply_all_the_same(
    field: str, nonsense: Any
) -> None:
    reply = packb({"ok": False, field: nonsense})
    with pytest.raises(soma.RemoteError, match="gave no reason") as caught:
        hostile_worker(lambda _: Message(reply)).forward("a", 1)
    assert caught.value.code is ErrorCode.INTERNAL


# What a host makes


def test_a_host_that_refuses_makes_no_pickle_either(evil: Any) -> None:
    worker = hostile_worker(lambda cmd: pytest.fail(f"{cmd} was sent"))
    for call in (
        lambda: worker.load({"a": Learns()}),
        lambda: worker.fit("a", slice(1, 2)),
        lambda: worker.forward("a", 1, state={"a": evil}),
        lambda: worker.composite_forward(["a"], 1, {"a": slice(1, 2)}),
        lambda: worker.set_state("a", soma.NodeState(b"", "value", fit_state=evil)),
    ):
        with pytest.raises(soma.ProtocolError, match="registered name") as caught:
            call()
        assert caught.value.code is ErrorCode.PICKLE_REFUSED


class Learns(Counts):
    def fit(self, x: Any, y: Any = None) -> Any:
        return {}
