"""Writing: a folder of files from templates, which are the files beside this one."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from string import Template

from soma_core.cli.console import CommandFailed
from soma_core.cli.new.names import Names

__all__ = ["CHANNEL", "COMMAND", "FILTER", "PLUGIN", "TRANSPORT", "write"]

FILTER = {
    "pyproject.toml": "filter/pyproject.txt",
    "README.md": "filter/readme.txt",
    ".gitignore": "gitignore.txt",
    "src/$package/__init__.py": "filter/package.txt",
    "src/$package/filters.py": "filter/filters.txt",
    "src/$package/py.typed": "py_typed.txt",
    "tests/test_conformance.py": "filter/conformance.txt",
    "tests/test_$package.py": "filter/suite.txt",
}
"""The files of a filter's distribution, and the templates that they are made from."""

TRANSPORT = {
    "pyproject.toml": "transport/pyproject.txt",
    "README.md": "transport/readme.txt",
    ".gitignore": "gitignore.txt",
    "src/$package/__init__.py": "transport/package.txt",
    "src/$package/__main__.py": "transport/daemon.txt",
    "src/$package/client.py": "transport/client.txt",
    "src/$package/py.typed": "py_typed.txt",
    "tests/test_conformance.py": "transport/conformance.txt",
    "tests/test_$package.py": "transport/suite.txt",
}
"""The files of a transport's distribution, and the templates that they are made from."""

CHANNEL = {
    **TRANSPORT,
    "README.md": "transport/channel_readme.txt",
    "src/$package/__main__.py": "transport/channel_daemon.txt",
    "src/$package/channel.py": "transport/channel.txt",
    "src/$package/client.py": "transport/channel_client.txt",
}
"""The same for a transport with a channel of its own."""

PLUGIN = {
    "pyproject.toml": "plugin/pyproject.txt",
    "README.md": "plugin/readme.txt",
    ".gitignore": "gitignore.txt",
    "src/$package/__init__.py": "plugin/plugin.txt",
    "src/$package/py.typed": "py_typed.txt",
    "tests/test_$package.py": "plugin/suite.txt",
}
"""The files of a distribution with hooks, and the templates that they are made from."""

COMMAND = {
    "pyproject.toml": "command/pyproject.txt",
    "README.md": "command/readme.txt",
    ".gitignore": "gitignore.txt",
    "src/$package/__init__.py": "command/command.txt",
    "src/$package/py.typed": "py_typed.txt",
    "tests/test_$package.py": "command/suite.txt",
}
"""The files of a distribution with a command, and the templates that they are made from."""


def write(templates: Mapping[str, str], names: Names, directory: Path) -> Path:
    """Write a distribution into a new folder of a directory, and return the folder.

    Raises:
        CommandFailed: The folder exists, or cannot be written.
    """
    folder = directory / names.distribution
    try:
        folder.mkdir()
        for path, template in templates.items():
            target = folder / _filled(path, names)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(_filled(_read(template), names), encoding="utf-8")
    except FileExistsError:
        raise CommandFailed(
            f"{folder} exists, and nothing is overwritten: remove it, or choose another --into"
        ) from None
    except OSError as error:
        raise CommandFailed(f"cannot write {error.filename}: {error.strerror}") from None
    return folder


def _filled(text: str, names: Names) -> str:
    return Template(text).substitute(names._asdict())


def _read(template: str) -> str:
    return (files("soma_core.cli.new") / "templates" / template).read_text(encoding="utf-8")
