"""Names: what a new plugin is called, and all that is called after it."""

from __future__ import annotations

import keyword
import re
import sys
from typing import NamedTuple

from soma_core.cli.console import CommandFailed

_FILTER = re.compile(r"([a-z][a-z0-9]*(?:-[a-z0-9]+)*)\.([A-Z][A-Za-z0-9]*)")
_WORDS = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*")
_LONGEST = 50


class Names(NamedTuple):
    """What a template is filled with.

    Attributes:
        name: The name by which users ask for the plugin.
        class_name: Its class.
        distribution: What is installed.
        command: The command that it adds, if it adds one.
    """

    name: str
    class_name: str
    distribution: str
    command: str = ""

    @property
    def package(self) -> str:
        """What is imported."""
        return self.distribution.replace("-", "_")


def filter_names(name: str) -> Names:
    """The names of a filter: ``acme.RobustScaler`` is in the distribution acme-robust-scaler.

    Raises:
        CommandFailed: It is no name for a filter.
    """
    owner, class_name, words = _owned("filter", name)
    return _checked(Names(name, class_name, f"{owner}-{words.lower()}"))


def command_names(name: str) -> Names:
    """The names of a command: ``acme.WarmUp`` is WARM_UP, in the distribution acme-warm-up.

    Raises:
        CommandFailed: It is no name for a command.
    """
    owner, class_name, words = _owned("command", name)
    distribution = f"{owner}-{words.lower()}"
    command = words.upper().replace("-", "_")
    return _checked(Names(distribution, class_name, distribution, command))


def plugin_names(name: str) -> Names:
    """The names of a plugin: ``acme-audit`` is in the distribution of this name.

    Raises:
        CommandFailed: It is no name for a plugin.
    """
    _require_words("plugin", name, "acme-audit")
    return _checked(Names(name, "", name))


def transport_names(name: str) -> Names:
    """The names of a transport: ``pigeon`` is in the distribution soma-transport-pigeon.

    Raises:
        CommandFailed: It is no name for a transport.
    """
    _require_words("transport", name, "pigeon")
    class_name = "".join(word.capitalize() for word in name.split("-")) + "Transport"
    return Names(name, class_name, f"soma-transport-{name}")


def _checked(names: Names) -> Names:
    """Names whose package can be imported, and does not stand in the way of another."""
    package = names.package
    if keyword.iskeyword(package) or package in {*sys.stdlib_module_names, "soma_core"}:
        raise CommandFailed(
            f"{names.name!r} would be the package {package}, which is a word of Python or a "
            "package of its own already: choose another name"
        )
    return names


def _owned(kind: str, name: str) -> tuple[str, str, str]:
    """The owner and the class in a name, and the words of the class with hyphens between."""
    match = _matched_filter(name)
    if match is None:
        raise CommandFailed(
            f"{name!r} is not a valid {kind} name: expected OWNER.Class of at most {_LONGEST} "
            f"characters, such as {_suggested_filter(name)!r}: the owner in small letters, digits "
            "and single hyphens, the class in letters and digits with a capital first"
        )
    owner, class_name = match.groups()
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", class_name)
    return owner, class_name, words


def _require_words(kind: str, name: str, example: str) -> None:
    if not _WORDS.fullmatch(name) or len(name) > _LONGEST:
        raise CommandFailed(
            f"{name!r} is not a valid {kind} name: expected at most {_LONGEST} small letters, "
            f"digits and single hyphens, a letter first, such as {_suggested(name, example)!r}"
        )


def _matched_filter(name: str) -> re.Match[str] | None:
    match = _FILTER.fullmatch(name)
    unusable = match is None or len(name) > _LONGEST or keyword.iskeyword(match[2])
    return None if unusable else match


def _words(name: str) -> list[str]:
    return re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+", name)


def _suggested_filter(name: str) -> str:
    """A name in the wanted form that is as near to what came as can be."""
    owner, _, class_name = name.rpartition(".")
    suggested = "-".join(_words(owner.lower())) or "acme"
    suggested += "." + "".join(word.capitalize() for word in _words(class_name))
    return suggested if _matched_filter(suggested) else "acme.Center"


def _suggested(name: str, example: str) -> str:
    suggested = "-".join(word.lower() for word in _words(name))
    return suggested if _WORDS.fullmatch(suggested) else example
