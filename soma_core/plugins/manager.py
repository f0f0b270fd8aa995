"""Plugin modules, loaded one by one: a broken one is reported and does not stop the others."""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain
from traceback import walk_tb
from typing import Any, NamedTuple, TypeVar, get_args

import pluggy

from soma_core.errors import PluginError, PluginLoadFailed, PluginNotFound
from soma_core.plugins import hookspecs
from soma_core.plugins.catalog import (
    PLUGINS,
    Catalog,
    FilterCatalog,
    TransportCatalog,
    installed_filters,
    installed_transports,
)
from soma_core.plugins.codecs import check_codecs
from soma_core.plugins.commands import CommandSpec, check_commands
from soma_core.plugins.hookspecs import Concern
from soma_core.plugins.options import check_options, made_with, options_from
from soma_core.protocol.commands import COMMANDS, Command, Method
from soma_core.protocol.parsing import name_of_command
from soma_core.wire.added_types import Codec, Codecs

T = TypeVar("T")

_CORE = "soma_core"
_EXECUTE, _FINISHED, _LOADED = "soma_execute", "soma_command_finished", "soma_filter_loaded"
_AROUND = "soma_call"
_CALL_HOOKS = ("soma_call_starting", "soma_call_sent", "soma_call_finished")
_HOOKS = [name for name in vars(hookspecs) if name.startswith("soma_")]
_NO_AUTOLOAD = {"SOMA_DISABLE_PLUGIN_AUTOLOAD": "1"}
_log = logging.getLogger("soma.plugins")


class _Added(NamedTuple):
    """A plugin that takes part: what it was made of, and what it adds."""

    source: Any
    plugin: Any
    commands: list[CommandSpec]
    codecs: list[Codec]


class PluginSet:
    """The plugin modules that take part in this process, and those that could not.

    Args:
        catalog: Where they are found.
        environment: ``SOMA_DISABLE_PLUGIN_AUTOLOAD`` (any text) loads none of them, and
            ``SOMA_PLUGINS=a,b`` loads those, in this order, whatever else is installed.
            ``SOMA_STRICT_PLUGINS`` (any text) raises what is wrong with the first broken one.
            ``SOMA_PLUGIN_OPTIONS`` gives them options, as JSON by plugin.
        transports: The transports to choose from; None for those that are installed.
        filters: The registered filters; None for those that are installed.

    Attributes:
        failures: Why a plugin does not take part, by name.
        observes_calls: Whether some observe the calls of a host, or take part in them.
        commands: The commands that plugins add.
        codecs: The types that plugins add.

    Raises:
        PluginError: Under ``SOMA_STRICT_PLUGINS``: a plugin is broken. Or one that was given
            options does not take part.
    """

    def __init__(
        self,
        catalog: Catalog,
        environment: Mapping[str, str],
        transports: TransportCatalog | None = None,
        filters: FilterCatalog | None = None,
    ) -> None:
        self._catalog = catalog
        self.transports = transports or installed_transports()
        self.filters = filters or installed_filters()
        self._manager = pluggy.PluginManager("soma")
        self._manager.add_hookspecs(hookspecs)
        self._manager.register(_EngineLast(), _CORE)
        self.failures: dict[str, PluginError] = {}
        self.observes_calls = False
        self.commands: list[CommandSpec] = []
        self.codecs: list[Codec] = []
        self._added: dict[str, _Added] = {}
        self._options = _options_from(environment)
        self._wanted = _wanted(catalog, environment)
        for name in self._wanted:
            try:
                self.load(name)
            except PluginError as error:
                if environment.get("SOMA_STRICT_PLUGINS") or name in self._options:
                    raise
                self.failures[name] = error
                _log.warning("%s", error)
        self.check_take_part(self._options)

    def check_take_part(self, configured: Iterable[str]) -> None:
        """Make sure that the plugins which were given options take part.

        Raises:
            PluginNotFound: One does not.
        """
        for name in configured:
            if name not in self._added:
                raise PluginNotFound(f"options are given to {name!r}: {self._takes_no_part(name)}")

    def configured(self, options: Mapping[str, Mapping[str, Any]]) -> PluginSet:
        """The same plugins, some of which are made anew, with options of their own.

        Args:
            options: By plugin. Plugins that are not here are passed over: a worker may have them.
                One that could not be made without options is made with them.

        Raises:
            ValueError: A plugin does not take its options; the message names them.
            PluginError: A plugin that is given options cannot be loaded.
        """
        check_options("plugins", options)
        if options.keys().isdisjoint([*self._added, *self.failures]):
            return self
        made = PluginSet(self._catalog, _NO_AUTOLOAD, self.transports, self.filters)
        made.failures = {name: why for name, why in self.failures.items() if name not in options}
        for name in dict.fromkeys([*self._wanted, *self._added]):
            added = self._added.get(name)
            if name in options and (added or name in self.failures):
                source = added.source if added else self._catalog.load(name)
                made.register(name, source, options[name])
            elif added:
                made.register(name, added.plugin)
        return made

    @property
    def hook(self) -> Any:
        """Calls hooks: ``plugins.hook.soma_adapt(obj=obj)``."""
        return self._manager.hook

    def load(self, name: str, options: Mapping[str, Any] | None = None) -> None:
        """Let an installed plugin take part.

        Args:
            name: Its name in the entry-point group ``soma.plugins``.
            options: As for :meth:`register`.

        Raises:
            PluginError: It cannot be loaded, or does not fit; the message names its distribution.
        """
        plugin = self._catalog.load(name)
        try:
            self.register(name, plugin, options)
        except PluginError as error:
            origin = self._catalog.origin(name)
            raise type(error)(
                f"{error}; {origin}: fix it, or uninstall that distribution"
            ) from error
        except ValueError as error:
            raise PluginLoadFailed(f"{error}; {self._catalog.origin(name)}") from error

    def register(self, name: str, plugin: Any, options: Mapping[str, Any] | None = None) -> None:
        """Let a plugin take part, installed or not: a test may register a module.

        Args:
            name: What it is called in messages, and for :meth:`unregister`.
            plugin: A module, or any object with hook implementations; or a class or function that
                makes one of its options.
            options: None for those that the environment gives it.

        Raises:
            ValueError: It does not take its options.
            PluginLoadFailed: It implements a hook that does not exist, or with other arguments,
                or its ``soma_register_commands`` or ``soma_register_codecs`` failed.
            PluginConflict: It adds a command or a codec that exists.
        """
        given = self._options.get(name, {}) if options is None else options
        source, plugin = plugin, made_with(name, plugin, given)
        try:
            self._manager.register(plugin, name)
            self._check_hook_names(plugin)
            self._check_wraps_calls(name)
        except (pluggy.PluginValidationError, ValueError) as error:
            if self._manager.has_plugin(name):
                self._manager.unregister(name=name)
            raise PluginLoadFailed(
                f"the plugin {name!r} does not fit soma's hooks: {error}"
            ) from error

        try:
            commands = self._returned(name, "soma_register_commands", CommandSpec)
            codecs = self._returned(name, "soma_register_codecs", Codec)
            check_commands(name, commands, self.commands)
            check_codecs(name, codecs, self.codecs)
        except BaseException:
            self._manager.unregister(name=name)
            raise
        self.commands += commands
        self.codecs += codecs
        self._added[name] = _Added(source, plugin, commands, codecs)
        self._look_at_calls()

    def unregister(self, name: str) -> None:
        """Let a plugin take part no longer; its commands and codecs are gone too.

        Args:
            name: The name under which it was registered.

        Raises:
            PluginNotFound: No plugin of that name takes part.
        """
        if name not in self._added:
            raise PluginNotFound(self._takes_no_part(name))
        self._manager.unregister(name=name)
        _, _, commands, codecs = self._added.pop(name)
        self._look_at_calls()
        for spec in commands:
            self.commands.remove(spec)
        for codec in codecs:
            self.codecs.remove(codec)

    def _takes_no_part(self, name: str) -> str:
        known = ", ".join(map(repr, self._added)) or "none"
        return f"no plugin {name!r} takes part; those that do: {known}"

    def _look_at_calls(self) -> None:
        self.observes_calls = bool(self.observing_calls() or self.around_calls())

    def _check_hook_names(self, plugin: Any) -> None:
        """Refuse a function that is marked as a hook and has the name of none."""
        unknown = [
            caller.name
            for caller in self._manager.get_hookcallers(plugin) or ()
            if not caller.has_spec()
            and not all(hook.optionalhook for hook in caller.get_hookimpls())
        ]
        if unknown:
            close = difflib.get_close_matches(unknown[0], _HOOKS, n=1, cutoff=0.75)
            meant = f"did you mean {close[0]}?" if close else f"the hooks are {', '.join(_HOOKS)}"
            raise ValueError(f"there is no hook {unknown[0]}; {meant}")

    def _check_wraps_calls(self, name: str) -> None:
        """Refuse a ``soma_call`` that is no wrapper: there is nothing that it could answer."""
        for one in self._implementations(_AROUND):
            if one.plugin_name == name and not one.wrapper:
                raise ValueError(f"{_AROUND} is a wrapper: mark it @soma.hookimpl(wrapper=True)")

    def _returned(self, name: str, hook_name: str, kind: type[T]) -> list[T]:
        """What one plugin's implementation of a hook without arguments returns; else nothing."""
        for implementation in getattr(self.hook, hook_name).get_hookimpls():
            if implementation.plugin_name == name:
                try:
                    returned = implementation.function()
                except Exception as error:
                    raise PluginLoadFailed(
                        f"the plugin {name!r} failed in {hook_name}: {error}"
                    ) from error
                is_list = isinstance(returned, list | tuple)
                if not is_list or not all(isinstance(one, kind) for one in returned):
                    raise PluginLoadFailed(
                        f"the plugin {name!r}: {hook_name} returns a list of {kind.__name__}, "
                        f"got {returned!r:.200}"
                    )
                return list(returned)
        return []

    def concerns(self) -> list[Concern]:
        """What each implementation of a hook of the worker's is concerned by."""
        names = (_EXECUTE, _FINISHED, _LOADED)
        found = list(chain(*(self._implementations(name) for name in names)))
        concerns = [Concern.of(implementation.function) for implementation in found]
        if any(concern.commands for concern in concerns):
            known = {name_of_command(model) for model in self.known_commands()}
            for implementation, concern in zip(found, concerns, strict=True):
                _warn_of_misspelled(implementation.plugin_name, concern.commands or (), known)
        return concerns

    def executing(self, cmd: str, node_ids: frozenset[str]) -> Callable[..., Any] | None:
        """Calls ``soma_execute`` of the plugins that take part in a command; None without any."""
        implementations = self._implementations(_EXECUTE)
        taking_part = [i for i in implementations if Concern.of(i.function).covers(cmd, node_ids)]
        if not taking_part:
            return None
        caller: Callable[..., Any] = getattr(self.hook, _EXECUTE)
        if len(taking_part) < len(implementations):
            others = [i.plugin for i in implementations if i not in taking_part]
            caller = self._manager.subset_hook_caller(_EXECUTE, others)
        return caller

    def raised_by(self, error: BaseException) -> str | None:
        """The plugin in whose ``soma_execute`` an error was raised; None if it is that of none."""
        found = self._implementations(_EXECUTE)
        plugins = {one.function.__code__: one.plugin_name for one in found}
        passed = [frame.f_code for frame, _ in walk_tb(error.__traceback__)]
        return next((plugins[code] for code in reversed(passed) if code in plugins), None)

    def observing(self, cmd: str, node_ids: frozenset[str]) -> list[Callable[..., None]]:
        """Each ``soma_command_finished`` that a command concerns, called with the command, the
        seconds and the error; what it raises is logged."""
        return [
            partial(_observe, implementation, _FINISHED)
            for implementation in reversed(self._implementations(_FINISHED))
            if Concern.of(implementation.function).covers(cmd, node_ids)
        ]

    def observing_calls(self) -> CallObservers | None:
        """The plugins that observe the calls of a host; None without any."""
        found = [
            [partial(_observe, one, name) for one in reversed(self._implementations(name))]
            for name in _CALL_HOOKS
        ]
        return CallObservers(*found) if any(found) else None

    def around_calls(self) -> list[Around]:
        """The plugins that take part in the calls of a host, the outermost first."""
        return [Around(one) for one in reversed(self._implementations(_AROUND))]

    def _implementations(self, hook_name: str) -> list[Any]:
        """The implementations of a hook by plugins."""
        found = getattr(self.hook, hook_name).get_hookimpls()
        return [item for item in found if item.plugin_name != _CORE]

    def known_codecs(self) -> Codecs:
        """The codecs that plugins added, for one connection."""
        return Codecs(self.codecs)

    def known_commands(self) -> list[type[Command]]:
        """The models of all commands: those of the protocol, then those that plugins added."""
        return [*COMMANDS, *(spec.model for spec in self.commands)]

    def notify(self, hook_name: str, **arguments: Any) -> None:
        """Call the observers of a hook, each apart: what one raises is logged."""
        for implementation in reversed(getattr(self.hook, hook_name).get_hookimpls()):
            _observe(implementation, hook_name, **arguments)


def _observe(implementation: Any, hook_name: str, **arguments: Any) -> None:
    """Call an observer with the arguments that it wants; what it raises is logged."""
    try:
        implementation.function(*map(arguments.__getitem__, implementation.argnames))
    except KeyboardInterrupt:  # of the user, or of the host that interrupts the command
        raise
    except BaseException:
        _log.exception("the plugin %r failed in %s", implementation.plugin_name, hook_name)


def _warn_of_misspelled(plugin: str, commands: Iterable[str], known: Collection[str]) -> None:
    """Warn of a command that seems to be meant otherwise: a plugin would never take part in it."""
    for name in sorted(set(commands) - set(known)):
        is_method = name.lower() in get_args(Method)
        close = ["CALL_METHOD"] if is_method else difflib.get_close_matches(name, known, n=1)
        if close:
            _log.warning(
                "the plugin %r takes part in %s, which is no command here; did you mean %s?",
                plugin,
                name,
                close[0],
            )


class Around:
    """A plugin that takes part in the calls of a host.

    Args:
        implementation: Of ``soma_call``.
    """

    def __init__(self, implementation: Any) -> None:
        self.name: str = implementation.plugin_name
        self._function = implementation.function
        self._takes_call = bool(implementation.argnames)
        self._concern = Concern.of(self._function)

    def covers(self, call: Any) -> bool:
        """Whether it takes part in a call."""
        fields = call.fields
        node_id, chain = fields.get("node_id"), fields.get("node_ids")
        named = chain if isinstance(chain, list | tuple) else ()
        return self._concern.covers(fields["cmd"], frozenset((node_id, *named)))

    def begin(self, call: Any) -> Generator[None, Any, Any]:
        """What runs around a call."""
        begun: Generator[None, Any, Any] = (
            self._function(call) if self._takes_call else self._function()
        )
        return begun


@dataclass(frozen=True)
class CallObservers:
    """The plugins that observe the calls of a host; what they raise is logged."""

    at_start: Sequence[Callable[..., None]]
    at_sending: Sequence[Callable[..., None]]
    at_end: Sequence[Callable[..., None]]

    def starting(self, call: Any) -> None:
        """A call is about to be sent."""
        for observer in self.at_start:
            observer(call=call)
        meta = call.fields.get("meta")
        if meta is not None and (type(meta) is not dict or not set(map(type, meta)) <= {str}):
            _log.error("meta of a call is a dict of texts and data, got %.200r: not sent", meta)
            del call.fields["meta"]

    def sent(self, call: Any) -> None:
        """It is on its way."""
        for observer in self.at_sending:
            observer(call=call)

    def finished(self, call: Any, reply: Any, error: BaseException | None) -> None:
        """It has ended."""
        for observer in self.at_end:
            observer(call=call, reply=reply, error=error)


class _EngineLast:
    """The last implementation of ``soma_execute``, after those of all plugins: the engine."""

    @hookspecs.hookimpl(trylast=True)
    def soma_execute(self, command: Any, context: Any) -> Any:
        return context.run(command)


def _options_from(environment: Mapping[str, str]) -> dict[str, Mapping[str, Any]]:
    try:
        return {**options_from(environment)}
    except ValueError as error:
        raise PluginError(str(error)) from None


def _wanted(catalog: Catalog, environment: Mapping[str, str]) -> list[str]:
    named = [name.strip() for name in environment.get("SOMA_PLUGINS", "").split(",")]
    if any(named):
        return [name for name in named if name]
    return [] if environment.get("SOMA_DISABLE_PLUGIN_AUTOLOAD") else catalog.names()


@cache
def installed_plugins() -> PluginSet:
    """The plugin modules that are installed beside this soma."""
    return PluginSet(Catalog(PLUGINS, "plugin"), os.environ)
