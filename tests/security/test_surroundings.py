"""What a worker inherits: its environment, its module search path, its descriptors."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import soma_core as soma

from ..support import ROOT, gate_runs


class Tells:
    """A filter that evaluates what it is asked."""

    def fit(self, x: Any, y: Any = None) -> Any:
        return {}

    def forward(self, x: str, state: Any) -> Any:
        return eval(x)


@pytest.mark.parametrize(
    "spelled", gate_runs("{root}:", "", of=["{root}:", ":{root}", "{root}::", "", ":"])
)
def test_an_empty_entry_of_pythonpath_is_not_the_current_directory(
    spelled: str, tmp_path: Path
) -> None:
    (tmp_path / "cloudpickle.py").write_text("raise RuntimeError('the wrong module')")
    path = spelled.format(root=ROOT)
    with soma.connect("stdio", cwd=tmp_path, env={"PYTHONPATH": path}) as worker:
        worker.load({"tells": Tells()})
        found = worker.forward("tells", "__import__('sys').path")
    assert str(tmp_path) not in found
    assert "" not in found


def test_what_a_worker_was_handed_is_not_handed_on() -> None:
    with soma.connect("stdio", filters={"tells": Tells()}) as worker:
        kept = worker.forward("tells", "[k for k in __import__('os').environ if k[:5] == 'SOMA_']")
        inheritable = worker.forward(
            "tells",
            "[fd for fd in map(int, __import__('os').listdir('/proc/self/fd'))"
            " if fd > 2 and __import__('os').path.exists(f'/proc/self/fd/{fd}')"
            " and __import__('os').get_inheritable(fd)]",
        )
    assert {"SOMA_LIFELINE", "SOMA_SIDE"}.isdisjoint(kept)
    assert inheritable == []


LIES = ["", "x", "0:1", "\u00b2:1", f"{'9' * 40}:1", "-1:1", "7", "0:0:0"]


@pytest.mark.parametrize("value", gate_runs("0:1", "\u00b2:1", of=LIES))
def test_a_variable_that_lies_about_a_descriptor_is_ignored(value: str) -> None:
    environment = {**os.environ, "SOMA_LIFELINE": value, "SOMA_SIDE": value}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "soma_transport_stdio"],
        input='{"cmd": "PING"}\n',
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.startswith('{"ok":true'), done.stderr
    assert done.returncode == 0
