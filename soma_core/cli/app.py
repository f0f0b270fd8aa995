"""App: the ``soma`` command with its subcommands, and how it reports an error."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from soma_core.cli import (
    bench,
    daemons,
    demo,
    doctor,
    new,
    plugins,
    replay,
    run,
    schema,
    validate,
)
from soma_core.cli.console import print_error
from soma_core.errors import PluginError, SomaError
from soma_core.plugins.catalog import installed_subcommands
from soma_core.protocol.versions import soma_version

_SETTINGS = {"ignore_unknown_options": True, "allow_interspersed_args": False}


class _Soma(TyperGroup):
    """The subcommands of soma, and behind them those of plugins.

    A command that raised a SomaError ends with one line and status 1, never a traceback.
    """

    def list_commands(self, ctx: Any) -> list[str]:
        own = super().list_commands(ctx)
        return own + [name for name in installed_subcommands().names() if name not in own]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        own = super().get_command(ctx, cmd_name)
        return _plugged_in(cmd_name) if own is None else own

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except SomaError as error:
            print_error(error)
            raise typer.Exit(1) from None


def _plugged_in(name: str) -> Any:
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


app = typer.Typer(
    cls=_Soma,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _add(name: str, command: Callable[..., None], *examples: str, **settings: Any) -> None:
    epilog = "\n\n".join(f"Example: soma {example}" for example in examples)
    app.command(name, epilog=epilog, **settings)(command)


_add("demo", demo.demo, "demo", "demo --transport stdio --curve curve.png")
_add("run", run.run, "run examples/pipelines/iris.toml")
_add("replay", replay.replay, "replay flight.jsonl", "replay flight.jsonl --only 17")
_add(
    "serve",
    daemons.serve,
    "serve socket",
    "serve socket --path /run/user/1000/soma/soma.sock --preload torch",
    context_settings={"allow_interspersed_args": False},
)
app.add_typer(daemons.sessions_app, name="sessions")
_add("status", daemons.status, "status", "status --json")
_add("ping", daemons.ping, "ping", "ping --path /run/user/1000/soma/soma.sock")
_add("transports", plugins.transports, "transports", "transports stdio --options")
_add(
    "filters",
    plugins.filters,
    "filters Regressor",
    "filters soma-filters-torch",
    "filters sklearn.SVC --schema",
)
_add("plugins", plugins.plugins, "plugins", "plugins soma-cache")
_add("bench", bench.bench, "bench --size 80 --size 1048576")
_add("doctor", doctor.doctor, "doctor")
app.add_typer(new.app, name="new")
_add("schema", schema.schema, "schema commands", "schema --out schemas")
_add("validate", validate.validate, "validate messages.jsonl", "validate --replies -")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"soma {soma_version()}")
        for name, version in plugins.distributions():
            typer.echo(f"{name} {version}")
        raise typer.Exit


@app.callback()
def soma(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_version,
            is_eager=True,
            help="Print the versions of soma and of its plugins.",
        ),
    ] = False,
) -> None:
    """Machine-learning filters in processes of their own."""
