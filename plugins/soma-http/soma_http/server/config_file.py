"""Reading a configuration: a TOML file, the environment above it, and errors with their place."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from soma_http.server.config import ModelConfig, Settings

_PREFIX = "SOMA_HTTP_"
_TABLE = re.compile(r"\s*\[{1,2}\s*(?P<path>[^\[\]]+?)\s*\]{1,2}\s*(#.*)?$")
_KEY = re.compile(r"\s*(?P<path>[\w\-.\"' ]+?)\s*=")
_WHERE = re.compile(r" \(at line (\d+), column (\d+)\)$")
_TABLES = ("dict_type", "mapping_type", "model_type")  # what pydantic says where one is wanted
_PATHS = (("server", "tokens"), ("server", "certificate"), ("server", "key"))


class ConfigError(Exception):
    """A configuration is not valid; the text has a line for each mistake, with its place."""


Mistakes = Iterable[tuple[tuple[str, ...], str]]
"""Where each is, as the path of a setting, and what it is."""


def read_settings(
    path: Path | None,
    environment: Mapping[str, str],
    look: Callable[[Mapping[str, ModelConfig]], Mistakes] = lambda models: (),
) -> Settings:
    """The settings of a file, and of variables such as ``SOMA_HTTP_SERVER__PORT=9000``.

    Paths in the file are relative to where the file is.

    Args:
        path: The file; None for the environment alone.
        environment: The variables; those above the file's settings start with ``SOMA_HTTP_``.
        look: Finds what else is wrong with the models whose settings are valid.

    Raises:
        ConfigError: Something in them is not valid.
    """
    text = "" if path is None else _text(path)
    name = "the configuration" if path is None else str(path)
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(_not_toml(name, str(error))) from None
    if path is not None:
        _make_absolute(tables, path.absolute().parent)
    variables = _put_variables(tables, environment)
    mistakes: list[tuple[tuple[str, ...], str]] = []
    try:
        settings = Settings.model_validate(tables)
        models = settings.models
    except ValidationError as error:
        mistakes = [(tuple(map(str, one["loc"])), _said(one)) for one in error.errors()]
        models = _without_mistakes(tables, {where[:2] for where, _ in mistakes})
    mistakes += look(models)
    if not mistakes:
        return settings
    lines = _lines(text)
    raise ConfigError(
        "\n".join(
            f"{_place(name, where, lines, variables)}: {'.'.join(where)}: {said}"
            for where, said in mistakes
        )
    )


def _without_mistakes(
    tables: dict[str, Any], wrong: set[tuple[str, ...]]
) -> dict[str, ModelConfig]:
    """The models of a configuration in which something else is wrong."""
    if ("models",) in wrong:
        return {}
    return {
        name: ModelConfig.model_validate(model)
        for name, model in tables.get("models", {}).items()
        if ("models", name) not in wrong
    }


def _not_toml(name: str, text: str) -> str:
    where = _WHERE.search(text)
    if where is None:
        return f"{name}: {text}"
    return f"{name}:{where[1]}: {text[: where.start()]}, at column {where[2]}"


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None


def _make_absolute(tables: dict[str, Any], directory: Path) -> None:
    for table, key in _PATHS:
        section = tables.get(table)
        _make_path_absolute(section, key, directory)
    models = tables.get("models")
    for model in models.values() if isinstance(models, dict) else ():
        _make_path_absolute(model, "checkpoint", directory)


def _make_path_absolute(section: Any, key: str, directory: Path) -> None:
    if isinstance(section, dict) and isinstance(section.get(key), str):
        section[key] = str(directory / section[key])


def _put_variables(tables: dict[str, Any], environment: Mapping[str, str]) -> dict[str, str]:
    """Put variables into the tables; returns which name set what, by path."""
    names = {}
    for name, text in sorted(environment.items()):
        if not name.startswith(_PREFIX):
            continue
        *parents, last = name.removeprefix(_PREFIX).lower().split("__")
        table: Any = tables
        path = []
        for parent in parents:
            path.append(_as_spelled(table, parent))
            table = table.setdefault(path[-1], {}) if isinstance(table, dict) else {}
        if isinstance(table, dict):
            path.append(_as_spelled(table, last))
            table[path[-1]] = _value(text)
            names[".".join(path)] = name
    return names


def _as_spelled(table: Any, key: str) -> str:
    """A key as the file spells it: a variable says nothing about small and capital letters."""
    return next((one for one in table if one.lower() == key), key)


def _value(text: str) -> Any:
    """What a variable holds: a value of TOML, or else the text itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _said(mistake: Any) -> str:
    text = mistake["msg"].removeprefix("Value error, ")
    if mistake["type"] == "extra_forbidden":
        return "there is no such setting"
    if mistake["type"] in _TABLES:
        text = "a table is expected"
    if mistake["type"] == "string_pattern_mismatch":  # names alone have a pattern
        text = "a name has letters, digits, '_', '-' and '.', and does not begin with '.'"
    given = mistake.get("input")
    shown = f", got {given!r}" if isinstance(given, str | int | float | bool) else ""
    return text if mistake["type"] == "value_error" else f"{text}{shown}"


def _place(
    name: str, where: Sequence[str], lines: Mapping[str, int], variables: Mapping[str, str]
) -> str:
    """The variable or the line that set something, or else what it is in."""
    for count in range(len(where), 0, -1):
        path = ".".join(where[:count])
        if path in variables:
            return variables[path]
        if path in lines:
            return f"{name}:{lines[path]}"
    return name


def _lines(text: str) -> dict[str, int]:
    """The line of each table and each key of a TOML file, by their dotted path."""
    found: dict[str, int] = {}
    table: list[str] = []
    counts: Counter[str] = Counter()  # of tables in each array of them
    for number, line in enumerate(text.splitlines(), 1):
        header, key = _TABLE.match(line), _KEY.match(line)
        if header:
            table = _parts(header["path"])
            path = ".".join(table)
            found.setdefault(path, number)
            if line.lstrip().startswith("[["):
                table.append(str(counts[path]))
                counts[path] += 1
                found[".".join(table)] = number
        elif key:
            found.setdefault(".".join([*table, *_parts(key["path"])]), number)
    return found


def _parts(path: str) -> list[str]:
    return [part.strip().strip("\"'") for part in path.split(".")]
