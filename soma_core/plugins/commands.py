"""Commands that plugins add to the protocol: a model and a handler for each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from soma_core.errors import PluginConflict, PluginLoadFailed
from soma_core.protocol.commands import COMMANDS, Command
from soma_core.protocol.parsing import name_of_command


@dataclass(frozen=True)
class CommandSpec:
    """A command of a plugin, as ``soma_register_commands`` returns it.

    Attributes:
        model: What the command looks like: a subclass of :class:`Command` with a field
            ``cmd: Literal["EVALUATE"]``. Fields of the type :data:`Data` carry user data.
        handler: Called in the worker with the validated command and the
            :class:`~soma_core.engine.engine.Engine`; what it returns is the reply's ``result``.
    """

    model: type[Command]
    handler: Callable[[Any, Any], Any]

    @property
    def cmd(self) -> str:
        """The ``cmd`` of the model."""
        return name_of_command(self.model)


def check_commands(plugin: str, specs: Iterable[CommandSpec], taken: Iterable[CommandSpec]) -> None:
    """Check what a plugin's ``soma_register_commands`` returned, beside what is taken already.

    Raises:
        PluginLoadFailed: A model is not a Command, or has no name of one.
        PluginConflict: Soma or another plugin has a model of that ``cmd`` or class name.
    """
    models = [*COMMANDS, *(spec.model for spec in taken)]
    for spec in specs:
        cmd = _checked_cmd(plugin, spec)
        for model in models:
            if cmd == name_of_command(model) or spec.model.__name__ == model.__name__:
                raise PluginConflict(
                    f"the plugin {plugin!r} adds the command {cmd} with the model "
                    f"{spec.model.__name__}, and {model.__module__}.{model.__name__} is the "
                    f"command {name_of_command(model)}; choose another cmd and another class name"
                )
        models.append(spec.model)


def _checked_cmd(plugin: str, spec: CommandSpec) -> str:
    try:
        cmd = spec.cmd if issubclass(spec.model, Command) else None
    except (AttributeError, KeyError, IndexError, TypeError):
        cmd = None
    if not isinstance(cmd, str) or not cmd.isupper() or not callable(spec.handler):
        raise PluginLoadFailed(
            f"the plugin {plugin!r}: a CommandSpec has a handler, and a model that is a subclass "
            'of soma_core.verbs.Command with a field cmd: Literal["SOME_COMMAND"] in capitals; '
            f"got {spec}"
        )
    return cmd
