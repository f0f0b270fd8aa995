"""A chain of plain filters never sees torch, and never imports it."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

SCRIPT = """
import sys
import numpy as np
import soma_core as soma

class Plain:
    def fit(self, x, y=None):
        return {"type": type(x).__name__}
    def forward(self, x, state):
        return x

class Mean(soma.Filter):
    def fit(self, x, y=None):
        return {"mean": float(np.mean(x))}
    def forward(self, x, state):
        return [[v - state["mean"] for v in row] for row in x]

data, array = [[1.0, 2.0], [3.0, 4.0]], np.ones((3, 2))
with soma.connect("inline", filters={"a": Plain(), "b": Mean()}) as worker:
    fitted = worker.composite_fit(["a", "b"], data, [1.0, 2.0])
    assert fitted.loss is None and fitted.states == {}, fitted
    assert fitted.fit_states == {"a": {"type": "list"}, "b": {"mean": 2.5}}, fitted
    assert fitted.result == [[-1.5, -0.5], [0.5, 1.5]], fitted
    assert worker.composite_forward(["a", "b"], data) == fitted.result
    assert worker.batched_fit(["a", "b"], array, [1, 2, 3], batch_size=2).losses == []
    assert type(worker.composite_forward(["a"], array)) is np.ndarray
    assert worker.get_state("a").format == "cloudpickle"
    worker.set_state("a", worker.get_state("a"))
    worker.get_state("b", format="value")
print([name for name in ("torch", "sklearn", "pandas", "safetensors") if name in sys.modules])
"""


def test_a_plain_chain_is_fitted_on_plain_values_and_torch_is_not_imported() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT], capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "[]\n", done.stderr


class Keeps:
    """Remembers the types that it was given."""

    def fit(self, x: Any, y: Any = None) -> Any:
        return [type(x).__name__, type(y).__name__]

    def forward(self, x: Any, state: Any) -> Any:
        return x


@pytest.mark.parametrize("data", [[1.0], [[1, 2]], np.ones(2), {"a": [1]}, "text", None], ids=repr)
def test_plain_nodes_see_plain_values_even_when_torch_is_there(host: Any, data: Any) -> None:
    pytest.importorskip("torch")
    host.load(a=Keeps(), b=Keeps())
    reply = host.ask("COMPOSITE_FIT", node_ids=["a", "b"], data=data, y=[1.0])
    kinds = [type(data).__name__, "list"]
    assert reply["fit_states"] == {"a": kinds, "b": kinds}
    assert type(reply["result"]) is type(data)
    assert reply["loss"] is None
