"""Any module: by paths within paths, as an object, with several inputs, and in safetensors."""

from __future__ import annotations

import copy
import math
import warnings

import numpy as np
import pytest
import safetensors.torch
import torch
from soma_filters_torch.adapting import soma_adapt
from soma_filters_torch.filters import MLP, TorchModule
from torch import nn

import soma_core as soma
from soma_core.wire.pickles import Pickles

LINEAR = {"module": "torch.nn.Linear", "args": [4, 2]}
LAYERS = [
    {"module": "torch.nn.Linear", "args": [4, 8], "kwargs": {"bias": False}},
    {"module": "torch.nn.Tanh"},
    {"module": "torch.nn.Linear", "args": [8, 2]},
]


def layers():
    return nn.Sequential(nn.Linear(4, 8, bias=False), nn.Tanh(), nn.Linear(8, 2))


def test_modules_are_built_in_the_arguments_of_modules(data):
    torch.manual_seed(3)
    oracle = layers()
    node = TorchModule(module="torch.nn.Sequential", args=LAYERS, seed=3)
    with torch.no_grad():
        wanted = oracle(torch.tensor(data.x)).numpy()
        np.testing.assert_array_equal(node.forward(data.x, {}), wanted)


def test_what_is_wrong_within_an_argument_is_named():
    wrong = [LAYERS[0], {"module": "torch.nn.Tan"}]
    with pytest.raises(ValueError, match=r"unknown name in module torch\.nn 'Tan'; did you mean"):
        TorchModule(module="torch.nn.Sequential", args=wrong).on_load()


def test_a_module_is_loaded_as_it_is(data):
    net = layers()
    with soma.connect("inline", filters={"net": net}) as worker, torch.no_grad():
        np.testing.assert_array_equal(
            worker.forward("net", data.x), net(torch.tensor(data.x)).numpy()
        )


@pytest.mark.parametrize(
    "net",
    [
        nn.DataParallel(nn.Linear(4, 2)),  # as what torch.compile returns
        nn.GRUCell(4, 2),
        nn.TransformerEncoderLayer(4, 2, 8),
    ],
    ids=lambda net: type(net).__name__,
)
def test_so_is_one_that_takes_more_than_its_data(net, data):
    with soma.connect("inline", filters={"net": net}) as worker:
        assert worker.list().nodes["net"].meta.name == "torch.Module"
        worker.forward("net", data.x)


def test_one_of_torch_s_that_takes_two_inputs_is_given_them_by_name(data):
    pair, x = nn.Bilinear(4, 4, 2), torch.tensor(data.x)
    with soma.connect("inline", filters={"pair": pair, "loss": nn.MSELoss()}) as worker:
        found = worker.forward("pair", {"input1": x, "input2": 2 * x})
        assert torch.equal(found, pair(x, 2 * x))
        assert worker.forward("loss", {"input": x, "target": x}) == 0
        with pytest.raises(
            ValueError, match=r"Bilinear one input.*input2.*a dict of inputs by name"
        ):
            worker.forward("pair", x)


def computed_weights():
    with warnings.catch_warnings():  # some of it goes out of use
        warnings.simplefilter("ignore")
        net = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2), torch.jit.script(nn.Linear(2, 2)))
        torch.nn.utils.weight_norm(net[0])
    torch.nn.utils.parametrizations.weight_norm(net[1])
    return net


def test_a_module_whose_weights_torch_computes_travels_and_is_copied(data):
    net, x = computed_weights(), torch.tensor(data.x)
    wanted, pickles = net(x), Pickles()
    for made in (pickles.load(pickles.dump(net)), TorchModule(module=net).build()):
        assert torch.equal(made(x), wanted)
        made(x).sum().backward()
        assert all(weight.is_leaf and weight.grad is not None for weight in made.parameters())
        assert all(weight.grad is None for weight in net.parameters())


def test_an_optimizer_keeps_its_hooks_in_a_worker(data):
    net = layers()
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    optimizer.register_step_pre_hook(lambda own, args, kwargs: own.zero_grad())
    pickles = Pickles()
    optimizer, net = pickles.load(pickles.dump((optimizer, net)))
    net(torch.tensor(data.x)).sum().backward()
    optimizer.step()
    assert all(parameter.grad is None for parameter in net.parameters())


def quantized_in_part(out=2):
    with warnings.catch_warnings():  # it moves to a package of its own
        warnings.simplefilter("ignore")
        body = nn.Sequential(nn.Linear(4, 3))
        body = torch.ao.quantization.quantize_dynamic(body, {nn.Linear}, dtype=torch.qint8)
    return nn.Sequential(body, nn.Linear(3, out))


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
def test_what_a_quantized_module_learned_comes_back_from_a_state_and_a_checkpoint(data, tmp_path):
    net, saved = quantized_in_part(), tmp_path / "net.ckpt"
    with soma.connect("inline", filters={"net": net}) as worker:
        assert worker.composite_fit(["net"], data.x, data.y).states == {}
        wanted = worker.forward("net", data.x)
        state = worker.get_state("net", full=True)
        assert state.format == "torch_pickle"
        worker.save_checkpoint(saved)
        for restore in (
            lambda: worker.set_state("net", state),
            lambda: worker.load_checkpoint(saved),
        ):
            worker.composite_fit(["net"], data.x, data.y)
            restore()
            np.testing.assert_array_equal(worker.forward("net", data.x), wanted)
        with pytest.raises(soma.RemoteError, match=r"'net'.*qint8.*use the format torch_pickle"):
            worker.get_state("net", format="torch")


class Counting(nn.Linear):
    """Keeps a number beside its tensors."""

    number = 1

    def get_extra_state(self):
        return self.number

    def set_extra_state(self, state):
        self.number = state

    def forward(self, x):
        return super().forward(x) * self.number


def counting(out=2):
    first = Counting(4, 3)
    first.number = out
    return nn.Sequential(first, nn.Linear(3, out))


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
@pytest.mark.parametrize("make", [quantized_in_part, counting])
def test_a_state_that_fits_by_half_changes_nothing_that_is_no_tensor_either(make, data):
    with soma.connect("inline", filters={"net": make(), "wider": make(out=5)}) as worker:
        before = worker.forward("net", data.x)
        with pytest.raises(soma.RemoteError, match="size mismatch"):
            worker.set_state("net", worker.get_state("wider", full=True))
        np.testing.assert_array_equal(worker.forward("net", data.x), before)


def test_what_is_no_module_is_left_to_other_plugins():
    assert soma_adapt(obj=5) is None
    assert soma_adapt(obj=nn.Linear(1, 1)).title == "torch.Module"


def test_a_module_does_not_travel_where_pickles_are_refused():
    with (
        soma.connect("inline", pickle="never") as worker,
        pytest.raises(soma.SomaError, match=r"only travel as a pickle.*filters by registered name"),
    ):
        worker.load({"net": layers()})


def test_each_fit_starts_from_the_module_that_was_given_and_leaves_it_alone(data):
    net = layers()
    before = net[0].weight.detach().clone()
    node = TorchModule(module=net, shuffle=False)
    first, second = node.fit(data.x, data.y), node.fit(data.x, data.y)
    np.testing.assert_array_equal(first["0.weight"], second["0.weight"])
    assert not np.array_equal(first["0.weight"], before.numpy())
    assert torch.equal(net[0].weight, before)


def test_frozen_parameters_of_a_module_stay_as_they_are(data):
    net = layers()
    net[0].requires_grad_(False)
    state = TorchModule(module=net, optimizer={"name": "AdamW", "weight_decay": 0.1}).fit(
        data.x, data.y
    )
    np.testing.assert_array_equal(state["0.weight"], net[0].weight.numpy())
    assert not np.array_equal(state["2.weight"], net[2].weight.detach().numpy())
    with pytest.raises(ValueError, match="no parameters to train"):
        TorchModule(module=net.requires_grad_(False)).fit(data.x, data.y)


def test_the_hash_of_a_module_is_that_of_its_content():
    torch.manual_seed(1)
    net = layers()
    torch.manual_seed(1)
    equal = layers()
    hashed = TorchModule(module=net).config_hash()
    assert TorchModule(module=equal.eval()).config_hash() == hashed
    equal[0].weight.data[0, 0] += 1
    assert TorchModule(module=equal).config_hash() != hashed
    leaky = [TorchModule(module=nn.LeakyReLU(slope)).config_hash() for slope in (0.1, 0.2)]
    assert leaky[0] != leaky[1]


@pytest.mark.parametrize(
    "module",
    [nn.GRU(3, 2), nn.TransformerEncoderLayer(8, 2, 16), nn.Conv2d(1, 2, 3)],
    ids=lambda module: type(module).__name__,
)
def test_the_hash_of_a_module_survives_its_copies(module):
    hashed = TorchModule(module=module).config_hash()
    assert TorchModule(module=copy.deepcopy(module)).config_hash() == hashed


def test_arguments_beside_a_module_that_exists_are_refused():
    with pytest.raises(ValueError, match="args and kwargs are for the path of a class"):
        TorchModule(module=layers(), args=[4])


def test_a_dict_gives_a_network_its_inputs_by_name(data):
    torch.manual_seed(3)
    oracle = nn.Bilinear(4, 4, 2)
    optimizer = torch.optim.Adam(oracle.parameters(), lr=0.01)
    x, y = torch.tensor(data.x), torch.tensor(data.y)
    for rows in torch.randperm(50).split(32):
        optimizer.zero_grad()
        nn.functional.mse_loss(oracle(x[rows], -x[rows]), y[rows]).backward()
        optimizer.step()
    node = TorchModule(module="torch.nn.Bilinear", args=[4, 4, 2], seed=3, lr=0.01)
    inputs = {"input1": data.x, "input2": -data.x}
    state = node.fit(inputs, data.y)
    np.testing.assert_array_equal(state["weight"], oracle.weight.detach().numpy())
    with torch.no_grad():
        np.testing.assert_array_equal(node.forward(inputs, {}), oracle(x, -x).numpy())


def test_inputs_of_different_length_are_refused(data):
    node = TorchModule(module="torch.nn.Bilinear", args=[4, 4, 2])
    inputs = {"input1": data.x, "input2": data.x[:-1]}
    with pytest.raises(ValueError, match=r"input1 has shape \[50, 4\], input2 has shape \[49, 4\]"):
        node.fit(inputs, data.y)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_state_in_safetensors_is_read_without_pickle_here_and_by_plain_torch(dtype, data):
    config = LINEAR | {"dtype": dtype}
    with soma.connect("inline", pickle="never", filters={"a": ("torch.Module", config)}) as worker:
        worker.fit("a", data.x, data.y, return_state=False)
        state = worker.get_state("a", format="safetensors")
        worker.load({"b": ("torch.Module", config)})
        worker.set_state("b", state)
        found, wanted = worker.forward("b", data.x), worker.forward("a", data.x)
    np.testing.assert_array_equal(found, wanted)
    plain = nn.Linear(4, 2, dtype=getattr(torch, dtype))
    plain.load_state_dict(safetensors.torch.load(state.data))
    out = plain(torch.tensor(data.x).to(plain.weight.dtype))
    np.testing.assert_array_equal(out.detach().float().numpy(), wanted)


def test_each_batch_of_fit_is_reported_with_its_loss(data):
    reports = []
    filters = {"net": ("torch.MLP", {"sizes": [4, 2], "epochs": 2, "batch_size": 16})}
    with soma.connect("inline", filters=filters) as worker:
        worker.fit("net", data.x, data.y, progress=reports.append)
    seen = [(report["epoch"], report["batch"]) for report in reports]
    assert seen == [(epoch, batch) for epoch in (1, 2) for batch in (1, 2, 3, 4)]
    assert all(report["epochs"] == 2 and report["batches"] == 4 for report in reports)
    first, second = (report["loss"] for report in reports[:2])
    assert reports[1]["mean_loss"] == pytest.approx((first + second) / 2)
    weighted = sum(
        rows * report["loss"] for rows, report in zip((16, 16, 16, 2), reports, strict=False)
    )
    assert reports[3]["mean_loss"] == pytest.approx(weighted / 50)
    assert all(math.isfinite(report["loss"]) for report in reports)


def test_loading_builds_the_network_and_the_first_fit_trains_that_one(data, monkeypatch):
    built = []
    build = MLP.build
    monkeypatch.setattr(MLP, "build", lambda node: built.append(1) or build(node))
    node = MLP(sizes=[4, 2], seed=1)
    node.on_load()
    first = node.fit(data.x, data.y)
    assert len(built) == 1
    np.testing.assert_array_equal(node.fit(data.x, data.y)["0.weight"], first["0.weight"])
    assert len(built) == 2


class _Untidy(nn.Module):
    """Shares a module and a parameter, and has places for some that are not there."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4, bias=False)
        self.again = self.first
        self.tied = nn.Linear(4, 4)
        self.tied.weight = self.first.weight
        self.register_parameter("absent", None)
        self.register_module("nothing", None)
        self.own = nn.Parameter(torch.zeros(1))


def test_the_parameters_of_a_filter_are_those_that_its_module_lists():
    node = TorchModule(module=_Untidy())
    listed = list(node.named_parameters())
    expected = list(_Untidy().named_parameters())
    assert [name for name, _ in listed] == [name for name, _ in expected]
    held = node.state_dict()
    assert all(held[name].data_ptr() == parameter.data_ptr() for name, parameter in listed)


def test_inputs_follow_a_module_that_was_moved_to_another_type(data):
    node = TorchModule(module=layers())
    assert node.forward(data.x, {}).dtype is torch.float32
    for parameter in node.parameters():
        parameter.data = parameter.data.double()
    assert node.forward(data.x, {}).dtype is torch.float64
