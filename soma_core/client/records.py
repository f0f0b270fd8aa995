"""Events of a command: progress goes to its caller, what filters log and warn to those of here."""

from __future__ import annotations

import builtins
import logging
import sys
import traceback
import warnings
from contextlib import suppress
from typing import Any

from soma_core.channel.output import OutputPump
from soma_core.client.calls import Call
from soma_core.protocol.loggers import MOST_LOGGERS, Loggers
from soma_core.protocol.replies import Event
from soma_core.raised import holds_source
from soma_core.raised.stack import module_of


class WorkerRecords:
    """Hands what workers say to the loggers and the warnings of this process.

    Args:
        most: How many loggers, and files that warn, workers may add to it.
    """

    def __init__(self, most: int = MOST_LOGGERS) -> None:
        self._most = most
        self._loggers = Loggers(most)
        self._categories: dict[type[Warning], type[Warning]] = {}
        self._warned: dict[str, dict[Any, Any]] = {}  # by file: Python's rule, across all workers

    def hand_over(self, event: str, fields: dict[str, Any], node_id: str | None) -> None:
        """Log a record, or show a warning, of a worker. Raises only what is no Exception."""
        try:
            if event == "log":
                self._log(fields, node_id)
            else:
                self._warn(fields)
        except Exception:  # of a handler: the command is none the worse for it
            if sys.stderr is not None:
                traceback.print_exc()

    def _log(self, fields: dict[str, Any], node_id: str | None) -> None:
        logger = self._loggers.of(fields["name"])
        if logger.isEnabledFor(fields["level"]):
            logger.handle(_log_record(fields, node_id))

    def _registry(self, filename: str) -> dict[Any, Any]:
        """What was warned already in a file; it is forgotten where that would grow without end."""
        if len(self._warned) >= self._most and filename not in self._warned:
            self._warned.clear()
        registry = self._warned.setdefault(filename, {})
        if len(registry) > self._most:
            registry.clear()
        return registry

    def _warn(self, fields: dict[str, Any]) -> None:
        filename, lineno = fields["filename"], fields["lineno"]
        if not holds_source(filename):  # Python shows the line
            filename = f"<{filename}>"
        registry = self._registry(filename)
        module = module_of(filename) or fields.get("module") or "__main__"  # a cell is of no module
        found, text = _category(fields["categories"], fields["message"])
        if found not in self._categories:
            self._categories[found] = _made_of_a_text(found)
        category = self._categories[found]
        try:
            warnings.warn_explicit(text, category, filename, lineno, module, registry)
        except Warning as error:  # this program turns warnings into errors, and the call went on
            warnings.showwarning(error, category, filename, lineno)


_records = WorkerRecords()  # loggers and warnings are of the process, and so is what bounds them


def deliver(event: Event, call: Call, output: OutputPump | None) -> None:
    """Give progress to the caller's callback, and records to the loggers and warnings of here.

    Args:
        output: What reads the worker's output: what was printed before a record is shown first.
    """
    data = {} if event.data is None else event.data
    if event.event == "progress":
        if call.progress is not None:
            call.progress(data)
        return
    if output is not None:
        output.show(unfinished=False)
    _records.hand_over(event.event, data, call.node_id)


def _log_record(fields: dict[str, Any], node_id: str | None) -> logging.LogRecord:
    filename = fields["pathname"].rpartition("/")[2]
    record = logging.makeLogRecord(
        {
            "name": fields["name"],
            "levelno": fields["level"],
            "levelname": _level_name(fields),
            "msg": fields["message"],
            "exc_text": fields.get("exc_text"),
            "stack_info": fields.get("stack_info"),
            "pathname": fields["pathname"],
            "filename": filename,
            "module": filename.removesuffix(".py"),
            "lineno": fields["lineno"],
            "funcName": fields["function"],
            "created": fields["created"],
            "threadName": fields["thread"],
            "processName": "worker",
            "process": fields["process"],
            "node_id": node_id,
        }
    )
    extra = fields.get("extra")
    vars(record).update({**extra, **vars(record)} if isinstance(extra, dict) else {})
    return record


def _level_name(fields: dict[str, Any]) -> str:
    """As this program calls the level, or else as the worker does."""
    level: int = fields["level"]
    name = logging.getLevelName(level)
    return name if name != f"Level {level}" else str(fields.get("level_name") or name)


def _category(names: list[str], text: str) -> tuple[type[Warning], str]:
    """The nearest class that this program has, and the text, which then names the real one."""
    for name in names:
        module, _, qualname = name.partition(":")
        home = builtins if module == "builtins" else sys.modules.get(module)
        found = getattr(home, qualname, None)
        if isinstance(found, type) and issubclass(found, Warning):
            real = names[0].partition(":")[2]
            return found, text if name == names[0] else f"{real}: {text}"
    return UserWarning, text


def _made_of_a_text(category: type[Warning]) -> type[Warning]:
    """The class, or one like it that is made of a text alone, if it takes something else."""
    with suppress(Exception):  # its constructor may want anything
        if str(category("text")) == "text":
            return category
    methods = {"__init__": Warning.__init__, "__str__": Warning.__str__}
    return type(category.__name__, (category,), {"__module__": category.__module__, **methods})
