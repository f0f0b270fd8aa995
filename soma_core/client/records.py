"""Records of a worker: what its filters log and warn is logged and warned here."""

from __future__ import annotations

import builtins
import logging
import sys
import traceback
import warnings
from contextlib import suppress
from typing import Any

from soma_core.raised import holds_source
from soma_core.raised.modules import module_of

__all__ = ["hand_over"]

_MOST = 1000  # loggers, and files that warn, that workers may add to this process
_LONGEST_NAME = 200  # characters of the name of a logger that is made for a worker
_loggers_made = 0
_made_of_texts: dict[type[Warning], type[Warning]] = {}
_registries: dict[str, dict[Any, Any]] = {}
"""What was warned already, by file: Python's rule, across all workers of this process."""


def hand_over(event: str, fields: dict[str, Any], node_id: str | None) -> None:
    """Log a record, or show a warning, of a worker. Raises only what is no Exception.

    Args:
        event: ``log`` or ``warning``.
        fields: What the worker says of it.
        node_id: The node whose command runs.
    """
    try:
        if event == "log":
            _log(fields, node_id)
        else:
            _warn(fields)
    except Exception:  # of a handler: the command is none the worse for it
        if sys.stderr is not None:
            traceback.print_exc()


def _log(fields: dict[str, Any], node_id: str | None) -> None:
    logger = _logger(fields["name"])
    level = fields["level"]
    if not logger.isEnabledFor(level):
        return
    record = logging.makeLogRecord(
        {
            "name": fields["name"],
            "levelno": level,
            "levelname": logging.getLevelName(level),
            "msg": fields["message"],
            "exc_text": fields.get("exc_text"),
            "pathname": fields["pathname"],
            "filename": fields["pathname"].rpartition("/")[2],
            "module": fields["pathname"].rpartition("/")[2].removesuffix(".py"),
            "lineno": fields["lineno"],
            "funcName": fields["function"],
            "created": fields["created"],
            "threadName": fields["thread"],
            "processName": "worker",
            "process": fields["process"],
            "node_id": node_id,
        }
    )
    logger.handle(record)


def _logger(name: str) -> logging.Logger:
    """The logger of a name; where a worker names ever more, the nearest one that there is.

    A logger stays as long as the process, and each dot of its name may make one more.
    """
    global _loggers_made
    known = logging.root.manager.loggerDict
    if name not in known:
        parts = name.count(".") + 1
        if len(name) > _LONGEST_NAME or _loggers_made + parts > _MOST:
            while name and not isinstance(known.get(name), logging.Logger):
                name = name.rpartition(".")[0]
        else:
            _loggers_made += parts
    return logging.getLogger(name)


def _registry(filename: str) -> dict[Any, Any]:
    """What was warned already in a file; it is forgotten where that would grow without end."""
    if len(_registries) >= _MOST and filename not in _registries:
        _registries.clear()
    registry = _registries.setdefault(filename, {})
    if len(registry) > _MOST:
        registry.clear()
    return registry


def _warn(fields: dict[str, Any]) -> None:
    filename, lineno = fields["filename"], fields["lineno"]
    if not holds_source(filename):  # Python shows the line
        filename = f"<{filename}>"
    registry = _registry(filename)
    module = module_of(filename) or fields.get("module") or "__main__"  # a cell is of no module
    category, text = _category(fields["categories"], fields["message"])
    try:
        warnings.warn_explicit(text, category, filename, lineno, module, registry)
    except Warning as error:  # this program turns warnings into errors, and the call went on
        warnings.showwarning(error, category, filename, lineno)


def _category(names: list[str], text: str) -> tuple[type[Warning], str]:
    """The nearest class that this program has, and the text, which then names the real one."""
    for name in names:
        module, _, qualname = name.partition(":")
        home = builtins if module == "builtins" else sys.modules.get(module)
        found = getattr(home, qualname, None)
        if isinstance(found, type) and issubclass(found, Warning):
            real = names[0].partition(":")[2]
            return _of_a_text(found), text if name == names[0] else f"{real}: {text}"
    return UserWarning, text


def _of_a_text(category: type[Warning]) -> type[Warning]:
    """The class, or one like it that is made of a text alone, if it takes something else."""
    if category not in _made_of_texts:
        _made_of_texts[category] = _make_of_texts(category)
    return _made_of_texts[category]


def _make_of_texts(category: type[Warning]) -> type[Warning]:
    with suppress(Exception):  # its constructor may want anything
        if str(category("text")) == "text":
            return category
    methods = {"__init__": Warning.__init__, "__str__": Warning.__str__}
    return type(category.__name__, (category,), {"__module__": category.__module__, **methods})
