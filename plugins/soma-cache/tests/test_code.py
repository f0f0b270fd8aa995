"""An edited filter misses: its code, and the code of the user's that it calls, is in the key."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
from soma_cache.code import code_digest

import soma_core as soma

HELPERS = """
LIMIT = 3
def scaled(x):
    return x * inner(x)
def inner(x):
    return 2
def unused(x):
    return 0
"""
FILTER = """
import functools
import logging
import re
import numpy as np
import soma_core as soma
import helpers
from helpers import scaled

log = logging.getLogger("x")
TABLE = np.arange(3)
WORD = re.compile("a+")
SHIFT = 0

def times(factor):
    def decorate(function):
        @functools.wraps(function)
        def decorated(*args):
            return function(*args) * factor
        return decorated
    return decorate

@times(10)
def grown(x):
    return x

@functools.singledispatch
def kind(x):
    return 0

@kind.register
def _(x: int):
    return 21

class Kind(type):
    def __len__(cls):
        return 61

class Curve(metaclass=Kind):
    __slots__ = ("steepness",)
    def __init__(self, steepness):
        self.steepness = steepness
    def at(self, x):
        return x * self.steepness

CURVE = Curve(31)
BY_NAME = {"shifted": lambda x: x + SHIFT, "part": functools.partial(max, 41)}

class Base(soma.Filter):
    factor: float = 1.0
    def offset(self):
        return 1

class Made(Base):
    _weights: list = [1, 2]

    @staticmethod
    def fixed(x):
        return x[..., 0] + 1.5

    @functools.cached_property
    def rate(self):
        return 51

    def rest(self, x):
        return grown(x) + kind(x) + CURVE.at(x) + BY_NAME["shifted"](x) + self.rate

    def forward(self, x, state):
        log.info("here")
        small = [v for v in x if v in {1, 2, 3}]
        letters = bool(WORD.match("aa"))
        return scaled(x) + helpers.LIMIT + TABLE.sum() + self.offset() + len(small) + letters
"""

EDITS: dict[str, Callable[[str, str], tuple[str, str]]] = {
    "a constant": lambda h, f: (h, f.replace("1.5", "2.5")),
    "a method of a base": lambda h, f: (h, f.replace("return 1\n", "return 2\n")),
    "a set of constants": lambda h, f: (h, f.replace("{1, 2, 3}", "{1, 2, 4}")),
    "an operator": lambda h, f: (h, f.replace("scaled(x) +", "scaled(x) -")),
    "a private attribute": lambda h, f: (h, f.replace("[1, 2]", "[1, 3]")),
    "a global array": lambda h, f: (h, f.replace("arange(3)", "arange(4)")),
    "a function of another module": lambda h, f: (h.replace("x * inner", "x + inner"), f),
    "what that function calls": lambda h, f: (h.replace("return 2", "return 3"), f),
    "an attribute of another module": lambda h, f: (h.replace("LIMIT = 3", "LIMIT = 4"), f),
    "what a decorator is given": lambda h, f: (h, f.replace("times(10)", "times(11)")),
    "a decorator": lambda h, f: (h, f.replace("args) * factor", "args) + factor")),
    "a function for one type": lambda h, f: (h, f.replace("return 21", "return 22")),
    "what an object holds": lambda h, f: (h, f.replace("Curve(31)", "Curve(32)")),
    "a method of an object": lambda h, f: (h, f.replace("x * self.steep", "x / self.steep")),
    "what a function in a dict names": lambda h, f: (h, f.replace("SHIFT = 0", "SHIFT = 1")),
    "an argument that a partial holds": lambda h, f: (h, f.replace("(max, 41)", "(max, 42)")),
    "a cached property": lambda h, f: (h, f.replace("return 51", "return 52")),
    "a metaclass": lambda h, f: (h, f.replace("return 61", "return 62")),
    "a regular expression": lambda h, f: (h, f.replace('"a+"', '"b+"')),
}
SAME: dict[str, Callable[[str, str], tuple[str, str]]] = {
    "nothing": lambda h, f: (h, f),
    "a comment": lambda h, f: (h, "# told anew\n\n" + f),
    "a function that it does not call": lambda h, f: (h.replace("return 0", "return 9"), f),
}


@pytest.fixture
def digest(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], bytes]:
    """The hash of the filter's class, as two modules define it."""

    def load(helpers: str, source: str) -> bytes:
        made = []
        for name, text in (("helpers", helpers), ("made", source)):
            module = types.ModuleType(name)
            monkeypatch.setitem(sys.modules, name, module)
            exec(compile(text, f"{name}.py", "exec"), vars(module))
            made.append(module)
        return code_digest(made[1].Made)

    return load


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_that_could_change_the_result_changes_the_hash(digest, edit) -> None:
    assert digest(*EDITS[edit](HELPERS, FILTER)) != digest(HELPERS, FILTER)


@pytest.mark.parametrize("edit", SAME)
def test_an_edit_that_could_not_does_not(digest, edit) -> None:
    assert digest(*SAME[edit](HELPERS, FILTER)) == digest(HELPERS, FILTER)


@pytest.mark.parametrize(
    ("statement", "file", "package"),
    [
        ("import beside as b", "beside.py", None),
        ("from beside import LEVEL", "beside.py", None),
        ("from beside.inner import LEVEL", "beside/inner.py", None),
        ("from .inner import LEVEL", "beside/inner.py", "beside"),
    ],
)
def test_an_edit_of_a_module_that_a_method_imports_changes_the_hash(
    tmp_path, monkeypatch, statement, file, package
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / file).parent.mkdir(exist_ok=True)
    digests = []
    for text in ("LEVEL = 61", "LEVEL = 61", "LEVEL = 62"):
        (tmp_path / file).write_text(text)
        namespace: dict[str, Any] = {"__name__": "made", "__package__": package}
        exec(f"def late(x):\n    {statement}\n    return x", namespace)
        digests.append(code_digest(namespace["late"]))
    assert digests[0] == digests[1] != digests[2]
    assert "beside" not in sys.modules


def test_functions_that_call_each_other_and_classes_that_hold_themselves_end() -> None:
    def even(n: int) -> bool:
        return n == 0 or odd(n - 1)

    def odd(n: int) -> bool:
        return n != 0 and even(n - 1)

    class Parity(soma.Filter):
        def forward(self, x: Any, state: Any) -> Any:
            return super().meta() and Parity and even(x)

    assert code_digest(Parity) == code_digest(Parity)
