"""Replay: the commands of a recording again, and how their replies compare."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.text import Text

from soma_core.channel.contract import Transport
from soma_core.cli.console import CommandFailed, console, note, table
from soma_core.client.recording.entries import Section
from soma_core.models.validation_errors import describe
from soma_core.plugins.catalog import installed_transports
from soma_core.replay.replaying import Outcome, Verdict
from soma_core.replay.replaying import replay as run_again

_STYLES = {
    Verdict.SAME: "green",
    Verdict.DIFFERENT: "bold red",
    Verdict.FAILED: "bold red",
    Verdict.NOT_RUN: "red",
    Verdict.NOT_COMPARED: "yellow",
}
_GOOD = frozenset({Verdict.SAME, Verdict.NOT_COMPARED})


def replay(
    file: Annotated[Path, typer.Argument(help="Written by soma.connect(…, record=FILE).")],
    transport: Annotated[
        str,
        typer.Option(help="With 'inline', breakpoint() works in a filter."),
    ] = "stdio",
    only: Annotated[
        int | None, typer.Option(help="Run only this entry, after those that it depends on.")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="An option of the transport, as key=value.")
    ] = None,
    pickle: Annotated[
        str | None, typer.Option(help="'never' refuses the pickles in the file.")
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(help="Seconds that each command may take.")
    ] = None,
) -> None:
    """Run recorded commands again, and compare the replies.

    This runs the pickles in the file: replay only what you trust.
    """
    new_transport = _factory(transport, pickle, _options(option or []))
    outcomes: list[Outcome] = []
    try:
        for outcome in run_again(file, new_transport, only=only, timeout=timeout):
            outcomes.append(outcome)
    except OSError as error:
        raise CommandFailed(f"cannot read {file}: {error.strerror or error}") from None
    finally:
        _show(outcomes)
    if not all(outcome.verdict in _GOOD for outcome in outcomes):
        raise typer.Exit(1)


def _options(given: list[str]) -> dict[str, Any]:
    """Options from ``key=value``; a value that is JSON is read as such."""
    options: dict[str, Any] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals:
            raise CommandFailed(f"--option takes key=value, got {text!r}")
        try:
            options[key] = json.loads(value)
        except ValueError:
            options[key] = value
    return options


def _factory(
    name: str, pickle: str | None, options: dict[str, Any]
) -> Callable[[Section], Transport]:
    transport_class = installed_transports().load(name)

    def new_transport(section: Section) -> Transport:
        policy = pickle or section.options.get("pickle", "same-user")
        try:
            return transport_class(transport_class.Options(**{"pickle": policy, **options}))
        except ValidationError as error:
            raise CommandFailed(f"the transport {name!r}: {describe(error)}") from None

    return new_transport


def _show(outcomes: list[Outcome]) -> None:
    if not outcomes:
        return
    rows = table("entry", "command", "nodes", "reply", "how")
    for outcome in outcomes:
        rows.add_row(
            str(outcome.n),
            Text(outcome.cmd),
            Text(", ".join(outcome.node_ids)),
            Text(outcome.verdict, style=_STYLES[outcome.verdict]),
            Text(outcome.detail),
        )
    console().print(rows)
    counts = Counter(outcome.verdict for outcome in outcomes)
    note(", ".join(f"{counts[verdict]} {verdict}" for verdict in Verdict if counts[verdict]))
    skipped = sum(outcome.skipped for outcome in outcomes)
    if skipped:
        note(f"{skipped} entries were not kept; what they changed in a node is missing here")
