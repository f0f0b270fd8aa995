"""Finding plugins through entry points: lazily, one by one, failures and conflicts kept."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from importlib.metadata import Distribution, EntryPoint, EntryPoints, entry_points
from typing import Any

from pydantic import ValidationError

from soma_core.channel.contract import Transport
from soma_core.errors import (
    PluginApiMismatch,
    PluginConflict,
    PluginError,
    PluginLoadFailed,
    PluginNotFound,
    PluginUnavailable,
)
from soma_core.plugins.hookspecs import API_VERSION

_MOST_NAMES = 20
TRANSPORTS, FILTERS, PLUGINS = "soma.transports", "soma.filters", "soma.plugins"
SUBCOMMANDS = "soma.subcommands"
_OFFERED = {  # what this repository has beside the core, by kind and first part of the name
    ("transport", "http"): "soma-http",
    ("transport", "ray"): "soma-transport-ray",
    ("filter", "onnx"): "soma-filters-onnx",
    ("filter", "sklearn"): "soma-filters-sklearn",
    ("filter", "text"): "soma-filters-text",
    ("filter", "torch"): "soma-filters-torch",
}


@dataclass(frozen=True)
class PluginInfo:
    """What is known of an installed plugin without importing it.

    Attributes:
        name: The name that users give.
        target: The module and attribute that it names.
        distribution: The installed distribution that provides it.
        version: The version of that distribution.
        conflict: The distributions that claim the name, if there are several.
    """

    name: str
    target: str
    distribution: str
    version: str
    conflict: tuple[str, ...] = ()


@lru_cache(maxsize=1)
def _select(*places: tuple[str, int]) -> Callable[..., EntryPoints]:
    """Selects from the entry points in places that have not changed.

    To find them is to read the metadata of every distribution, and one connect needs several
    groups.
    """
    return entry_points().select


def _installed(group: str) -> Iterable[EntryPoint]:
    return _select(*((place, _modified(place)) for place in sys.path))(group=group)


def _modified(place: str) -> int:
    try:
        return os.stat(place or os.curdir).st_mtime_ns
    except OSError:  # there is no such place
        return 0


class Catalog:
    """The plugins of one entry-point group, listed from metadata and imported when asked for.

    Args:
        group: The entry-point group.
        kind: What such a plugin is called in messages: ``"transport"``.
        find: Lists the entry points of a group; the default asks the installed distributions.
    """

    def __init__(
        self,
        group: str,
        kind: str,
        find: Callable[[str], Iterable[EntryPoint]] = _installed,
    ) -> None:
        self.group = group
        self.kind = kind
        self._find = find

    @cached_property
    def _claims(self) -> Mapping[str, list[EntryPoint]]:
        """The entry points of each name: one for each distribution that claims it."""
        claims: dict[str, list[EntryPoint]] = {}
        for entry_point in self._find(self.group):
            claims.setdefault(entry_point.name, []).append(entry_point)
        return {name: _one_for_each_distribution(claims[name]) for name in sorted(claims)}

    def names(self) -> list[str]:
        """The names that are installed, sorted."""
        return list(self._claims)

    def list(self) -> list[PluginInfo]:
        """What is installed, from metadata alone; a conflict is listed once for each claim."""
        return [
            _info(entry_point, entry_points)
            for entry_points in self._claims.values()
            for entry_point in entry_points
        ]

    def load(self, name: str) -> Any:
        """Import the plugin of a name.

        Raises:
            PluginNotFound: There is none; the message suggests close matches.
            PluginConflict: Several distributions claim the name.
            PluginLoadFailed: Importing it failed.
            PluginApiMismatch: Its module states another API version.
            PluginUnavailable: It says that it does not work with what is installed.
        """
        claims = self._claims.get(name)
        if claims is None:
            raise PluginNotFound(self._not_found(name))
        if len(claims) > 1:
            raise PluginConflict(self._conflict(name, claims))
        (entry_point,) = claims
        try:
            loaded = entry_point.load()
        except KeyboardInterrupt:
            raise
        except PluginUnavailable as error:
            raise PluginUnavailable(
                f"the {self.kind} {name!r} is not available: {error}"
            ) from error
        except BaseException as error:  # a module may call sys.exit when it is imported
            distribution, version = _distribution(entry_point)
            raise PluginLoadFailed(
                f"the {self.kind} {name!r} of {distribution} {version} cannot be loaded from "
                f"{entry_point.value}: {type(error).__name__}: {error}; "
                f"{_remedy(error, distribution)}"
            ) from error
        self._check_version(name, entry_point)
        return loaded

    def _check_version(self, name: str, entry_point: EntryPoint) -> None:
        stated = getattr(sys.modules.get(entry_point.module), "SOMA_API_VERSION", API_VERSION)
        if stated != API_VERSION:
            raise PluginApiMismatch(
                f"the {self.kind} {name!r} was built for version {stated!r} of soma's plugin "
                f"interface, and this is {API_VERSION}: install a version of its distribution or "
                f"of soma-core that fits the other; {self.origin(name)}"
            )

    def origin(self, name: str) -> str:
        """Where a plugin comes from, to be added to what is wrong with it."""
        entry_point = self._claims[name][0]
        distribution, version = _distribution(entry_point)
        return f"it is {entry_point.value} of {distribution} {version}"

    def failure(self, name: str) -> PluginError | None:
        """Why a plugin cannot be loaded, or None if it can; imports it."""
        try:
            self.load(name)
        except PluginError as error:
            return error
        return None

    def _not_found(self, name: str) -> str:
        close = difflib.get_close_matches(name, self._claims, n=3)
        family = name.partition(".")[0]
        offered = _OFFERED.get((self.kind, family))
        if offered and not any(known.partition(".")[0] == family for known in self._claims):
            hint = f"pip install {offered}, which has names like it"
        elif close:
            hint = f"did you mean {' or '.join(map(repr, close))}?"
        else:
            hint = f"installed: {_some(list(self._claims))}"
        return (
            f"unknown {self.kind} {name!r}; {hint} (`soma {self.kind}s` lists them; run "
            "`pip install` again after adding one)"
        )

    def _conflict(self, name: str, claims: Iterable[EntryPoint]) -> str:
        owners = " and ".join(f"{_distribution(claim)[0]} ({claim.value})" for claim in claims)
        return f"{owners} both provide the {self.kind} {name!r}; uninstall one of them"


def _remedy(error: BaseException, distribution: str) -> str:
    if isinstance(error, (ImportError, AttributeError)):
        return f"reinstall {distribution} or what it needs"
    return "its module raised this while it was imported: correct what the message says"


def _some(names: list[str]) -> str:
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES] or ["none"]) + (f" and {more} more" if more > 0 else "")


def _one_for_each_distribution(claims: list[EntryPoint]) -> list[EntryPoint]:
    """The first claim of each distribution; metadata is read only where there are several."""
    if len(claims) == 1:
        return claims
    first: dict[str, EntryPoint] = {}
    for entry_point in claims:
        first.setdefault(_distribution(entry_point)[0], entry_point)
    return [first[distribution] for distribution in sorted(first)]


def _distribution(entry_point: EntryPoint) -> tuple[str, str]:
    if entry_point.dist is None:
        return "an unknown distribution", "?"
    return _name_and_version(entry_point.dist)


@cache
def _name_and_version(distribution: Distribution) -> tuple[str, str]:
    """Read once: a distribution parses its metadata anew each time that it is asked."""
    metadata = distribution.metadata
    return metadata["Name"], metadata["Version"]


def _info(entry_point: EntryPoint, claims: Iterable[EntryPoint]) -> PluginInfo:
    distribution, version = _distribution(entry_point)
    owners = tuple(_distribution(claim)[0] for claim in claims)
    return PluginInfo(
        name=entry_point.name,
        target=entry_point.value,
        distribution=distribution,
        version=version,
        conflict=owners if len(owners) > 1 else (),
    )


class FilterCatalog(Catalog):
    """The registered filters, and how one is built from its configuration."""

    def load(self, name: str) -> Any:
        """Import the class of a filter, or the function that makes one.

        Raises:
            PluginError: It is not installed, ambiguous, broken, or cannot make a filter.
        """
        loaded = super().load(name)
        if callable(loaded) and (not isinstance(loaded, type) or hasattr(loaded, "forward")):
            return loaded
        raise PluginLoadFailed(
            f"the filter {name!r} is neither a class with a method forward(x, state) nor a "
            f"function that makes a filter: its entry point leads to {loaded!r}; "
            f"{self.origin(name)}"
        )

    def create(self, name: str, config: dict[str, Any]) -> Any:
        """Build a registered filter.

        Raises:
            PluginError: It is not installed, ambiguous or broken.
            ValueError: The configuration is not valid; the message names the fields.
        """
        from soma_core.models.validation_errors import describe

        filter_class = self.load(name)
        try:
            return filter_class(**config)
        except ValidationError as error:
            known = getattr(filter_class, "model_fields", {})
            fields = [field.alias or key for key, field in known.items()]
            listed = ", ".join(fields) or "none"
            raise ValueError(f"{name}: {describe(error)} (its fields: {listed})") from error


class TransportCatalog(Catalog):
    """The transports, each checked to be one when it is loaded."""

    def load(self, name: str) -> type[Transport]:
        """Import the transport of a name.

        Raises:
            PluginError: It is not installed, ambiguous, broken, or not a transport.
        """
        loaded = super().load(name)
        if isinstance(loaded, type) and issubclass(loaded, Transport):
            return loaded
        raise PluginLoadFailed(
            f"the transport {name!r} is not a subclass of soma_core.transport.Transport: "
            f"its entry point leads to {loaded!r}; {self.origin(name)}"
        )


@cache
def installed_transports() -> TransportCatalog:
    """The transports that are installed beside this soma."""
    return TransportCatalog(TRANSPORTS, "transport")


@cache
def installed_filters() -> FilterCatalog:
    """The registered filters that are installed beside this soma."""
    return FilterCatalog(FILTERS, "filter")


@cache
def installed_subcommands() -> Catalog:
    """The subcommands that are installed beside those of ``soma`` itself.

    Each is a function of the arguments after its name, which returns the exit status; the first
    line of its docstring is shown in ``soma --help``.
    """
    return Catalog(SUBCOMMANDS, "subcommand")
