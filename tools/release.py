"""Build a release and try it: ``python -m tools.release``, or ``make release``.

Builds the sdist and the wheel of every distribution, checks what an index would show of them, and
installs each file in an environment of its own, where ``soma plugins`` must find all of it in order
and a worker must answer. It uploads nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

__all__ = ["distributions", "main", "problems", "sources"]

ROOT = Path(__file__).resolve().parents[1]
_WORKER = """
import numpy as np
import soma_core as soma

class Double(soma.Filter):
    def forward(self, x, state):
        return 2 * x

with soma.connect("stdio", filters={"double": Double()}) as worker:
    assert worker.forward("double", np.arange(3.0)).tolist() == [0.0, 2.0, 4.0]
"""


class ReleaseFailed(Exception):
    """A release cannot be made from this tree; the message says why."""


def sources() -> list[Path]:
    """The folders of the distributions, the core's first."""
    return [ROOT, *sorted(path.parent for path in (ROOT / "plugins").glob("*/pyproject.toml"))]


def distributions() -> dict[str, dict[str, Any]]:
    """What each ``pyproject.toml`` says under ``project``, by the name of its distribution."""
    projects = [
        tomllib.loads((path / "pyproject.toml").read_text())["project"] for path in sources()
    ]
    return {project["name"]: project for project in projects}


def problems() -> list[str]:
    """Why this tree is not ready to be released; empty if it is."""
    known = distributions()
    version = known["soma-core"]["version"]
    found = [
        f"{name} has version {project['version']}, and soma-core {version}"
        for name, project in known.items()
        if project["version"] != version
    ]
    if f"\n## {version}" not in (ROOT / "CHANGELOG.md").read_text():
        found.append(f"CHANGELOG.md has no heading '## {version}' over what is released")
    if f"version: {version}" not in (ROOT / "CITATION.cff").read_text():
        found.append(f"CITATION.cff does not have version {version}")
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Build and try a release; exits with the reason if something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tools.release", description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="where the files go")
    parser.add_argument(
        "--only", action="append", metavar="NAME", help="try only this distribution; all are built"
    )
    parser.add_argument(
        "--draft", action="store_true", help="go on if this tree is not ready to be released"
    )
    wanted = parser.parse_args(arguments)
    found = problems()
    for problem in found:
        _say(f"not ready: {problem}")
    try:
        if found and not wanted.draft:
            raise ReleaseFailed("this tree is not ready; --draft goes on anyway")
        _release(wanted.out.resolve(), wanted.only or list(distributions()))
    except ReleaseFailed as failure:
        sys.exit(f"error: {failure}")


def _release(out: Path, tried: Sequence[str]) -> None:
    out.mkdir(exist_ok=True)
    if any(out.iterdir()):
        raise ReleaseFailed(f"{out} is not empty; remove what is in it")
    for source in sources():
        _run(sys.executable, "-m", "hatchling", "build", "-d", out, cwd=source)
    files = sorted(out.iterdir())
    _run(sys.executable, "-m", "twine", "check", "--strict", *files)
    _say(f"built and checked {len(files)} files in {out}")
    for file in files:
        name = _name(file)
        if name in tried:
            _try(file, name, out)
            _say(f"{file.name} is installed and works")


def _name(file: Path) -> str:
    return file.name.partition("-")[0].replace("_", "-")


def _try(file: Path, name: str, out: Path) -> None:
    """Install a file, with the core from the same release, and see that it works."""
    with TemporaryDirectory(prefix="soma-release-") as folder:
        programs = Path(folder) / "environment" / "bin"
        _run(sys.executable, "-m", "venv", programs.parent)
        pip = [programs / "python", "-m", "pip", "--quiet", "--disable-pip-version-check"]
        _run(*pip, "install", "--no-compile", "--find-links", out, file)
        plugins = json.loads(_run(programs / "soma", "plugins", "--json", cwd=folder))
        broken = [f"{one['name']}: {one['reason']}" for one in plugins if one["status"] != "ok"]
        if broken:
            raise ReleaseFailed(f"{file.name}: {'; '.join(broken)}")
        if name not in {one["distribution"] for one in plugins}:
            raise ReleaseFailed(f"{file.name}: soma plugins does not list anything of it")
        script = Path(folder) / "worker.py"
        script.write_text(_WORKER)
        _run(programs / "python", script, cwd=folder)


def _run(*command: object, cwd: Path | str = ROOT) -> str:
    """What a command printed.

    Raises:
        ReleaseFailed: It failed; the message is what it wrote.
    """
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    words = [str(word) for word in command]
    ended = subprocess.run(words, cwd=cwd, capture_output=True, text=True, env=environment)
    if ended.returncode:
        raise ReleaseFailed(f"{' '.join(words)}\n{ended.stdout}{ended.stderr}")
    return ended.stdout


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    main()
