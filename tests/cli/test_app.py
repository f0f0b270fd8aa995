import os
import subprocess
import sys
from importlib.metadata import version


def test_the_version_is_that_of_the_distribution(soma):
    result = soma("--version")
    assert result.exit_code == 0
    assert result.stdout == f"soma {version('soma-core')}\n"


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
