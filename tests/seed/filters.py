"""Filters that transcripts load, and how they travel: pickled by value."""

from __future__ import annotations

import base64
import io
import os
import subprocess
import sys
import time
from typing import Any

import cloudpickle
import torch


def pickled(obj: Any) -> str:
    """An object as LOAD wants it."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    try:
        return to_b64(cloudpickle.dumps(obj))
    finally:
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def to_b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def torch_saved(content: Any) -> str:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return to_b64(buffer.getvalue())


def torch_loaded(text: str) -> Any:
    return torch.load(io.BytesIO(base64.b64decode(text)), weights_only=True)


def load(host: Any, trainable: bool = True, **objects: Any) -> dict[str, Any]:
    """LOAD objects under their names."""
    specs = [
        {"id": name, "pickle_b64": pickled(obj), "trainable": trainable}
        for name, obj in objects.items()
    ]
    return host.ask("LOAD", filters=specs)


class Shift:
    """Learns the mean of a column, and adds it to the column of what it is given."""

    def fit(self, x, y=None):
        return {"mean": sum(x["v"]) / len(x["v"])}

    def forward(self, x, state):
        return {"v": [value + state.get("mean", 0.0) for value in x["v"]]}


class Total:
    """Learns how much it was given; works on lists."""

    def __init__(self, start=0):
        self.start = start

    def fit(self, x, y=None):
        self.start += 1
        return {"rows": len(x), "with_y": y is not None}

    def forward(self, x, state):
        return {"start": self.start, "rows": len(x), "state": state}


class Echo:
    def fit(self, x, y=None):
        return x

    def forward(self, x, state):
        return x


class Look:
    """Says what it was given, in terms that any JSON can carry."""

    def fit(self, x, y=None):
        return {"x": repr(x), "y": repr(y)}

    def forward(self, x, state):
        return {"x": repr(x), "type": type(x).__name__, "state": repr(state)}


class Fail:
    def fit(self, x, y=None):
        raise ValueError(x)

    def forward(self, x, state):
        raise ValueError(x)


class Double:
    """Plain Python: doubles each number of a list."""

    def fit(self, x, y=None):
        return {}

    def forward(self, x, state):
        return [value * 2 for value in x]


class Center:
    """Plain Python: learns the mean of a list and takes it away."""

    def fit(self, x, y=None):
        return {"mean": sum(x) / len(x)}

    def forward(self, x, state):
        return {"centered": [float(value) - state["mean"] for value in x]}


class Rows:
    """Notes the lengths of all that it was fitted on."""

    def __init__(self):
        self.lengths = []

    def fit(self, x, y=None):
        self.lengths.append(len(x))
        return {"lengths": list(self.lengths)}

    def forward(self, x, state):
        return None


class Returns:
    """Returns what a function makes, in the worker."""

    def __init__(self, make):
        self.make = make

    def fit(self, x, y=None):
        return {}

    def forward(self, x, state):
        return self.make()


class Noise:
    """Says "noise" in the way that its input names, and answers "quiet"."""

    def fit(self, x, y=None):
        return {}

    def forward(self, x, state):
        getattr(self, x)()
        return "quiet"

    def printing(self):
        print("noise", flush=True)  # noqa: T201 - what it is about

    def writing(self):
        os.write(1, b"noise\n")

    def a_shell(self):
        os.system("echo noise")

    def a_child(self):
        subprocess.run([sys.executable, "-c", "print('noise')"], check=True)


class Sleep:
    """Writes its process id to a file, so that the test knows that it runs, and sleeps."""

    def fit(self, x, y=None):
        return {}

    def forward(self, x, state):
        with open(x, "w") as file:
            file.write(str(os.getpid()))
        time.sleep(60)


class Net(torch.nn.Module):
    """A linear layer; with an optimizer, if it is given a learning rate."""

    def __init__(self, weight, learning_rate=None, loss=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(weight))
        self.bias = torch.nn.Parameter(torch.zeros(len(weight)))
        if learning_rate is not None:
            self.optimizer = torch.optim.SGD(self.parameters(), lr=learning_rate)
        if loss is not None:
            self.loss_fn = loss

    def fit(self, x, y=None):
        return {}

    def forward(self, x, state=None):
        x = x if isinstance(x, torch.Tensor) else torch.tensor(x, dtype=torch.float32)
        return torch.nn.functional.linear(x, self.weight, self.bias)
