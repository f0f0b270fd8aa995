"""Plugin modules take part one by one; a broken one is kept as a failure and stops no other."""

from __future__ import annotations

import logging
import pickle
import signal
import threading
import types
from collections.abc import Iterator
from typing import Any, Literal

import pytest

import soma_core as soma
from soma_core.client.calls import Call
from soma_core.engine.engine import Engine, EngineInfo
from soma_core.engine.interrupts import Interrupts
from soma_core.engine.nodes import Node
from soma_core.errors import PluginLoadFailed, ProtocolError
from soma_core.plugins.catalog import installed_filters
from soma_core.plugins.manager import PluginSet, installed_plugins
from soma_core.protocol import commands, replies
from soma_core.verbs import Command, CommandSpec
from soma_transport_socket.worker.session import SessionInterrupts

from ..support.plugins import plugin_set


def plugin(**attributes: Any) -> types.SimpleNamespace:
    return types.SimpleNamespace(**attributes)


@soma.hookimpl
def soma_adapt(obj: Any) -> Any:
    return ("acme.Wrapped", {"value": obj}) if isinstance(obj, int) else None


def engine(plugins: PluginSet) -> Engine:
    info = EngineInfo(commands=(), limits=replies.Limits(line=1, header=1, nesting=1))
    return Engine(installed_filters(), info, plugins=plugins)


PING = commands.Ping(cmd="PING")


@pytest.fixture(params=["worker", "session"])
def interrupts(request: Any) -> Iterator[Interrupts]:
    """As in a worker, and in one that clients share: SIGINT ends the command that runs."""
    before = signal.getsignal(signal.SIGINT)
    yield Interrupts() if request.param == "worker" else SessionInterrupts(lambda: False)
    signal.signal(signal.SIGINT, before)


class Limited:
    """Aborts, from another thread, each command that its filter says runs for too long."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.too_long = threading.Event()

    @soma.hookimpl(wrapper=True, commands={"FIT"})
    def soma_execute(self, command: Any, context: Any) -> Any:
        def watch() -> None:
            self.too_long.wait()
            context.abort(command, "fit may run for a minute")

        self.seen.append((command, context))
        threading.Thread(target=watch, daemon=True).start()
        return (yield)


def test_a_plugin_aborts_a_command_that_runs_and_says_why(interrupts: Interrupts) -> None:
    limited = Limited()

    def fit(x: Any, y: Any) -> Any:
        limited.too_long.set()
        threading.Event().wait(30.0)

    made = engine(plugin_set(limited=limited))
    made.interrupts = interrupts
    node = plugin(fit=fit, forward=lambda x, state: x)
    made.nodes.add([Node("slow", node)])
    with pytest.raises(soma.Refused, match=r"^fit may run for a minute$"):
        interrupts.run(made.execute, commands.Fit(cmd="FIT", node_id="slow", data=1))


def test_an_abort_that_comes_too_late_ends_no_other_command(interrupts: Interrupts) -> None:
    limited = Limited()

    def forward(x: Any, state: Any) -> Any:
        (command, context), *_ = limited.seen
        context.abort(command, "too late")
        return x

    made = engine(plugin_set(limited=limited))
    made.interrupts = interrupts
    node = plugin(fit=lambda x, y: {}, forward=forward)
    made.nodes.add([Node("quick", node)])
    interrupts.run(made.execute, commands.Fit(cmd="FIT", node_id="quick", data=1))
    run = commands.Forward(cmd="FORWARD", node_id="quick", data=1)
    assert interrupts.run(made.execute, run).result == 1


def test_a_broken_plugin_is_a_failure_and_the_next_one_takes_part() -> None:
    broken = PluginLoadFailed("it raised")
    plugins = plugin_set(broken=broken, works=plugin(soma_adapt=soma_adapt))
    assert plugins.failures == {"broken": broken}
    assert plugins.hook.soma_adapt(obj=5) == ("acme.Wrapped", {"value": 5})
    assert plugins.hook.soma_adapt(obj="text") is None


def test_a_misspelt_hook_is_reported_and_leaves_nothing_registered() -> None:
    @soma.hookimpl
    def soma_adopt(obj: Any) -> Any:
        return obj

    plugins = plugin_set(misspelt=plugin(soma_adopt=soma_adopt, soma_adapt=soma_adapt))
    assert "soma_adopt" in str(plugins.failures["misspelt"])
    assert plugins.hook.soma_adapt(obj=5) is None


def test_a_hook_with_an_argument_that_does_not_exist_is_reported() -> None:
    @soma.hookimpl
    def soma_adapt(thing: Any) -> Any:
        return thing

    plugins = plugin_set(wrong=plugin(soma_adapt=soma_adapt))
    assert "thing" in str(plugins.failures["wrong"])


@pytest.mark.parametrize(
    ("environment", "taking_part"),
    [
        ({}, ["b", "a"]),  # as in pluggy, the last registered is called first
        ({"SOMA_DISABLE_PLUGIN_AUTOLOAD": "1"}, []),
        ({"SOMA_PLUGINS": "b"}, ["b"]),
        ({"SOMA_PLUGINS": " b , a "}, ["a", "b"]),
        ({"SOMA_PLUGINS": "a", "SOMA_DISABLE_PLUGIN_AUTOLOAD": "1"}, ["a"]),
    ],
)
def test_the_environment_chooses_who_takes_part(
    environment: dict[str, str], taking_part: list[str]
) -> None:
    seen = []

    def observer(name: str) -> types.SimpleNamespace:
        @soma.hookimpl
        def soma_worker_starting() -> None:
            seen.append(name)

        return plugin(soma_worker_starting=soma_worker_starting)

    plugins = plugin_set(environment, a=observer("a"), b=observer("b"))
    plugins.notify("soma_worker_starting", transport="stdio", options=None)
    assert seen == taking_part


@pytest.mark.parametrize(("named", "meant"), [("FORWRAD", "FORWARD"), ("PREDICT", "CALL_METHOD")])
def test_a_misspelt_command_of_a_hook_is_warned_of(named: str, meant: str, caplog: Any) -> None:
    @soma.hookimpl(wrapper=True, commands={"FIT", named, "COUNT_STARS"})
    def soma_execute(command: Any, context: Any) -> Any:
        return (yield)

    engine(plugin_set(policy=plugin(soma_execute=soma_execute)))
    (record,) = caplog.records
    assert record.getMessage() == (
        f"the plugin 'policy' takes part in {named}, which is no command here; "
        f"did you mean {meant}?"
    )


@pytest.mark.parametrize("kind", [RuntimeError, SystemExit])
def test_an_observer_that_raises_is_logged_and_breaks_nothing(kind: Any, caplog: Any) -> None:
    finished = []

    @soma.hookimpl
    def breaks() -> None:
        raise kind("an observer's own mistake")

    @soma.hookimpl
    def soma_command_finished(command: Any, seconds: float, error: Any) -> None:
        finished.append((command.cmd, seconds >= 0, error))

    plugins = plugin_set(
        a=plugin(soma_command_finished=breaks),
        b=plugin(soma_command_finished=soma_command_finished),
    )
    with caplog.at_level(logging.ERROR, "soma.plugins"):
        assert isinstance(engine(plugins).execute(PING), replies.PingReply)
    assert finished == [("PING", True, None)]
    assert "an observer's own mistake" in caplog.text


def test_wrappers_of_execution_see_the_command_and_its_reply_outermost_last_registered() -> None:
    steps = []

    def middleware(name: str) -> types.SimpleNamespace:
        @soma.hookimpl(wrapper=True)
        def soma_execute(command: Any, context: Any) -> Any:
            steps.append(f"{name} before {command.cmd}")
            reply = yield
            steps.append(f"{name} after")
            return reply

        return plugin(soma_execute=soma_execute)

    plugins = plugin_set(inner=middleware("inner"), outer=middleware("outer"))
    assert isinstance(engine(plugins).execute(PING), replies.PingReply)
    assert steps == ["outer before PING", "inner before PING", "inner after", "outer after"]


def answering(reply: replies.Reply) -> types.SimpleNamespace:
    """A plugin that knows the reply to every command."""

    @soma.hookimpl(wrapper=True)
    def soma_execute(command: Any, context: Any) -> Any:
        context.answer(reply)
        return (yield)

    return plugin(soma_execute=soma_execute)


def test_a_wrapper_that_knows_the_reply_answers_and_the_command_is_not_executed() -> None:
    known = replies.ForwardReply(result=1)
    unused = commands.Forward(cmd="FORWARD", node_id="no such node")
    assert engine(plugin_set(cache=answering(known))).execute(unused) is known


def test_what_a_plugin_inside_of_an_answer_refuses_is_refused_and_answers_nothing_later() -> None:
    refusing = True

    @soma.hookimpl
    def soma_execute(command: Any, context: Any) -> Any:
        if refusing:
            raise PermissionError("policy says no")

    known = replies.PingReply(pid=1, incarnation="kept")
    policed = engine(plugin_set(a=plugin(soma_execute=soma_execute)))
    policed.answer(known)
    with pytest.raises(PermissionError):
        policed.execute(PING)
    refusing = False
    assert policed.execute(PING) is not known


def test_what_a_plugin_says_in_a_reply_is_in_the_status_of_the_worker() -> None:
    @soma.hookimpl(wrapper=True)
    def soma_execute(command: Any, context: Any) -> Any:
        reply = yield
        reply.meta = {"counter": {"cmd": command.cmd}}
        return reply

    plugins = installed_plugins()
    plugins.register("counter", plugin(soma_execute=soma_execute))
    try:
        with soma.connect("inline") as worker:
            assert worker.status().plugins == {"counter": {"cmd": "HELLO"}}
            worker.ping()
            assert worker.status().plugins == {"counter": {"cmd": "PING"}}
    finally:
        plugins.unregister("counter")
    with soma.connect("inline") as worker:
        assert worker.status().plugins == {}


@pytest.mark.parametrize("said", [{"rows": 3}, object()], ids=["data", "what does not travel"])
def test_what_a_plugin_says_of_a_command_that_fails_is_in_its_error(said: Any) -> None:
    @soma.hookimpl(wrapper=True, commands={"FORWARD"})
    def soma_execute(command: Any, context: Any) -> Any:
        try:
            return (yield)
        except ProtocolError as error:
            error.meta = {"counter": said}
            raise

    plugins = installed_plugins()
    plugins.register("counter", plugin(soma_execute=soma_execute))
    travels = {"counter": said} if type(said) is dict else {}
    try:
        with soma.connect("inline", pickle="never") as worker:
            with pytest.raises(soma.RemoteError, match="unknown node") as caught:
                worker.forward("nobody", 1)
            assert caught.value.plugins == travels
            assert pickle.loads(pickle.dumps(caught.value)).plugins == travels
            assert worker.status().plugins == travels
    finally:
        plugins.unregister("counter")


def test_what_a_plugin_that_is_taken_out_added_is_gone() -> None:
    class Evaluate(Command):
        """Evaluate."""

        cmd: Literal["EVALUATE"]

    @soma.hookimpl
    def soma_register_commands() -> Any:
        return [CommandSpec(Evaluate, lambda command, engine: None)]

    plugins = plugin_set(
        works=plugin(soma_adapt=soma_adapt, soma_register_commands=soma_register_commands)
    )
    assert [spec.cmd for spec in plugins.commands] == ["EVALUATE"]
    plugins.unregister("works")
    assert plugins.commands == []
    assert plugins.hook.soma_adapt(obj=5) is None
    with pytest.raises(soma.PluginNotFound, match="no plugin 'works' takes part"):
        plugins.unregister("works")


def test_what_an_executing_plugin_raises_propagates() -> None:
    @soma.hookimpl
    def soma_execute(command: Any, context: Any) -> Any:
        raise PermissionError("policy says no")

    with pytest.raises(PermissionError, match="policy says no"):
        engine(plugin_set(policy=plugin(soma_execute=soma_execute))).execute(PING)


@pytest.mark.parametrize(
    "returned", [{"result": 1}, replies.FitReply()], ids=["no reply", "of another command"]
)
def test_what_a_plugin_returns_in_place_of_the_reply_is_an_error_that_names_it(
    returned: Any,
) -> None:
    @soma.hookimpl
    def soma_execute(command: Any, context: Any) -> Any:
        return returned

    plugins = plugin_set(odd=plugin(soma_execute=soma_execute))
    with pytest.raises(TypeError, match=r"is to return a PingReply, and returned .* part: 'odd'"):
        engine(plugins).execute(PING)


@pytest.mark.parametrize("meta", ["abc", {1: 2}])
def test_what_a_plugin_sends_along_with_a_call_is_dropped_where_it_is_no_dict_of_texts(
    meta: Any, caplog: Any
) -> None:
    @soma.hookimpl
    def soma_call_starting(call: Any) -> None:
        call.fields["meta"] = meta

    observers = plugin_set(odd=plugin(soma_call_starting=soma_call_starting)).observing_calls()
    assert observers is not None
    call = Call.of(PING)
    observers.starting(call)
    assert "meta" not in call.fields
    assert f"meta of a call is a dict of texts and data, got {meta!r}" in caplog.text


def test_without_plugins_a_command_takes_no_detour() -> None:
    assert plugin_set().concerns() == []
    assert plugin_set(a=plugin(soma_adapt=soma_adapt)).concerns() == []
