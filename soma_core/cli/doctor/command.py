"""The command: check the installation, print the findings, exit with 1 if something is wrong."""

from __future__ import annotations

import typer
from rich.table import Table
from rich.text import Text

from soma_core.cli.console import AsJson, console, note, print_json, table
from soma_core.cli.doctor import facts
from soma_core.cli.doctor.findings import Finding, Level, examine

_STYLES = {Level.OK: "green", Level.ADVICE: "yellow", Level.WRONG: "red"}


def doctor(as_json: AsJson = False) -> None:
    """Check this installation, and print what to do about each problem.

    Imports every plugin and starts a worker over each transport. Exits with 1 if something is
    wrong; advice alone is no failure.
    """
    findings = examine(facts.gather())
    if as_json:
        print_json([finding._asdict() for finding in findings])
    else:
        console().print(_shown(findings))
        note(_summary(findings))
    if any(finding.level is Level.WRONG for finding in findings):
        raise typer.Exit(1)


def _shown(findings: list[Finding]) -> Table:
    rows = table("area", "subject", "", "finding")
    area = ""
    for finding in findings:
        style = _STYLES[finding.level]
        shown = Text(finding.found)
        if finding.remedy:
            shown.append(f"\n-> {finding.remedy}", style)
        rows.add_row(
            Text("" if finding.area == area else finding.area, "bold"),
            Text(finding.subject, "cyan"),
            Text(finding.level.value, style),
            shown,
        )
        area = finding.area
    return rows


def _summary(findings: list[Finding]) -> str:
    wrong = sum(finding.level is Level.WRONG for finding in findings)
    advice = sum(finding.level is Level.ADVICE for finding in findings)
    if not wrong and not advice:
        return "everything is fine"
    return f"{wrong or 'nothing'} wrong, {advice or 'no'} advice"
