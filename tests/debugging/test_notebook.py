"""A notebook, executed as Jupyter executes it: output, errors and classes of its cells."""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import Any

import pytest

NEEDED = ("nbclient", "nbformat", "ipykernel")
pytestmark = pytest.mark.skipif(
    any(find_spec(name) is None for name in NEEDED), reason="nbclient or ipykernel is not installed"
)

CELLS = [
    """
import soma_core as soma

RATE = 2

class Scale(soma.Filter):
    def forward(self, x, state):
        print("scaling")
        return x * RATE

worker = soma.connect("stdio", filters={"s": Scale()})
worker.forward("s", 3)
""",
    """
class Item:
    def __init__(self, v):
        self.v = v
    def __mul__(self, other):
        return Item(self.v * other)

own = Item.__mul__
got = worker.forward("s", Item(4))
type(got) is Item, got.v, Item.__mul__ is own
""",
    """
RATE = 10
worker.load({"s": Scale()})
worker.forward("s", 3)
""",
    """
class Scale(soma.Filter):
    def forward(self, x, state):
        return x["missing"]  # a second version

worker.load({"s": Scale()})
worker.forward("s", {})
""",
    """
worker.close()
worker
""",
]


@pytest.fixture(scope="module")
def outputs() -> list[dict[str, Any]]:
    """What each cell shows: its result, its error, and what it wrote to stderr."""
    import nbclient  # here, since it takes long, and one process of a test run needs it
    import nbformat

    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell(cell.strip()) for cell in CELLS]
    client = nbclient.NotebookClient(notebook, timeout=100, allow_errors=True)
    client.execute()
    return [_shown(cell.outputs) for cell in notebook.cells]


def _shown(outputs: list[Any]) -> dict[str, Any]:
    shown: dict[str, Any] = {"result": None, "error": None, "stderr": ""}
    for output in outputs:
        if output.output_type == "execute_result":
            shown["result"] = output.data["text/plain"]
        elif output.output_type == "error":
            shown["error"] = re.sub(r"\x1b\[[\d;]*m", "", "\n".join(output.traceback))
        elif output.name == "stderr":
            shown["stderr"] += output.text
    return shown


def test_a_filter_of_a_cell_runs_and_its_output_appears_in_the_cell_that_ran(
    outputs: list[dict[str, Any]],
) -> None:
    assert outputs[0]["result"] == "6"
    for shown in outputs[:2]:
        assert shown["stderr"].strip().endswith("scaling")


def test_a_class_of_a_cell_stays_the_notebook_s_own(outputs: list[dict[str, Any]]) -> None:
    assert outputs[1]["result"] == "(True, 8, True)"


def test_a_filter_that_is_loaded_again_uses_what_the_notebook_defines_now(
    outputs: list[dict[str, Any]],
) -> None:
    assert outputs[2]["result"] == "30"


def test_an_error_shows_the_line_of_the_cell(outputs: list[dict[str, Any]]) -> None:
    error = outputs[3]["error"]
    assert "RemoteError[KeyError]: 'missing'" in error
    assert re.search(r"-+> 3 +return x\[\"missing\"\]  # a second version", error)
    assert "soma_core" not in error


def test_a_worker_is_a_short_last_line(outputs: list[dict[str, Any]]) -> None:
    assert outputs[4]["result"] == "<Worker over stdio, closed, nodes ['s']>"
