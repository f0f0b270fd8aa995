"""What the tests of the command line share: a way to run it, and plugins that are not ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from soma_core.cli.app import app
from soma_core.discovery import installed_filters, installed_transports

Soma = Callable[..., Result]
Install = Callable[..., None]


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
        folder = site / f"{distribution}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n"
        )
        lines = [f"[{group}]", *(f"{name} = {target}" for name, target in targets.items())]
        (folder / "entry_points.txt").write_text("\n".join(lines) + "\n")
        _forget()

    yield add
    _forget()


def _forget() -> None:
    installed_transports.cache_clear()
    installed_filters.cache_clear()
