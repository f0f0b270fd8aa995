"""App: the ``soma`` command with its subcommands, and how it reports an error."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from soma_core.cli import (
    bench,
    demo,
    doctor,
    new,
    plugins,
    replay,
    run,
    schema,
    serve,
    sessions,
    validate,
)
from soma_core.cli.console import print_error
from soma_core.errors import SomaError
from soma_core.protocol.versions import soma_version

__all__ = ["app"]


class _OneLineErrors(TyperGroup):
    """Ends a command that raised a SomaError with one line and status 1, never a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except SomaError as error:
            print_error(error)
            raise typer.Exit(1) from None


app = typer.Typer(
    cls=_OneLineErrors,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("demo")(demo.demo)
app.command("run")(run.run)
app.command("replay")(replay.replay)
app.command("serve", context_settings={"allow_interspersed_args": False})(serve.serve)
app.add_typer(sessions.app, name="sessions")
app.command("transports")(plugins.transports)
app.command("filters")(plugins.filters)
app.command("plugins")(plugins.plugins)
app.command("bench")(bench.bench)
app.command("doctor")(doctor.doctor)
app.add_typer(new.app, name="new")
app.command("schema")(schema.schema)
app.command("validate")(validate.validate)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"soma {soma_version()}")
        raise typer.Exit


@app.callback()
def soma(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Machine-learning filters in processes of their own."""
