"""Files that hold more than any memory, or for which one would wait for ever: each command ends."""

from __future__ import annotations

import io
import os

import numpy as np
import pytest

from soma_core.cli.console import CommandFailed
from soma_core.cli.files import write_array


@pytest.fixture
def fifo(tmp_path):
    os.mkfifo(tmp_path / "fifo.toml")
    return tmp_path / "fifo.toml"


@pytest.fixture
def hole(tmp_path):
    """A file of a terabyte that holds nothing."""
    path = tmp_path / "hole.toml"
    path.touch()
    os.truncate(path, 1 << 40)
    return path


@pytest.mark.parametrize("command", ["replay", "run"])
def test_pipes_and_devices_are_refused(command, fifo, soma):
    for path in (fifo, "/dev/zero"):
        result = soma(command, path)
        assert result.exit_code == 1
        assert "it is no regular file" in result.stderr.replace("\n", " ")


def test_a_pipe_into_which_nobody_writes_holds_no_messages(fifo, soma):
    assert soma("validate", fifo).stderr == "0 messages, none bad\n"


@pytest.mark.parametrize(("command", "says"), [("replay", "line 1"), ("run", "is no pipeline")])
def test_a_hole_is_not_read(command, says, hole, soma):
    result = soma(command, hole)
    assert result.exit_code == 1
    assert says in result.stderr.replace("\n", " ")


def test_a_line_without_an_end_is_read_up_to_the_limit_of_lines(hole, monkeypatch, soma):
    monkeypatch.setenv("SOMA_LIMITS", '{"line": 1000}')
    result = soma("validate", hole)
    assert result.exit_code == 1
    assert "line 1 is longer than" in result.stderr.replace("\n", " ")


@pytest.mark.parametrize("suffix", ["npy", "npz", "csv"])
def test_data_of_a_pipeline_that_are_no_regular_file_are_refused(suffix, soma, tmp_path):
    os.mkfifo(tmp_path / f"x.{suffix}")
    (tmp_path / "p.toml").write_text(
        f'[[filters]]\nid = "a"\nfilter = "none"\n[data]\nx = {{ path = "x.{suffix}" }}\n'
        '[output]\npath = "y.npy"\n'
    )
    result = soma("run", tmp_path / "p.toml")
    assert result.exit_code == 1
    assert "it is no regular file" in result.stderr.replace("\n", " ")


ZIP, SEVERAL, ARRAY = io.BytesIO(), io.BytesIO(), io.BytesIO()
np.savez(SEVERAL, x=np.ones(2), y=np.ones(2))
np.savez_compressed(ZIP, x=np.ones(99))
np.save(ARRAY, np.ones(9))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("x.npy", b"", "EOF"),
        ("x.npy", ZIP.getvalue(), "magic string is not correct"),
        ("x.npz", ARRAY.getvalue(), "not a zip file"),
        ("x.npz", ZIP.getvalue()[:-30], "not a zip file"),
        ("x.npz", ZIP.getvalue()[:60] + b"\xff" * 20 + ZIP.getvalue()[80:], "while decompressing"),
        ("x.csv", b"a,b\n" + b"1" * 200_000 + b",1\n", "field larger than field limit"),
        ("x.csv", b"a,b\n\xff,1\n", "can't decode"),
        ("x.csv", b"\n\n", "the file is empty"),
        ("x.csv", b"a\n1\n", "there is no column 1; the columns are 0 to 0"),
        ("x.npz", SEVERAL.getvalue(), "several arrays; set key to one of x, y"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_told(name, content, says, soma, tmp_path):
    (tmp_path / name).write_bytes(content)
    x = f'{{ path = "{name}", columns = [1] }}' if name == "x.csv" else f'"{name}"'
    (tmp_path / "p.toml").write_text(
        f'[[filters]]\nid = "a"\nfilter = "none"\n[data]\nx = {x}\n[output]\npath = "y.npy"\n'
    )
    result = soma("run", tmp_path / "p.toml")
    assert result.exit_code == 1
    assert f"{name}: " in result.stderr
    assert says in result.stderr.replace("\n", " ")


def test_an_array_that_is_larger_than_memory_is_told(soma, tmp_path):
    with open(tmp_path / "x.npy", "wb") as file:
        header = {"descr": "<f8", "fortran_order": False, "shape": (1 << 50,)}
        np.lib.format.write_array_header_1_0(file, header)
    (tmp_path / "p.toml").write_text(
        '[[filters]]\nid = "a"\nfilter = "none"\n[data]\nx = { path = "x.npy" }\n'
        '[output]\npath = "y.npy"\n'
    )
    result = soma("run", tmp_path / "p.toml")
    assert result.exit_code == 1
    assert "x.npy: " in result.stderr


def test_an_output_of_more_axes_than_a_table_is_not_written_as_one(tmp_path):
    assert write_array([[1, 2]], tmp_path / "y.csv") == (1, 2)
    assert (tmp_path / "y.csv").read_text() == "0,1\n1,2\n"
    assert write_array(3, tmp_path / "y.csv") == ()
    assert (tmp_path / "y.csv").read_text() == "output\n3\n"
    with pytest.raises(CommandFailed, match=r"shape \[1, 1, 2\] has no rows and columns"):
        write_array([[[1, 2]]], tmp_path / "y.csv")
