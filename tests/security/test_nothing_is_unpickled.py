"""With ``pickle="never"`` neither the host nor the worker unpickles anything, whatever is done."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from ..support import gate_runs

TRANSPORTS = gate_runs("stdio", of=["inline", "stdio", "socket"])

EVERY_COMMAND = """
import io
import numpy as np
import torch

rng = np.random.default_rng(0)
x, y = rng.normal(size=(40, 4)).astype("f4"), rng.normal(size=(40, 2)).astype("f4")
labels = (x[:, 0] > 0).astype(int)
filters = {
    "echo": ("watched.Echo", {}),
    "linear": ("watched.Linear", {}),
    "scale": ("sklearn.StandardScaler", {}),
    "classify": ("sklearn.LogisticRegression", {}),
    "forest": ("sklearn.RandomForestClassifier", {"n_estimators": 3}),
    "net": ("torch.MLP", {"sizes": [4, 8, 2], "epochs": 2}),
}
kinds = [
    None, True, 2**70, 1.5, float("nan"), "text", b"bytes", [1, [2]], (1, (2,)), {"a": {"b": 1}},
    x, x.astype(complex), np.array(["text"]), np.zeros(2, [("a", "i4")]), np.float32(1), x[:0],
    torch.ones(2), torch.ones(2, dtype=torch.bfloat16), np.zeros(20_000),
    {"type": "Text", "$soma": "mine"},
]
reports = []
with connect(pickle="never", filters=filters) as worker:
    for value in kinds:
        worker.forward("echo", value)
        worker.fit("echo", value, value, progress=reports.append)
        worker.forward("echo", value, {"given": value})
    worker.fit("scale", x)
    worker.forward("scale", x)
    worker.fit("classify", x, labels)
    worker.forward("classify", x)
    worker.forward("forest", x, worker.fit("forest", x, labels))
    worker.fit("net", x, y, progress=reports.append)
    worker.composite_forward(["scale", "net"], x)
    worker.composite_fit(["scale", "classify"], x, labels, progress=reports.append)
    worker.composite_fit(["scale", "net"], x, y)
    worker.batched_fit(["scale", "net"], x, y, epochs=2, collect="all")
    worker.composite_fit(["linear"], np.ones((3, 1)), np.zeros((3, 1)))
    gradients = worker.get_gradients("linear")
    worker.apply_gradients("linear", gradients)
    written = io.BytesIO()
    torch.save({"weight": torch.ones(1, 1)}, written)
    worker.apply_gradients("linear", written.getvalue())
    for node_id in filters:
        worker.set_state(node_id, worker.get_state(node_id))
    for node_id, format in [
        ("linear", "torch"), ("linear", "safetensors"), ("net", "safetensors"),
        ("scale", "value"), ("echo", "value"),
    ]:
        worker.set_state(node_id, worker.get_state(node_id, format=format))
    worker.ping()
    worker.load({"again": ("watched.Echo", {})})
    worker.unload(["again"])
    worker.shutdown()
assert len(reports) > len(kinds)
print("done")
"""


def processes(lines: list[str]) -> set[str]:
    return {line.split()[0] for line in lines}


@pytest.mark.parametrize("transport", gate_runs("inline", of=["inline", "stdio", "socket"]))
def test_every_command_works_without_unpickling_anything(
    host: Any, watched: Any, transport: str
) -> None:
    for plugin in ("soma_filters_sklearn", "soma_filters_torch"):
        pytest.importorskip(plugin)
    assert host(EVERY_COMMAND, transport) == "done\n"
    assert watched.unpickled == []
    expected = {"inline": 1, "stdio": 2, "socket": 3}  # the host, the worker, the daemon
    assert len(watched.started) == expected[transport]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_watch_sees_what_is_unpickled_where_pickles_are_allowed(
    host: Any, watched: Any, transport: str
) -> None:
    script = """
with connect(filters={"echo": ("watched.Echo", {})}) as worker:
    assert worker.forward("echo", slice(1, 2)) == slice(1, 2)
"""
    host(script, transport)
    expected = 1 if transport == "inline" else 2
    assert len(processes(watched.unpickled)) == expected, watched.unpickled


@pytest.mark.nightly
def test_the_host_may_refuse_while_the_daemon_would_not(host: Any, watched: Any) -> None:
    script = """
try:
    with connect(pickle="never", filters={"odd": ("watched.Odd", {})}) as worker:
        worker.forward("odd", 1)
except soma.RemoteError as error:
    print(error.code)
"""
    assert host(script, "socket") == "pickle_refused\n"
    assert watched.unpickled == []


def test_a_daemon_that_refuses_makes_the_host_refuse_too(host: Any, watched: Any) -> None:
    script = """
with connect(filters={"echo": ("watched.Echo", {})}) as worker:
    try:
        worker.forward("echo", slice(1, 2))
    except soma.ProtocolError as error:
        print(error.code)
    print(worker.forward("echo", [1, 2]))
"""
    assert host(script, "socket", "--pickle", "never") == "pickle_refused\n[1, 2]\n"
    assert watched.unpickled == []


@pytest.mark.nightly
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_what_only_a_pickle_could_carry_does_not_leave_the_worker(
    host: Any, watched: Any, transport: str
) -> None:
    script = """
def told(call):
    try:
        return call()
    except soma.RemoteError as error:
        return error.code.value

with connect(pickle="never", filters={"odd": ("watched.Odd", {})}) as worker:
    print(told(lambda: worker.fit("odd", 1)))
    print(told(lambda: worker.fit("odd", 1, progress=print)))
    print(told(lambda: worker.forward("odd", 1)))
    print(told(lambda: worker.get_state("odd", format="torch")))
    print(told(lambda: worker.get_state("odd", format="safetensors")))
    print(told(lambda: worker.get_state("odd", format="cloudpickle")))
    print(told(lambda: worker.composite_fit(["odd"], 1)))
    print(told(lambda: worker.batched_fit(["odd"], [1], return_states=False)))
"""
    refused = "pickle_refused\n"
    assert host(script, transport) == refused * 4 + "invalid_state\n" + refused * 3
    assert watched.unpickled == []


@pytest.mark.nightly
def test_torch_reads_weights_alone_whatever_the_environment_says(host: Any, watched: Any) -> None:
    pytest.importorskip("torch")
    watched.environment["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
    script = """
import io, os, torch
class Evil:
    def __reduce__(self):
        return os.mkdir, ("executed",)
written = io.BytesIO()
torch.save({"weight": Evil()}, written)
with connect(pickle="never", filters={"linear": ("watched.Linear", {})}) as worker:
    for call in (worker.set_state, worker.apply_gradients):
        try:
            call("linear", written.getvalue())
        except soma.RemoteError as error:
            print(error.code)
print(os.path.exists("executed"))
"""
    assert host(script, "stdio") == "invalid_state\ninvalid_state\nFalse\n"
    assert watched.unpickled == []


def test_importing_soma_and_its_transports_unpickles_nothing(host: Any, watched: Any) -> None:
    host("import soma_transport_stdio.client, soma_transport_socket.client", "inline")
    assert watched.unpickled == []
    assert str(sys.executable) in watched.started[0]
