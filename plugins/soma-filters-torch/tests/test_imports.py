"""Paths lead to the layers of torch.nn alone, where the host may send no pickles."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from soma_filters_torch.filters import TorchModule

import soma_core as soma

ELSEWHERE = "made_by_a_host.Net"
INSIDE = "torch.nn.modules.linear.Linear"
NESTED: dict[str, dict[str, Any]] = {
    "itself": {"module": ELSEWHERE},
    "an argument": {"module": "torch.nn.Sequential", "args": [{"module": ELSEWHERE}]},
    "a named argument": {"module": "torch.nn.Sequential", "kwargs": {"a": {"module": ELSEWHERE}}},
    "deep inside": {
        "module": "torch.nn.Sequential",
        "args": [
            {
                "module": "torch.nn.ModuleDict",
                "kwargs": {"modules": {"a": [[{"module": ELSEWHERE, "args": []}]]}},
            }
        ],
    },
}


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Of a worker that could import a module which leaves a file behind."""
    code = (
        f"open({str(tmp_path / 'imported')!r}, 'w').close()\nfrom torch.nn import Identity as Net"
    )
    (tmp_path / "made_by_a_host.py").write_text(code)
    paths = [str(tmp_path), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return {"PYTHONPATH": os.pathsep.join(paths)}


@pytest.mark.parametrize("config", NESTED.values(), ids=NESTED)
def test_no_other_module_is_imported_wherever_a_path_stands(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: Any
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    with (
        soma.connect("inline", pickle="never") as worker,
        pytest.raises(soma.RemoteError, match="'made_by_a_host' is not imported") as caught,
    ):
        worker.load({"net": ("torch.Module", config)})
    assert caught.value.code is soma.ErrorCode.LOAD_FAILED
    assert not (tmp_path / "imported").exists()
    assert "made_by_a_host" not in sys.modules


@pytest.mark.nightly
def test_the_operator_of_a_worker_allows_modules(environment: Any, tmp_path: Path) -> None:
    options: dict[str, Any] = {"env": environment, "allow_modules": ["made_by_a_host"]}
    config = NESTED["deep inside"]
    with soma.connect("stdio", pickle="never", **options) as worker:
        worker.load({"net": ("torch.Module", {"module": ELSEWHERE})})
        assert worker.forward("net", [1.0]) == [1.0]
        with pytest.raises(soma.RemoteError, match="cannot be built from"):
            worker.load({"other": ("torch.Module", config)})
    assert (tmp_path / "imported").exists()


def test_torch_nn_is_open_to_every_host() -> None:
    config = {"module": INSIDE, "args": [2, 3]}
    with soma.connect(
        "inline", pickle="never", filters={"net": ("torch.Module", config)}
    ) as worker:
        assert len(worker.forward("net", [1.0, 2.0])) == 3


def test_layers_whose_kernels_trust_what_they_are_given_are_closed() -> None:
    config = {"module": "torch.nn.quantized.EmbeddingBag", "args": [4, 2]}
    with (
        soma.connect("inline", pickle="never") as worker,
        pytest.raises(soma.RemoteError, match=r"'torch.nn.quantized' is not imported"),
    ):
        worker.load({"bag": ("torch.Module", config)})


def test_what_stands_for_a_module_has_a_list_and_an_object_of_arguments() -> None:
    for wrong in ({"args": 5}, {"args": {}}, {"kwargs": [1]}):
        nested = {"module": INSIDE, **wrong}
        with pytest.raises(ValueError, match="has args, a list, and kwargs, an object"):
            TorchModule(module="torch.nn.Sequential", args=[nested])
