"""The code in the documentation runs as it stands."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest
import typer

import soma_core as soma
from soma_core.cli.app import app
from soma_core.cli.pipeline import read_pipeline
from tools import command_line, reference

from ..support import ROOT, gate_runs, nightly

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SLOW = {
    ROOT / "docs" / f"{name}.md"
    for name in (
        "comparison", "output-and-debugging", "pool", "recording", "reliability",
        "scikit-learn", "services", "tables", "torch", "training", "write-a-filter",
    )
}  # fmt: skip
NEEDS = {
    "onnx.md": "soma_filters_onnx",
    "telemetry.md": "soma_telemetry",
    "text.md": "soma_filters_text",
}
_INSTALLED = {found.name for found in distributions()}
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def _skip_without(package: str | None) -> None:
    """Skip where a package is not installed that the gate does without."""
    if package is not None and package.replace("_", "-") not in _INSTALLED:
        pytest.skip(f"the page has {package} installed")


def blocks(page: Path, language: str) -> list[str]:
    return [body for found, body in BLOCK.findall(page.read_text()) if found == language]


@pytest.mark.parametrize(
    "page",
    gate_runs(*(page for page in PAGES if page not in SLOW), of=PAGES),
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_the_python_blocks_of_a_page_run_one_after_the_other(page: Path, tmp_path: Path) -> None:
    _skip_without(NEEDS.get(page.name))
    code = "\n".join(blocks(page, "python"))
    script = tmp_path / "page.py"
    script.write_text(code)
    ran = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert ran.returncode == 0, ran.stderr
    for shown in blocks(page, "text"):
        assert shown in ran.stdout


def test_the_ten_lines_of_the_readme_print_what_they_say(tmp_path: Path) -> None:
    first = blocks(ROOT / "README.md", "python")[0]
    script = tmp_path / "ten_lines.py"
    script.write_text(first)
    ran = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60)
    assert ran.stdout == "[0. 3. 6. 9.]\n"


def test_the_readme_is_read_in_two_minutes() -> None:
    assert len((ROOT / "README.md").read_text().split()) <= 700


def test_the_shell_line_of_the_readme_gets_one_reply_for_each_message() -> None:
    (line,) = [
        block for block in blocks(ROOT / "README.md", "console") if block.startswith("printf")
    ]
    command = line.replace("python -m", f"{sys.executable} -m")
    ran = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert [reply[:11] for reply in ran.stdout.splitlines()] == ['{"ok":true,', '{"ok":true,']


@pytest.mark.skipif(
    importlib.util.find_spec("soma_filters_sklearn") is None,
    reason="the page has soma-filters-sklearn installed",
)
def test_the_messages_of_the_page_on_other_languages_are_all_understood() -> None:
    messages = "".join(blocks(ROOT / "docs" / "other-languages.md", "json"))
    command = [sys.executable, "-P", "-m", "soma_transport_stdio"]
    ran = subprocess.run(command, input=messages, capture_output=True, text=True, timeout=60)
    replies = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [reply["ok"] for reply in replies] == [True] * messages.count("\n")


@nightly
@pytest.mark.timeout(300)
def test_the_channel_of_the_page_on_channels_passes_the_conformance_kit(tmp_path: Path) -> None:
    (tmp_path / "spawn_transport.py").write_text(blocks(ROOT / "docs" / "channels.md", "python")[0])
    suite = tmp_path / "test_spawn.py"
    suite.write_text(
        "from spawn_transport import SpawnTransport\n"
        "from soma_core.testing import Capability, TransportConformance\n"
        "class TestSpawn(TransportConformance):\n"
        "    transport = SpawnTransport\n"
        "    lacks = {\n"
        '        Capability.DIAGNOSTICS: "it does not read what its worker prints",\n'
        '        Capability.CHILDREN: "it ends the process of the worker alone",\n'
        "    }\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(suite)]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280)
    assert ran.returncode == 0, ran.stdout


def test_every_link_to_a_file_of_the_repository_leads_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_every_path_that_explains_the_layout_exists(page: str) -> None:
    named = re.findall(
        r"`((?:soma_core|soma_transport_\w+|tests|docs|plugins)/[\w/.]*)`",
        (ROOT / page).read_text(),
    )
    assert len(named) > 8
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_the_page_on_the_architecture_has_every_folder_of_the_core() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    folders = [path.parent.name for path in (ROOT / "soma_core").glob("*/__init__.py")]
    assert [name for name in folders if f"`soma_core/{name}`" not in text] == []


def test_the_page_on_the_command_line_has_every_command_and_environment_variable() -> None:
    text = (ROOT / "docs" / "command-line.md").read_text()
    commands = typer.main.get_command(app).commands
    assert [name for name in commands if f"`soma {name}" not in text] == []
    sources = [
        *(ROOT / "soma_core" / "plugins").glob("*.py"),
        *(ROOT / "soma_core").glob("engine/*.py"),
    ]
    code = "".join(source.read_text() for source in sources)
    read = set(re.findall(r"environ\w*\.get\(\"(SOMA_\w+)\"", code))
    assert len(read) >= 3
    assert [name for name in read if f"`{name}=" not in text] == []


def test_the_pipeline_on_the_page_is_one_that_soma_run_reads(tmp_path: Path) -> None:
    (pipeline,) = blocks(ROOT / "docs" / "command-line.md", "toml")
    path = tmp_path / "pipeline.toml"
    path.write_text(pipeline)
    assert read_pipeline(path).node_ids == ["scale", "network"]


def test_the_reference_is_what_the_models_say_now() -> None:
    assert reference.PAGE.read_text() == reference.page(), "run `make reference`"


def test_the_reference_of_the_command_line_is_what_the_commands_say_now() -> None:
    assert command_line.PAGE.read_text() == command_line.page(), "run `make reference`"


def test_the_page_of_errors_has_a_remedy_for_every_error_and_every_code() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \|.*\|", (ROOT / "docs" / "errors.md").read_text(), re.MULTILINE
    )
    errors = {
        name
        for name in soma.__all__
        if isinstance(getattr(soma, name), type) and issubclass(getattr(soma, name), soma.SomaError)
    }
    bases = {"SomaError", "PluginError", "TransportError"}
    assert sorted(rows) == sorted((errors - bases) | {code.value for code in soma.ErrorCode})


def test_every_claim_of_the_comparison_has_a_source_or_something_that_can_be_run() -> None:
    text = (ROOT / "docs" / "comparison.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ") and "|---" not in line]
    claims = [*rows[1:], *re.findall(r"^- .*(?:\n  .*)*", text, re.MULTILINE)]
    assert len(claims) > 12
    pointing = re.compile(r"\]\((https://|[\w-]+\.md)|`(pytest|python -m) [\w./]+`|run below")
    assert [claim for claim in claims if not pointing.search(claim)] == []
    for path in re.findall(r"`pytest ([\w/.]+)`", text):
        assert (ROOT / path).exists(), path
    for module in re.findall(r"`python -m ([\w.]+)", text):
        assert importlib.util.find_spec(module), module
