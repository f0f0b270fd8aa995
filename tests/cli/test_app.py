import io
import os
import subprocess
import sys
from importlib.metadata import version

import pytest

from soma_core.cli import main

from .conftest import COMMANDS, examples


def test_the_versions_are_those_of_soma_and_of_the_distributions_with_plugins(soma, install):
    install("acme-median", "soma.filters", **{"acme.Median": "acme:Median"})
    result = soma("--version")
    assert result.exit_code == 0
    first, *others = result.stdout.splitlines()
    assert first == f"soma {version('soma-core')}"
    assert "acme-median 1.0" in others
    assert not any(line.startswith("soma-core") for line in others)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_by_an_example_that_it_accepts(name):
    command = COMMANDS[name]
    assert command.help or command.callback.__doc__
    assert examples(name)
    for example in examples(name):
        path = name.split()
        assert example[: len(path)] == path
        command.make_context(name, example[len(path) :], resilient_parsing=False)


@pytest.mark.parametrize(
    "name",
    [
        "transports",
        "filters",
        "schema",
        *(f"new {what}" for what in ("filter", "transport", "command", "plugin")),
    ],
)
def test_the_examples_of_the_help_work(soma, tmp_path, monkeypatch, name):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for example in examples(name):
        result = soma(*example)
        assert result.exit_code == 0, result.output


def test_a_shell_can_complete_the_command(soma):
    assert "--install-completion" in soma("--help").stdout


def test_help_lists_every_command(soma):
    text = soma("--help").stdout
    names = (
        "demo",
        "run",
        "serve",
        "transports",
        "filters",
        "plugins",
        "doctor",
        "schema",
        "validate",
    )
    assert [name for name in names if name not in text] == []


def test_an_unknown_command_is_a_usage_error(soma):
    assert soma("dance").exit_code == 2


def test_an_error_is_one_line_on_stderr_and_status_1(tmp_path):
    command = [sys.executable, "-m", "soma_core.cli", "run", str(tmp_path / "nowhere.toml")]
    ended = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr == (
        f"error: cannot read {tmp_path / 'nowhere.toml'}: No such file or directory\n"
    )


def test_importing_the_command_imports_no_command_line_library():
    code = "import sys, soma_core.cli; print({'typer', 'rich'} & set(sys.modules))"
    assert _printed(code) == "set()"


def test_the_library_does_not_import_what_only_the_command_line_needs():
    assert _printed("import sys, soma_core; print({'typer', 'rich'} & set(sys.modules))") == "set()"


def _printed(code: str) -> str:
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return ended.stdout.strip()


def test_a_terminal_that_lacks_a_character_gets_another_in_its_place(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, "ascii"))
    monkeypatch.setattr(sys, "argv", ["soma", "filters"])
    with pytest.raises(SystemExit) as ended:
        main()
    sys.stdout.flush()
    assert ended.value.code == 0
    assert b"?" in written.getvalue()
