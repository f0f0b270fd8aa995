"""Every public name is on a page of the Python reference, and nothing else is."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
from functools import reduce
from pathlib import Path

import pytest

from soma_core.plugins import hookspecs

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "reference" / "python"
FACES = {
    "soma_core": "users.md",
    "soma_core.progress": "users.md",
    "soma_core.transport": "transports.md",
    "soma_core.streams": "transports.md",
    "soma_core.serve": "transports.md",
    "soma_core.verbs": "plugins.md",
    "soma_core.codecs": "plugins.md",
    "soma_core.execution": "plugins.md",
    "soma_core.configuration": "plugins.md",
    "soma_core.tooling": "plugins.md",
    "soma_core.testing": "testing.md",
}
DESCRIBED = re.compile(r"^::: ([\w.]+)$", re.MULTILINE)
CALLED = re.compile(r"Called (?:once )?in ")
ALIASES = {"soma_core.Distribution"}  # of a type; Python keeps no docstring for it
REFERRED = re.compile(r"`(soma_core\.[\w.]+)`")


@pytest.mark.parametrize("face", FACES)
def test_each_public_name_of_a_face_is_on_its_page(face: str) -> None:
    page = (FOLDER / FACES[face]).read_text()
    named = {*DESCRIBED.findall(page), *REFERRED.findall(page)}
    public = [f"{face}.{name}" for name in importlib.import_module(face).__all__]
    assert public
    missing = [f"::: {name}" for name in public if name not in named]
    assert missing == [], f"add a line for each to docs/reference/python/{FACES[face]}"


@pytest.mark.parametrize("page", sorted(FOLDER.glob("*.md")), ids=lambda page: page.stem)
def test_each_name_on_a_page_exists_and_has_a_docstring(page: Path) -> None:
    described = {name: _object(name) for name in DESCRIBED.findall(page.read_text())}
    assert described
    code = {name for name, found in described.items() if callable(found)}
    assert [name for name in code - ALIASES if not inspect.getdoc(described[name])] == []


def test_every_hook_says_when_it_is_called() -> None:
    hooks = {
        name: inspect.getdoc(member) or ""
        for name, member in vars(hookspecs).items()
        if name.startswith("soma_")
    }
    assert len(hooks) >= 9
    assert [name for name, text in hooks.items() if not CALLED.search(text)] == []


def _object(name: str) -> object:
    """What a dotted name names; fails if there is no such thing."""
    path = name.split(".")
    depth = 3 if path[1] == "plugins" else 2 if _is_module(".".join(path[:2])) else 1
    module = importlib.import_module(".".join(path[:depth]))
    return reduce(getattr, path[depth:], module)


def _is_module(name: str) -> bool:
    return importlib.util.find_spec(name) is not None
