"""Tracebacks: taken apart in one process, put together in another."""

from __future__ import annotations

import ast
import linecache
import os
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from types import CodeType, FunctionType, TracebackType
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

_OUTERMOST = _INNERMOST = 50  # entries that are kept of a stack that is deeper
DEEPEST = _OUTERMOST + _INNERMOST
"""The most entries that :func:`entries_of` returns."""

_LONGEST_SOURCE = 500
_LONGEST_NAME = 4096
_LARGEST_FILE = 16 << 20
_STOPPED = "<stopped>"  # a name that no code can hold, nor Python suggest


Place = Annotated[int, Field(ge=0, lt=2**31 - 1)]
"""A line or a column, as code can hold it."""


class StackEntry(BaseModel):
    """One entry of a traceback."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    file: Annotated[str, Field(pattern=r"^[^\x00]*$", max_length=_LONGEST_NAME)]
    line: Place
    """The line that ran."""
    name: str
    """The function."""
    first_line: Place = 1
    """The line where the function begins."""
    end_line: Place | None = None
    """The last line of the expression that ran, where that is known."""
    column: Place | None = None
    """Where the expression begins in its line, in bytes of UTF-8."""
    end_column: Place | None = None
    source: str = ""
    """The text of the line, without the blanks around it; empty where it is not known."""


def entries_of(trace: TracebackType | None, *, leave_out: str = "") -> list[StackEntry]:
    """The entries of a traceback, the outermost first; of a very deep one those at both ends.

    Args:
        leave_out: The folder of a package whose entries are left out where they come first, so
            that the traceback begins with the code that the package called.
    """
    entries = [_entry(step, line) for step, line in _walk(trace)]
    called = [n for n, entry in enumerate(entries) if not entry.file.startswith(leave_out)]
    if leave_out and called:
        entries = entries[called[0] :]
    if len(entries) > DEEPEST:
        entries = entries[:_OUTERMOST] + entries[-_INNERMOST:]
    return entries


def without_first(trace: TracebackType | None, folder: str) -> TracebackType | None:
    """A traceback without its first entries whose code lies in a folder, if others follow."""
    step = trace
    while folder and step is not None and step.tb_frame.f_code.co_filename.startswith(folder):
        step = step.tb_next
    return step or trace


def _walk(trace: TracebackType | None) -> Iterator[tuple[TracebackType, int]]:
    while trace is not None:
        line: int | None = trace.tb_lineno  # None in spite of its type, for code without lines
        yield trace, line or trace.tb_frame.f_code.co_firstlineno
        trace = trace.tb_next


def _entry(step: TracebackType, line: int) -> StackEntry:
    code = step.tb_frame.f_code
    place = next(islice(code.co_positions(), step.tb_lasti // 2, None), (None,) * 4)
    _, end_line, column, end_column = place
    text = linecache.getline(code.co_filename, line, step.tb_frame.f_globals).strip()
    return StackEntry(
        file=code.co_filename[:_LONGEST_NAME],
        line=line,
        name=code.co_name,
        first_line=code.co_firstlineno,
        end_line=end_line,
        column=column,
        end_column=end_column,
        source=text[:_LONGEST_SOURCE],
    )


def sources_agree(entries: Iterable[StackEntry]) -> bool:
    """Whether this process finds the source lines that the one of the entries found, if it did."""
    return all(
        holds_source(entry.file) and entry.source in ("", _source(entry)) for entry in entries
    )


def holds_source(file: str) -> bool:
    """Whether a line of a file can be looked up here, whoever named the file.

    A pipe would hold up whoever reads it, a device fill the memory. A file that is not there does
    no harm.
    """
    try:
        status = os.stat(file)
    except (OSError, ValueError):
        return True
    return stat.S_ISREG(status.st_mode) and status.st_size <= _LARGEST_FILE


def _source(entry: StackEntry) -> str:
    return linecache.getline(entry.file, entry.line).strip()[:_LONGEST_SOURCE]


def module_of(filename: str) -> str | None:
    """The name of the module whose file this is, as tracebacks spell it; None if none."""
    found = _module_found.get(filename)
    if found is not None and _file_of(sys.modules.get(found)) == filename:
        return found
    for name, module in list(sys.modules.items()):
        if _file_of(module) == filename:
            _module_found[filename] = name
            return name
    return None


_module_found: dict[str, str] = {}


def _file_of(module: object) -> object:
    """Asked of its variables: a module may have a ``__getattr__`` that imports what it lacks."""
    return getattr(module, "__dict__", {}).get("__file__")


def traceback_from(entries: Sequence[StackEntry]) -> TracebackType | None:
    """A traceback that Python prints as it would have printed the one that was taken apart.

    Its frames are empty: no code of these files runs here, and no variables came.
    """
    trace: TracebackType | None = None
    for entry in reversed(entries):
        stopped = _stopped_at(entry)
        trace = TracebackType(trace, stopped.tb_frame, stopped.tb_lasti, stopped.tb_lineno)
    return trace


class _Stopped(Exception):
    """Raised to get the frame that raised it."""


def _stopped_at(entry: StackEntry) -> TracebackType:
    """A traceback of one frame, which stopped at that place.

    No frame outside of it is reached from it: those of whoever wants it hold the exception that it
    is for, and would be kept with all that was sent until the garbage is collected.
    """
    return next(_stopping(_code(entry)))


def _stopping(code: CodeType) -> Iterator[TracebackType]:
    """Raise in a generator: once it has ended, its frame leads to no other one."""
    try:
        FunctionType(code, {"__name__": "", _STOPPED: _Stopped})()
    except _Stopped as stopped:
        trace = [step for step, _ in _walk(stopped.__traceback__)][-1]
    yield trace


@lru_cache(maxsize=256)
def _code(entry: StackEntry) -> CodeType:
    """The code of a function that raises at the place of an entry."""
    end_line = max(entry.end_line or 0, entry.line)
    begin, end = entry.column, entry.end_column
    known = begin is not None and end is not None and (end_line > entry.line or end >= begin)
    place: dict[str, Any] = {
        "lineno": entry.line,
        "end_lineno": end_line,
        "col_offset": entry.column if known else -1,  # what a compiler calls unknown
        "end_col_offset": entry.end_column if known else -1,
    }
    stop = ast.Raise(ast.Name(_STOPPED, ast.Load(), **place), **place)
    nothing = ast.arguments([], [], None, [], [], None, [])
    start: dict[str, Any] = {"lineno": entry.first_line, "end_lineno": entry.first_line}
    function = ast.FunctionDef("function", nothing, [stop], [], **start)
    if sys.version_info >= (3, 12):
        function.type_params = []
    module = ast.fix_missing_locations(ast.Module([function], []))
    compiled = compile(module, entry.file, "exec")
    code: CodeType = next(found for found in compiled.co_consts if isinstance(found, CodeType))
    return code.replace(co_name=entry.name, co_qualname=entry.name)
