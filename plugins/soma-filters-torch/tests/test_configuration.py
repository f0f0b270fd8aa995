"""What is wrong with a configuration or with data is said in terms of both."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from soma_filters_torch.filters import MLP, TorchModule

import soma_core as soma

REGISTERED = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"][
    "entry-points"
]["soma.filters"]


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"optimizer": "Adamm"}, r"no optimizer 'Adamm' .*: ASGD, .*Adam, AdamW"),
        ({"optimizer": "LBFGS"}, "no optimizer 'LBFGS' that steps from gradients alone"),
        ({"optimizer": {"name": "SGD", "betas": [0.9]}}, r"no argument betas; it has .*'momentum'"),
        ({"optimizer": {"lr": 0.1}}, "expected a name"),
        ({"optimizer": {"name": "SGD", "lr": 0.1}, "lr": 0.1}, "lr is given twice"),
        ({"loss": "cross_entropi"}, "unknown loss 'cross_entropi'; did you mean 'cross_entropy'"),
        ({"loss": "os.system"}, r"known: bce, .*soft_margin \(functions of torch\.nn\.functional"),
        ({"loss": "torch.nn.functional.l2_loss"}, r"l2_loss'; known: bce, .* l1, mse"),
        ({"loss": {"name": "mse", "delta": 1}}, "mse has no argument delta; it has reduction"),
        (
            {"loss": {"name": "mse", "reduction": "none"}},
            "reduction is 'mean' or 'sum'; got 'none'",
        ),
        ({"scheduler": "StepLr"}, "unknown scheduler 'StepLr'; did you mean 'StepLR'"),
        ({"scheduler": "LambdaLR"}, "LambdaLR needs lr_lambda, a function of .*; got None"),
        ({"scheduler": {"name": "StepLR", "size": 1}}, "no argument size; it has step_size, gamma"),
        ({"scheduler": {"name": "StepLR", "every": "day"}}, "every 'epoch'; got 'day'"),
        (
            {"scheduler": [{"name": "ReduceLROnPlateau", "every": "batch"}]},
            "follows the loss of an epoch",
        ),
        (
            {"scheduler": {"name": "SequentialLR", "schedulers": ["StepLR"], "milestones": [1]}},
            "schedulers of a SequentialLR are each",
        ),
        ({"clip_norm": 0}, "greater than 0"),
        ({"clip_value": -1}, "greater than 0"),
        ({"device": "gpu"}, "device is 'cpu', 'cuda' or a numbered one like 'cuda:1'; got 'gpu'"),
        ({"dtype": "int8"}, "'float64', 'float32', 'bfloat16' or 'float16'"),
        ({"autocast": "float64"}, "'bfloat16' or 'float16'"),
        ({"activation": "rellu"}, "unknown activation 'rellu'; did you mean 'relu'"),
        ({"sizes": [4]}, "at least 2 items"),
        ({"sizes": [4, 0]}, "greater than or equal to 1"),
        ({"dropout": 1.0}, "less than 1"),
        ({"lr": 0}, "greater than 0"),
        ({"epochs": 0}, "greater than or equal to 1"),
        ({"output": "sigmoid"}, "'raw', 'softmax' or 'argmax'"),
        ({"momentum": 0.9}, "momentum"),
    ],
)
def test_a_wrong_value_is_refused_when_the_filter_is_made(config, complaint):
    with pytest.raises(ValidationError, match=complaint):
        MLP(**({"sizes": [4, 2]} | config))


@pytest.mark.parametrize(
    ("path", "complaint"),
    [
        ("torch.nn.Liner", "unknown name in module torch.nn 'Liner'; did you mean 'Linear'"),
        ("torch.nn.Lin", r"unknown name in module torch\.nn 'Lin'; did you mean"),
        ("torhc.nn.Linear", "does not import .*No module named 'torhc'.*installed where"),
        ("Linear", r"no import path; use one like 'torch\.nn\.Linear'"),
        ("torch.nn.functional.relu", r"expected a subclass of torch\.nn\.Module"),
        ("torch.optim.Adam", r"expected a subclass of torch\.nn\.Module"),
    ],
)
def test_a_path_that_leads_nowhere_is_refused_when_the_filter_is_loaded(path, complaint):
    with pytest.raises(ValueError, match=complaint):
        TorchModule(module=path).on_load()


def test_a_module_whose_top_level_fails_is_refused_with_its_reason(tmp_path, monkeypatch):
    (tmp_path / "of_bad_syntax.py").write_text("class Net(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"does not import \(SyntaxError: invalid syntax"):
        TorchModule(module="of_bad_syntax.Net").on_load()


def test_arguments_that_do_not_fit_are_shown_with_those_that_would():
    node = TorchModule(module="torch.nn.Linear", args=[4], kwargs={"out": 2})
    with pytest.raises(ValueError, match=r"args=\[4\] and kwargs={'out': 2}.*in_features: int"):
        node.state_dict()


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"optimizer": {"name": "SGD", "momentum": -1}}, r"SGD refuses .*'momentum': -1.*Invalid"),
        ({"scheduler": {"name": "OneCycleLR", "max_lr": 1}}, "OneCycleLR refuses .*total_steps"),
        ({"scheduler": "StepLR"}, r"StepLR refuses {}: .*step_size"),
    ],
)
def test_arguments_that_torch_refuses_are_refused_when_the_filter_is_loaded(config, complaint):
    with pytest.raises(ValueError, match=complaint):
        MLP(sizes=[4, 2], **config).on_load()


def test_autocast_is_refused_for_parameters_of_another_type():
    with pytest.raises(ValueError, match=r"of type float32, and those of Sequential are torch\.fl"):
        MLP(sizes=[4, 2], autocast="bfloat16", dtype="float64").on_load()


@pytest.mark.parametrize(
    "given",
    [{"module": "torch.nn.LazyLinear", "args": [2]}, {"module": torch.nn.LazyLinear(2)}],
    ids=["by name", "itself"],
)
def test_a_lazy_module_is_refused_with_what_to_use(given):
    with pytest.raises(ValueError, match=r"LazyLinear: weight has no shape .*give the sizes"):
        TorchModule(**given).on_load()


@pytest.mark.parametrize(
    ("x", "y", "complaint"),
    [
        ([[1.0, 2.0]], None, "learns from targets: pass y"),
        ([[1.0, 2.0, 3.0]], [[1.0]], r"takes x of shape \[\.\.\., 2\]; got \[1, 3\]"),
        ([[1.0, 2.0]], [[1.0], [2.0]], r"x has shape \[1, 2\] and y \[2, 1\]"),
        ([[1.0, 2.0]], [1.0], r"output has shape \[1, 1\] and the target \[1\]"),
        ([[1.0], [2.0, 3.0]], [[1.0]], "x, a list, is no regular grid of numbers"),
        ([["a", "b"]], [[1.0]], "x is a list that holds <U1; expected numbers"),
        ([], [], "nothing to learn from"),
    ],
)
def test_data_that_does_not_fit_is_refused_with_what_would(x, y, complaint):
    with pytest.raises(ValueError, match=complaint):
        MLP(sizes=[2, 1]).fit(x, y)


def test_a_module_that_cannot_take_the_input_is_named_with_the_input():
    node = TorchModule(module="torch.nn.Linear", args=[4, 2])
    with pytest.raises(ValueError, match=r"x of shape \[1, 3\] and type torch.float32: mat1"):
        node.forward([[1.0, 2.0, 3.0]], {})


def test_softmax_needs_a_network_that_returns_a_tensor():
    node = TorchModule(module="torch.nn.GRU", args=[2, 2], output="softmax")
    with torch.no_grad(), pytest.raises(ValueError, match="returned a tuple"):
        node.forward([[1.0, 2.0]], {})


def test_the_configuration_is_read_back_from_its_dump():
    node = MLP(sizes=[4, 2], optimizer="SGD")
    for dump in (node.model_dump(), node.model_dump(by_alias=True)):
        assert MLP(**dump) == node
    assert "optimizer" in MLP.model_json_schema()["properties"]
    assert "module" in TorchModule.model_json_schema()["properties"]


def test_a_worker_lists_the_fields_by_the_names_that_configure_them():
    with pytest.raises(
        soma.RemoteError, match=r"unknown loss 'mze'.*its fields: loss, optimizer, lr"
    ):
        soma.connect("inline", filters={"net": ("torch.MLP", {"sizes": [4, 2], "loss": "mze"})})


def test_making_a_filter_does_not_build_its_network():
    assert TorchModule(module="of.the.Worker", args=[1]).config_hash()


@pytest.mark.parametrize(("name", "made"), [("torch.MLP", MLP), ("torch.Module", TorchModule)])
def test_a_registered_name_loads_its_class(name, made):
    assert EntryPoint(name, REGISTERED[name], "soma.filters").load() is made


@pytest.mark.nightly
def test_torch_is_not_imported_with_the_package_or_its_plugin():
    code = (
        "import sys, soma_filters_torch.adapting; print('torch' in sys.modules)\n"
        "import soma_filters_torch.filters; print('torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
