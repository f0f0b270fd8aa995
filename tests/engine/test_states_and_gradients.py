"""GET_STATE, SET_STATE and the gradients: every format, and nothing is half done."""

from __future__ import annotations

import base64
import enum
import io
import json
import math
import subprocess
import sys
import threading
from typing import Any

import cloudpickle
import numpy as np
import pytest
from pydantic import Field, HttpUrl, PrivateAttr, SecretStr

import soma_core as soma


def saved(content: Any) -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def loaded(data: bytes) -> Any:
    import torch

    return torch.load(io.BytesIO(data), weights_only=True)


def binary(data: bytes) -> str:
    return base64.b64encode(data).decode()


class Counter:
    def __init__(self) -> None:
        self.count = 0
        self.names = ["a"]
        self.weights = np.arange(3.0)

    def fit(self, x: Any, y: Any = None) -> Any:
        self.count += 1
        return {"last": x}

    def forward(self, x: Any, state: Any) -> Any:
        return [self.count, state]


class Refers:
    def __init__(self) -> None:
        self.count = 0
        self.fit = self.learn
        self.ask = lambda: self.count

    def learn(self, x: Any, y: Any = None) -> Any:
        self.count += 1

    def forward(self, x: Any, state: Any) -> Any:
        return [self.count, self.ask()]


class Direction(enum.Enum):
    UP = 1

    def fit(self, x: Any, y: Any = None) -> Any:
        return {}

    def forward(self, x: Any, state: Any) -> Any:
        return self.value


class Scale(soma.Filter):
    factor: float = 2.0
    window: tuple[int, int] = (1, 2)

    def forward(self, x: Any, state: Any) -> Any:
        return x * self.factor


def module(weight: float = 1.0) -> Any:
    torch = pytest.importorskip("torch")

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = torch.nn.Linear(2, 2)
            self.last = torch.nn.Linear(2, 1)
            for parameter in self.parameters():
                torch.nn.init.constant_(parameter, weight)

        def fit(self, x: Any, y: Any = None) -> Any:
            return {"fitted": True}

        def forward(self, x: Any, state: Any = None) -> Any:
            return self.last(self.first(x))

    return Net()


def weights_of(host: Any, node_id: str = "net") -> dict[str, list[Any]]:
    return {key: value.tolist() for key, value in host.node(node_id).obj.state_dict().items()}


# States


def test_a_plain_object_travels_as_a_pickle_with_what_it_learned(host: Any) -> None:
    host.load(a=Counter())
    host.ask("FIT", node_id="a", data=5)
    reply = host.ask("GET_STATE", node_id="a")
    assert reply["format"] == "cloudpickle"
    assert reply["fit_state"] == {"last": 5}
    assert cloudpickle.loads(reply["state_b64"]).count == 1
    host.load(a=Counter())
    host.ask("SET_STATE", node_id="a", state_b64=binary(reply["state_b64"]))
    assert host.ask("FORWARD", node_id="a", data=0)["result"] == [1, {}]
    host.ask("SET_STATE", node_id="a", state_b64=binary(reply["state_b64"]), fit_state={"last": 5})
    assert host.ask("FORWARD", node_id="a", data=0)["result"] == [1, {"last": 5}]


def test_an_object_that_refers_to_itself_is_itself_after_its_state_was_set(host: Any) -> None:
    host.load(a=Refers())
    state = host.ask("GET_STATE", node_id="a")["state_b64"]
    for _ in range(2):
        host.ask("SET_STATE", node_id="a", state_b64=binary(state))
        host.ask("FIT", node_id="a", data=0)
        assert host.ask("FORWARD", node_id="a", data=0)["result"] == [1, 1]


def test_a_member_of_an_enumeration_is_itself_after_its_own_state_was_set(host: Any) -> None:
    host.load(a=Direction.UP)
    reply = host.ask("GET_STATE", node_id="a")
    host.ask("SET_STATE", node_id="a", state_b64=binary(reply["state_b64"]))
    assert host.ask("FORWARD", node_id="a", data=0)["result"] == 1


def test_set_state_without_a_fit_state_keeps_what_was_learned_and_null_is_none(host: Any) -> None:
    host.load(a=Counter())
    host.ask("FIT", node_id="a", data=5)
    state = binary(host.ask("GET_STATE", node_id="a")["state_b64"])
    host.ask("SET_STATE", node_id="a", state_b64=state)
    assert host.node("a").state == {"last": 5}
    host.ask("SET_STATE", node_id="a", state_b64=state, fit_state=None)
    assert host.node("a").state is None
    host.line(
        {"cmd": "SET_STATE", "node_id": "a", "state_b64": state, "fit_state": {"type": "Empty"}}
    )
    assert host.node("a").state == {}


def test_a_module_travels_as_its_state_dict_that_torch_reads_safely(host: Any) -> None:
    host.load(net=module(3.0))
    reply = host.ask("GET_STATE", node_id="net")
    assert reply["format"] == "torch"
    weights = loaded(reply["state_b64"])
    assert weights["first.weight"].tolist() == [[3.0, 3.0], [3.0, 3.0]]
    host.load(net=module(0.0))
    host.ask("SET_STATE", node_id="net", state_b64=binary(reply["state_b64"]))
    assert weights_of(host)["last.bias"] == [3.0]


@pytest.mark.parametrize("format", ["torch", "safetensors", "cloudpickle"])
def test_a_module_comes_back_from_every_format_that_fits_it(host: Any, format: str) -> None:
    if format == "safetensors":
        pytest.importorskip("safetensors")
    host.load(net=module(3.0))
    data = host.ask("GET_STATE", node_id="net", format=format)
    assert data["format"] == format
    host.load(net=module(0.0))
    fields = {"state_b64": binary(data["state_b64"]), "format": format}
    host.ask("SET_STATE", node_id="net", **fields)
    assert weights_of(host)["first.weight"] == [[3.0, 3.0], [3.0, 3.0]]


def test_tied_and_transposed_weights_can_be_written_as_safetensors(host: Any) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("safetensors")

    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3).T)
            self.b = self.a

        def forward(self, x: Any, state: Any = None) -> Any:
            return x

    host.load(net=Tied())
    data = host.ask("GET_STATE", node_id="net", format="safetensors")["state_b64"]
    host.ask("SET_STATE", node_id="net", state_b64=binary(data), format="safetensors")
    assert weights_of(host)["a"] == [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]


def test_typed_values_hold_a_filter_s_fields_and_are_validated_on_the_way_back(
    host: Any, refused: Any
) -> None:
    host.load(a=Scale(factor=5.0, window=(3, 4)))
    data = host.ask("GET_STATE", node_id="a", format="value")["state_b64"]
    assert json.loads(data) == {"factor": 5.0, "window": [3, 4]}
    host.load(a=Scale())
    host.ask("SET_STATE", node_id="a", state_b64=binary(data), format="value")
    assert host.node("a").obj == Scale(factor=5.0, window=(3, 4))
    for wrong in (b'{"factor":"x"}', b'{"factr":1}', b"[]", b"5", b"no json", b"", b"\xff"):
        with pytest.raises(refused) as caught:
            host.ask("SET_STATE", node_id="a", state_b64=binary(wrong), format="value")
        assert (caught.value.code, caught.value.node_id) == ("invalid_state", "a")
        assert host.node("a").obj == Scale(factor=5.0, window=(3, 4))


def test_typed_values_leave_secrets_to_the_filter_that_is_loaded(host: Any) -> None:
    class Client(soma.Filter):
        key: SecretStr
        url: HttpUrl = Field(default=HttpUrl("http://a.b/"), alias="the-url")

        def forward(self, x: Any, state: Any) -> Any:
            return [self.key.get_secret_value(), str(self.url)]

    host.load(a=Client(**{"key": "one", "the-url": "http://c.d/"}), b=Client(key="two"))
    data = host.ask("GET_STATE", node_id="a", format="value")["state_b64"]
    assert json.loads(data) == {"url": "http://c.d/"}
    host.ask("SET_STATE", node_id="b", state_b64=binary(data), format="value")
    assert host.ask("FORWARD", node_id="b", data=1)["result"] == ["two", "http://c.d/"]


def test_a_field_that_is_not_read_back_as_it_was_is_refused_by_name(
    host: Any, refused: Any
) -> None:
    class Size(enum.Enum):
        SMALL = ("s", 1)

    class Packs(soma.Filter):
        size: Size = Size.SMALL

        def forward(self, x: Any, state: Any) -> Any:
            return x

    host.load(a=Packs())
    with pytest.raises(refused, match="what pydantic writes of size") as caught:
        host.ask("GET_STATE", node_id="a", format="value")
    assert (caught.value.code, caught.value.node_id) == ("invalid_state", "a")


OPEN: list[int] = []


class Opens(soma.Filter):
    number: int = 1

    def on_load(self) -> None:
        if self.number < 0:
            raise ValueError("there is none")
        OPEN.append(self.number)

    def on_unload(self) -> None:
        OPEN.remove(self.number)

    def forward(self, x: Any, state: Any) -> Any:
        return self.number


def test_a_filter_is_unloaded_in_whose_place_another_configuration_was_put(connect: Any) -> None:
    worker = connect("inline", filters={"one": Opens(), "two": Opens(number=2)})
    worker.set_state("one", worker.get_state("two", format="value"))
    assert OPEN == [2, 2]
    with pytest.raises(soma.RemoteError, match="there is none"):
        worker.set_state("one", soma.NodeState(b'{"number": -1}', "value"))
    assert (OPEN, worker.forward("one", 0)) == ([2, 2], 2)
    worker.close()
    assert OPEN == []


class Columns(soma.Filter):
    count: int = 2

    def meta(self) -> soma.FilterMeta:
        shape = [{"Dynamic": "rows"}, {"Fixed": self.count}]
        columns = soma.Schema.model_validate({"dtype": "Float64", "shape": shape})
        return super().meta().model_copy(update={"input_schema": columns})

    def forward(self, x: Any, state: Any) -> Any:
        return len(x)


@pytest.mark.parametrize("format", ["value", "cloudpickle"])
def test_a_node_goes_by_the_schemas_of_the_configuration_that_was_set(connect: Any, format: str):
    worker = connect("inline", filters={"two": Columns(), "three": Columns(count=3)})
    worker.set_state("two", worker.get_state("three", format=format))
    assert worker.forward("two", np.ones((4, 3))) == 4
    with pytest.raises(soma.RemoteError, match=r"\[rows, 3\]"):
        worker.forward("two", np.ones((4, 2)))


def test_typed_values_hold_the_attributes_of_any_object(host: Any) -> None:
    host.load(a=Counter())
    host.node("a").obj.count = 7
    host.node("a").obj.names = ["x", "\ud800", math.nan]
    data = host.ask("GET_STATE", node_id="a", format="value")["state_b64"]
    host.load(a=Counter())
    host.ask("SET_STATE", node_id="a", state_b64=binary(data), format="value")
    restored = host.node("a").obj
    assert (restored.count, restored.names[:2]) == (7, ["x", "\ud800"])
    assert math.isnan(restored.names[2])
    assert restored.weights.tolist() == [0.0, 1.0, 2.0]


def test_what_typed_values_cannot_hold_is_refused_and_says_so(host: Any, refused: Any) -> None:
    host.load(a=Counter())
    host.node("a").obj.names = {1: "int key"}
    with pytest.raises(refused, match="typed values") as caught:
        host.ask("GET_STATE", node_id="a", format="value")
    assert (caught.value.code, caught.value.node_id) == ("invalid_state", "a")


@pytest.mark.parametrize(
    "typed",
    [
        b'{"count":{"type":"Tensor","data":{}}}',
        b'{"count":{"$soma":"x"}}',
        b'{"count":{"type":"Bytes","data":[300]}}',
    ],
    ids=str,
)
def test_a_typed_state_that_is_not_well_formed_is_an_invalid_state(
    host: Any, refused: Any, typed: bytes
) -> None:
    host.load(a=Counter())
    with pytest.raises(refused) as caught:
        host.ask("SET_STATE", node_id="a", state_b64=binary(typed), format="value")
    assert (caught.value.code, caught.value.node_id) == ("invalid_state", "a")


@pytest.mark.parametrize("format", ["torch", "safetensors"])
def test_a_format_that_the_object_has_not_is_refused_naming_those_it_has(
    host: Any, refused: Any, format: str
) -> None:
    host.load(a=Counter())
    with pytest.raises(refused, match=r"Counter has no state_dict.*cloudpickle or value") as caught:
        host.ask("GET_STATE", node_id="a", format=format)
    assert caught.value.code == "invalid_state"


class Weights(Counter):
    """Keeps its weights like a module, and is none."""

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.weights = state["weights"]


@pytest.mark.parametrize(
    ("format", "missing"), [("torch", "torch"), ("safetensors", "safetensors.torch")]
)
def test_a_format_whose_library_is_missing_is_refused_naming_what_to_install(
    host: Any, refused: Any, monkeypatch: pytest.MonkeyPatch, format: str, missing: str
) -> None:
    host.load(a=Weights())
    monkeypatch.setitem(sys.modules, missing, None)
    asked = (("GET_STATE", {}), ("SET_STATE", {"state_b64": binary(b"any")}))
    for command, fields in asked:
        with pytest.raises(refused, match=r"needs soma-core\[torch\]") as caught:
            host.ask(command, node_id="a", format=format, **fields)
        assert caught.value.code == "invalid_state"


@pytest.mark.parametrize("format", ["torch", "safetensors", "cloudpickle", None])
@pytest.mark.parametrize(
    "data", [b"", b"junk", b"PK\x03\x04", b"\x80\x05.", b"\x10" + bytes(7) + b"{"]
)
def test_bytes_that_are_no_state_are_refused_and_change_nothing(
    host: Any, refused: Any, format: str | None, data: bytes
) -> None:
    if format == "safetensors":
        pytest.importorskip("safetensors")
    host.load(net=module(3.0), a=Counter())
    before = weights_of(host)
    named = {} if format is None else {"format": format}
    for node_id in ("net", "a") if format in (None, "cloudpickle") else ("net",):
        with pytest.raises(refused, match=f"node '{node_id}'") as caught:
            host.ask("SET_STATE", node_id=node_id, state_b64=binary(data), **named)
        assert (caught.value.code, caught.value.node_id) == ("invalid_state", node_id)
    assert weights_of(host) == before


def test_a_pickle_of_something_that_is_no_filter_is_no_state(host: Any, refused: Any) -> None:
    host.load(a=Counter())
    data = binary(cloudpickle.dumps([1, 2]))
    with pytest.raises(refused, match="holds a list, which is not a filter") as caught:
        host.ask("SET_STATE", node_id="a", state_b64=data)
    assert caught.value.code == "invalid_state"


@pytest.mark.parametrize(
    "change",
    [
        lambda weights: weights.pop("last.bias"),
        lambda weights: weights.update(extra=weights["last.bias"]),
        lambda weights: weights.update({"last.weight": weights["last.bias"]}),
        lambda weights: weights.update({"last.weight": "text"}),
    ],
    ids=["missing", "unknown", "wrong shape", "no tensor"],
)
def test_a_state_dict_that_fits_by_half_leaves_the_module_as_it_was(
    host: Any, refused: Any, change: Any
) -> None:
    host.load(net=module(3.0))
    before = weights_of(host)
    weights = module(0.0).state_dict()
    change(weights)
    with pytest.raises(refused, match="does not fit") as caught:
        host.ask("SET_STATE", node_id="net", state_b64=binary(saved(weights)))
    assert (caught.value.code, caught.value.node_id) == ("invalid_state", "net")
    assert weights_of(host) == before


def test_a_torch_file_with_code_in_it_is_not_executed(host: Any, refused: Any) -> None:
    ran: list[str] = []

    class Evil:
        def __reduce__(self) -> Any:
            return exec, ("import builtins; builtins.soma_test_ran = True",)

    host.load(net=module())
    with pytest.raises(refused, match="not weights in torch's format"):
        host.ask("SET_STATE", node_id="net", state_b64=binary(saved({"a": Evil()})))
    import builtins

    assert not hasattr(builtins, "soma_test_ran")
    assert ran == []


def test_with_pickle_off_typed_values_are_the_default_and_pickles_are_refused(
    host_without_pickle: Any, refused: Any
) -> None:
    from soma_core.engine.nodes import Node

    host = host_without_pickle
    host.responder.engine.nodes.add([Node("a", Scale(factor=4.0)), Node("net", module(2.0))])
    assert host.ask("GET_STATE", node_id="a")["format"] == "value"
    assert host.ask("GET_STATE", node_id="net")["format"] == "torch"
    host.ask("SET_STATE", node_id="a", state_b64=binary(b'{"factor":1.5,"window":[1,1]}'))
    assert host.node("a").obj.factor == 1.5
    for cmd, fields in (("GET_STATE", {}), ("SET_STATE", {"state_b64": binary(b"\x80\x05N.")})):
        with pytest.raises(refused) as caught:
            host.ask(cmd, node_id="a", format="cloudpickle", **fields)
        assert caught.value.code == "pickle_refused"


def test_a_typed_state_cannot_take_a_filter_s_methods_away(host: Any, refused: Any) -> None:
    host.load(a=Counter())
    with pytest.raises(refused) as caught:
        host.ask("SET_STATE", node_id="a", state_b64=binary(b'{"forward":1}'), format="value")
    assert (caught.value.code, caught.value.node_id) == ("invalid_state", "a")
    assert host.ask("FORWARD", node_id="a", data=0)["result"] == [0, {}]


# Gradients


def trained(host: Any) -> Any:
    host.load(net=module(1.0))
    data, y = np.ones((1, 2), "f4"), np.zeros((1, 1), "f4")
    host.ask("COMPOSITE_FIT", node_ids=["net"], data=data, y=y)
    return host


def gradients(**changes: Any) -> dict[str, Any]:
    import torch

    shapes = {name: p.shape for name, p in module().named_parameters()}
    full = {name: torch.ones(shape) for name, shape in shapes.items()} | changes
    return {name: gradient for name, gradient in full.items() if gradient is not None}


def test_gradients_can_be_fetched_and_applied_elsewhere(host: Any) -> None:
    data = trained(host).ask("GET_GRADIENTS", node_id="net")["gradients_b64"]
    found = loaded(data)
    names = ["first.weight", "first.bias", "last.weight", "last.bias"]
    assert list(found) == names
    assert all(gradient.any() for gradient in found.values())
    host.load(other=module(1.0))
    reply = host.ask("APPLY_GRADIENTS", node_id="other", gradients_b64=binary(data))
    assert reply["updated"] == names
    again = loaded(host.ask("GET_GRADIENTS", node_id="other")["gradients_b64"])
    assert all(again[name].tolist() == found[name].tolist() for name in names)


def test_applying_gradients_steps_the_optimizer(host: Any) -> None:
    torch = pytest.importorskip("torch")
    net = module(1.0)
    host.put(net=net)
    net.optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    host.ask("APPLY_GRADIENTS", node_id="net", gradients_b64=binary(saved(gradients())))
    assert weights_of(host)["first.weight"] == [[0.5, 0.5], [0.5, 0.5]]


def test_without_gradients_there_is_nothing_to_fetch_and_that_is_said(
    host: Any, refused: Any
) -> None:
    host.load(net=module(), a=Counter())
    for node_id in ("net", "a"):
        with pytest.raises(refused, match="COMPOSITE_FIT with y first") as caught:
            host.ask("GET_GRADIENTS", node_id=node_id)
        assert (caught.value.code, caught.value.node_id) == ("no_gradients", node_id)


def cases() -> dict[str, Any]:
    torch = pytest.importorskip("torch")
    one = torch.ones(1)
    return {
        "empty": {},
        "missing": gradients(**{"last.bias": None}),
        "unknown": gradients(extra=one),
        "unknown and missing": gradients(**{"last.bias": None, "extra": one}),
        "numbered": {0: one, "extra": one},
        "wrong shape": gradients(**{"last.bias": torch.ones(2)}),
        "broadcastable": gradients(**{"first.bias": one}),
        "a number": gradients(**{"last.bias": 1.0}),
        "a tensor": one,
        "a list": [one],
        "none at all": dict.fromkeys(gradients()),
        "complex": gradients(**{"last.bias": one.to(torch.complex64)}),
    }


CASES = """
    empty, missing, unknown, unknown and missing, numbered, wrong shape, broadcastable, a number,
    a tensor, a list, none at all, complex
"""


@pytest.mark.parametrize("case", [case.strip() for case in CASES.split(",")])
def test_gradients_that_do_not_fit_change_nothing(host: Any, refused: Any, case: str) -> None:
    torch = pytest.importorskip("torch")
    trained(host)
    net = host.node("net").obj
    net.optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    before = [parameter.grad.tolist() for parameter in net.parameters()], weights_of(host)
    data = binary(saved(cases()[case]))
    with pytest.raises(refused, match="gradient") as caught:
        host.ask("APPLY_GRADIENTS", node_id="net", gradients_b64=data)
    assert (caught.value.code, caught.value.node_id) == ("invalid_state", "net")
    after = [parameter.grad.tolist() for parameter in net.parameters()], weights_of(host)
    assert after == before


def test_a_refusal_of_gradients_lists_the_parameters(host: Any, refused: Any) -> None:
    trained(host)
    data = binary(saved(cases()["unknown and missing"]))
    with pytest.raises(refused, match=r"unknown \['extra'\], missing \['last.bias'\].*first.bias"):
        host.ask("APPLY_GRADIENTS", node_id="net", gradients_b64=data)


@pytest.mark.parametrize("data", [b"", b"junk", b"\x80\x05N."])
def test_bytes_that_are_no_gradients_are_refused(host: Any, refused: Any, data: bytes) -> None:
    trained(host)
    with pytest.raises(refused, match="torch's format") as caught:
        host.ask("APPLY_GRADIENTS", node_id="net", gradients_b64=binary(data))
    assert caught.value.code == "invalid_state"


def test_an_object_without_parameters_cannot_take_gradients(host: Any, refused: Any) -> None:
    host.load(a=Counter())
    with pytest.raises(refused, match="Counter has no parameters") as caught:
        host.ask("APPLY_GRADIENTS", node_id="a", gradients_b64="")
    assert caught.value.code == "invalid_state"


def test_frozen_parameters_need_no_gradient(host: Any) -> None:
    net = module(1.0)
    host.put(net=net)
    net.first.requires_grad_(False)
    some = {name: value for name, value in gradients().items() if name.startswith("last")}
    reply = host.ask("APPLY_GRADIENTS", node_id="net", gradients_b64=binary(saved(some)))
    assert reply["updated"] == ["last.weight", "last.bias"]


def test_a_parameter_may_have_no_gradient_and_a_buffer_takes_its_value(host: Any) -> None:
    torch = pytest.importorskip("torch")
    net = module(1.0)
    net.register_buffer("seen", torch.zeros(2))
    net.optimizer = torch.optim.SGD(net.parameters(), lr=1.0, weight_decay=0.5)
    host.put(net=net)
    before = net.last.bias.tolist()
    content = {**gradients(), "last.bias": None, "seen": torch.tensor([1.0, 2.0])}
    reply = host.ask("APPLY_GRADIENTS", node_id="net", gradients_b64=binary(saved(content)))
    assert set(reply["updated"]) == (gradients().keys() - {"last.bias"}) | {"seen"}
    assert net.last.bias.tolist() == before
    assert net.seen.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("value", [None, [1.0, 2.0, 3.0]])
def test_a_buffer_takes_no_other_shape(host: Any, refused: Any, value: Any) -> None:
    torch = pytest.importorskip("torch")
    net = module(1.0)
    net.register_buffer("seen", torch.zeros(2))
    host.put(net=net)
    content = {**gradients(), "seen": value if value is None else torch.tensor(value)}
    with pytest.raises(refused, match="the gradient of seen has shape"):
        host.ask("APPLY_GRADIENTS", node_id="net", gradients_b64=binary(saved(content)))
    assert net.seen.tolist() == [0.0, 0.0]


IMPORTS = """
import sys
from soma_core.serve import Responder
from soma_core.engine.nodes import Node
class A:
    def forward(self, x, state):
        return x
engine = Responder().engine
engine.nodes.add([Node("a", A())])
from soma_core.engine.training import gradients
from soma_core.errors import ProtocolError
for call in (gradients.get_gradients, lambda node: gradients.apply_gradients(node, b"")):
    try:
        call(engine.nodes.get("a"))
    except ProtocolError as error:
        print(error.code)
print("torch" in sys.modules)
"""


def test_refusing_gradients_of_a_plain_node_does_not_import_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS], capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "no_gradients\ninvalid_state\nFalse\n", done.stderr


class Locked(soma.Filter, extra="allow"):
    k: int = 1
    _lock: Any = PrivateAttr(default_factory=threading.Lock)

    def forward(self, x: Any, state: Any) -> Any:
        self._of_this_call = iter([x])
        with self._lock:
            return x * self.k * self.added


def test_what_a_filter_makes_for_each_of_its_kind_stays_where_it_is(connect: Any) -> None:
    there = connect("inline", filters={"locked": Locked(k=3, added=5)})
    here = connect("inline", filters={"locked": Locked(added=1)})
    assert there.forward("locked", 2) == 30
    for format in ("cloudpickle", "value"):
        here.load({"locked": Locked(added=1)})
        here.set_state("locked", there.get_state("locked", format=format))
        assert here.forward("locked", 2) == 30
