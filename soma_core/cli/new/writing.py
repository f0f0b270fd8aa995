"""Writing: a folder of files from templates, which lie beside this file as their files will lie."""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from string import Template

from soma_core.cli.console import CommandFailed
from soma_core.cli.new.names import Names

FILTER = ("common", "filter")
"""The folders of templates for a filter's distribution; a later one has the last word on a file."""

TRANSPORT = ("common", "transport")
"""Those for a transport's distribution."""

CHANNEL = (*TRANSPORT, "channel")
"""The same for a transport with a channel of its own."""

PLUGIN = ("common", "plugin")
"""Those for a distribution with hooks."""

COMMAND = ("common", "command")
"""Those for a distribution with a command."""

_SUFFIX = ".txt"  # of templates, which no tool takes for what they become


def write(templates: tuple[str, ...], names: Names, directory: Path) -> Path:
    """Write a distribution into a new folder of a directory, and return the folder.

    Raises:
        CommandFailed: The folder exists, or cannot be written.
    """
    folder = directory / names.distribution
    try:
        folder.mkdir()
        for name in templates:
            _write(files("soma_core.cli.new") / "templates" / name, folder, names)
    except FileExistsError:
        raise CommandFailed(
            f"{folder} exists, and nothing is overwritten: remove it, or choose another --into"
        ) from None
    except OSError as error:
        raise CommandFailed(f"cannot write {error.filename}: {error.strerror}") from None
    return folder


def _write(templates: Traversable, folder: Path, names: Names) -> None:
    for template in templates.iterdir():
        target = folder / _filled(template.name.removesuffix(_SUFFIX), names)
        if template.is_dir():
            target.mkdir(exist_ok=True)
            _write(template, target, names)
        else:
            target.write_text(_filled(template.read_text(encoding="utf-8"), names), "utf-8")


def _filled(text: str, names: Names) -> str:
    return Template(text).substitute(names._asdict(), package=names.package)
