"""What is wrong with what somebody installed is shown with its distribution, its entry point and a
remedy, and everything else goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

import soma_core as soma
from soma_core.plugins.catalog import PLUGINS, Catalog, FilterCatalog, TransportCatalog
from soma_core.plugins.manager import PluginSet

from ..support.installing import install

MODULES = {
    "fine": """
import soma_core as soma
from soma_core.engine.inline import InlineTransport as Fine
class Same(soma.Filter):
    def forward(self, x, state): return x
@soma.hookimpl
def soma_adapt(obj): return ("acme.Fine", {"obj": obj})
""",
    "raises": "raise OSError('no such device')",
    "old": "SOMA_API_VERSION = 7\nThing = object",
    "misspelt": "import soma_core as soma\n@soma.hookimpl\ndef soma_adopt(obj): ...",
    "odd": "import soma_core as soma\n@soma.hookimpl\ndef soma_sing(): ...",
    "arguments": "import soma_core as soma\n@soma.hookimpl\ndef soma_adapt(thing): ...",
    "verbs": "import soma_core as soma\n@soma.hookimpl\ndef soma_register_commands(): return 3",
    "things": "class Nothing: pass\nnumber = 3",
}
TARGETS = {
    "soma.transports": {
        "pigeon": "{0}_fine:Fine",
        "raises": "{0}_raises:Thing",
        "gone": "{0}_gone:Thing",
        "old": "{0}_old:Thing",
        "nothing": "{0}_things:Nothing",
    },
    "soma.filters": {
        "acme.Same": "{0}_fine:Same",
        "acme.Old": "{0}_old:Thing",
        "acme.Nothing": "{0}_things:Nothing",
        "acme.Number": "{0}_things:number",
    },
    "soma.plugins": {name: f"{{0}}_{name}" for name in MODULES},
}


def install_all(site: Path, prefix: str) -> None:
    """A distribution with all of them; its modules have a prefix before their names."""
    entry_points = {
        group: {name: target.format(prefix) for name, target in targets.items()}
        for group, targets in TARGETS.items()
    }
    modules = {f"{prefix}_{name}": code for name, code in MODULES.items()}
    install(site, f"acme-{prefix}", entry_points, modules)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    install_all(tmp_path, "bad")
    return tmp_path


def catalog(group: str) -> Catalog:
    kinds = {"soma.transports": TransportCatalog, "soma.filters": FilterCatalog}
    return kinds.get(group, Catalog)(group, group.removeprefix("soma.").removesuffix("s"))


@pytest.mark.parametrize(
    ("group", "name", "error", "shown"),
    [
        ("soma.transports", "raises", soma.PluginLoadFailed, ["no such device", "correct"]),
        ("soma.transports", "gone", soma.PluginLoadFailed, ["bad_gone", "reinstall acme-bad"]),
        ("soma.transports", "old", soma.PluginApiMismatch, ["version 7", "this is 1", "install"]),
        ("soma.transports", "nothing", soma.PluginLoadFailed, ["not a subclass of soma_core.tran"]),
        ("soma.filters", "acme.Old", soma.PluginApiMismatch, ["version 7", "install a version"]),
        ("soma.filters", "acme.Nothing", soma.PluginLoadFailed, ["a method forward(x, state)"]),
        ("soma.filters", "acme.Number", soma.PluginLoadFailed, ["leads to 3"]),
    ],
)
def test_what_cannot_be_used_says_why_and_whose_it_is(site, group, name, error, shown):
    with pytest.raises(error) as caught:
        catalog(group).load(name)
    for text in [*shown, repr(name), "acme-bad 1.0", "bad_"]:
        assert text in str(caught.value)
    catalog(group).load("acme.Same" if group == "soma.filters" else "pigeon")


@pytest.mark.parametrize(
    ("name", "error", "shown"),
    [
        ("raises", soma.PluginLoadFailed, ["no such device", "correct"]),
        ("old", soma.PluginApiMismatch, ["version 7", "install a version"]),
        ("misspelt", soma.PluginLoadFailed, ["no hook soma_adopt; did you mean soma_adapt?"]),
        ("odd", soma.PluginLoadFailed, ["no hook soma_sing; the hooks are soma_execute, soma_ad"]),
        ("arguments", soma.PluginLoadFailed, ["thing", "fix it, or uninstall that"]),
        ("verbs", soma.PluginLoadFailed, ["a list of CommandSpec, got 3", "fix it"]),
    ],
)
def test_a_plugin_that_does_not_fit_says_why_and_whose_it_is_and_the_others_work(
    site, name, error, shown
):
    plugins = PluginSet(catalog(PLUGINS), {"SOMA_PLUGINS": f"{name},fine"})
    assert type(plugins.failures[name]) is error
    for text in [*shown, repr(name), "acme-bad 1.0", f"bad_{name}"]:
        assert text in str(plugins.failures[name])
    assert plugins.hook.soma_adapt(obj=5) == ("acme.Fine", {"obj": 5})


@pytest.mark.parametrize(
    ("group", "name"),
    [("soma.transports", "pigeon"), ("soma.filters", "acme.Same"), ("soma.plugins", "fine")],
)
def test_two_with_one_name_are_both_named_and_one_must_go(site, group, name):
    install_all(site, "worse")
    with pytest.raises(soma.PluginConflict) as caught:
        catalog(group).load(name)
    for text in (repr(name), "acme-bad (bad_fine", "acme-worse (worse_fine", "uninstall one"):
        assert text in str(caught.value)


def test_an_option_that_does_not_exist_is_reported_with_those_that_do_and_whose_they_are():
    with pytest.raises(TypeError) as caught:
        soma.connect("stdio", colour="grey")
    for text in ("no option colour", "python", "soma_transport_stdio:Stdio", "of soma-core "):
        assert text in str(caught.value)
