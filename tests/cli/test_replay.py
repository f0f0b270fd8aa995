"""``soma replay``."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import soma_core

from ..support import filters as f
from ..support import run_python


@pytest.fixture
def recording(tmp_path):
    path = tmp_path / "flight.jsonl"
    with soma_core.connect("inline", filters={"mean": f.Mean()}, record=path) as worker:
        worker.fit("mean", np.arange(3.0))
        worker.forward("mean", np.arange(3.0))
    return path


@pytest.mark.parametrize("transport", ["inline", "stdio"])
def test_a_recording_that_gives_the_same_replies_ends_with_status_0(soma, recording, transport):
    result = soma("replay", recording, "--transport", transport)
    assert result.exit_code == 0
    rows = [line.split() for line in result.stdout.splitlines()]
    assert rows[1:] == [
        ["1", "HELLO", "same"],
        ["3", "LOAD", "mean", "same"],
        ["5", "FIT", "mean", "same"],
        ["7", "FORWARD", "mean", "same"],
    ]
    assert result.stderr == "4 same\n"


def test_a_reply_that_differs_ends_with_status_1_and_says_how(soma, recording):
    lines = [json.loads(line) for line in recording.read_text().splitlines()]
    for line in lines:
        if line.get("message", {}).get("result") == {"mean": 1.0}:
            line["message"]["result"] = {"mean": 2.0}
            del line["map_b64"]  # the map is made of what is shown
    recording.write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = soma("replay", recording, "--transport", "inline")
    assert result.exit_code == 1
    assert "result.mean: 2.0, now 1.0" in result.stdout
    assert result.stderr == "3 same, 1 different\n"


def test_one_entry_runs_with_what_it_needs(soma, recording):
    result = soma("replay", recording, "--transport", "inline", "--only", 7)
    assert result.exit_code == 0
    assert result.stderr == "4 same\n"


def test_what_a_ring_had_forgotten_is_reported(soma, tmp_path):
    path = tmp_path / "flight.jsonl"
    record = soma_core.Recording(path, last=1)
    with soma_core.connect("inline", filters={"fail": f.Fail()}, record=record) as worker:
        worker.ping()
        with pytest.raises(ValueError, match="no"):
            worker.forward("fail", ["ValueError", "no"])
    result = soma("replay", path, "--transport", "inline")
    assert result.stderr.startswith("2 same\n4 entries were not kept")


def test_options_reach_the_transport(soma, recording):
    result = soma("replay", recording, "--option", "python=/nonexistent")
    assert result.exit_code == 1
    assert "/nonexistent" in result.stderr


def test_a_value_that_is_json_is_read_as_such(soma, recording):
    result = soma("replay", recording, "--option", 'env={"A": "1"}', "--only", 1)
    assert result.exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--option", "python"], "--option takes key=value, got 'python'"),
        (["--option", "nothing=1"], "the transport 'stdio': nothing"),
        (["--pickle", "sometimes"], "'same-user' or 'never'"),
        (["--transport", "pigeon"], "pigeon"),
        (["--only", "4"], "no command at entry 4"),
    ],
)
def test_bad_arguments_are_one_line(soma, recording, arguments, complaint):
    result = soma("replay", recording, *arguments)
    assert result.exit_code == 1
    assert complaint in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_file_that_is_missing_or_no_recording_is_one_line(soma, tmp_path):
    (tmp_path / "notes.txt").write_text("dear diary\n")
    missing, other = soma("replay", tmp_path / "no"), soma("replay", tmp_path / "notes.txt")
    assert missing.stderr == f"error: cannot read {tmp_path}/no: No such file or directory\n"
    assert "notes.txt, line 1: invalid JSON" in other.stderr
    (tmp_path / "notes.txt").write_text("dear")
    nothing = soma("replay", tmp_path / "notes.txt")
    assert nothing.exit_code == 1
    assert "notes.txt holds no command" in nothing.stderr


def test_pickles_can_be_refused(soma, recording):
    result = soma("replay", recording, "--transport", "inline", "--pickle", "never")
    assert result.exit_code == 1
    assert "different" in result.stdout


@pytest.mark.nightly
def test_a_breakpoint_in_the_filter_stops_there(tmp_path):
    run_python(
        """
import soma_core as soma

class Secret:
    def fit(self, x, y=None): return {}
    def forward(self, x, state):
        import os
        if os.environ.get("DEBUG"):
            breakpoint()
        return x + 1

with soma.connect("stdio", filters={"secret": Secret()}, record="flight.jsonl") as worker:
    worker.forward("secret", 41)
""",
        directory=tmp_path,
    )
    command = [sys.executable, "-m", "soma_core.cli", "replay", "flight.jsonl"]
    replayed = subprocess.run(
        [*command, "--transport", "inline", "--only", "5"],
        cwd=tmp_path,
        input="p ('seen', x)\nc\n",
        env={**os.environ, "DEBUG": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert replayed.returncode == 0, replayed.stderr
    assert "('seen', 41)" in replayed.stdout
    assert "3 same" in replayed.stderr
