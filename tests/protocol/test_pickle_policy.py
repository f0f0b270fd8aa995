"""Pickles: read from trusted peers alone, refused in both directions where they are off."""

from __future__ import annotations

import base64
import pickle
import subprocess
import sys
from collections import Counter, OrderedDict
from typing import Any

import numpy as np
import pytest

from soma_core.errors import ErrorCode, ProtocolError
from soma_core.wire.line_codec import LineDecoder as Decoder
from soma_core.wire.pickles import Pickles, by_value
from soma_core.wire.weights import dump_weights, load_weights

NEVER = Pickles(allowed=False)


_ran: list[str] = []


def leave_a_trace(name: str) -> None:
    _ran.append(name)


class Traces:
    """Leaves a trace when it is unpickled."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> Any:
        return leave_a_trace, (self.name,)


def forms(pickled: bytes) -> dict[str, Any]:
    b64 = base64.b64encode(pickled).decode()
    return {
        "the original's": {"__pickle_b64__": b64},
        "numbers": {"type": "Object", "data": list(pickled)},
        "base64": {"type": "Object", "data": {"b64": b64}},
        "inside Json": {"type": "Json", "data": [{"type": "Object", "data": list(pickled)}]},
        "inside a dict": {"$soma": "dict", "items": [["a", {"__pickle_b64__": b64}]]},
        "inside a tuple": {"$soma": "tuple", "items": [{"__pickle_b64__": b64}]},
        "as a scalar": {"$soma": "scalar", "array": {"__pickle_b64__": b64}},
    }


@pytest.mark.parametrize("form", forms(b""))
def test_a_pickle_that_is_refused_does_not_run(form: str) -> None:
    wire = forms(pickle.dumps(Traces(form)))[form]
    with pytest.raises(ProtocolError, match="refuses pickles") as caught:
        Decoder(pickles=NEVER).decode(wire)
    assert caught.value.code is ErrorCode.PICKLE_REFUSED
    assert form not in _ran


def test_the_same_pickle_does_run_where_pickles_are_allowed() -> None:
    Decoder().decode(forms(pickle.dumps(Traces("allowed")))["numbers"])
    assert "allowed" in _ran


AUDITED = """
import base64, json, pickle, sys
from soma_core.serve import Responder
from soma_core.transport import Dialect, Message

class Evil:
    def __reduce__(self):
        return print, ("side effect",)

b64 = base64.b64encode(pickle.dumps(Evil())).decode()
array = {"type": "Tensor", "data": {"dtype": "float32", "shape": [1], "values": [1]}}
unpickled = []
sys.addaudithook(lambda event, args: event == "pickle.find_class" and unpickled.append(args))
responder = Responder(pickle="never")
codes = []
for command in (
    {"cmd": "LOAD", "filters": [{"id": "a", "pickle_b64": b64}]},
    {"cmd": "FIT", "node_id": "a", "data": {"__pickle_b64__": b64}},
    {"cmd": "FORWARD", "node_id": "a", "state": {"type": "Object", "data": {"b64": b64}}},
    {"cmd": "COMPOSITE_FORWARD", "node_ids": ["a"], "states": {"a": {"__pickle_b64__": b64}}},
    {"cmd": "SET_STATE", "node_id": "a", "state_b64": "", "fit_state": {"__pickle_b64__": b64}},
    {"cmd": "FORWARD", "node_id": "a", "data": [array]},
):
    text = json.dumps(command).encode()
    reply = responder.respond(Message(text, (), Dialect.LINE), None)
    codes.append(json.loads(reply.header)["code"])
print(codes, unpickled)
"""


def test_with_pickle_off_the_interpreter_never_unpickles_whatever_comes() -> None:
    done = subprocess.run(
        [sys.executable, "-c", AUDITED], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == f"{['pickle_refused'] * 5 + ['unknown_node']} []\n"


def test_objects_are_not_sent_either_and_the_refusal_says_what_to_send(wire: Any) -> None:
    for obj in ([{"a": Counter("ab")}], np.array([None]), slice(1, 2), Traces("x")):
        with pytest.raises(ProtocolError, match="plain data, bytes, numpy arrays") as caught:
            wire.write(obj, NEVER)
        assert caught.value.code is ErrorCode.PICKLE_REFUSED


def test_everything_typed_still_travels(wire: Any, identical: Any) -> None:
    data = {"a": [1, None, b"x", np.arange(3), float("nan")], "type": "Text", "$soma": "mine"}
    assert identical(wire(data, NEVER), data)


def test_weights_that_are_written_without_pickles_can_be_read_without_them() -> None:
    torch = pytest.importorskip("torch")
    weights = OrderedDict(
        a=torch.ones(2, dtype=torch.bfloat16),
        b=torch.nn.Parameter(torch.ones(1)),
        c=[{"d": (1, 2.5, None, True, "text", b"bytes", 1j)}],
        e=torch.Size([1, 2]),
        f=[torch.float32, torch.device("cpu")],
    )
    again = load_weights(dump_weights(weights))
    assert again["c"] == weights["c"]
    assert again["f"] == weights["f"]
    assert torch.equal(again["a"], weights["a"])


def test_weights_with_anything_else_in_them_are_not_written() -> None:
    torch = pytest.importorskip("torch")

    class Odd(torch.Tensor):
        pass

    for odd in (Traces("x"), frozenset({1, 2}), np.ones(1), torch.ones(1).as_subclass(Odd), print):
        for content in (odd, {"a": [odd]}, {"a": {"b": (1, odd)}}):
            with pytest.raises(ProtocolError, match=type(odd).__name__) as caught:
                dump_weights(content)
            assert caught.value.code is ErrorCode.PICKLE_REFUSED


def test_what_was_refused_once_is_never_allowed_again() -> None:
    pickles = Pickles()
    assert pickles.load(pickles.dump({1: 2})) == {1: 2}
    pickles.refuse()
    assert not pickles.allowed
    with pytest.raises(ProtocolError):
        pickles.dump({1: 2})
    with pytest.raises(AttributeError):
        pickles.allowed = True  # type: ignore[misc]


class Explodes:
    def __reduce__(self) -> Any:
        return int, ("no number",)


@pytest.mark.parametrize("raw", [b"", b"no pickle", pickle.dumps(1)[:-1], pickle.dumps(Explodes())])
def test_a_pickle_that_cannot_be_read_is_an_error_that_says_so(raw: bytes) -> None:
    with pytest.raises(ProtocolError, match="unpickling failed") as caught:
        Decoder().decode({"type": "Object", "data": list(raw)})
    assert caught.value.code is ErrorCode.INVALID_COMMAND
    assert f"Python {sys.version_info.major}." in str(caught.value)


def test_a_module_that_is_missing_here_is_named_with_what_to_do() -> None:
    missing = b"csoma_no_such_module\nThing\n."
    with pytest.raises(ProtocolError, match="soma_no_such_module") as caught:
        Decoder().decode({"type": "Object", "data": list(missing)})
    assert "register_pickle_by_value" in str(caught.value)
    assert caught.value.remote_type == "ModuleNotFoundError"


def test_what_does_not_pickle_is_refused_by_name(wire: Any) -> None:
    with pytest.raises(ProtocolError, match="generator cannot be sent") as caught:
        wire.write(iter(n for n in range(3)))
    assert caught.value.code is ErrorCode.INVALID_COMMAND


def test_functions_and_classes_of_a_script_travel_by_value(wire: Any) -> None:
    factor = 3
    assert wire(lambda x: x * factor)(2) == 6


def test_a_module_is_pickled_by_value_only_within_the_block() -> None:
    import cloudpickle

    module = sys.modules["json.decoder"]
    with by_value([module]), by_value([module]):
        assert module.__name__ in cloudpickle.list_registry_pickle_by_value()
    assert module.__name__ not in cloudpickle.list_registry_pickle_by_value()
