"""The wheels, and an environment in which they are installed: made once for all test processes."""

from __future__ import annotations

import fcntl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ..support import ROOT
from .building import FOLDERS, NEW, PLUGINS, build, install, page_blocks, run


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A directory that all test processes share."""
    base = tmp_path_factory.getbasetemp()
    directory = (base if worker_id == "master" else base.parent) / "packaging"
    directory.mkdir(exist_ok=True)
    return directory


@contextmanager
def made_once(directory: Path) -> Iterator[bool]:
    """Whether it is up to this process to fill a directory; the others wait meanwhile."""
    done = directory.with_suffix(".done")
    with directory.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield not done.exists()
        done.touch()


@pytest.fixture(scope="session")
def wheels(shared: Path) -> dict[str, Path]:
    """The wheels of the core and the plugins, by distribution."""
    out = shared / "wheels"
    with made_once(out) as mine:
        if mine:
            for source in [ROOT, *(ROOT / "plugins" / plugin for plugin in PLUGINS)]:
                build(source, out)
    return {wheel.name.partition("-")[0].replace("_", "-"): wheel for wheel in out.iterdir()}


@pytest.fixture(scope="session")
def built(shared: Path, wheels: dict[str, Path]) -> Path:
    """A directory with an environment, and the sources of what is new and installed there."""
    with made_once(shared / "environment") as mine:
        if mine:
            _make(shared, wheels)
    return shared


def _make(directory: Path, wheels: dict[str, Path]) -> None:
    programs = directory / "environment" / "bin"
    run(sys.executable, "-m", "venv", "--without-pip", programs.parent)
    install(programs, wheels["soma-core"], "pytest")
    for kind, name in NEW.items():
        run(programs / "soma", "new", kind, name, cwd=directory)
    _write_the_command(directory / "acme-commands")
    for folder in (*FOLDERS.values(), "acme-commands"):
        build(directory / folder, directory / "new")
    plugins = [wheels[plugin] for plugin in PLUGINS]
    install(programs, "--no-deps", *plugins, *(directory / "new").iterdir())


def _write_the_command(folder: Path) -> None:
    """The distribution that the page on commands shows."""
    folder.mkdir()
    (folder / "acme_commands.py").write_text(page_blocks("write-a-command.md", "python")[0])
    (folder / "pyproject.toml").write_text(page_blocks("write-a-command.md", "toml")[0])


@pytest.fixture(scope="session")
def installed(built: Path) -> Path:
    """The programs of an environment with the wheels, and what the core needs."""
    return built / "environment" / "bin"
