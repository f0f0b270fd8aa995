"""Over inline the very object runs, so that breakpoints stop in it; only data are copied."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import soma_core as soma


class Broken(soma.Filter):
    def forward(self, x: int, state: Any) -> float:
        doubled = x * 2
        try:
            return self._share(doubled)
        except ZeroDivisionError as error:
            raise ValueError("scaling failed") from error

    def _share(self, y: int) -> float:
        rest = y - y
        return y / rest


SCRIPT = """\
import soma_core as soma

class Stop(soma.Filter):
    def forward(self, x, state):
        doubled = x * 2
        breakpoint()
        return self.finish(doubled)

    def finish(self, y):
        found = y + 1
        return found

if __name__ == "__main__":
    with soma.connect("inline", filters={"stop": Stop()}) as worker:
        print("result", worker.forward("stop", 20))
"""


def debug(script: Path, commands: str) -> str:
    done = subprocess.run(
        [sys.executable, str(script)],
        input=commands,
        capture_output=True,
        text=True,
        cwd=script.parent,
        timeout=60,
    )
    return done.stdout + done.stderr


def test_breakpoint_stops_in_the_filter_with_its_source_and_variables(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    shown = debug(script, "l\np doubled\np self\nn\nw\nc\n")
    assert "breakpoint()" in shown
    assert "->" in shown
    assert "(Pdb) 40" in shown
    assert "Stop()" in shown
    assert f"{script}(7)forward()" in shown
    assert "result 41" in shown


def test_a_breakpoint_at_a_line_of_a_file_is_found(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    shown = debug(script, f"b {script}:11\nc\np found\nc\n")
    assert f"Breakpoint 1 at {script}:11" in shown
    assert "(Pdb) 41" in shown


class Keep(soma.Filter):
    _seen: Any = None

    @property
    def seen(self) -> Any:
        return self._seen

    def fit(self, x: Any, y: Any = None) -> Any:
        self._seen = x
        return {"x": x}

    def forward(self, x: Any, state: Any) -> Any:
        x[0] = 7
        return self if state is None else x


class Plain:
    def __init__(self) -> None:
        self.lock = __import__("threading").Lock()  # which does not pickle
        self.calls = 0

    def fit(self, x: Any, y: Any = None) -> Any:
        return {}

    def forward(self, x: Any, state: Any) -> Any:
        with self.lock:
            self.calls += 1
        return x


def test_the_object_is_the_one_that_was_given() -> None:
    keep, plain = Keep(), Plain()
    with soma.connect("inline", filters={"keep": keep, "plain": plain}) as worker:
        worker.fit("keep", [1, 2])
        assert keep.seen == [1, 2]
        worker.forward("plain", 1)
        assert plain.calls == 1


def test_data_are_copied_all_the_same() -> None:
    keep = Keep()
    with soma.connect("inline", filters={"keep": keep}) as worker:
        for data in (np.zeros(3), [0, 0, 0]):
            state = worker.fit("keep", data)
            assert keep.seen is not data
            assert state["x"] is not keep.seen
            result = worker.forward("keep", data)
            assert result[0] == 7
            assert data[0] == 0
            keep.seen[1] = 5
            assert data[1] == state["x"][1] == 0


def test_several_workers_of_a_pool_have_objects_of_their_own() -> None:
    keep = Keep()
    with soma.WorkerPool("inline", 2, filters={"keep": keep}) as pool:
        pool.submit("keep", [1]).result()
    assert keep.seen is None


def test_objects_are_refused_where_pickles_are() -> None:
    with pytest.raises(soma.ProtocolError, match="by registered name"):
        soma.connect("inline", pickle="never", filters={"keep": Keep()})


def test_an_object_is_let_go_with_its_worker() -> None:
    import gc
    import weakref

    plain = Plain()
    alive = weakref.ref(plain)
    worker = soma.connect("inline", filters={"plain": plain})
    del plain
    assert worker.forward("plain", 1) == 1
    worker.close()
    del worker
    gc.collect()
    assert alive() is None


def test_coverage_and_profilers_of_the_host_see_what_runs() -> None:
    calls: list[str] = []

    def trace(frame: Any, event: str, arg: Any) -> Callable[..., Any] | None:
        if event == "call" and frame.f_code is Plain.forward.__code__:
            calls.append(frame.f_code.co_filename)
        return None

    with soma.connect("inline", filters={"plain": Plain()}) as worker:
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            worker.forward("plain", 1)
        finally:
            sys.settrace(before)
    assert calls == [__file__]


def test_a_post_mortem_finds_the_variables_of_the_filter_and_of_its_causes() -> None:
    def variables(error: BaseException | None) -> dict[str, Any]:
        trace = getattr(error, "__traceback__", None)
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        return {} if trace is None else trace.tb_frame.f_locals

    with soma.connect("inline", filters={"broken": Broken()}) as worker:
        with pytest.raises(ValueError, match="scaling failed") as caught:
            worker.forward("broken", 20)
        assert variables(caught.value)["doubled"] == 40
        assert variables(caught.value.__cause__)["rest"] == 0
        with pytest.raises(soma.RemoteError, match="unknown node"):
            worker.forward("another", 20)


@pytest.mark.parametrize("restart", ["never", "on-crash"])
def test_an_object_that_is_unloaded_is_kept_by_nobody(restart: Any) -> None:
    with soma.connect("inline", filters={"node": Broken()}, restart=restart) as worker:
        first, second = Broken(), Broken()
        gone = [weakref.ref(first), weakref.ref(second)]
        worker.load({"node": first})
        worker.load({"node": second})
        worker.unload(["node"])
        del first, second
        gc.collect()
        assert [ref() for ref in gone] == [None, None]
