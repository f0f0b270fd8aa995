"""What the tests of the command line share: a way to run it, and plugins that are not ours."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from soma_core.cli.app import app
from soma_core.plugins.catalog import (
    installed_filters,
    installed_subcommands,
    installed_transports,
)
from soma_core.plugins.manager import installed_plugins

from ..support import installing

Soma = Callable[..., Result]
Install = Callable[..., None]


def commands(group: Any, *path: str) -> Iterator[tuple[str, Any]]:
    """All commands of a group and of the groups in it, by name."""
    for name, command in group.commands.items():
        yield " ".join((*path, name)), command
        if hasattr(command, "commands"):  # typer's groups are not those of click
            yield from commands(command, *path, name)


COMMANDS = dict(commands(typer.main.get_command(app)))


def examples(name: str) -> list[list[str]]:
    """The arguments of each example in the help of a command, the command's name among them."""
    found = re.findall(r"Example: soma (.*)", COMMANDS[name].epilog or "")
    return [shlex.split(example) for example in found]


@pytest.fixture
def soma() -> Soma:
    """Runs ``soma`` with arguments, and stdin."""

    def run(*arguments: object, stdin: str | bytes = "") -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)

    return run


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Makes a distribution appear that registers entry points: ``install("acme", group, …)``."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))

    def add(distribution: str, group: str, **targets: str) -> None:
        installing.install(site, distribution, {group: targets})
        _forget()

    yield add
    _forget()


def _forget() -> None:
    installed_transports.cache_clear()
    installed_filters.cache_clear()
    installed_subcommands.cache_clear()
    installed_plugins.cache_clear()
