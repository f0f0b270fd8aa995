"""States of training that compiled code would trust are compared with what they are for."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import soma_core as soma
from soma_core.wire.weights import dump_weights, load_weights

from ..support import gate_runs

torch = pytest.importorskip("torch")
pytest.importorskip("soma_filters_torch")

CONFIG: dict[str, Any] = {
    "sizes": [3, 400, 2],
    "seed": 1,
    "scheduler": {"name": "StepLR", "step_size": 2},
}
X, Y = np.ones((4, 3), np.float32), np.ones((4, 2), np.float32)


@pytest.fixture(scope="module", params=gate_runs("inline", of=["inline", "socket"]))
def worker(request: Any) -> Iterator[soma.Worker]:
    filters = {
        "plain": ("torch.MLP", CONFIG),
        "fused": ("torch.MLP", {**CONFIG, "optimizer": {"name": "Adam", "fused": True}}),
    }
    options = request.getfixturevalue("with_torch") if request.param == "socket" else {}
    with soma.connect(request.param, **options, pickle="never", filters=filters) as worker:
        for node_id in filters:
            worker.composite_fit([node_id], X, Y)
        yield worker


Change = Callable[[dict[str, Any]], None]


def moments(content: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = content["optimizer"]["state"][0]
    return found


def group(content: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = content["optimizer"]["param_groups"][0]
    return found


def shrink(content: dict[str, Any]) -> None:
    moments(content).update(exp_avg=torch.ones(1), exp_avg_sq=torch.ones(1))


def fuse(content: dict[str, Any]) -> None:
    shrink(content)
    group(content)["fused"] = True


def stand_beyond(content: dict[str, Any]) -> None:
    name, key, _, *rest = content["random"]["numpy"]
    content["random"]["numpy"] = (name, key, 10**8, *rest)


def stand_in_longer(content: dict[str, Any]) -> None:
    name, key, _, *rest = content["random"]["numpy"]
    content["random"]["numpy"] = (name, key * 10, 6_000, *rest)


CHANGES: dict[str, tuple[Change, str]] = {
    "moments of one element": (shrink, "exp_avg"),
    "fused, with moments of one element": (fuse, "fused is|exp_avg"),
    "moments of another shape": (
        lambda c: moments(c).update(exp_avg=torch.ones(3, 400)),
        r"'exp_avg' has shape \[3, 400\]; its parameter has \[400, 3\]",
    ),
    "fused alone": (lambda c: group(c).update(fused=not group(c).get("fused")), "fused is"),
    "a rate that is text": (lambda c: group(c).update(lr="x"), "lr is a number, and 'x'"),
    "moments of nobody": (
        lambda c: c["optimizer"]["state"].update({99: {}}),
        "a parameter 99 that is not there",
    ),
    "no group": (lambda c: c["optimizer"].update(param_groups=[]), "the state has 0"),
    "an optimizer that is text": (lambda c: c.update(optimizer="x"), "is a dict of its state"),
    "attributes of a scheduler": (
        lambda c: c["schedulers"][0].update(optimizer=1, step=2),
        "StepLR has no optimizer, step",
    ),
    "chains that are a tensor": (
        lambda c: c.update(named=torch.zeros(9)),
        "so is named, of chain and moments",
    ),
    "nodes of a chain that are a tensor": (
        lambda c: c.update(named=[{"chain": torch.zeros(9), "name": "Adam", "moments": {}}]),
        "so is named, of chain and moments",
    ),
    "random numbers from beyond": (stand_beyond, "cannot stand at 100000000"),
    "random numbers from a longer list": (stand_in_longer, "of 6240 words cannot stand at 6000"),
}


@pytest.mark.parametrize("node_id", ["plain", "fused"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_training_state_that_reaches_beyond_its_node_is_refused(
    worker: soma.Worker, node_id: str, change: str
) -> None:
    alter, reason = CHANGES[change]
    state = worker.get_state(node_id, full=True)
    content = load_weights(state.training)
    alter(content)
    changed = dataclasses.replace(state, training=dump_weights(content))
    with pytest.raises(soma.RemoteError, match=reason) as caught:
        worker.set_state(node_id, changed)
    assert caught.value.code is soma.ErrorCode.INVALID_STATE
    assert worker.composite_fit([node_id], X, Y).loss is not None
    assert worker.get_state(node_id, full=True).format == state.format


def test_an_honest_training_state_is_taken_and_given_back(worker: soma.Worker) -> None:
    for node_id in ("plain", "fused"):
        state = worker.get_state(node_id, full=True)
        worker.composite_fit([node_id], X, Y)
        assert worker.get_state(node_id, full=True).training != state.training
        worker.set_state(node_id, state)
        assert worker.get_state(node_id, full=True).training == state.training


def test_random_numbers_in_lists_as_earlier_versions_wrote_them_are_taken(
    worker: soma.Worker,
) -> None:
    state = worker.get_state("plain", full=True)
    content = load_weights(state.training)
    numbers = content["random"]
    (version, words, gauss), (name, key, *rest) = numbers["python"], numbers["numpy"]
    numbers["python"] = (version, np.frombuffer(words, np.uint32).tolist(), gauss)
    numbers["numpy"] = (name, np.frombuffer(key, np.uint32).tolist(), *rest)
    numbers["torch"] = list(numbers["torch"])
    worker.set_state("plain", dataclasses.replace(state, training=dump_weights(content)))
    assert worker.get_state("plain", full=True).training == state.training


@pytest.mark.nightly
def test_what_a_named_optimizer_goes_on_from_is_compared_when_it_is_built(
    with_torch: dict[str, Any],
) -> None:
    adam = {"name": "Adam", "fused": True}
    filters = {"net": ("torch.MLP", CONFIG)}
    with soma.connect("socket", **with_torch, pickle="never", filters=filters) as worker:
        worker.composite_fit(["net"], X, Y, optimizer=adam)
        state = worker.get_state("net", full=True)
        content = load_weights(state.training)
        (saved,) = content["named"]
        for kept in saved["moments"].values():
            kept.update(exp_avg=torch.ones(1), exp_avg_sq=torch.ones(1))
        worker.set_state("net", dataclasses.replace(state, training=dump_weights(content)))
        for _ in range(2):  # to begin anew in its place would be another training, without a word
            with pytest.raises(soma.RemoteError, match=r"given does not fit.*exp_avg") as caught:
                worker.composite_fit(["net"], X, Y, optimizer=adam)
            assert caught.value.code is soma.ErrorCode.INVALID_COMMAND
        worker.set_state("net", state)
        assert worker.composite_fit(["net"], X, Y, optimizer=adam).loss is not None


def saved(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def gradients(worker: soma.Worker) -> dict[str, Any]:
    return {name: torch.zeros_like(item) for name, item in parameters(worker).items()}


def parameters(worker: soma.Worker) -> dict[str, Any]:
    found: dict[str, Any] = load_weights(worker.get_state("plain").data)
    return found


def sparse(like: Any) -> Any:
    beyond = torch.full((2, 1), 10**9)
    return torch.sparse_coo_tensor(beyond, torch.ones(1), like.shape, check_invariants=False)


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (sparse, "_rebuild_sparse_tensor"),
        (lambda like: torch.ones(1), "has shape"),
        (lambda like: like.to(torch.int64), r"type torch\.int64; the parameter has torch\.float32"),
        (lambda like: like.to(torch.bool), r"type torch\.bool"),
        (lambda like: like.to(torch.complex64), r"type torch\.complex64"),
        (lambda like: like.tolist(), "has shape"),
    ],
    ids=["sparse", "shape", "integers", "bools", "complex", "lists"],
)
def test_gradients_are_dense_and_of_the_shape_and_kind_of_their_parameters(
    worker: soma.Worker, change: Any, reason: str
) -> None:
    came = gradients(worker)
    before = worker.get_state("plain").data
    name = next(iter(came))
    with pytest.raises(soma.RemoteError, match=reason) as caught:
        worker.apply_gradients("plain", saved({**came, name: change(came[name])}))
    assert caught.value.code is soma.ErrorCode.INVALID_STATE
    assert worker.get_state("plain").data == before


def test_gradients_of_another_precision_are_converted(worker: soma.Worker) -> None:
    came = {name: item.double() for name, item in gradients(worker).items()}
    assert worker.apply_gradients("plain", saved(came)) == list(came)


def test_sparse_weights_are_no_state(worker: soma.Worker) -> None:
    weights = parameters(worker)
    name = next(iter(weights))
    state = soma.NodeState(saved({**weights, name: sparse(weights[name])}), "torch", {})
    with pytest.raises(soma.RemoteError, match="_rebuild_sparse_tensor") as caught:
        worker.set_state("plain", state)
    assert caught.value.code is soma.ErrorCode.INVALID_STATE
