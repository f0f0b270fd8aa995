"""Options of plugins: who gives them, what is made of them, and what is said of mistakes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import BaseModel, SecretStr

import soma_core as soma
from soma_core.plugins.manager import PluginSet, installed_plugins
from soma_core.plugins.options import made_with, options_from, plugin_variables
from tests.support import plugins as support


class Options(BaseModel, extra="forbid"):
    """Those of a quota."""

    most: int = 5


class Quota:
    """Refuses inputs that are too large."""

    def __init__(self, options: Options) -> None:
        self.most = options.most

    @soma.hookimpl(wrapper=True, commands={"FORWARD"})
    def soma_execute(self, command: Any, context: Any) -> Any:
        if command.data > self.most:
            raise soma.Refused(f"at most {self.most}")
        return (yield)


class Echo(soma.Filter):
    """Returns what came."""

    def forward(self, x: Any, state: Any) -> Any:
        return x


@pytest.fixture
def quota() -> Iterator[None]:
    installed_plugins().register("quota", Quota)
    yield
    installed_plugins().unregister("quota")


def plugin_set(options: Any, **plugins: Any) -> PluginSet:
    return support.plugin_set({"SOMA_PLUGIN_OPTIONS": json.dumps(options)}, **plugins)


@pytest.mark.usefixtures("quota")
def test_a_host_gives_options_to_the_plugins_of_one_worker() -> None:
    filters = {"echo": Echo()}
    with (
        soma.connect("inline", filters=filters) as usual,
        soma.connect("inline", filters=filters, plugins={"quota": {"most": 60}}) as worker,
        soma.WorkerPool("inline", 1, filters=filters, plugins={"quota": {"most": 8}}) as pool,
    ):
        assert worker.forward("echo", 50) == 50
        for refusing, most in ((usual, 5), (worker, 60), (pool, 8)):
            with pytest.raises(soma.RemoteError, match=f"at most {most}"):
                refusing.forward("echo", most + 1)


@pytest.mark.usefixtures("quota")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"quota": {"mots": 1}}, r"the plugin 'quota': mots: .*\(its options: most\)"),
        ({"quota": {"most": "x"}}, "the plugin 'quota': most: .*got 'x'"),
        ({"quota": 5}, "plugins are options by plugin"),
        (5, "plugins are options by plugin"),
    ],
)
def test_a_mistake_in_options_is_said_before_anything_is_started(options: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        soma.connect("stdio", plugins=options)
    with pytest.raises(ValueError, match=said):
        soma.WorkerPool("stdio", 1, plugins=options)


def test_what_secrets_hide_reaches_the_plugin() -> None:
    class Login(BaseModel, strict=True):
        token: SecretStr
        where: Path

    given = {"login": {"token": SecretStr("hush"), "where": Path("/here")}}
    travelled = options_from(plugin_variables(given))
    for options in (given["login"], travelled["login"]):
        made = made_with("login", having(Login), options).options
        assert (made.token.get_secret_value(), made.where) == ("hush", Path("/here"))


def having(model: type[BaseModel]) -> Any:
    """A function that makes a plugin, which has its options."""

    def make(options: Any) -> Any:
        return SimpleNamespace(options=options)

    make.__annotations__["options"] = model
    return make


def test_options_that_do_not_travel_are_refused() -> None:
    with pytest.raises(ValueError, match="plugins: options of plugins are written as JSON"):
        soma.connect("stdio", plugins={"other": {"a": object()}})


def test_a_transport_that_starts_no_workers_says_who_configures_their_plugins() -> None:
    with pytest.raises(TypeError, match=r"no option plugins.*SOMA_PLUGIN_OPTIONS"):
        soma.connect("socket", path="/nowhere", plugins={"quota": {}})


def test_a_worker_that_lacks_a_plugin_which_was_given_options_does_not_start() -> None:
    with pytest.raises(soma.StartFailed) as caught:
        soma.connect("stdio", plugins={"elsewhere": {"a": 1}}, output="devnull")
    said = str(caught.value)
    assert "error: options are given to 'elsewhere': no plugin 'elsewhere' takes part" in said
    assert "Traceback" not in said


def test_inline_there_is_no_worker_without_a_plugin_that_was_given_options() -> None:
    with pytest.raises(soma.PluginNotFound, match="options are given to 'elsewhere'"):
        soma.connect("inline", plugins={"elsewhere": {}})


def test_a_process_that_does_not_inherit_the_environment_gets_no_options_from_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SOMA_PLUGIN_OPTIONS", '{"a": {"n": 1}}')
    given = {"b": {"n": 2}}
    assert options_from(plugin_variables(given)) == {"a": {"n": 1}, "b": {"n": 2}}
    assert options_from(plugin_variables(given, inherits=False)) == given


def test_the_environment_gives_options_to_plugins() -> None:
    made: list[int] = []

    def caching(options: Options) -> Any:
        made.append(options.most)
        return object()

    plugin_set({}, quota=caching)
    plugin_set({"quota": {"most": 7}}, quota=caching)
    assert made == [5, 7]


def test_options_for_a_plugin_that_takes_none_or_is_not_there_stop_the_process() -> None:
    with pytest.raises(soma.PluginLoadFailed, match="'plain': it takes no options, and got a"):
        plugin_set({"plain": {"a": 1}}, plain=object())
    with pytest.raises(soma.PluginNotFound, match=r"given to 'gone': .*those that do: 'plain'"):
        plugin_set({"gone": {}}, plain=object())


@pytest.mark.parametrize("text", ["{", "[1]", '{"a": 1}'])
def test_what_is_no_options_in_the_environment_is_quoted(text: str) -> None:
    with pytest.raises(soma.PluginError, match="SOMA_PLUGIN_OPTIONS"):
        support.plugin_set({"SOMA_PLUGIN_OPTIONS": text})


def test_other_plugins_stay_as_they_were() -> None:
    seen: dict[str, int] = {}

    def noting(name: str) -> Callable[[Options], Any]:
        def make(options: Options) -> Any:
            seen[name] = options.most
            return object()

        return make

    first = plugin_set({"a": {"most": 1}}, a=noting("a"), b=noting("b"))
    seen.clear()
    first.configured({"b": {"most": 2}})
    assert seen == {"b": 2}  # the other one is the same plugin, with what it has counted
    assert first.configured({"elsewhere": {}}) is first


def test_a_plugin_that_needs_options_takes_part_once_it_is_given_them() -> None:
    class Needed(BaseModel):
        most: int

    plugins = plugin_set({}, needs=having(Needed))
    assert "most: this field is required" in str(plugins.failures["needs"])
    configured = plugins.configured({"needs": {"most": 1}})
    configured.check_take_part(["needs"])
    assert configured.failures == {}


class Bare:
    """A plugin without options."""


class NeedsMore:
    """It needs what nobody gives it."""

    def __init__(self, options: Options, clock: Any) -> None: ...


class Unreadable:
    """The annotation of its options names nothing."""

    def __init__(self, options: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821


def test_a_class_is_made_with_or_without_options() -> None:
    class Usual:
        def __init__(self, options: Options | None = None, *rest: Any) -> None: ...

    assert type(made_with("bare", Bare, {})) is Bare
    assert type(made_with("usual", Usual, {})) is Usual


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (NeedsMore, "NeedsMore takes clock; all that it is given are its options"),
        (Unreadable, "NameError: name 'Nowhere' is not defined"),
        (lambda: None, "None was returned in its place"),
    ],
)
def test_a_plugin_that_cannot_be_made_does_not_stop_the_others(wrong: Any, said: str) -> None:
    plugins = plugin_set({}, wrong=wrong, bare=Bare)
    assert said in str(plugins.failures["wrong"])
    plugins.check_take_part(["bare"])


def test_what_a_plugin_raises_as_it_is_made_names_the_plugin() -> None:
    def wrong(options: Options) -> Any:
        raise ValueError(f"{options.most} is too few")

    def broken(options: Options) -> Any:
        raise KeyError("no")

    with pytest.raises(ValueError, match="the plugin 'q': 5 is too few"):
        made_with("q", wrong, {})
    with pytest.raises(soma.PluginLoadFailed, match="the plugin 'q' cannot be made: KeyErr"):
        made_with("q", broken, {})


def test_a_process_without_options_has_none() -> None:
    assert options_from({}) == {}
