"""Subcommands: what plugins add to the ``soma`` command, imported when it is used."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from soma_core.errors import PluginError
from soma_core.plugins.catalog import installed_subcommands

__all__ = ["plugged_in"]

_SETTINGS = {"ignore_unknown_options": True, "allow_interspersed_args": False}


def plugged_in(name: str) -> Any:
    """The subcommand of a plugin, which reads its arguments itself; None if there is none."""
    if name not in installed_subcommands().names():
        return None
    try:
        run: Callable[[list[str]], int] = installed_subcommands().load(name)
        meaning = inspect.getdoc(run) or ""
    except PluginError as error:  # said when it is used; the others are listed all the same
        run, meaning = _raising(error), f"(broken: {error})"
    alone = typer.Typer(add_completion=False)

    def call(arguments: Annotated[list[str] | None, typer.Argument()] = None) -> None:
        raise typer.Exit(run(list(arguments or ())) or 0)

    alone.command(name, help=meaning, add_help_option=False, context_settings=_SETTINGS)(call)
    return typer.main.get_command(alone)


def _raising(error: PluginError) -> Callable[[list[str]], int]:
    def run(arguments: list[str]) -> int:
        raise error

    return run
