"""Each mistake of the original: the same check fails on the original daemon and passes on ours.

``@mistake(…)`` says how the check fails on the original, so that it cannot fail there for a
reason of its own.
"""

from __future__ import annotations

import base64
import functools
import inspect
import os
import pickle
import signal
import sys

import numpy as np
import pytest

from ..support import gate_runs, wait_until
from .filters import (
    Center,
    Double,
    Echo,
    Fail,
    Look,
    Net,
    Noise,
    Returns,
    Rows,
    Sleep,
    load,
    pickled,
    to_b64,
    torch_loaded,
    torch_saved,
)


def mistake(
    failure: str,
    error: type[Exception] = AssertionError,
    *,
    torch: bool = False,
    ours: str = "socket",
):
    """Run a check against ours, where it must pass, and the original, where it must fail.

    The original stays as it is, so that the gate does without it.

    Args:
        failure: A pattern in the message of the failure on the original.
        error: The exception that the check raises there.
        torch: Use a daemon that serves all such checks, since it takes long to import torch.
        ours: The transport that the gate runs the check over; what matters over stdio says so.
    """

    def decorate(check):
        fixture = "warm_host" if torch else "hosts"

        @pytest.mark.parametrize("daemon", gate_runs(ours, of=["seed", "stdio", "socket"]))
        @functools.wraps(check)
        def test(daemon, **arguments):
            host = arguments.pop(fixture)(daemon)
            if daemon != "seed":
                check(host, **arguments)
                return
            with pytest.raises(error, match=failure):
                check(host, **arguments)

        parameters = list(inspect.signature(check).parameters.values())[1:]
        fixtures = [
            inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD)
            for name in ("daemon", fixture)
        ]
        test.__signature__ = inspect.Signature([*fixtures, *parameters])
        return test

    return decorate


def array(values, dtype: str) -> dict:
    """An array as a host of the original sends it: pickled."""
    return {"__pickle_b64__": to_b64(pickle.dumps(np.array(values, dtype)))}


# What filters do to their process


@pytest.mark.parametrize("how", ["printing", "writing", "a_shell", "a_child"])
@mistake("noise|Expecting value", Exception, ours="stdio")
def test_what_a_filter_writes_to_stdout_is_no_reply(host, how):
    load(host, noise=Noise())
    line = (host.send("FORWARD", node_id="noise", data=how), host.read_line())[1]
    assert "noise" not in line
    assert "quiet" in line
    assert host.ask("FORWARD", node_id="noise", data="bit_length_is_missing")["ok"] is False


@mistake("ate the next command", ours="stdio")
def test_input_does_not_eat_the_next_command(host):
    load(host, reads=Returns(input), echo=Echo())
    host.send("FORWARD", node_id="reads", data=None)
    host.send("FORWARD", node_id="echo", data="second")
    assert host.read()["ok"] is False, "ate the next command"
    assert host.read()["result"] == "second"


@mistake("closed the stream", EOFError)
def test_sys_exit_in_a_filter_is_an_error_reply(host):
    load(host, exits=Returns(sys.exit), echo=Echo())
    reply = host.ask("FORWARD", node_id="exits", data=None)
    assert (reply["ok"], reply["type"]) == (False, "SystemExit")
    assert host.ask("FORWARD", node_id="echo", data=1)["result"] == 1


@mistake("closed the stream", EOFError)
def test_an_interrupted_command_is_an_error_reply(host, tmp_path):
    load(host, sleeps=Sleep(), echo=Echo())
    begun = tmp_path / "pid"
    host.send("FORWARD", node_id="sleeps", data=str(begun))
    wait_until(lambda: begun.exists() and begun.read_text())
    os.kill(int(begun.read_text()), signal.SIGINT)
    assert host.read()["code"] == "interrupted"
    assert host.ask("FORWARD", node_id="echo", data=1)["result"] == 1


@pytest.mark.parametrize("daemon", gate_runs("stdio", of=["seed", "stdio"]))
@pytest.mark.parametrize("names", [["pickle"], ["json", "base64", "typing", "enum"]])
def test_files_in_the_cwd_do_not_replace_modules(daemon, names, hosts, tmp_path):
    for name in names:
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('the wrong module')\n")
    host = hosts(daemon, cwd=tmp_path)
    if daemon == "seed":
        with pytest.raises((EOFError, BrokenPipeError)):
            host.ask("UNKNOWN")
    else:
        assert host.ask("PING")["ok"] is True


# How values cross


@mistake("bare NaN|bare Infinity", ValueError)
def test_nan_and_infinity_are_never_bare_in_a_reply(host):
    load(host, floats=Returns(lambda: [float("nan"), float("inf"), {"a": -float("inf")}]))
    assert host.ask("FORWARD", node_id="floats", data=None)["result"] == [
        {"$soma": "float", "value": "nan"},
        {"$soma": "float", "value": "inf"},
        {"a": {"$soma": "float", "value": "-inf"}},
    ]


@mistake("arrives flat")
def test_a_tensor_arrives_in_its_shape(host):
    load(host, look=Look())
    tensor = {"type": "Tensor", "data": {"values": [1.0, 2.0, 3.0, 4.0], "shape": [2, 2]}}
    seen = host.ask("FORWARD", node_id="look", data=tensor)["result"]["x"]
    assert seen == "[[1.0, 2.0], [3.0, 4.0]]", "arrives flat"


@mistake("arrives as that dict")
def test_an_empty_value_is_an_empty_state(host):
    load(host, look=Look())
    reply = host.ask("FORWARD", node_id="look", data=1, state={"type": "Empty"})
    assert reply["result"]["state"] == "{}", "arrives as that dict"


@mistake("a raw dict")
def test_a_value_wrapped_in_json_is_decoded(host):
    load(host, look=Look())
    wrapped = {"type": "Json", "data": {"a": array([1, 2], "int64")}}
    seen = host.ask("FORWARD", node_id="look", data=wrapped)["result"]["x"]
    assert seen == "{'a': array([1, 2])}", "a raw dict"


@mistake("an opaque pickle")
def test_an_array_comes_back_as_a_tensor(host):
    load(host, array=Returns(lambda: np.arange(4.0).reshape(2, 2)))
    result = host.ask("FORWARD", node_id="array", data=None)["result"]
    data = {"dtype": "float64", "shape": [2, 2], "values": [0.0, 1.0, 2.0, 3.0]}
    assert result == {"type": "Tensor", "data": data}, "an opaque pickle"


@mistake("keys became strings")
def test_int_keys_stay_ints(host):
    load(host, keys=Returns(lambda: {1: "a"}), look=Look())
    result = host.ask("FORWARD", node_id="keys", data=None)["result"]
    seen = host.ask("FORWARD", node_id="look", data=result)["result"]["x"]
    assert seen == "{1: 'a'}", "keys became strings"


@mistake("not JSON serializable")
def test_numpy_scalars_in_a_list_are_numbers(host):
    load(host, scalars=Returns(lambda: [np.float32(0.5), np.int64(2), np.bool_(True)]))
    reply = host.ask("FORWARD", node_id="scalars", data=None)
    assert reply["ok"], reply["error"]
    assert reply["result"] == [0.5, 2, True]


# What training claims


@pytest.mark.nightly
@mistake("trained nothing and said ok", torch=True)
def test_a_failing_loss_is_an_error_reply(host):
    def broken(out, y):
        raise RuntimeError("no such loss")

    load(host, net=Net([[1.0, 1.0]], learning_rate=0.1, loss=broken))
    reply = host.ask("COMPOSITE_FIT", node_ids=["net"], data=[[1.0, 2.0]], y=[[0.0]])
    assert not reply["ok"], "trained nothing and said ok"
    assert "no such loss" in reply["error"]


@pytest.mark.filterwarnings("default")
@mistake("trained nothing and said ok", torch=True)
def test_a_target_of_another_shape_is_an_error_reply(host):
    load(host, net=Net([[1.0, 1.0]], learning_rate=0.1))
    reply = host.ask(
        "COMPOSITE_FIT", node_ids=["net"], data=[[1.0, 2.0], [3.0, 4.0]], y=[1.0, 2.0, 3.0]
    )
    assert not reply["ok"], "trained nothing and said ok"


@mistake("the gradients were added up", torch=True)
def test_gradients_are_those_of_the_last_step(host):
    load(host, net=Net([[1.0, 1.0]]))
    gradients = []
    for _ in range(2):
        host.ask("COMPOSITE_FIT", node_ids=["net"], data=[[1.0, 2.0]], y=[[0.0]])
        reply = host.ask("GET_GRADIENTS", node_id="net")
        gradients.append(torch_loaded(reply["gradients_b64"])["weight"].tolist())
    assert gradients[0] == gradients[1] == [[6.0, 12.0]], "the gradients were added up"


@mistake("no gradients and said ok", torch=True)
def test_getting_gradients_that_are_not_there_is_an_error_reply(host):
    load(host, net=Net([[1.0, 1.0]]))
    reply = host.ask("GET_GRADIENTS", node_id="net")
    assert not reply["ok"], "no gradients and said ok"
    assert reply["code"] == "no_gradients"


@mistake("no gradients and said ok")
def test_getting_gradients_of_what_has_no_parameters_is_an_error_reply(host):
    load(host, echo=Echo())
    reply = host.ask("GET_GRADIENTS", node_id="echo")
    assert not reply["ok"], "no gradients and said ok"
    assert reply["code"] == "no_gradients"


@pytest.mark.parametrize(
    "gradients",
    [{}, {"weight": [[1.0, 1.0]]}, {"wieght": [[1.0, 1.0]], "bias": [0.0]}],
    ids=["none", "some", "of other names"],
)
@mistake("applied less than all and said ok", torch=True)
def test_applying_gradients_that_do_not_fit_is_an_error_reply(host, gradients):
    import torch

    load(host, net=Net([[1.0, 1.0]], learning_rate=1.0))
    content = {name: torch.tensor(gradient) for name, gradient in gradients.items()}
    reply = host.ask("APPLY_GRADIENTS", node_id="net", gradients_b64=torch_saved(content))
    assert not reply["ok"], "applied less than all and said ok"
    state = torch_loaded(host.ask("GET_STATE", node_id="net")["state_b64"])
    assert state["weight"].tolist() == [[1.0, 1.0]]


@mistake("applied to nothing and said ok", torch=True)
def test_applying_gradients_to_what_has_no_parameters_is_an_error_reply(host):
    load(host, echo=Echo())
    reply = host.ask("APPLY_GRADIENTS", node_id="echo", gradients_b64=torch_saved({}))
    assert not reply["ok"], "applied to nothing and said ok"


@mistake("says nothing of what was applied", torch=True)
def test_applying_gradients_says_which_parameters_they_reached(host):
    import torch

    load(host, net=Net([[1.0, 1.0]], learning_rate=1.0))
    content = {"weight": torch.tensor([[1.0, 2.0]]), "bias": torch.tensor([0.0])}
    reply = host.ask("APPLY_GRADIENTS", node_id="net", gradients_b64=torch_saved(content))
    assert reply["ok"]
    assert set(reply.get("updated", ())) == {"weight", "bias"}, "says nothing of what was applied"


# Composites and batches


@mistake("not JSON serializable|saw tensors", torch=True)
def test_a_plain_chain_sees_plain_values(host):
    load(host, double=Double(), look=Look())
    reply = host.ask("COMPOSITE_FORWARD", node_ids=["double"], data=[1.0, 2.0], states={})
    assert reply["ok"], reply["error"]
    assert reply["result"] == [2.0, 4.0]
    seen = host.ask("COMPOSITE_FORWARD", node_ids=["look"], data=[1.0], states={})["result"]
    assert seen["type"] == "list", "saw tensors"


@mistake("saw tensors", torch=True)
def test_a_node_that_looks_at_its_input_sees_a_list(host):
    load(host, look=Look())
    seen = host.ask("COMPOSITE_FORWARD", node_ids=["look"], data=[1.0, 2.0], states={})["result"]
    assert (seen["type"], seen["x"]) == ("list", "[1.0, 2.0]"), "saw tensors"


@mistake("what was fitted is forgotten", torch=True)
def test_a_chain_uses_what_its_nodes_learned(host):
    load(host, center=Center())
    host.ask("FIT", node_id="center", data=[1.0, 3.0])
    reply = host.ask("COMPOSITE_FORWARD", node_ids=["center"], data=[2.0])
    assert reply.get("result") == {"centered": [0.0]}, "what was fitted is forgotten"


@mistake("the states are dropped", torch=True)
def test_composite_fit_returns_the_states_of_plain_filters(host):
    load(host, center=Center())
    reply = host.ask("COMPOSITE_FIT", node_ids=["center"], data=[1.0, 3.0])
    assert reply["ok"], reply
    assert reply.get("fit_states") == {"center": {"mean": 2.0}}, "the states are dropped"


@mistake("in one piece")
def test_an_array_is_cut_into_batches(host):
    load(host, rows=Rows())
    data = array([0.0, 1.0, 2.0, 3.0, 4.0], "float64")
    reply = host.ask("BATCHED_FIT", node_ids=["rows"], data=data, batch_size=2)
    assert reply["states"]["rows"] == {"lengths": [2, 2, 1]}, "in one piece"


@mistake("in one piece")
def test_columns_that_are_arrays_are_cut_into_batches(host):
    load(host, look=Look())
    data = {"a": array([0, 1, 2], "int64")}
    reply = host.ask("BATCHED_FIT", node_ids=["look"], data=data, batch_size=2)
    assert reply["states"]["look"]["x"] == "{'a': array([2])}", "in one piece"


# Errors that help


@mistake("half loaded")
def test_a_load_that_fails_loads_nothing(host):
    specs = [
        {"id": "good", "pickle_b64": pickled(Echo())},
        {"id": "bad", "pickle_b64": to_b64(b"not a pickle")},
    ]
    assert host.ask("LOAD", filters=specs)["ok"] is False
    assert host.ask("FORWARD", node_id="good", data=1)["ok"] is False, "half loaded"


@mistake("half loaded")
def test_a_load_that_fails_replaces_nothing(host):
    load(host, node=Echo())
    specs = [
        {"id": "node", "pickle_b64": pickled(Fail())},
        {"id": "bad", "pickle_b64": to_b64(b"not a pickle")},
    ]
    assert host.ask("LOAD", filters=specs)["ok"] is False
    assert host.ask("FORWARD", node_id="node", data=1).get("result") == 1, "half loaded"


@mistake("says only the name")
def test_an_unknown_node_is_told_with_those_that_are_loaded(host):
    load(host, first=Echo(), second=Echo())
    reply = host.ask("FORWARD", node_id="thrid", data=1)
    assert reply["ok"] is False
    assert all(name in reply["error"] for name in ("thrid", "first", "second")), (
        "says only the name"
    )


@mistake("names no versions")
def test_a_pickle_of_another_python_is_told_with_the_versions(host):
    data = to_b64(b"\x80\xff.")
    reply = host.ask("LOAD", filters=[{"id": "later", "pickle_b64": data}])
    assert reply["ok"] is False
    version = ".".join(map(str, sys.version_info[:3]))
    assert f"Python {version}" in reply["error"], "names no versions"


@mistake("unknown command")
def test_a_host_of_another_python_is_told_before_anything_is_unpickled(host):
    client = {"name": "host", "soma": "0.1.0", "python": "3.4.1", "cloudpickle": "3.0.0"}
    reply = host.ask("HELLO", protocol=1, client=client)
    assert reply.get("code") == "incompatible", reply["error"]
    version = ".".join(map(str, sys.version_info[:2]))
    assert "3.4" in reply["error"]
    assert version in reply["error"]


@mistake("not valid, and decoded all the same")
def test_bad_base64_is_an_error_reply(host):
    load(host, echo=Echo())
    text = base64.b64encode(pickle.dumps(1)).decode()
    reply = host.ask("FORWARD", node_id="echo", data={"__pickle_b64__": f"!{text}?"})
    assert reply["ok"] is False, "not valid, and decoded all the same"
