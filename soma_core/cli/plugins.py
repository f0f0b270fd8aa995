"""Plugins: what is installed, listed from metadata, and whether it works."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from fnmatch import fnmatch
from typing import Annotated, Any, NamedTuple

import typer
from rich.text import Text

from soma_core.cli.console import AsJson, note, print_json, print_table, table
from soma_core.cli.grouped import Row, grouped
from soma_core.cli.options import options_of
from soma_core.errors import PluginError, PluginUnavailable
from soma_core.plugins.catalog import (
    PLUGINS,
    Catalog,
    PluginInfo,
    installed_filters,
    installed_transports,
)
from soma_core.plugins.manager import PluginSet
from soma_core.plugins.options import option_names, options_from, options_model

Pattern = Annotated[
    str | None,
    typer.Argument(
        help="Part of a name or of a distribution's name, or a glob: 'sklearn.*Regressor'."
    ),
]
All = Annotated[bool, typer.Option("--all", help="Show all rows of long lists.")]
_LONG, _SHOWN = 5, 3  # names of commands or codecs in a line


def transports(
    pattern: Pattern = None,
    options: Annotated[
        bool, typer.Option("--options", help="Import them, and list their options.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List the installed transports, without importing them unless their options are asked for."""
    if options:
        _list_options(installed_transports(), pattern, as_json)
    else:
        _list(installed_transports(), pattern, as_json, fold=False)


def filters(
    pattern: Pattern = None,
    show_all: All = False,
    as_json: AsJson = False,
    schema: Annotated[
        bool,
        typer.Option("--schema", help="Import them, and print the JSON Schemas of their settings."),
    ] = False,
) -> None:
    """List the registered filters by distribution, without importing them unless for schemas."""
    if schema:
        found = _matching(installed_filters().list(), pattern)
        if not found:
            note(_nothing(installed_filters(), pattern))
        print_json(
            {name: _schema_of(loaded) for name, loaded in _loaded(installed_filters(), found)}
        )
    else:
        _list(installed_filters(), pattern, as_json, fold=not show_all)


def _loaded(catalog: Catalog, found: Iterable[PluginInfo]) -> Iterator[tuple[str, Any]]:
    """What can be loaded, by name; why something cannot is noted."""
    for info in found:
        try:
            yield info.name, catalog.load(info.name)
        except PluginError as error:
            note(str(error))


def _schema_of(loaded: Any) -> dict[str, Any] | None:
    """The JSON Schema of a filter's settings; None for what is no model of pydantic."""
    describe = getattr(loaded, "model_json_schema", None)
    if describe is None:
        return None
    found: dict[str, Any] = describe()
    return found


def plugins(pattern: Pattern = None, show_all: All = False, as_json: AsJson = False) -> None:
    """Import every plugin and report which work; exit with 1 if any is broken."""
    reports = inspect_plugins(pattern)
    if as_json:
        print_json([report.as_row() for report in reports])
    elif reports:
        rows = [
            Row(report.info, _state(report, show_all), urgent=report.broken) for report in reports
        ]
        print_table(grouped(("plugin", "group", "status"), rows, fold=not show_all))
        broken = sum(report.broken for report in reports)
        unavailable = sum(report.unavailable for report in reports)
        count = f"{len(reports)} {'plugin' if len(reports) == 1 else 'plugins'}"
        others = f", {unavailable} unavailable" if unavailable else ""
        note(f"{count}, {broken or 'none'} broken{others}")
    else:
        note("no such plugin is installed")
    if any(report.broken for report in reports):
        raise typer.Exit(1)


def _list(catalog: Catalog, pattern: str | None, as_json: bool, *, fold: bool) -> None:
    found = _matching(catalog.list(), pattern)
    if as_json:
        print_json([asdict(info) for info in found])
    elif found:
        rows = [Row(info, (_target(info),), urgent=bool(info.conflict)) for info in found]
        print_table(grouped((catalog.kind, "target"), rows, fold=fold))
    else:
        note(_nothing(catalog, pattern))


def _list_options(catalog: Catalog, pattern: str | None, as_json: bool) -> None:
    found = _matching(catalog.list(), pattern)
    known = {name: options_of(loaded.Options) for name, loaded in _loaded(catalog, found)}
    if as_json:
        print_json({name: [one._asdict() for one in options] for name, options in known.items()})
        return
    if not found:
        note(_nothing(catalog, pattern))
        return
    rows = table("transport", "option", "type", "default", "meaning")
    for name, options in known.items():
        for option in options:
            rows.add_row(Text(name, "cyan"), *map(Text, option))
    print_table(rows)


def _nothing(catalog: Catalog, pattern: str | None) -> str:
    if pattern is None:
        return f"no {catalog.kind}s are installed"
    return f"none of the {len(catalog.names())} installed {catalog.kind}s matches {pattern!r}"


def _matching(found: Iterable[PluginInfo], pattern: str | None) -> list[PluginInfo]:
    if pattern is None:
        return list(found)
    glob = pattern if set(pattern) & set("*?[") else f"*{pattern}*"
    return [
        info
        for info in found
        if fnmatch(info.name.lower(), glob.lower())
        or fnmatch(info.distribution.lower(), glob.lower())
    ]


def _target(info: PluginInfo) -> Text:
    if not info.conflict:
        return Text(info.target, "dim")
    return Text(f"{info.target} (conflict: {' and '.join(info.conflict)})", "red")


class PluginReport(NamedTuple):
    """One plugin, why it does not work if it does not, what it adds, and its options."""

    group: str
    info: PluginInfo
    failure: str | None
    commands: tuple[str, ...] = ()
    codecs: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    unavailable: bool = False

    @property
    def status(self) -> str:
        if self.failure is None:
            return "ok"
        if self.unavailable:
            return "unavailable"
        return "conflict" if self.info.conflict else "broken"

    @property
    def broken(self) -> bool:
        """Whether somebody has to do something about it."""
        return self.failure is not None and not self.unavailable

    def as_row(self) -> dict[str, object]:
        row = {"group": self.group, **asdict(self.info)}
        return row | {"status": self.status, "reason": self.failure} | self._has()

    def summary(self, show_all: bool) -> str:
        """How it is, what it adds, and its options, in a line."""
        if self.failure is not None:
            return f"{self.status}: {self.failure}"
        listed = [
            f"{what} {_listed(names, show_all)}" for what, names in self._has().items() if names
        ]
        return "; ".join([self.status, *listed])

    def _has(self) -> dict[str, tuple[str, ...]]:
        return {"commands": self.commands, "codecs": self.codecs, "options": self.options}


def distributions() -> list[tuple[str, str]]:
    """The other installed distributions with plugins, and their versions; imports none."""
    found = {(info.distribution, info.version) for one in _catalogs() for info in one.list()}
    return sorted(one for one in found if one[0] != "soma-core")


def _catalogs() -> list[Catalog]:
    return [installed_transports(), installed_filters(), Catalog(PLUGINS, "plugin")]


def inspect_plugins(pattern: str | None = None) -> list[PluginReport]:
    """Import the plugins whose names match a pattern, or all, and report which work."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # our user can do nothing about a plugin's deprecations
        return [
            _report(catalog, info)
            for catalog in _catalogs()
            for info in _matching(catalog.list(), pattern)
        ]


def _report(catalog: Catalog, info: PluginInfo) -> PluginReport:
    """How one plugin is; one with hooks must also fit those that there are."""
    failure = catalog.failure(info.name)
    if failure is not None:
        unavailable = isinstance(failure, PluginUnavailable)
        return PluginReport(catalog.group, info, str(failure), unavailable=unavailable)
    if catalog.group != PLUGINS:
        return PluginReport(catalog.group, info, None)
    alone = PluginSet(catalog, {"SOMA_DISABLE_PLUGIN_AUTOLOAD": "1"})
    try:
        alone.load(info.name, options_from(os.environ).get(info.name))
    except (PluginError, ValueError) as error:
        return PluginReport(catalog.group, info, str(error))
    commands = tuple(spec.cmd for spec in alone.commands)
    codecs = tuple(codec.name for codec in alone.codecs)
    model = options_model(catalog.load(info.name))
    options = () if model is None else tuple(option_names(model))
    return PluginReport(catalog.group, info, None, commands, codecs, options)


def _state(report: PluginReport, show_all: bool) -> tuple[Text, Text]:
    style = "red" if report.broken else "yellow" if report.unavailable else "green"
    return Text(report.group, "dim"), Text(report.summary(show_all), style)


def _listed(names: Sequence[str], show_all: bool) -> str:
    if show_all or len(names) <= _LONG:
        return ", ".join(names)
    return f"{', '.join(names[:_SHOWN])} and {len(names) - _SHOWN} more"
