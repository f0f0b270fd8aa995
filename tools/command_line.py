"""The reference of the command line, written from its commands: ``tools.command_line``."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, get_args

import typer
from typer.models import ArgumentInfo

from soma_core.cli.app import app

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "command-line.md"
_INTRODUCTION = """\
# Commands and their options

Written from the commands by `make reference`; [the command line](../command-line.md) explains
pipelines, environment variables and shell completion. `soma COMMAND --help` shows the same.
"""
_VALUES = {float: "NUMBER", int: "NUMBER", str: "TEXT"}


def page() -> str:
    """The whole page."""
    commands = typer.main.get_command(app).commands
    sections = [line for name in sorted(commands) for line in _section(commands[name], name)]
    return "\n".join([_INTRODUCTION, *sections])


def _section(command: Any, path: str) -> Iterator[str]:
    yield f"## soma {path}\n"
    yield f"{_prose(command)}\n"
    yield from _examples(command)
    rows = [] if command.callback is None else list(_rows(command.callback))
    if rows:
        yield "\n".join(["| | meaning | default |", "|---|---|---|", *rows]) + "\n"
    for name, inner in sorted(getattr(command, "commands", {}).items()):
        yield from _section(inner, f"{path} {name}")


def _prose(command: Any) -> str:
    text = command.help or command.callback.__doc__ or ""
    return re.sub(r"``", "`", inspect.cleandoc(text).partition("\n\nArgs:")[0])


def _examples(command: Any) -> Iterator[str]:
    examples = re.findall(r"Example: (.*)", command.epilog or "")
    if examples:
        yield "\n".join(["```console", *examples, "```"]) + "\n"


def _rows(callback: Any) -> Iterator[str]:
    """A row for each argument and option of a command; those of another program have none."""
    for parameter in inspect.signature(callback, eval_str=True).parameters.values():
        declared = [one for one in get_args(parameter.annotation)[1:] if hasattr(one, "help")]
        if declared and declared[0].help:
            yield _row(parameter, declared[0])


def _row(parameter: inspect.Parameter, declared: Any) -> str:
    value = _value(get_args(parameter.annotation)[0])
    if isinstance(declared, ArgumentInfo):
        shown = f"`{parameter.name.upper()}`"
    else:
        given = [declared.default, *(declared.param_decls or ())]
        names = [one for one in given if isinstance(one, str) and one.startswith("-")]
        names = names or [f"--{parameter.name.replace('_', '-')}"]
        if parameter.default is True:
            names.append(names[0].replace("--", "--no-", 1))
        shown = f"`{' '.join([', '.join(names), value]).strip()}`"
    meaning = " ".join(declared.help.split()).replace("|", "\\|")
    return f"| {shown} | {meaning} | {_default(parameter.default)} |"


def _value(annotation: Any) -> str:
    """What stands for the value of an option; nothing for a flag."""
    inner = [one for one in get_args(annotation) if one is not type(None)]
    if inner:
        return _value(inner[0])
    if annotation is bool:
        return ""
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return "|".join(str(one.value) for one in annotation).replace("|", " or ")
    return _VALUES.get(annotation, str(getattr(annotation, "__name__", annotation)).upper())


def _default(default: Any) -> str:
    if default is inspect.Parameter.empty or default is ...:
        return "required"
    if default is None or isinstance(default, bool) or default == []:
        return ""
    return f"`{getattr(default, 'value', default)}`"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
