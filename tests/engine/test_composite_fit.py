"""COMPOSITE_FIT: plain chains stay plain, torch chains train as they would in-process."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pytest

import soma_core as soma

torch = pytest.importorskip("torch")

X = np.linspace(-1, 1, 24, dtype="f4").reshape(8, 3)
Y = (X @ np.array([[1.0], [-2.0], [0.5]], "f4")).astype("f4")


def weights(data: bytes) -> dict[str, Any]:
    return torch.load(io.BytesIO(data), weights_only=True)


def same(result: Any, expected: Any) -> bool:
    """Whether a result, in the kind in which the data came, is that tensor to the last bit."""
    return np.array_equal(np.asarray(result, "f4"), expected.numpy())


class Scaler:
    """Plain: insists on numpy."""

    def fit(self, x: Any, y: Any = None) -> Any:
        assert type(x) is np.ndarray
        return {"mean": x.mean(0), "std": x.std(0)}

    def forward(self, x: Any, state: Any) -> Any:
        assert type(x) is np.ndarray
        return (x - state["mean"]) / state["std"]


class Net(torch.nn.Module):
    """Duck-typed, as in the original: a module with fit and forward(x, state)."""

    def __init__(self, inputs: int, outputs: int, *, lr: float | None = 0.1, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.linear = torch.nn.Linear(inputs, outputs)
        self.fits = 0
        if lr is not None:
            self.optimizer = torch.optim.Adam(self.parameters(), lr=lr)

    def fit(self, x: Any, y: Any = None) -> Any:
        self.fits += 1
        return {"fits": self.fits}

    def forward(self, x: Any, state: Any = None) -> Any:
        return torch.tanh(self.linear(x))


class Head(Net):
    def forward(self, x: Any, state: Any = None) -> Any:
        return self.linear(x)


class NetFilter(soma.Filter):
    """A soma.Filter that is differentiable: trained by the joint step, never by fit."""

    width: int = 1
    module: Any = None

    def model_post_init(self, context: Any) -> None:
        torch.manual_seed(3)
        self.module = torch.nn.Linear(3, self.width)

    def meta(self) -> soma.FilterMeta:
        return super().meta().replace(differentiable=True)

    def named_parameters(self) -> Any:
        return self.module.named_parameters()

    def fit(self, x: Any, y: Any = None) -> Any:
        raise AssertionError("the joint step trains this filter")

    def forward(self, x: Any, state: Any) -> Any:
        return self.module(x)


def oracle(net: Net, head: Head, x: Any, y: Any, steps: int) -> list[float]:
    """Plain PyTorch, in this process."""
    losses = []
    x, y = torch.as_tensor(x), torch.as_tensor(y)
    for _ in range(steps):
        for module in (net, head):
            module.optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(head(net(x)), y)
        loss.backward()
        for module in (net, head):
            module.optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("form", ["array", "tensor", "list"])
def test_five_steps_equal_those_of_pytorch_itself_to_the_last_bit(host: Any, form: str) -> None:
    make = {"array": np.copy, "tensor": torch.tensor, "list": np.ndarray.tolist}[form]
    host.load(net=Net(3, 4), head=Head(4, 1))
    local_net, local_head = Net(3, 4), Head(4, 1)
    before = local_head(local_net(torch.as_tensor(X))).detach()
    losses = []
    for step in range(5):
        reply = host.ask("COMPOSITE_FIT", node_ids=["net", "head"], data=make(X), y=make(Y))
        if step == 0:
            assert same(reply["result"], before)
        losses.append(reply["loss"])
    assert losses == oracle(local_net, local_head, X, Y, 5)
    assert losses[-1] < losses[0]
    for node_id, local in (("net", local_net), ("head", local_head)):
        trained = weights(reply["states"][node_id])
        assert all(torch.equal(trained[key], value) for key, value in local.state_dict().items())


def test_the_result_is_the_output_before_the_step_as_nested_lists_in_lines(host: Any) -> None:
    host.load(net=Net(3, 2))
    expected = Net(3, 2)(torch.as_tensor(X)).tolist()
    line = {"cmd": "COMPOSITE_FIT", "node_ids": ["net"], "data": X.tolist(), "y": [[0.0, 0.0]] * 8}
    reply = host.line(line)
    assert reply["result"] == expected
    assert reply["fit_states"] == {"net": {"fits": 1}}
    assert isinstance(reply["states"]["net"], str)
    assert isinstance(reply["loss"], float)


def test_a_plain_scaler_before_a_module_gets_arrays_and_the_module_tensors(host: Any) -> None:
    host.load(scaler=Scaler(), net=Net(3, 1))
    reply = host.ask("COMPOSITE_FIT", node_ids=["scaler", "net"], data=X, y=Y)
    scaled = torch.as_tensor((X - X.mean(0)) / X.std(0))
    out = Net(3, 1)(scaled)
    assert same(reply["result"], out.detach())
    assert reply["loss"] == torch.nn.functional.mse_loss(out, torch.as_tensor(Y)).item()
    assert reply["fit_states"]["scaler"]["mean"].tolist() == X.mean(0).tolist()
    assert reply["states"].keys() == {"net"}


LAYOUTS = {
    "reversed": lambda x: x[::-1],
    "columns reversed": lambda x: x[:, ::-1],
    "fortran": np.asfortranarray,
    "read-only": lambda x: np.broadcast_to(x[0], x.shape),
    "big-endian": lambda x: x.astype(">f4"),
    "longdouble": lambda x: x.astype(np.longdouble),
    "float16": lambda x: x.astype("f2"),
    "int32": lambda x: np.zeros(x.shape, "i4"),
    "scalar rows": lambda x: x[:, :1],
}


class Layout:
    def __init__(self, name: str) -> None:
        self.name = name

    def forward(self, x: Any, state: Any) -> Any:
        return LAYOUTS[self.name](np.asarray(x))


class AnyInput(Net):
    def forward(self, x: Any, state: Any = None) -> Any:
        assert isinstance(x, torch.Tensor)
        return x.to(torch.float32).sum(1, keepdim=True) * self.linear.weight[0, 0]


@pytest.mark.parametrize("name", LAYOUTS)
def test_an_array_of_any_layout_from_a_plain_node_becomes_a_tensor(host: Any, name: str) -> None:
    host.load(plain=Layout(name), net=AnyInput(3, 1))
    expected = np.asarray(LAYOUTS[name](X), "f4").sum(1, keepdims=True)
    weight = AnyInput(3, 1).linear.weight[0, 0].item()
    for cmd, fields in (("COMPOSITE_FORWARD", {}), ("COMPOSITE_FIT", {"y": Y})):
        reply = host.ask(cmd, node_ids=["plain", "net"], data=X, **fields)
        assert np.allclose(reply["result"], expected * weight, atol=1e-2)


def test_a_soma_filter_that_is_differentiable_is_not_fitted_but_a_duck_typed_object_is(
    host: Any,
) -> None:
    host.load(filter=NetFilter(width=2), duck=Net(2, 1))
    reply = host.ask("COMPOSITE_FIT", node_ids=["filter", "duck"], data=X, y=Y)
    assert reply["fit_states"] == {"duck": {"fits": 1}}
    assert reply["loss"] > 0


def test_a_duck_typed_object_may_train_itself_with_autograd_in_fit(host: Any) -> None:
    class TrainsItself(Net):
        def fit(self, x: Any, y: Any = None) -> Any:
            loss = torch.nn.functional.mse_loss(self(torch.as_tensor(x)), torch.as_tensor(y))
            loss.backward()
            self.optimizer.step()
            return {"loss": loss.item()}

    host.load(net=TrainsItself(3, 1))
    alone = host.ask("FIT", node_id="net", data=X, y=Y)["result"]["loss"]
    assert alone > 0
    for cmd in ("COMPOSITE_FIT", "BATCHED_FIT"):
        assert host.ask(cmd, node_ids=["net"], data=X, y=Y)["ok"]


def test_what_is_not_trainable_is_not_fitted(host: Any) -> None:
    host.load(trainable=False, net=Net(3, 1))
    reply = host.ask("COMPOSITE_FIT", node_ids=["net"], data=X, y=Y)
    assert reply["fit_states"] == {}
    assert host.node("net").obj.fits == 0
    assert torch.equal(host.node("net").obj.linear.weight, Net(3, 1).linear.weight)


def test_without_targets_there_is_no_loss_and_nothing_is_trained(host: Any) -> None:
    host.load(net=Net(3, 1))
    for fields in ({}, {"y": None}):
        reply = host.ask("COMPOSITE_FIT", node_ids=["net"], data=X, **fields)
        assert reply["loss"] is None
        assert same(reply["result"], Net(3, 1)(torch.as_tensor(X)).detach())
        trained = weights(reply["states"]["net"])
        assert torch.equal(trained["linear.weight"], Net(3, 1).linear.weight)


def test_states_stay_in_the_worker_when_they_are_not_wanted(host: Any) -> None:
    host.load(net=Net(3, 1))
    fields = {"node_ids": ["net"], "data": X, "y": Y, "return_states": False}
    reply = host.ask("COMPOSITE_FIT", **fields)
    assert reply["states"] == {}
    assert not reply.get("fit_states")
    assert reply["loss"] > 0
    assert host.node("net").state == {"fits": 1}


class WithLoss(Head):
    def __init__(self) -> None:
        super().__init__(3, 1)
        self.compute_loss = lambda out, y: ((out - y) ** 2).sum() * 3
        self.loss_fn = None


class WithAux(Head):
    def __init__(self) -> None:
        super().__init__(3, 1)

    def forward(self, x: Any, state: Any = None) -> Any:
        return super().forward(x), self.linear.weight.square().sum()

    def compute_loss(self, out: Any, y: Any, aux: Any) -> Any:
        return torch.nn.functional.l1_loss(out, y) + 0.5 * aux


class WithLossFn(Head):
    def __init__(self) -> None:
        super().__init__(3, 1)
        self.loss_fn = torch.nn.SmoothL1Loss()


def test_the_loss_is_compute_loss_with_what_stands_beside_the_output(host: Any) -> None:
    host.load(net=WithAux())
    local = WithAux()
    out, aux = local(torch.as_tensor(X))
    expected = local.compute_loss(out, torch.as_tensor(Y), aux).item()
    reply = host.ask("COMPOSITE_FIT", node_ids=["net"], data=X, y=Y)
    assert reply["loss"] == expected
    assert same(reply["result"], out.detach())


def test_the_loss_is_compute_loss_before_loss_fn_before_the_mean_squared_error(host: Any) -> None:
    out, y = Head(3, 1)(torch.as_tensor(X)), torch.as_tensor(Y)
    host.put(a=WithLoss(), b=WithLossFn(), c=Head(3, 1))
    expected = {
        "a": (((out - y) ** 2).sum() * 3).item(),
        "b": torch.nn.functional.smooth_l1_loss(out, y).item(),
        "c": torch.nn.functional.mse_loss(out, y).item(),
    }
    for node_id, loss in expected.items():
        assert host.ask("COMPOSITE_FIT", node_ids=[node_id], data=X, y=Y)["loss"] == loss


@pytest.mark.parametrize("y", [Y[:, 0], Y[:4], np.float32(1), [1.0] * 8, "text", {"a": 1}])
def test_output_and_target_of_different_shape_are_an_error_and_never_broadcast(
    host: Any, refused: Any, y: Any
) -> None:
    host.load(net=Net(3, 1))
    with pytest.raises(refused, match=r"shape \[8, 1\].*compute_loss") as caught:
        host.ask("COMPOSITE_FIT", node_ids=["net"], data=X, y=y)
    assert (caught.value.code, caught.value.node_id) == ("filter_failed", "net")
    unchanged = host.node("net").obj.linear.weight
    assert torch.equal(unchanged, Net(3, 1).linear.weight)


class Detaches:
    def forward(self, x: Any, state: Any) -> Any:
        return x.detach() if hasattr(x, "detach") else x


class ToNumpy:
    def forward(self, x: Any, state: Any) -> Any:
        return x.detach().numpy()


@pytest.mark.parametrize("stops", [Detaches(), ToNumpy()], ids=["detach", "numpy"])
def test_a_node_that_stops_the_gradients_is_named(host: Any, refused: Any, stops: Any) -> None:
    host.load(first=Net(3, 3), wall=stops, last=Net(3, 1))
    with pytest.raises(refused, match=r"'wall' stops the gradients.*'first'") as caught:
        host.ask("COMPOSITE_FIT", node_ids=["first", "wall", "last"], data=X, y=Y)
    assert (caught.value.code, caught.value.node_id) == ("filter_failed", "wall")
    reply = host.ask("COMPOSITE_FIT", node_ids=["wall", "last"], data=torch.as_tensor(X), y=Y)
    assert reply["loss"] > 0


def test_a_loss_that_depends_on_no_parameter_is_an_error(host: Any, refused: Any) -> None:
    class Constant(Head):
        def compute_loss(self, out: Any, y: Any) -> Any:
            return torch.tensor(1.0)

    host.load(net=Constant(3, 1))
    with pytest.raises(refused, match="does not depend on any parameter"):
        host.ask("COMPOSITE_FIT", node_ids=["net"], data=X, y=Y)


@pytest.mark.parametrize("loss", [None, 1.0, torch.zeros(2)], ids=["None", "float", "two numbers"])
def test_a_loss_that_is_not_one_number_is_an_error(host: Any, refused: Any, loss: Any) -> None:
    net = Net(3, 1)
    host.put(net=net)
    net.compute_loss = lambda out, y: loss
    with pytest.raises(refused, match="the loss is not a tensor of one number"):
        host.ask("COMPOSITE_FIT", node_ids=["net"], data=X, y=Y)


def test_a_loss_that_is_not_finite_is_told_in_strict_json(host: Any) -> None:
    net = Net(3, 1)
    host.put(net=net)
    for number in (math.nan, math.inf):
        net.compute_loss = lambda out, y, number=number: out.sum() * number
        command = {"node_ids": ["net"], "data": X.tolist(), "y": Y.tolist()}
        for cmd in ("COMPOSITE_FIT", "BATCHED_FIT"):
            assert host.line({"cmd": cmd, **command})["ok"] is True


def test_a_chain_that_ends_in_something_else_than_a_tensor_is_an_error(
    host: Any, refused: Any
) -> None:
    class Listed:
        def forward(self, x: Any, state: Any) -> Any:
            return [1.0]

        def compute_loss(self, out: Any, y: Any) -> Any:
            return torch.tensor(0.0)

    host.load(listed=Listed(), net=Net(3, 1, lr=None))
    host.node("listed").meta = host.node("listed").meta.replace(differentiable=True)
    with pytest.raises(refused, match="returned a list"):
        host.ask("COMPOSITE_FIT", node_ids=["listed"], data=X, y=Y)


def test_gradients_pass_through_dicts_of_tensors() -> None:
    class Encoder(Net):
        def forward(self, x: Any, state: Any = None) -> Any:
            return {"h": super().forward(x), "scaled": [super().forward(x) * 2]}

    class Heads(Net):
        def forward(self, x: Any, state: Any = None) -> Any:
            return {"mean": super().forward(x["h"]), "other": super().forward(x["scaled"][0])}

        def compute_loss(self, out: Any, y: Any) -> Any:
            return ((out["mean"] - y) ** 2).mean() + out["other"].abs().mean()

    with soma.connect("inline", filters={"encoder": Encoder(3, 4), "heads": Heads(4, 1)}) as worker:
        chain = ["encoder", "heads"]
        before = worker.get_state("encoder").data
        fitted = worker.batched_fit(chain, X, Y, batch_size=4, collect="all", validation=(X, Y))
        assert {name: out.shape for name, out in fitted.result.items()} == {
            "mean": (8, 1),
            "other": (8, 1),
        }
        assert worker.get_state("encoder").data != before
        with pytest.raises(ValueError, match=r"returned a dict; .* compute_loss"):
            worker.composite_fit(["encoder"], X, Y)


def test_integer_targets_stay_integers(host: Any) -> None:
    class Classifier(Head):
        def __init__(self) -> None:
            super().__init__(3, 4)
            self.loss_fn = torch.nn.CrossEntropyLoss()

    labels = np.arange(8) % 4
    expected = torch.nn.functional.cross_entropy(
        Head(3, 4)(torch.as_tensor(X)), torch.as_tensor(labels)
    ).item()
    for y in (labels, torch.as_tensor(labels)):
        host.load(net=Classifier())
        assert host.ask("COMPOSITE_FIT", node_ids=["net"], data=X, y=y)["loss"] == expected


def test_integer_inputs_stay_integers(host: Any) -> None:
    class Embeds(Head):
        def __init__(self) -> None:
            super().__init__(3, 1)
            self.table = torch.nn.Embedding(9, 3)

        def forward(self, x: Any, state: Any = None) -> Any:
            return super().forward(self.table(x))

    host.load(net=Embeds())
    assert host.ask("COMPOSITE_FIT", node_ids=["net"], data=np.arange(8), y=Y)["loss"] > 0


def test_floats_take_the_type_of_the_first_parameter(host: Any) -> None:
    host.load(net=Net(3, 1).double())
    for data, y in ((X, Y), (X.astype("f8"), Y.astype("f2"))):
        reply = host.ask("COMPOSITE_FIT", node_ids=["net"], data=data, y=y)
        assert reply["result"].dtype == np.float64


def test_gradients_of_an_earlier_backward_are_not_added(host: Any) -> None:
    net = Net(3, 1, lr=None)
    host.put(net=net)
    net(torch.as_tensor(X)).sum().backward()
    host.ask("COMPOSITE_FIT", node_ids=["net"], data=X, y=Y)
    local = Net(3, 1, lr=None)
    torch.nn.functional.mse_loss(local(torch.as_tensor(X)), torch.as_tensor(Y)).backward()
    assert torch.equal(net.linear.weight.grad, local.linear.weight.grad)
    host.ask("COMPOSITE_FIT", node_ids=["net"], data=X, y=Y)
    assert torch.equal(net.linear.weight.grad, local.linear.weight.grad)


def test_owners_of_an_optimizer_step_and_the_others_keep_their_gradients(host: Any) -> None:
    owner, other = Net(3, 3), Head(3, 1, lr=None)
    host.put(owner=owner, other=other)
    host.ask("COMPOSITE_FIT", node_ids=["owner", "other"], data=X, y=Y)
    assert not torch.equal(owner.linear.weight, Net(3, 3).linear.weight)
    assert all(p.grad is None or not p.grad.any() for p in owner.parameters())
    assert torch.equal(other.linear.weight, Head(3, 1).linear.weight)
    assert all(p.grad is not None and p.grad.any() for p in other.parameters())


class Zeroing(torch.optim.SGD):
    """Keeps zeros where torch's own optimizers keep nothing."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        super().zero_grad(set_to_none=False)


def test_an_optimizer_that_clears_gradients_in_its_own_way_is_asked_to(host: Any) -> None:
    net = Head(3, 1, lr=None)
    net.optimizer = Zeroing(net.parameters(), lr=0.1)
    host.put(net=net)
    host.ask("COMPOSITE_FIT", node_ids=["net"], data=X, y=Y)
    assert all(p.grad is not None and not p.grad.any() for p in net.parameters())


def test_a_parameter_that_is_exchanged_between_two_commands_is_trained(host: Any) -> None:
    net = Head(3, 1)
    host.put(net=net)
    host.ask("COMPOSITE_FIT", node_ids=["net"], data=X, y=Y)
    net.linear.weight = torch.nn.Parameter(torch.zeros(1, 3))
    net.linear.weight.grad = torch.full((1, 3), 1e9)
    net.optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    host.ask("COMPOSITE_FIT", node_ids=["net"], data=X, y=Y)
    assert 0 < net.linear.weight.abs().max() < 10


def test_frozen_parameters_are_left_alone_and_do_not_stop_the_rest(host: Any) -> None:
    frozen, net = Net(3, 3, lr=None), Head(3, 1)
    host.put(frozen=frozen, net=net)
    frozen.requires_grad_(False)
    host.ask("COMPOSITE_FIT", node_ids=["frozen", "net"], data=X, y=Y)
    assert all(p.grad is None for p in frozen.parameters())
    assert not torch.equal(net.linear.weight, Head(3, 1).linear.weight)


def test_autograd_is_off_outside_of_the_joint_step(host: Any) -> None:
    class Tells(Net):
        def forward(self, x: Any, state: Any = None) -> Any:
            return torch.is_grad_enabled()

    host.put(net=Tells(3, 1))
    assert host.ask("FORWARD", node_id="net", data=X)["result"] is False
    assert host.ask("COMPOSITE_FORWARD", node_ids=["net"], data=X)["result"] is False


@pytest.mark.parametrize("where", ["forward", "compute_loss", "backward", "step"])
def test_every_failure_of_the_joint_step_is_an_error_reply_and_no_buffer_changes(
    host: Any, refused: Any, where: str
) -> None:
    class BadBackward(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:
            raise ValueError("bad backward")

    def bad(*args: Any) -> Any:
        raise ValueError(f"bad {where}")

    class Normed(Head):
        def forward(self, x: Any, state: Any = None) -> Any:
            return self.norm(super().forward(x))

    net = Normed(3, 1)
    net.norm = torch.nn.BatchNorm1d(1)
    host.put(net=net)
    if where == "forward":
        net.forward = bad
    elif where == "compute_loss":
        net.compute_loss = bad
    elif where == "backward":
        net.compute_loss = lambda out, y: BadBackward.apply(out).sum()
    else:
        net.optimizer.step = bad
    with pytest.raises(refused, match=f"bad {where}") as caught:
        host.ask("COMPOSITE_FIT", node_ids=["net"], data=X, y=Y)
    assert (caught.value.code, caught.value.node_id) == ("filter_failed", "net")
    assert not net.norm.num_batches_tracked
    assert not net.norm.running_mean


def test_a_dict_of_columns_reaches_a_module_as_tensors(host: Any) -> None:
    class Columns(Head):
        def forward(self, x: Any, state: Any = None) -> Any:
            return super().forward(torch.stack([x["a"], x["b"], x["a"]], 1))

    host.load(net=Columns(3, 1))
    columns = {"a": X[:, 0], "b": X[:, 1].tolist()}
    assert host.ask("COMPOSITE_FIT", node_ids=["net"], data=columns, y=Y)["loss"] > 0


class Refuses:
    def forward(self, x: Any, state: Any) -> Any:
        raise ValueError("refused")


def test_a_chain_that_fails_half_way_keeps_what_it_had_learned(host: Any, refused: Any) -> None:
    host.load(scaler=Scaler(), refuses=Refuses())
    host.ask("FIT", node_id="scaler", data=X)
    before = host.ask("GET_STATE", node_id="scaler")["fit_state"]
    with pytest.raises(refused, match="refused"):
        host.ask("COMPOSITE_FIT", node_ids=["scaler", "refuses"], data=X * 2)
    np.testing.assert_equal(host.ask("GET_STATE", node_id="scaler")["fit_state"], before)


def test_a_node_that_comes_twice_gives_what_forwarding_gives_afterwards() -> None:
    class Center:
        def fit(self, x: Any, y: Any) -> Any:
            return {"mean": sum(x) / len(x)}

        def forward(self, x: Any, state: Any) -> Any:
            return [value - state["mean"] for value in x]

    with soma.connect("inline", filters={"a": Center()}) as worker:
        fitted = worker.composite_fit(["a", "a"], [1.0, 2.0, 6.0])
        assert fitted.fit_states == {"a": {"mean": 0.0}}
        assert fitted.result == worker.composite_forward(["a", "a"], [1.0, 2.0, 6.0])
        assert fitted.result == [1.0, 2.0, 6.0]
