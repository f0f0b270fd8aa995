"""Each hook says what it is, is described by docs/hooks.md as it is, and fires."""

from __future__ import annotations

import inspect
import os
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import soma_core as soma
from soma_core.codecs import Codec
from soma_core.engine.serving import Responder
from soma_core.plugins import hookspecs
from soma_core.plugins.manager import installed_plugins
from soma_core.verbs import CommandSpec

from ..support import nightly, wait_until

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "hooks.md").read_text()
HOOKS = {name: hook for name, hook in vars(hookspecs).items() if name.startswith("soma_")}


@pytest.mark.parametrize("name", HOOKS)
def test_a_hook_has_a_docstring_that_is_a_sentence(name: str) -> None:
    first = inspect.getdoc(HOOKS[name]).splitlines()[0]  # type: ignore[union-attr]
    assert first.endswith(".") or ":" in first or ";" in first


def test_the_page_describes_every_hook_with_its_exact_signature_and_no_other() -> None:
    shown = dict(re.findall(r"^### `(soma_\w+)(\(.*\))`$", PAGE, re.MULTILINE))
    assert shown == {
        name: str(inspect.signature(hook)).partition(" ->")[0].replace("'", "")
        for name, hook in HOOKS.items()
    }


class Recorder:
    """Implements every hook, and notes which were called."""

    def __init__(self) -> None:
        self.fired: list[str] = []

    @soma.hookimpl(wrapper=True)
    def soma_execute(self, command: Any, context: Any) -> Any:
        self.fired.append("soma_execute")
        return (yield)

    @soma.hookimpl
    def soma_adapt(self, obj: Any) -> Any:
        self.fired.append("soma_adapt")
        return Doubled() if isinstance(obj, Raw) else None

    @soma.hookimpl
    def soma_remote_filter(self, worker: Any, node_id: str, meta: soma.FilterMeta) -> Any:
        self.fired.append("soma_remote_filter")
        return None if meta.name != "Doubled" else Handle.of(worker, node_id, meta)

    @soma.hookimpl
    def soma_register_commands(self) -> list[CommandSpec]:
        self.fired.append("soma_register_commands")
        return []

    @soma.hookimpl
    def soma_register_codecs(self) -> list[Codec]:
        self.fired.append("soma_register_codecs")
        return []

    @soma.hookimpl
    def soma_open_file(self, path: str, key: Any) -> Any:
        self.fired.append("soma_open_file")
        return np.zeros((2, 1)) if path.endswith(".ours") else None

    @soma.hookimpl
    def soma_preloaded(self) -> None:
        self.fired.append("soma_preloaded")

    @soma.hookimpl
    def soma_filter_loaded(self, node_id: str, meta: soma.FilterMeta) -> None:
        self.fired.append("soma_filter_loaded")

    @soma.hookimpl
    def soma_command_finished(self, command: Any, seconds: float, error: Any) -> None:
        self.fired.append("soma_command_finished")

    @soma.hookimpl(wrapper=True)
    def soma_call(self, call: Any) -> Any:
        self.fired.append("soma_call")
        return (yield)

    @soma.hookimpl
    def soma_call_starting(self, call: Any) -> None:
        self.fired.append("soma_call_starting")

    @soma.hookimpl
    def soma_call_sent(self, call: Any) -> None:
        self.fired.append("soma_call_sent")

    @soma.hookimpl
    def soma_call_finished(self, call: Any, reply: Any, error: Any) -> None:
        self.fired.append("soma_call_finished")

    @soma.hookimpl
    def soma_worker_starting(self, transport: str, options: Any) -> None:
        self.fired.append("soma_worker_starting")

    @soma.hookimpl
    def soma_worker_started(self, transport: str, pid: int, incarnation: str) -> None:
        self.fired.append("soma_worker_started")

    @soma.hookimpl
    def soma_worker_exited(self, transport: str, pid: int, status: Any) -> None:
        self.fired.append("soma_worker_exited")


class Doubled(soma.Filter):
    def forward(self, x: Any, state: Any) -> Any:
        return x * 2


class Handle(soma.RemoteFilter):
    """What a plugin makes of a node."""


class Raw:
    """No filter."""


@pytest.fixture
def recorder() -> Any:
    plugins = installed_plugins()
    recorder = Recorder()
    plugins.register("recorder", recorder)
    yield recorder
    plugins.unregister("recorder")


def test_every_hook_fires_where_its_docstring_says(recorder: Recorder) -> None:
    with soma.connect("inline", filters={"raw": Raw()}) as worker:
        assert worker.forward("raw", 2) == 4
        assert isinstance(worker.filter("raw"), Handle)
        assert worker.batched_fit(["raw"], soma.DataFile("data.ours")).result.shape == (2, 1)
    assert set(recorder.fired) == set(HOOKS) - {"soma_preloaded"}
    registering = ["soma_register_commands", "soma_register_codecs"]
    hello = ["soma_call_starting", "soma_execute"]
    assert recorder.fired[:5] == [*registering, "soma_worker_starting", *hello]
    assert recorder.fired[-1] == "soma_worker_exited"
    Responder().warm_up()  # as a process does that workers are forked from
    assert recorder.fired[-1] == "soma_preloaded"


class Policy:
    @soma.hookimpl(wrapper=True, commands={"FORWARD"})
    def soma_execute(self, command: Any, context: Any) -> Any:
        if command.node_id == "secret":
            raise soma.Refused("nobody may run 'secret'")
        return (yield)


def test_a_plugin_refuses_a_command_with_a_code_of_its_own() -> None:
    plugins = installed_plugins()
    plugins.register("policy", Policy())
    try:
        with soma.connect("inline", filters={"secret": Doubled(), "open": Doubled()}) as worker:
            assert worker.forward("open", 2) == 4
            with pytest.raises(soma.RemoteError) as caught:
                worker.forward("secret", 2)
            assert str(caught.value) == "the plugin 'policy' refuses this: nobody may run 'secret'"
            assert caught.value.code == "refused"
    finally:
        plugins.unregister("policy")


@pytest.mark.parametrize(
    "ends",
    [
        ["shutdown", "close"],
        *(pytest.param(ends, marks=nightly) for ends in (["close"], ["close", "close"])),
    ],
)
def test_the_end_of_a_worker_is_reported_once_for_each_start(
    recorder: Recorder, ends: list[str]
) -> None:
    worker = soma.connect("stdio", restart="on-crash")
    os.kill(worker.ping().pid, signal.SIGKILL)
    wait_until(lambda: not worker.status().alive)
    worker.ping()
    for end in ends:
        getattr(worker, end)()
    assert recorder.fired.count("soma_worker_started") == 2
    assert recorder.fired.count("soma_worker_exited") == 2
