"""The names that users see, and what importing them costs."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
import types
from importlib import metadata

import pytest

import soma_core

from .support import ROOT

FACES = (
    "errors|progress|transport|streams|serve|codecs|verbs|execution|configuration|tooling|testing"
)


def public(module: types.ModuleType) -> set[str]:
    """The public names of a namespace, but for submodules and imported modules."""
    return {
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }


def test_every_public_name_is_there_and_listed_by_dir() -> None:
    for name in soma_core.__all__:
        getattr(soma_core, name)
    assert set(dir(soma_core)) == set(soma_core.__all__)


def test_nothing_but_the_listed_names_is_public() -> None:
    assert public(soma_core) - {"attach_stub"} <= set(soma_core.__all__)


def test_the_version_is_that_of_the_installed_distribution() -> None:
    assert soma_core.__version__ == metadata.version("soma-core")


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'conect'"):
        soma_core.conect  # noqa: B018


def test_all_is_sorted_and_without_repetition() -> None:
    assert sorted(set(soma_core.__all__)) == soma_core.__all__


def test_our_plugins_import_only_what_authors_of_plugins_may() -> None:
    inner = re.compile(rf"^ *(?:from|import) (soma_core\.(?!(?:{FACES})\b)[\w.]+)", re.MULTILINE)
    sources = list((ROOT / "plugins").glob("*/soma_*/**/*.py"))
    assert sources
    found = {path.name: inner.findall(path.read_text()) for path in sources}
    assert {name: modules for name, modules in found.items() if modules} == {}


def test_the_names_of_the_design_are_there() -> None:
    promised = """
        connect Worker RemoteFilter Filter FilterMeta FilterKind StreamMode Distribution
        Schema DataType Dimension Fixed Dynamic
        Tensor Text Json Bytes Object Empty Value Pong
        SomaError PluginError PluginNotFound PluginLoadFailed PluginConflict PluginApiMismatch
        ProtocolError TransportError StartFailed ChannelClosed WorkerDied DeadlineExceeded
        RemoteError IncompatibleWorker StateLost
    """
    assert set(promised.split()) <= set(soma_core.__all__)


def test_errors_form_the_documented_tree() -> None:
    for name in soma_core.__all__:
        member = getattr(soma_core, name)
        if isinstance(member, type) and issubclass(member, Exception):
            assert issubclass(member, soma_core.SomaError)
    for plugin_error in ("NotFound", "LoadFailed", "Conflict", "ApiMismatch"):
        assert issubclass(getattr(soma_core, f"Plugin{plugin_error}"), soma_core.PluginError)
    for transport_error in ("StartFailed", "ChannelClosed", "WorkerDied", "DeadlineExceeded"):
        assert issubclass(getattr(soma_core, transport_error), soma_core.TransportError)
    assert issubclass(soma_core.DeadlineExceeded, TimeoutError)


def modules() -> list[str]:
    found = pkgutil.walk_packages(soma_core.__path__, "soma_core.")
    return sorted(m.name for m in found if not m.name.endswith("__main__"))


def test_every_name_that_a_module_lists_exists_and_lists_are_sorted() -> None:
    for name in modules():
        module = importlib.import_module(name)
        listed = getattr(module, "__all__", [])
        assert [item for item in listed if not hasattr(module, item)] == [], name
        assert sorted(set(listed)) == sorted(listed), name


HEAVY = [
    "torch",
    "sklearn",
    "pandas",
    "rich",
    "typer",
    "cloudpickle",
    "safetensors",
    "hypothesis",
    "matplotlib",
]


@pytest.mark.parametrize(
    "statement",
    [
        "import soma_core",
        "import soma_core; soma_core.connect",
        "import soma_core.serve, soma_core.engine.inline, soma_core.client.worker",
        "import soma_core.plugins.catalog as d; d.installed_filters().list()",
        "import soma_core.plugins.catalog as d; d.installed_transports().list()",
        "import soma_transport_stdio, soma_transport_socket",
    ],
)
def test_importing_soma_imports_nothing_heavy(statement: str) -> None:
    code = f"import sys; {statement}; print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "[]\n", done.stderr


def test_importing_the_package_costs_less_than_its_dependencies() -> None:
    code = "import sys, soma_core; print({'numpy', 'pydantic', 'pluggy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "set()\n", done.stderr


def test_the_core_imports_no_transport_package() -> None:
    code = (
        "import sys, soma_core, soma_core.serve, soma_core.engine.inline; "
        "print([name for name in sys.modules if name.startswith('soma_transport')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr


def test_an_import_under_windows_is_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    code = compile(inspect.getsource(soma_core), "soma_core", "exec")
    with pytest.raises(ImportError, match="soma runs on Linux and macOS"):
        exec(code, {"__name__": "soma_core"})
