"""An optimizer that a command names, over the whole chain."""

from __future__ import annotations

from typing import Any

import pytest

import soma_core as soma

from ..support.filters import loaded

torch = pytest.importorskip("torch")

ADAM = {"name": "Adam", "lr": 0.05}
BODY = ("torch.MLP", {"sizes": [5, 3], "seed": 1})
HEAD = ("torch.MLP", {"sizes": [3, 1], "seed": 2})


def parameters(worker: Any, *node_ids: str) -> list[Any]:
    states = [loaded(worker.get_state(node_id).data) for node_id in node_ids]
    return [value for state in states for value in state.values()]


def same(left: list[Any], right: list[Any]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(left, right, strict=True))


@pytest.mark.parametrize(
    ("named", "complaint"),
    [
        ({"name": "Adamant"}, "no optimizer 'Adamant'.*Adam, AdamW"),
        ({"lr": 0.1}, "no optimizer None"),
        ({"name": ["Adam"]}, r"no optimizer \['Adam'\]"),
        ({"name": "LBFGS"}, "no optimizer 'LBFGS' that steps from gradients alone"),
        ({"name": "Adam", "rate": 0.1}, r"Adam has no argument rate; it has \['lr'"),
        ({"name": "Adam", "lr": -1.0}, "Adam refuses .*Invalid learning rate"),
        ({"name": "Adam", "params": []}, "Adam has no argument params"),
    ],
)
def test_what_is_no_optimizer_is_refused_and_says_what_would_be_one(
    inline: Any, data: Any, named: Any, complaint: str
) -> None:
    inline.load({"body": BODY})
    before = parameters(inline, "body")
    with pytest.raises(soma.RemoteError, match=complaint) as refused:
        inline.composite_fit(["body"], data[0], data[0][:, :3], optimizer=named)
    assert refused.value.code == "invalid_command"
    assert same(parameters(inline, "body"), before)


def test_an_optimizer_that_has_nothing_to_step_is_refused(inline: Any, data: Any) -> None:
    inline.load({"body": BODY, "scaler": ("sklearn.StandardScaler", {})})
    with pytest.raises(soma.RemoteError, match="y is missing"):
        inline.composite_fit(["body"], data[0], optimizer=ADAM)
    with pytest.raises(soma.RemoteError, match="no node is differentiable"):
        inline.batched_fit(["scaler"], *data, optimizer=ADAM)


@pytest.mark.parametrize("train", ["composite_fit", "batched_fit"])
def test_data_of_no_rows_is_refused_and_nothing_is_stepped(
    inline: Any, data: Any, train: str
) -> None:
    inline.load({"body": BODY})
    before = parameters(inline, "body")
    none = data[0][:0]
    with pytest.raises(ValueError, match=r"nothing to learn from: the output has shape \[0, 3\]"):
        getattr(inline, train)(["body"], none, none[:, :3], optimizer=ADAM)
    assert same(parameters(inline, "body"), before)


def test_a_node_that_is_not_trainable_keeps_its_parameters(inline: Any, data: Any) -> None:
    inline.load({"body": BODY, "head": HEAD}, trainable={"body": False})
    body, head = parameters(inline, "body"), parameters(inline, "head")
    inline.composite_fit(["body", "head"], *data, optimizer=ADAM)
    assert same(parameters(inline, "body"), body)
    assert not same(parameters(inline, "head"), head)


def test_another_rate_takes_effect_at_once_and_keeps_the_moments(inline: Any, data: Any) -> None:
    inline.load({"head": ("torch.MLP", {"sizes": [5, 1], "seed": 1})})
    torch.manual_seed(1)
    home = torch.nn.Linear(5, 1)
    optimizer = torch.optim.Adam(home.parameters(), lr=0.05)
    x, y = map(torch.as_tensor, data)
    for rate in (0.05, 0.05, 0.01):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(home(x), y).backward()
        optimizer.step()
        inline.composite_fit(["head"], *data, optimizer={"name": "Adam", "lr": rate})
    assert same(parameters(inline, "head"), [home.weight, home.bias])


def test_a_filter_that_was_loaded_again_begins_anew(inline: Any, data: Any) -> None:
    trained = []
    for _ in range(2):
        inline.load({"body": BODY, "head": HEAD})
        for _ in range(3):
            inline.composite_fit(["body", "head"], *data, optimizer=ADAM)
        trained.append(parameters(inline, "body", "head"))
    assert same(*trained)


def test_auxiliary_outputs_reach_the_loss(inline: Any, data: Any) -> None:
    class Autoencoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.encode, self.decode = torch.nn.Linear(5, 2), torch.nn.Linear(2, 5)

        def forward(self, x: Any, state: Any = None) -> Any:
            code = self.encode(x)
            return self.decode(code), code

        def compute_loss(self, out: Any, y: Any, code: Any) -> Any:
            return torch.nn.functional.mse_loss(out, y) + code.abs().mean()

    home = Autoencoder()
    inline.load({"net": Autoencoder()})
    optimizer = torch.optim.Adam(home.parameters(), lr=0.05)
    x = torch.as_tensor(data[0])
    for _ in range(3):
        optimizer.zero_grad()
        out, code = home(x)
        loss = home.compute_loss(out, x, code)
        loss.backward()
        optimizer.step()
        told = inline.composite_fit(["net"], data[0], data[0], optimizer=ADAM)
        assert told.loss == loss.item()


def test_a_plain_node_that_stops_the_gradients_is_named(inline: Any, data: Any) -> None:
    inline.load({"body": BODY, "scaler": ("sklearn.StandardScaler", {}), "head": HEAD})
    with pytest.raises(soma.RemoteError, match=r"'scaler' stops the gradients.*'body'"):
        inline.composite_fit(["body", "scaler", "head"], *data, optimizer=ADAM)
