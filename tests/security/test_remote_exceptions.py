"""What a worker says of an exception: no file is waited for, and no number is believed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from soma_core.errors import RemoteError
from soma_core.raised import Raised

ENTRY = {"file": "x.py", "line": 1, "name": "f", "column": 1, "end_column": 2}

# In a process of its own: what goes wrong here waits for ever.
SCRIPT = """
import sys, traceback
from soma_core.client.records import WorkerRecords
from soma_core.errors import RemoteError

for file in sys.argv[1:]:
    said = {"type": "ValueError", "stack": [{"file": file, "line": 1, "name": "f"}]}
    error = RemoteError.from_reply(
        {"ok": False, "error": "no", "code": "filter_failed", "exception": said}
    )
    traceback.print_exception(error)
    WorkerRecords().hand_over(
        "warning",
        {"message": "m", "categories": ["builtins:UserWarning"], "filename": file, "lineno": 1},
        None,
    )
print("done")
"""


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_pipe_or_a_device_that_a_worker_names_does_not_hold_up_the_host(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(pipe), "/dev/zero"],
        capture_output=True,
        text=True,
        timeout=60.0,
    )
    assert done.stdout == "done\n", done.stderr
    assert done.stderr.count("UserWarning: m") == 2


@pytest.mark.parametrize(
    "said",
    [
        *({"stack": [{**ENTRY, key: -5}]} for key in ("line", "first_line", "column")),
        *({"stack": [{**ENTRY, key: 2**40}]} for key in ("line", "first_line", "end_line")),
        {"stack": [{**ENTRY, "column": 2**40}]},
        {"stack": [{**ENTRY, "end_column": 0}]},
        {"stack": [{**ENTRY, "file": "\0"}]},
        {"stack": [{**ENTRY, "name": "\0"}]},
        {"stack": [ENTRY] * 100_000},
        {"exceptions": [{"type": "ValueError"}] * 100_000},
        {"notes": ["x"] * 100_000},
        {"bases": ["ValueError"] * 100_000},
    ],
    ids=lambda said: str(said)[:60],
)
def test_an_impossible_exception_is_a_remote_error_without_it(said: dict[str, Any]) -> None:
    fields = {"ok": False, "error": "no", "code": "filter_failed", "exception": said}
    error = RemoteError.from_reply(fields)
    assert str(error) == "no"


@pytest.mark.parametrize("name", ["\0", "\ud800", "x" * 100_000])
def test_a_class_that_cannot_be_called_so_is_a_remote_error(name: str) -> None:
    fields = {"ok": False, "error": "no", "code": "filter_failed", "type": name}
    assert str(RemoteError.from_reply(fields)) == "no"


def test_what_is_described_is_what_is_believed() -> None:
    error = ValueError("no")
    error.__notes__ = ["note"] * 5000
    name = "x" * 5000
    try:
        exec(compile("raise error", name, "exec"), {"error": error})
    except ValueError:
        described = Raised.of(error)
    assert Raised.model_validate(described.model_dump()) == described
    assert described.stack[-1].file == name[:4096]
    assert len(described.notes) == 1000
