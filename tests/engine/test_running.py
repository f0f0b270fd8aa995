"""FIT, FORWARD, COMPOSITE_FORWARD, the small commands, and exceptions that become replies."""

from __future__ import annotations

import json
import math
import os
from typing import Any

import numpy as np
import pytest
from ormsgpack import packb

import soma_core as soma
from soma_core import progress
from soma_core.transport import Dialect, Message


class Sees:
    """Learns its data; returns the state that it was given."""

    def fit(self, x: Any, y: Any = None) -> Any:
        return {"x": x, "y": y}

    def forward(self, x: Any, state: Any) -> Any:
        return {"x": x, "state": state}


class Add:
    def __init__(self, term: int) -> None:
        self.term = term

    def fit(self, x: Any, y: Any = None) -> Any:
        return {"term": self.term}

    def forward(self, x: Any, state: Any) -> Any:
        return x + (self.term if state in ({}, None) else state["term"])


class Does:
    def __init__(self, action: Any) -> None:
        self.action = action

    def fit(self, x: Any, y: Any = None) -> Any:
        return self.action()

    partial_fit = None

    def forward(self, x: Any, state: Any) -> Any:
        return self.action()


class Raises:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def fit(self, x: Any, y: Any = None) -> Any:
        raise self.error

    def forward(self, x: Any, state: Any) -> Any:
        raise self.error

    def state_dict(self) -> Any:
        raise self.error


def test_fit_gives_the_data_and_returns_the_state_that_the_node_keeps(host: Any) -> None:
    host.load(a=Sees())
    assert host.ask("FIT", node_id="a", data=[1], y=2)["result"] == {"x": [1], "y": 2}
    assert host.node("a").state == {"x": [1], "y": 2}


def test_fit_without_data_gives_none(host: Any) -> None:
    host.load(a=Sees())
    assert host.ask("FIT", node_id="a")["result"] == {"x": None, "y": None}


def test_a_state_can_stay_in_the_worker(host: Any) -> None:
    host.load(a=Sees())
    assert "result" not in host.ask("FIT", node_id="a", data=1, return_state=False)
    assert host.ask("FORWARD", node_id="a", data=0)["result"]["state"] == {"x": 1, "y": None}


def test_an_omitted_state_is_the_learned_one_and_an_explicit_one_is_used_as_given(
    host: Any,
) -> None:
    host.load(a=Sees())

    def state(**fields: Any) -> Any:
        return host.ask("FORWARD", node_id="a", data=0, **fields)["result"]["state"]

    assert state() == {}
    host.ask("FIT", node_id="a", data=7)
    learned = {"x": 7, "y": None}
    assert state() == learned
    assert state(state=None) is None
    assert state(state={}) == {}
    assert state(state=0) == 0
    assert state(state={"x": np.ones(1)})["x"].tolist() == [1.0]
    assert state() == learned


class Answers:
    """Has other methods than forward."""

    def fit(self, x: Any, y: Any = None) -> Any:
        return {"x": x}

    def forward(self, x: Any, state: Any) -> Any:
        return "forward"

    def predict(self, x: Any, state: Any) -> Any:
        return {"x": x, "state": state}

    def score(self, x: Any, y: Any, state: Any) -> Any:
        return [x, y, state]

    def transform(self, x: Any, state: Any) -> Any:
        raise LookupError("no such row")


def test_a_method_is_called_by_its_name_with_the_learned_state_or_the_one_that_came(
    host: Any,
) -> None:
    host.load(a=Answers())
    host.ask("FIT", node_id="a", data=7)
    call = {"cmd": "CALL_METHOD", "node_id": "a", "method": "predict", "data": 1}
    assert host.line(call)["result"] == {"x": 1, "state": {"x": 7}}
    assert host.line({**call, "state": {"x": 8}})["result"] == {"x": 1, "state": {"x": 8}}
    assert host.line({**call, "state": None})["result"] == {"x": 1, "state": None}
    scored = host.ask("CALL_METHOD", node_id="a", method="score", data=1, y=2)
    assert scored["result"] == [1, 2, {"x": 7}]


def test_a_method_that_the_filter_lacks_is_refused_by_name(host: Any) -> None:
    host.load(a=Answers())
    call = {"cmd": "CALL_METHOD", "node_id": "a", "method": "predict_proba", "data": 1}
    error = host.line(call)
    assert (error["ok"], error["code"]) == (False, "filter_failed")
    assert error["error"] == (
        "node 'a' is a Answers, which has no method predict_proba: define "
        "predict_proba(self, x, state), or call what it has"
    )


@pytest.mark.parametrize("method", ["fit", "__init__", "forward", "state_dict", None])
def test_only_methods_that_answer_can_be_named(host: Any, method: Any) -> None:
    host.load(a=Answers())
    error = host.line({"cmd": "CALL_METHOD", "node_id": "a", "method": method, "data": 1})
    assert (error["ok"], error["code"]) == (False, "invalid_command")
    assert "method" in error["error"]


def test_what_a_method_raises_is_an_error_reply(host: Any) -> None:
    host.load(a=Answers())
    error = host.line({"cmd": "CALL_METHOD", "node_id": "a", "method": "transform", "data": 1})
    assert (error["code"], error["type"], error["node_id"]) == ("filter_failed", "LookupError", "a")


def test_empty_is_an_empty_dict_as_a_state_and_none_as_data(host: Any) -> None:
    host.load(a=Sees())
    empty = {"type": "Empty"}
    host.line({"cmd": "FIT", "node_id": "a", "data": 1})
    line = {"cmd": "FORWARD", "node_id": "a", "data": empty, "state": empty}
    assert host.line(line)["result"] == {"x": None, "state": {}}
    assert host.line({**line, "state": None})["result"] == {"x": None, "state": None}


def test_a_composite_passes_each_output_on_with_the_state_of_each_node(host: Any) -> None:
    host.load(a=Add(1), b=Add(10))

    def forward(**fields: Any) -> Any:
        return host.ask("COMPOSITE_FORWARD", node_ids=["a", "b"], data=0, **fields)["result"]

    assert forward() == 11
    host.ask("FIT", node_id="a", data=0)
    host.node("a").state = {"term": 100}
    assert forward() == 110
    assert forward(states={}) == 110
    assert forward(states={"a": {"term": 5}}) == 15
    assert forward(states={"a": {}, "b": {"term": 2}}) == 3
    assert forward(states={"a": None}) == 11
    assert host.ask("COMPOSITE_FORWARD", node_ids=["a", "a"], data=0)["result"] == 200


def test_states_of_a_composite_may_be_empty_values_in_lines(host: Any) -> None:
    host.load(a=Sees())
    line = {"cmd": "COMPOSITE_FORWARD", "node_ids": ["a"], "data": 1}
    states = {"a": {"type": "Empty"}}
    assert host.line({**line, "states": states})["result"]["state"] == {}


def test_a_plain_composite_sees_what_was_sent_and_returns_what_the_filter_made(host: Any) -> None:
    host.load(a=Sees())
    for data in ([[1.0, 2.0]], {"a": [1]}, "text", b"raw", None, (1, 2)):
        reply = host.ask("COMPOSITE_FORWARD", node_ids=["a"], data=data)
        assert reply["result"]["x"] == data
        assert type(reply["result"]["x"]) is type(data)


def test_data_arrives_writable_and_is_not_the_host_s(host: Any, request: Any) -> None:
    class Spoils:
        def forward(self, x: Any, state: Any) -> Any:
            x[:] = 0
            return x

    with soma.connect("inline", filters={"a": Spoils()}) as worker:
        mine = np.arange(3.0)
        out = worker.forward("a", mine)
        out[:] = 9
    assert mine.tolist() == [0.0, 1.0, 2.0]


EXCEPTIONS = [
    ValueError("went wrong"),
    KeyError("missing"),
    ZeroDivisionError(),
    SystemExit(3),
    SystemExit(),
    GeneratorExit("stop"),
    StopIteration("no more"),
    RecursionError("deep"),
    MemoryError(),
    BaseException("base"),
    UnicodeError("\ud800"),
    AssertionError(),
    ExceptionGroup("several", [ValueError("a"), TypeError("b")]),
]


@pytest.mark.parametrize("error", EXCEPTIONS, ids=repr)
@pytest.mark.parametrize(
    ("cmd", "fields"),
    [
        ("FIT", {"node_id": "a"}),
        ("FORWARD", {"node_id": "a"}),
        ("COMPOSITE_FORWARD", {"node_ids": ["fine", "a"]}),
        ("COMPOSITE_FIT", {"node_ids": ["fine", "a"]}),
        ("BATCHED_FIT", {"node_ids": ["fine", "a"], "data": [1]}),
        ("GET_STATE", {"node_id": "a"}),
    ],
)
def test_whatever_a_filter_raises_is_an_error_reply_that_names_it(
    host: Any, refused: Any, cmd: str, fields: Any, error: BaseException
) -> None:
    host.put(a=Raises(error), fine=Sees())
    with pytest.raises(refused) as caught:
        host.ask(cmd, id=5, **fields)
    reply = caught.value.fields
    assert reply["code"] == "filter_failed"
    assert reply["type"] == type(error).__name__
    assert reply["error"] == (str(error) or type(error).__name__)
    assert (reply["id"], reply["cmd"], reply["node_id"]) == (5, cmd, "a")
    assert "in forward" in reply["traceback"] or cmd != "FORWARD"
    assert host.ask("PING")["ok"] is True


def test_an_interrupt_has_a_code_of_its_own(host: Any, refused: Any) -> None:
    host.put(a=Raises(KeyboardInterrupt()))
    with pytest.raises(refused) as caught:
        host.ask("FORWARD", node_id="a", data=1)
    assert caught.value.code == "interrupted"
    assert caught.value.node_id == "a"
    assert host.ask("PING")["ok"] is True


class CannotBeTold(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_an_exception_that_has_no_text_is_an_error_reply_like_any_other(
    host: Any, refused: Any
) -> None:
    host.put(a=Raises(CannotBeTold()))
    with pytest.raises(refused) as caught:
        host.ask("FORWARD", node_id="a", data=1)
    assert (caught.value.code, caught.value.node_id) == ("filter_failed", "a")
    assert caught.value.type == "CannotBeTold"


def test_a_filter_that_lacks_the_method_says_which(host: Any, refused: Any) -> None:
    class OnlyForward:
        def forward(self, x: Any, state: Any) -> Any:
            return x

    host.load(a=OnlyForward())
    with pytest.raises(refused, match=r"OnlyForward.* no method fit") as caught:
        host.ask("FIT", node_id="a", data=1)
    assert caught.value.code == "filter_failed"


def test_a_result_that_cannot_be_sent_is_an_error_reply(host: Any, refused: Any) -> None:
    host.put(a=Does(lambda: (n for n in "ab")))
    with pytest.raises(refused, match="generator cannot be sent"):
        host.ask("FORWARD", node_id="a", data=1)
    loop: list[Any] = []
    loop.append(loop)
    host.put(b=Does(lambda: loop))
    with pytest.raises(refused, match="contains itself") as caught:
        host.ask("FORWARD", node_id="b", data=1)
    assert caught.value.code == "too_large"
    assert host.line({"cmd": "PING"})["ok"]


def test_replies_in_lines_are_strict_json_with_readable_values(host: Any) -> None:
    host.put(a=Does(lambda: [math.nan, (1, np.float32(0.5)), np.arange(2), {"n": np.int64(3)}]))
    assert host.line({"cmd": "FORWARD", "node_id": "a"})["result"] == [
        {"$soma": "float", "value": "nan"},
        [1, 0.5],
        {"type": "Tensor", "data": {"dtype": "int64", "shape": [2], "values": [0, 1]}},
        {"n": 3},
    ]


@pytest.mark.parametrize("message_id", [0, 7, -1, 2**70, "", "x", "\ud800"], ids=repr)
def test_ids_are_echoed_in_results_and_errors(host: Any, message_id: Any) -> None:
    assert host.line({"cmd": "PING", "id": message_id})["id"] == message_id
    assert host.line({"cmd": "FORWARD", "node_id": "x", "id": message_id})["id"] == message_id
    assert host.line({"cmd": "NOPE", "id": message_id})["id"] == message_id
    assert host.line({"id": message_id})["id"] == message_id
    assert host.line({"cmd": "PING", "extra": 1, "id": message_id})["id"] == message_id


@pytest.mark.parametrize("message_id", [True, 1.5, None, [1]], ids=repr)
def test_what_is_no_id_is_not_echoed(host: Any, message_id: Any) -> None:
    assert "id" not in host.line({"cmd": "NOPE", "id": message_id})
    assert "id" not in host.line({"cmd": "PING"})


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b"null", b"\xff", b"[" * 50_000, b'{"a":' * 50_000, b'{"cmd":"PING"}x'],
    ids=lambda text: repr(text[:10]),
)
def test_a_message_that_is_none_gets_one_error_and_the_next_one_works(
    host: Any, text: bytes
) -> None:
    reply = host.line(text)
    assert (reply["ok"], reply["code"]) == (False, "malformed")
    assert host.line({"cmd": "PING"})["ok"] is True


def test_deep_data_beside_a_lone_surrogate_is_refused_by_a_code_of_its_own(host: Any) -> None:
    host.load(a=Sees())
    deep = b"[" * 800 + b'"\\ud800"' + b"]" * 800
    reply = host.line(b'{"cmd":"FIT","node_id":"a","data":' + deep + b"}")
    assert reply["code"] in ("malformed", "too_large")


def test_ping_tells_the_process_and_the_incarnation(host: Any) -> None:
    first, second = host.ask("PING"), host.ask("PING")
    assert first["pid"] == os.getpid()
    assert first["incarnation"] == second["incarnation"] != ""


def test_shutdown_is_acknowledged_and_ends_the_service(host: Any) -> None:
    assert host.responder.finished is False
    host.ask("PING")
    assert host.responder.finished is False
    assert host.line({"cmd": "SHUTDOWN", "id": 1}) == {"ok": True, "id": 1}
    assert host.responder.finished is True


def hello(**changes: Any) -> dict[str, Any]:
    from soma_core.protocol.versions import client_info

    client = {**client_info("test").model_dump(), **changes.pop("client", {})}
    return {"cmd": "HELLO", "protocol": 1, "client": client, **changes}


def test_hello_tells_what_the_engine_is_and_can(host: Any) -> None:
    reply = host.line(hello())
    assert reply["ok"] is True
    assert (reply["protocol"], reply["pid"], reply["pickle"]) == (1, os.getpid(), "same-user")
    assert reply["commands"][:2] == ["HELLO", "LOAD"]
    assert reply["versions"].keys() == {"soma", "python", "cloudpickle"}
    assert reply["limits"]["nesting"] == 200
    assert {"lines", "frames", "events"} <= set(reply["features"])


@pytest.mark.parametrize(
    "changes",
    [
        {"protocol": 2},
        {"client": {"python": "2.7.18"}},
        {"client": {"cloudpickle": "1.0"}},
    ],
    ids=str,
)
def test_versions_that_do_not_fit_are_refused_naming_both_sides(host: Any, changes: Any) -> None:
    reply = host.line(hello(**changes))
    assert reply["code"] == "incompatible"
    theirs = changes.get("protocol") or next(iter(changes["client"].values()))[:3]
    assert str(theirs).removesuffix(".0") in reply["error"]
    assert "the worker" in reply["error"]


def test_without_pickle_only_the_protocol_must_fit(host_without_pickle: Any) -> None:
    reply = host_without_pickle.line(hello(client={"python": "2.7", "cloudpickle": "1"}))
    assert (reply["ok"], reply["pickle"]) == (True, "never")


class Reports:
    def fit(self, x: Any, y: Any = None) -> Any:
        for epoch in range(3):
            progress.report(epoch=epoch, loss=np.float32(0.5), note="é")
        return {}

    def forward(self, x: Any, state: Any) -> Any:
        progress.report(loss=math.nan)
        return x


def test_events_are_sent_only_when_they_are_asked_for(host: Any) -> None:
    host.load(a=Reports())
    host.line({"cmd": "FIT", "node_id": "a", "data": 1})
    host.line({"cmd": "FIT", "node_id": "a", "data": 1, "events": False})
    assert host.events == []
    host.line({"cmd": "FIT", "node_id": "a", "data": 1, "events": True, "id": "x"})
    assert host.events == [
        {
            "event": "progress",
            "id": "x",
            "cmd": "FIT",
            "data": {"epoch": epoch, "loss": 0.5, "note": "é"},
        }
        for epoch in range(3)
    ]


def test_asking_once_does_not_turn_events_on_for_the_next_command(host: Any) -> None:
    host.load(a=Reports())
    host.line({"cmd": "FORWARD", "node_id": "a", "events": True})
    seen = len(host.events)
    host.line({"cmd": "FORWARD", "node_id": "a"})
    assert len(host.events) == seen == 1
    assert host.events[0]["data"] == {"loss": {"$soma": "float", "value": "nan"}}


def test_an_event_comes_in_the_dialect_of_its_command(host: Any) -> None:
    host.load(a=Reports())
    for dialect in Dialect:
        sent: list[Message] = []
        command = {"cmd": "FORWARD", "node_id": "a", "events": True}
        header = packb(command) if dialect is Dialect.FRAME else json.dumps(command).encode()
        host.responder.respond(Message(header, (), dialect), sent.append)
        assert [message.dialect for message in sent] == [dialect]


def test_progress_reaches_a_worker_s_callback_as_plain_numbers() -> None:
    seen: list[Any] = []
    with soma.connect("inline", filters={"a": Diverges()}) as worker:
        worker.fit("a", 1, progress=seen.append)
    assert len(seen) == 1
    assert math.isnan(seen[0]["loss"])


class Diverges(Reports):
    def fit(self, x: Any, y: Any = None) -> Any:
        progress.report(loss=math.nan)
        return {}
