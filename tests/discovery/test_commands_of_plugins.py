"""A plugin adds a command with its own model, in HELLO, the schema, ``validate`` and the client."""

from __future__ import annotations

import os
import types
from typing import Any, Literal

import pytest

import soma_core as soma
from soma_core.engine.engine import Engine, EngineInfo
from soma_core.engine.nodes import FilterFailed
from soma_core.errors import PluginConflict, PluginLoadFailed
from soma_core.plugins.catalog import installed_filters
from soma_core.plugins.manager import PluginSet
from soma_core.protocol import replies
from soma_core.protocol.commands import COMMANDS
from soma_core.protocol.dialects import FrameCodec
from soma_core.protocol.json_schema import command_schema
from soma_core.verbs import Command, CommandSpec, Data
from soma_core.wire.pickles import Pickles

from ..support import run_python
from ..support.installing import install, python_path
from ..support.plugins import plugin_set


class Evaluate(Command):
    cmd: Literal["EVALUATE"]
    node_id: str
    data: Data = None


class Threshold(Command):
    """Compare a node with a limit.

    Attributes:
        node_id: The node to
            compare.
    """

    cmd: Literal["THRESHOLD"]
    node_id: str
    at_most: float | None = None
    """The largest error."""


def test_the_schema_of_a_command_has_what_its_docstrings_say() -> None:
    schema = command_schema([*COMMANDS, Threshold])["$defs"]["Threshold"]
    assert schema["description"] == "Compare a node with a limit."
    described = {key: field.get("description") for key, field in schema["properties"].items()}
    assert described["node_id"] == "The node to compare."
    assert described["at_most"] == "The largest error."


class Gather(Command):
    cmd: Literal["GATHER"]
    data: Data = None
    items: list[Any]
    table: dict[str, Any] | None = None
    pair: tuple[Any, ...] = ()


def test_objects_arrive_in_fields_of_any_type() -> None:
    places = [slice(n) for n in range(4)]
    fields = {"data": places, "items": places, "table": {"a": places}, "pair": tuple(places)}
    codec = FrameCodec(Pickles())
    message = codec.write({"cmd": "GATHER", **fields}, Gather)
    read = codec.read(message, Gather.model_validate)
    assert {name: getattr(read, name) for name in fields} == fields


class Lower(Command):
    cmd: Literal["lower"]


class Ping(Command):
    cmd: Literal["PONG"]


class Forward2(Command):
    cmd: Literal["FORWARD"]


class NoCommand:
    pass


def evaluate(command: Evaluate, engine: Any) -> Any:
    return [command.node_id, command.data]


GOOD = CommandSpec(Evaluate, evaluate)


def plugins_with(**returned: Any) -> PluginSet:
    """Plugins whose hook returns, or raises, what is given."""

    def module(outcome: Any) -> types.SimpleNamespace:
        @soma.hookimpl
        def soma_register_commands() -> Any:
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        return types.SimpleNamespace(soma_register_commands=soma_register_commands)

    modules = {name: module(outcome) for name, outcome in returned.items()}
    return plugin_set(**modules)


def engine(plugins: PluginSet) -> Engine:
    info = EngineInfo(commands=(), limits=replies.Limits(line=1, header=1, nesting=1))
    return Engine(installed_filters(), info, plugins=plugins)


def test_the_handler_gets_the_command_and_its_return_is_the_result() -> None:
    command = Evaluate(cmd="EVALUATE", node_id="a", data=3)
    assert engine(plugins_with(acme=[GOOD])).execute(command).result == ["a", 3]


def test_what_a_handler_raises_is_a_failure_of_its_node() -> None:
    def fail(command: Any, engine: Any) -> Any:
        raise SystemExit(3)

    broken = engine(plugins_with(acme=[CommandSpec(Evaluate, fail)]))
    with pytest.raises(FilterFailed) as caught:
        broken.execute(Evaluate(cmd="EVALUATE", node_id="a"))
    assert caught.value.node_id == "a"


@pytest.mark.parametrize(
    ("returned", "error", "said"),
    [
        (None, PluginLoadFailed, "returns a list of CommandSpec, got None"),
        ([Evaluate], PluginLoadFailed, "returns a list of CommandSpec"),
        ([CommandSpec(NoCommand, evaluate)], PluginLoadFailed, "subclass of"),
        ([CommandSpec(Lower, evaluate)], PluginLoadFailed, "in capitals"),
        ([CommandSpec(Command, evaluate)], PluginLoadFailed, "cmd: Literal"),
        ([CommandSpec(Evaluate, "no")], PluginLoadFailed, "has a handler"),
        ([CommandSpec(Ping, evaluate)], PluginConflict, "commands.Ping is the command PING"),
        ([CommandSpec(Forward2, evaluate)], PluginConflict, "choose another cmd"),
        ([GOOD, GOOD], PluginConflict, "EVALUATE"),
        (RuntimeError("no luck"), PluginLoadFailed, "no luck"),
    ],
    ids=lambda item: str(item)[:30],
)
def test_what_does_not_fit_keeps_its_plugin_out_and_no_other(returned, error, said) -> None:
    plugins = plugins_with(a=returned, b=[GOOD])
    assert type(plugins.failures["a"]) is error
    assert said in str(plugins.failures["a"])
    assert "'a'" in str(plugins.failures["a"])
    assert plugins.commands == [GOOD]


def test_two_plugins_with_one_verb_conflict_and_the_first_has_it() -> None:
    plugins = plugins_with(a=[GOOD], b=[GOOD])
    assert plugins.commands == [GOOD]
    assert type(plugins.failures["b"]) is PluginConflict


PLUGIN = '''
from typing import Literal
import numpy as np
import soma_core as soma
from soma_core.protocol.dialects import FrameCodec
from soma_core.verbs import Command, CommandSpec, Data
from soma_core.wire.pickles import Pickles

class Evaluate(Command):
    """Run a node and compare."""
    cmd: Literal["EVALUATE"]
    node_id: str
    data: Data = None
    y: Data = None

def evaluate(command, engine):
    node = engine.nodes.get(command.node_id)
    out = node.forward(command.data, node.state, {})
    return {"error": float(np.abs(out - command.y).mean()), "out": out}

@soma.hookimpl
def soma_register_commands():
    return [CommandSpec(Evaluate, evaluate)]
'''

HOST = """
import sys, numpy as np, soma_core as soma
from soma_core.plugins.manager import installed_plugins

assert bool(installed_plugins().commands) == (sys.argv[1] == "inline")

class Double(soma.Filter):
    def forward(self, x, state):
        return x * 2

env = {} if sys.argv[1] == "inline" else {"env": {"SOMA_PLUGINS": "acme"}}
with soma.connect(sys.argv[1], filters={"double": Double()}, **env) as worker:
    x = np.arange(4.0)
    found = worker.call("EVALUATE", {"node_id": "double", "data": x, "y": x})
    assert found["error"] == 1.5 and np.array_equal(found["out"], x * 2), found
    for fields, code in [
        ({"node_id": "absent"}, "unknown_node"),
        ({"node_id": 3}, "invalid_command"),
        ({"node_id": "double", "colour": 1}, "invalid_command"),
        ({"node_id": "double", "data": "x", "y": x}, "filter_failed"),
    ]:
        try:
            worker.call("EVALUATE", fields)
        except soma.RemoteError as error:
            assert error.code == code, error
            assert error.command == "EVALUATE"
        else:
            raise AssertionError(code)
    try:
        worker.call("EVALUTE")
    except soma.RemoteError as error:
        assert error.code == "unknown_command" and "EVALUATE" in str(error), error
    try:
        worker.call("FIT", {})
    except ValueError as error:
        assert "Worker.fit" in str(error)
    print("done")
"""


@pytest.fixture
def environment(tmp_path) -> dict[str, str]:
    """Where the plugin is installed, as an installer leaves it."""
    install(tmp_path, "acme", {"soma.plugins": {"acme": "acme"}}, {"acme": PLUGIN})
    return {**os.environ, "PYTHONPATH": python_path(tmp_path)}


@pytest.mark.parametrize("transport", ["inline", "stdio"])
def test_a_worker_is_called_by_a_verb_also_by_a_host_without_the_plugin(
    transport, environment, tmp_path
) -> None:
    if transport != "inline":
        environment["SOMA_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    assert run_python(HOST, transport, directory=tmp_path, env=environment).stdout == "done\n"


CHECK = """
import json, subprocess, sys
line = json.dumps({"cmd": "EVALUATE", "node_id": "n", "data": 1})
def soma(*arguments, text=""):
    return subprocess.run([sys.executable, "-m", "soma_core.cli", *arguments], input=text,
                          capture_output=True, text=True)
schema = json.loads(soma("schema", "commands").stdout)
assert {"$ref": "#/$defs/Evaluate"} in schema["oneOf"]
assert schema["$defs"]["Evaluate"]["properties"]["cmd"] == {"const": "EVALUATE", "type": "string"}
good = soma("validate", "-", text=line + "\\n")
assert good.returncode == 0, good.stderr
bad = soma("validate", "-", text=line.replace('"n"', "3") + "\\n")
assert bad.returncode != 0 and "node_id" in bad.stdout + bad.stderr
import platform
from soma_core.protocol.versions import PROTOCOL_VERSION, cloudpickle_version, soma_version
client = {"name": "x", "soma": soma_version(), "python": platform.python_version(),
          "cloudpickle": cloudpickle_version()}
hello = {"cmd": "HELLO", "protocol": PROTOCOL_VERSION, "client": client}
daemon = subprocess.run([sys.executable, "-m", "soma_transport_stdio"], capture_output=True,
                        input=json.dumps(hello) + "\\n", text=True)
assert "EVALUATE" in json.loads(daemon.stdout)["commands"], daemon.stdout
print("done")
"""


@pytest.mark.nightly
def test_the_verb_is_in_the_schema_in_validate_and_in_hello(environment, tmp_path) -> None:
    assert run_python(CHECK, directory=tmp_path, env=environment).stdout == "done\n"
