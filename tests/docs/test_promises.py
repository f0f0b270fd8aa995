"""Every promise in docs/reliability.md names tests, and these tests exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "reliability.md").read_text()
NAMED = re.compile(r"`([\w/-]+\.py)::(\w+)`")
PROMISES = re.split(r"^\*\*(?=\d\. )", PAGE.partition("\n## What happens when")[0], flags=re.M)[1:]


def defined(path: Path) -> set[str]:
    """The names of the tests in a file."""
    nodes = ast.walk(ast.parse(path.read_text()))
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef)}


def test_there_are_seven_promises() -> None:
    assert [promise[:2] for promise in PROMISES] == [f"{number}." for number in range(1, 8)]


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise[:1])
def test_a_promise_names_tests_that_exist(promise: str) -> None:
    named = NAMED.findall(promise)
    assert named, f"no test is named for: {promise[:80]}"
    assert [f"{path}::{name}" for path, name in named if name not in defined(ROOT / path)] == []
