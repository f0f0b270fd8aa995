"""Where a network runs, and in which types it computes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from soma_filters_torch.filters import MLP, TorchModule
from torch import nn

import soma_core as soma

CONFIG = {"sizes": [4, 8, 2], "seed": 3, "dropout": 0.2}


def load(**config):
    soma.connect("inline", filters={"net": ("torch.MLP", CONFIG | config)}).close()


def test_a_device_that_is_not_there_is_why_the_filter_does_not_load(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(soma.RemoteError, match=r"device='cuda' is not there.*has 'cpu'") as refused:
        load(device="cuda")
    assert refused.value.code == "load_failed"
    assert refused.value.node_id == "net"


def test_a_number_beyond_the_last_device_is_told_which_there_are(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: f"Card {number}")
    with pytest.raises(soma.RemoteError, match=r"has 'cpu', 'cuda:0' \(Card 0\), 'cuda:1' \(Ca"):
        load(device="cuda:2")


def test_making_a_filter_for_a_device_that_is_elsewhere_is_no_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert MLP(**CONFIG, device="cuda:1").meta().differentiable


@pytest.mark.parametrize(("name", "numpy_type"), [("float64", np.float64), ("float32", np.float32)])
def test_parameters_outputs_and_losses_have_the_type_that_was_asked_for(name, numpy_type, data):
    node = MLP(**CONFIG, dtype=name)
    state = node.fit(data.x, data.y)
    assert {array.dtype for array in state.values()} == {np.dtype(numpy_type)}
    with torch.no_grad():
        assert node.forward(data.x, {}).dtype == numpy_type


def test_training_in_double_precision_is_that_of_torch(data):
    torch.manual_seed(3)
    oracle = nn.Linear(4, 2).double()
    optimizer = torch.optim.Adam(oracle.parameters())
    nn.functional.mse_loss(oracle(torch.tensor(data.x).double()), torch.tensor(data.y)).backward()
    optimizer.step()
    node = MLP(sizes=[4, 2], seed=3, dtype="float64", batch_size=50, shuffle=False)
    state = node.fit(data.x, data.y)
    np.testing.assert_array_equal(state["0.weight"], oracle.weight.detach().numpy())


def test_bfloat16_trains_and_its_states_travel_without_pickle(data, send):
    node = MLP(**CONFIG, dtype="bfloat16")
    state = send(node.fit(data.x, data.y))
    assert {tensor.dtype for tensor in state.values()} == {torch.bfloat16}
    with torch.no_grad():
        found = MLP(**CONFIG, dtype="bfloat16").forward(data.x, state)
        np.testing.assert_array_equal(found, node.forward(data.x, {}))
    assert found.dtype == np.float32


def test_autocast_trains_as_torchs_own_does(data):
    torch.manual_seed(3)
    oracle = nn.Linear(4, 2)
    optimizer = torch.optim.Adam(oracle.parameters(), lr=1e-3)
    x, y = torch.tensor(data.x), torch.tensor(data.classes)
    for _ in range(3):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = nn.functional.cross_entropy(oracle(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    config = {"sizes": [4, 2], "seed": 3, "loss": "cross_entropy", "shuffle": False}
    node = MLP(**config, autocast="bfloat16", batch_size=50, epochs=3)
    state = node.fit(data.x, data.classes)
    np.testing.assert_array_equal(state["0.weight"], oracle.weight.detach().numpy())
    with torch.no_grad():
        rounded, exact = node.forward(x, {}), MLP(**config).forward(x, state)
    assert rounded.dtype is torch.float32
    assert not torch.equal(rounded, exact)
    assert torch.allclose(rounded, exact, atol=0.02)


@pytest.mark.parametrize("config", [{"dtype": "float16"}, {"autocast": "float16"}])
def test_half_precision_runs_and_is_refused_for_training(config, data):
    node = MLP(**CONFIG, **config)
    with torch.no_grad():
        assert np.isfinite(node.forward(data.x, {})).all()
    with pytest.raises(ValueError, match=r"'float16' is for forward only.*train with 'bfloat16'"):
        node.fit(data.x, data.y)
    with pytest.raises(ValueError, match="is for forward only"):
        node.forward(torch.tensor(data.x), {})


@pytest.mark.gpu
class TestOnADevice:
    """Needs a CUDA device; skipped without one."""

    def node(self, **config):
        return MLP(**CONFIG, device="cuda", **config)

    def test_states_and_results_come_back_to_the_cpu(self, data):
        node = self.node()
        state = node.fit(data.x, data.y)
        assert {type(array) for array in state.values()} == {np.ndarray}
        assert next(node.parameters()).device.type == "cuda"
        with torch.no_grad():
            assert isinstance(node.forward(data.x, state), np.ndarray)
            assert node.forward(torch.tensor(data.x), state).device.type == "cpu"

    def test_an_output_may_stay_on_the_device_for_the_next_filter(self, data):
        with torch.no_grad():
            out = self.node(output_device="same").forward(torch.tensor(data.x), {})
        assert out.device.type == "cuda"

    def test_training_starts_from_the_parameters_of_the_cpu_and_comes_close_to_it(self, data):
        config = {"sizes": [4, 2], "seed": 3, "shuffle": False, "epochs": 3}
        here = MLP(**config).fit(data.x, data.y)
        there = MLP(**config, device="cuda").fit(data.x, data.y)
        np.testing.assert_allclose(there["0.weight"], here["0.weight"], atol=1e-5)

    def test_a_seed_repeats_dropout_on_the_device_and_leaves_its_stream_alone(self, data):
        torch.cuda.manual_seed(1)
        wanted = torch.rand(3, device="cuda")
        torch.cuda.manual_seed(1)
        first, second = (self.node(epochs=2).fit(data.x, data.y) for _ in range(2))
        np.testing.assert_array_equal(first["0.weight"], second["0.weight"])
        assert torch.equal(torch.rand(3, device="cuda"), wanted)

    @pytest.mark.parametrize("format", ["torch", "safetensors"])
    def test_states_in_bytes_move_between_devices(self, format, data):
        filters = {"there": self.node(), "here": MLP(**CONFIG)}
        with soma.connect("inline", filters=filters) as worker:
            worker.set_state("here", worker.get_state("there", format=format))
            worker.set_state("there", worker.get_state("here", format=format))
            results = [worker.forward(name, data.x) for name in filters]
        np.testing.assert_allclose(*results, atol=1e-5)

    def test_a_chain_over_devices_is_trained_and_resumed(self, data):
        filters = {
            "body": ("torch.MLP", CONFIG | {"device": "cuda"}),
            "head": ("torch.MLP", {"sizes": [2, 2], "seed": 1, "device": "cpu"}),
        }

        def losses(worker):
            return worker.batched_fit(list(filters), data.x, data.y, epochs=3).losses

        with soma.connect("inline", filters=filters) as worker:
            losses(worker)
            states = {name: worker.get_state(name, full=True) for name in filters}
            uninterrupted = losses(worker)
            worker.load(filters)
            for name, state in states.items():
                worker.set_state(name, state)
            assert losses(worker) == pytest.approx(uninterrupted, rel=1e-5)

    def test_autocast_on_the_device_gives_outputs_of_the_parameters_type(self, data):
        node = TorchModule(
            module="torch.nn.Linear", args=[4, 2], device="cuda", autocast="bfloat16", seed=0
        )
        node.fit(data.x, data.y)
        with torch.no_grad():
            assert node.forward(torch.tensor(data.x), {}).dtype is torch.float32
