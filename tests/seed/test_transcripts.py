"""The same transcripts sent to the original daemon and to ours, and what each replied compared."""

from __future__ import annotations

import base64
import pickle
from typing import Any

import cloudpickle
import pytest

from ..support import gate_runs
from .filters import (
    Double,
    Echo,
    Fail,
    Look,
    Net,
    Shift,
    Total,
    load,
    pickled,
    to_b64,
    torch_loaded,
)

OURS = gate_runs("socket", of=["stdio", "socket"])
ALL = gate_runs("stdio", of=["seed", "stdio", "socket"])

COLUMN = {"v": [1.0, 2.0, 6.0]}

PLAIN: list[tuple[str, dict[str, Any]]] = [
    ("LOAD", {"filters": [{"id": "shift", "pickle_b64": pickled(Shift())}]}),
    (
        "LOAD",
        {
            "filters": [
                {"id": "total", "pickle_b64": pickled(Total()), "trainable": True},
                {"id": "fixed", "pickle_b64": pickled(Total(7)), "trainable": False},
                {"id": "look", "pickle_b64": pickled(Look())},
                {"id": "echo", "pickle_b64": pickled(Echo())},
                {"id": "fail", "pickle_b64": pickled(Fail())},
            ]
        },
    ),
    ("FIT", {"node_id": "shift", "data": COLUMN}),
    ("FIT", {"node_id": "shift", "data": COLUMN, "y": [1, 2, 3]}),
    ("FIT", {"node_id": "look", "data": [1, "a", None, True, 2.5], "y": {"b": [1]}}),
    ("FORWARD", {"node_id": "shift", "data": COLUMN, "state": {"mean": 3.0}}),
    ("FORWARD", {"node_id": "echo", "data": None, "state": {}}),
    ("FORWARD", {"node_id": "echo", "data": "é \u2028 \U0001f600", "state": {}}),
    ("FORWARD", {"node_id": "echo", "data": {"a": [{"b": [[]]}], "": 0}, "state": {}}),
    ("FORWARD", {"node_id": "echo", "data": 2**70, "state": {}}),
    ("FORWARD", {"node_id": "look", "data": [1], "state": {"k": [1, 2]}}),
    (
        "COMPOSITE_FORWARD",
        {
            "node_ids": ["shift", "shift"],
            "data": COLUMN,
            "states": {"shift": {"mean": 1.0}},
        },
    ),
    ("COMPOSITE_FIT", {"node_ids": ["shift", "echo"], "data": COLUMN}),
    ("COMPOSITE_FIT", {"node_ids": ["shift"], "data": COLUMN, "y": [1.0, 2.0, 3.0]}),
    ("BATCHED_FIT", {"node_ids": ["total"], "data": [1, 2, 3, 4, 5], "batch_size": 2}),
    ("BATCHED_FIT", {"node_ids": ["total"], "data": [1, 2, 3], "y": [1, 2, 3], "batch_size": 8}),
    ("BATCHED_FIT", {"node_ids": ["total"], "data": list(range(70))}),
    ("BATCHED_FIT", {"node_ids": ["fixed"], "data": [1, 2, 3], "batch_size": 2}),
    ("BATCHED_FIT", {"node_ids": ["look"], "data": {"a": [1, 2, 3], "b": 7}, "batch_size": 2}),
    ("BATCHED_FIT", {"node_ids": ["shift"], "data": COLUMN, "y": [1, 2, 3], "batch_size": 2}),
    ("FIT", {"node_id": "fail", "data": "no luck"}),
    ("FORWARD", {"node_id": "fail", "data": "no luck", "state": {}}),
    ("FORWARD", {"node_id": "nobody", "data": 1}),
    ("FORWARD", {}),
    ("GET_STATE", {"node_id": "total"}),
    ("SET_STATE", {"node_id": "total", "state_b64": to_b64(cloudpickle.dumps(3))[:-4]}),
    ("NO_SUCH_COMMAND", {}),
]

BATCH, TARGET = [[1.0, 2.0], [3.0, 4.0]], [[1.0], [0.0]]

GRADIENTS = ("COMPOSITE_FIT", {"node_ids": ["first", "last"], "data": BATCH, "y": TARGET})

TORCH: list[tuple[str, dict[str, Any]]] = [
    (
        "LOAD",
        {
            "filters": [
                {"id": "first", "pickle_b64": pickled(Net([[1.0, 0.5], [0.25, -1.0]]))},
                {"id": "last", "pickle_b64": pickled(Net([[0.5, 2.0]]))},
                {"id": "owner", "pickle_b64": pickled(Net([[1.0, 1.0]], learning_rate=0.125))},
                {"id": "double", "pickle_b64": pickled(Double()), "trainable": False},
            ]
        },
    ),
    ("COMPOSITE_FORWARD", {"node_ids": ["first", "last"], "data": BATCH}),
    ("COMPOSITE_FIT", {"node_ids": ["first", "last"], "data": BATCH}),
    GRADIENTS,
    ("GET_GRADIENTS", {"node_id": "first"}),
    ("GET_GRADIENTS", {"node_id": "last"}),
    ("COMPOSITE_FIT", {"node_ids": ["owner"], "data": BATCH, "y": TARGET}),
    ("COMPOSITE_FIT", {"node_ids": ["owner"], "data": BATCH, "y": TARGET}),
    ("GET_STATE", {"node_id": "owner"}),
    ("COMPOSITE_FORWARD", {"node_ids": ["owner"], "data": BATCH}),
]

BASE64 = ("state_b64", "gradients_b64")


def run(host: Any, transcript: list[tuple[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    return [host.ask(cmd, **fields) for cmd, fields in transcript]


@pytest.fixture(scope="module")
def of_the_original(warm_host):
    """What the original replies to each transcript."""
    return [run(warm_host("seed"), transcript) for transcript in (PLAIN, TORCH)]


def comparable(reply: dict[str, Any]) -> dict[str, Any]:
    """A reply without what may differ: errors are left out, and bytes are read."""
    known = {}
    for name, content in reply.items():
        if name in BASE64:
            known[name] = opened(content)
        elif name == "states" and all(isinstance(state, str) for state in content.values()):
            known[name] = {key: opened(state) for key, state in content.items()}
        elif name not in ("traceback", "error"):
            known[name] = content
    return known


def opened(text: str) -> Any:
    data = base64.b64decode(text)
    if data.startswith(b"PK"):
        return {name: tensor.tolist() for name, tensor in torch_loaded(text).items()}
    return vars(cloudpickle.loads(data))


def assert_agree(theirs: list[dict[str, Any]], ours: list[dict[str, Any]], transcript: Any) -> None:
    for (cmd, fields), their, our in zip(transcript, theirs, ours, strict=True):
        expected = comparable(their)
        got = {name: value for name, value in comparable(our).items() if name in expected}
        assert got == expected, f"{cmd} {fields}: {our}"


@pytest.mark.parametrize("daemon", OURS)
def test_plain_filters_get_the_replies_of_the_original(daemon, hosts, of_the_original):
    ours = run(hosts(daemon), PLAIN)
    assert_agree(of_the_original[0], ours, PLAIN)


@pytest.mark.parametrize("daemon", OURS)
def test_torch_modules_get_the_replies_of_the_original(daemon, warm_host, of_the_original):
    ours = run(warm_host(daemon), TORCH)
    assert_agree(of_the_original[1], ours, TORCH)


@pytest.mark.parametrize("daemon", ALL)
def test_errors_begin_as_the_original_says_them(daemon, hosts):
    host = hosts(daemon)
    load(host, fail=Fail())
    assert host.ask("NO_SUCH")["error"].startswith("unknown command: NO_SUCH")
    host.send_raw(b'{"cmd": "FIT"\n')
    assert host.read()["error"].startswith("invalid JSON: ")
    reply = host.ask("FIT", node_id="fail", data="no luck")
    assert reply["error"] == "no luck"
    assert "ValueError" in reply["traceback"]


@pytest.mark.parametrize("daemon", ALL)
def test_shutdown_is_answered_and_then_the_stream_ends(daemon, hosts):
    host = hosts(daemon)
    assert host.ask("SHUTDOWN") == {"ok": True}
    with pytest.raises(EOFError):
        host.read()
    if host.process is not None:
        assert host.process.wait(20.0) == 0


@pytest.mark.parametrize("daemon", ALL)
def test_blank_lines_get_no_reply(daemon, hosts):
    host = hosts(daemon)
    host.send_raw(b'\n  \r\n\t\n{"cmd": "LOAD", "filters": []}\r\n\n')
    host.send_raw(b'  {"cmd": "SHUTDOWN"}  \n')
    assert host.read()["ok"] is True
    assert host.read()["ok"] is True
    with pytest.raises(EOFError):
        host.read()


VALUES = {
    "a flat Tensor": (
        {"type": "Tensor", "data": {"values": [1.0, 2.5], "shape": [2]}},
        "[1.0, 2.5]",
    ),
    "Json": ({"type": "Json", "data": {"a": [1, None]}}, "{'a': [1, None]}"),
    "Bytes": ({"type": "Bytes", "data": [0, 255]}, "b'\\x00\\xff'"),
    "an Object": ({"type": "Object", "data": list(pickle.dumps({1, 2}))}, "{1, 2}"),
    "a pickle": ({"__pickle_b64__": to_b64(pickle.dumps((1, "a")))}, "(1, 'a')"),
    "a nested pickle": (
        {"a": [{"__pickle_b64__": to_b64(pickle.dumps(2j))}]},
        "{'a': [2j]}",
    ),
    "nested Bytes": ([{"type": "Bytes", "data": []}], "[b'']"),
}


@pytest.mark.parametrize("daemon", ALL)
def test_values_arrive_as_with_the_original(daemon, hosts):
    host = hosts(daemon)
    load(host, look=Look())
    for name, (value, expected) in VALUES.items():
        reply = host.ask("FORWARD", node_id="look", data=value, state={})
        assert reply.get("result", reply).get("x") == expected, name


@pytest.mark.parametrize("daemon", OURS)
def test_text_arrives_as_a_string(daemon, hosts):
    host = hosts(daemon)
    load(host, look=Look())
    reply = host.ask("FORWARD", node_id="look", data={"type": "Text", "data": "a"}, state={})
    assert reply["result"]["x"] == "'a'"


PAIRS = gate_runs(
    ("seed", "socket"),
    ("socket", "seed"),
    of=[("seed", "stdio"), ("stdio", "seed"), ("seed", "socket"), ("socket", "seed")],
)


@pytest.mark.parametrize(("maker", "reader"), PAIRS)
def test_a_pickled_state_of_one_loads_into_the_other(maker, reader, hosts):
    made, read = hosts(maker), hosts(reader)
    load(made, node=Total(1))
    made.ask("FIT", node_id="node", data=[1])
    load(read, node=Total(10))
    state = made.ask("GET_STATE", node_id="node")["state_b64"]
    assert read.ask("SET_STATE", node_id="node", state_b64=state)["ok"] is True
    reply = read.ask("FORWARD", node_id="node", data=[1, 2], state={})
    assert reply["result"] == {"start": 2, "rows": 2, "state": {}}


@pytest.mark.parametrize(("maker", "reader"), PAIRS)
def test_weights_of_one_load_into_the_other(maker, reader, warm_host):
    made, read = warm_host(maker), warm_host(reader)
    load(made, node=Net([[1.5, -2.0]], learning_rate=0.5))
    made.ask("COMPOSITE_FIT", node_ids=["node"], data=BATCH, y=TARGET)
    load(read, node=Net([[0.0, 0.0]]))
    state = made.ask("GET_STATE", node_id="node")["state_b64"]
    assert read.ask("SET_STATE", node_id="node", state_b64=state)["ok"] is True
    outputs = [
        host.ask("COMPOSITE_FORWARD", node_ids=["node"], data=BATCH)["result"]
        for host in (made, read)
    ]
    assert outputs[0] == outputs[1]
    assert outputs[0] != [[0.0], [0.0]]


@pytest.mark.parametrize(("maker", "reader"), PAIRS)
def test_states_of_a_chain_of_one_load_into_the_other(maker, reader, warm_host):
    made, read = warm_host(maker), warm_host(reader)
    load(made, node=Net([[1.5, -2.0]], learning_rate=0.5))
    reply = made.ask("COMPOSITE_FIT", node_ids=["node"], data=BATCH, y=TARGET)
    load(read, node=Net([[0.0, 0.0]]))
    read.ask("SET_STATE", node_id="node", state_b64=reply["states"]["node"])
    restored = read.ask("GET_STATE", node_id="node")["state_b64"]
    assert opened(restored) == opened(reply["states"]["node"])


@pytest.mark.parametrize(("maker", "reader"), PAIRS)
def test_gradients_of_one_are_applied_by_the_other(maker, reader, warm_host):
    made, read = warm_host(maker), warm_host(reader)
    load(made, node=Net([[1.0, 1.0]]))
    made.ask("COMPOSITE_FIT", node_ids=["node"], data=BATCH, y=TARGET)
    gradients = made.ask("GET_GRADIENTS", node_id="node")["gradients_b64"]
    load(read, node=Net([[1.0, 1.0]], learning_rate=1.0))
    reply = read.ask("APPLY_GRADIENTS", node_id="node", gradients_b64=gradients)
    assert reply["ok"] is True
    after = torch_loaded(read.ask("GET_STATE", node_id="node")["state_b64"])
    by_name = torch_loaded(gradients)
    assert after["weight"].tolist() == [[1.0 - slope for slope in by_name["weight"][0].tolist()]]
    assert after["bias"].tolist() == [-by_name["bias"].item()]


@pytest.mark.parametrize("daemon", OURS)
def test_all_eleven_commands_of_the_original_are_in_the_transcripts(daemon, hosts):
    used = {cmd for cmd, _ in PLAIN + TORCH} | {"APPLY_GRADIENTS", "SHUTDOWN"}
    known = hosts(daemon).ask("FIT_WELL")["error"]
    eleven = ["LOAD", "FIT", "FORWARD", "COMPOSITE_FORWARD", "COMPOSITE_FIT", "BATCHED_FIT"]
    eleven += ["GET_STATE", "SET_STATE", "GET_GRADIENTS", "APPLY_GRADIENTS", "SHUTDOWN"]
    assert used >= set(eleven)
    assert all(name in known for name in eleven)
