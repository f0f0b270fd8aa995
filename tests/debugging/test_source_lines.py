"""Code that travels keeps its file and lines, for all that looks at them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ..support import PROCESSES, TRANSPORTS, gate_runs

Run = Callable[..., str]
over_each = pytest.mark.parametrize("transport", gate_runs("socket", of=TRANSPORTS))
over_processes = pytest.mark.parametrize("transport", gate_runs("socket", of=PROCESSES))

FAILING = """
import traceback

class Scale(soma.Filter):
    def forward(self, x, state):
        try:
            return self.factor(x) * 2
        except ZeroDivisionError as error:
            raise RuntimeError("scaling failed") from error

    def factor(self, x):
        return 1 / (x - x)  # the culprit

def where():
    return Scale.factor.__code__.co_firstlineno + 1
"""


@over_each
def test_a_traceback_shows_the_lines_of_the_script_and_the_chained_cause(
    run: Run, transport: str
) -> None:
    source = (
        FAILING
        + """
if __name__ == "__main__":
    with connect(filters={"scale": Scale()}) as worker:
        try:
            worker.forward("scale", 1)
        except RuntimeError as error:
            printed = "".join(traceback.format_exception(error)) + error.remote_traceback
    assert f'File "{__file__}", line {where()}, in factor' in printed, printed
    assert "return 1 / (x - x)  # the culprit" in printed, printed
    assert 'raise RuntimeError("scaling failed") from error' in printed
    assert "direct cause of the following exception" in printed
    assert "<dynamic-code>" not in printed
    print("shown")
"""
    )
    assert run(transport, source) == "shown\n"


@over_processes
def test_inspect_finds_the_source_of_what_a_script_defines(run: Run, transport: str) -> None:
    source = """
    import inspect

    def helper(x):
        return x + 1  # a remark

    class Source(soma.Filter):
        def forward(self, x, state):
            '''Docs.'''
            return [inspect.getsource(helper), inspect.getsource(type(self)), __file__]

    def make():
        class Source(soma.Filter):
            def forward(self, x, state):
                return inspect.getsource(type(self))
        return Source

    if __name__ == "__main__":
        local = make()
        with connect(filters={"source": Source(), "local": local()}) as worker:
            function, kind, file = worker.forward("source", 1)
            assert worker.forward("local", 1) == inspect.getsource(local)
        print(function == inspect.getsource(helper), kind == inspect.getsource(Source))
        print(file == __file__)
    """
    assert run(transport, source) == "True True\nTrue\n"


@pytest.mark.nightly
@over_processes
def test_warnings_and_profiles_name_the_line(run: Run, transport: str) -> None:
    source = """
    import warnings, cProfile, pstats

    def slow(x):
        warnings.warn("not converged", stacklevel=1)
        return x

    class Watched(soma.Filter):
        def forward(self, x, state):
            profile = cProfile.Profile()
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                profile.runcall(slow, x)
            profile.create_stats()
            return [(w.filename, w.lineno) for w in caught], list(profile.stats)

    if __name__ == "__main__":
        with connect(filters={"watched": Watched()}) as worker:
            caught, profiled = worker.forward("watched", 1)
        first = slow.__code__.co_firstlineno
        print([tuple(place) for place in caught] == [(__file__, first + 1)])
        print((__file__, first, "slow") in [tuple(place) for place in profiled])
    """
    assert run(transport, source) == "True\nTrue\n"


CELLS = """
import linecache, traceback

def run_cell(number, text):
    '''As a notebook does: the text of a cell is only in memory.'''
    file = f"/tmp/ipykernel_{number}/{number}.py"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    exec(compile(text, file, "exec"), globals())

run_cell(1, '''
class Cell(soma.Filter):
    def forward(self, x, state):
        return inner(x)  # in the first cell
''')
run_cell(2, '''
def inner(x):
    return x["missing"]  # in the second cell
''')
if __name__ == "__main__":
    with connect(filters={"cell": Cell()}) as worker:
        try:
            worker.forward("cell", {})
        except KeyError as error:
            for text in ("".join(traceback.format_exception(error)), error.remote_traceback):
                assert 'return inner(x)  # in the first cell' in text, text
                assert 'return x["missing"]  # in the second cell' in text, text
                assert 'File "/tmp/ipykernel_2/2.py", line 3, in inner' in text, text
    print("shown")
"""


@pytest.mark.nightly
@over_each
def test_the_text_of_a_notebook_s_cells_travels_with_them(run: Run, transport: str) -> None:
    assert run(transport, CELLS) == "shown\n"


def test_coverage_counts_the_lines_that_run_in_a_worker(tmp_path: Path) -> None:
    pytest.importorskip("coverage")
    script = tmp_path / "script.py"
    script.write_text(
        "import soma_core as soma\n"
        "class Branch(soma.Filter):\n"
        "    def forward(self, x, state):\n"
        "        if x > 1:\n"
        "            return 'large'\n"
        "        return 'small'\n"
        "if __name__ == '__main__':\n"
        "    with soma.connect('stdio', filters={'b': Branch()}) as worker:\n"
        "        print(worker.forward('b', 2))\n"
    )
    (tmp_path / ".coveragerc").write_text(
        "[run]\nparallel = true\npatch = subprocess\nsource = .\n"
    )
    environment = {name: value for name, value in os.environ.items() if "COV" not in name}

    def coverage(*arguments: str) -> None:
        command = [sys.executable, "-m", "coverage", *arguments]
        subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)

    coverage("run", "script.py")
    coverage("combine")
    coverage("json", "-q", "-o", "found.json")
    found = json.loads((tmp_path / "found.json").read_text())["files"]["script.py"]
    assert {4, 5} <= set(found["executed_lines"])
    assert found["missing_lines"] == [6]
