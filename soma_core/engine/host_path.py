"""Modules beside the host's script: found by the worker where the host finds them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from time import time
from types import ModuleType


class HostPath:
    """The folders of the host's ``sys.path`` that this process looks into after its own.

    Modules that were imported from there are read anew after their files have changed: a script
    may be edited between two of its runs, and a notebook while it runs.
    """

    def __init__(self) -> None:
        self._folders: tuple[str, ...] = ()
        self._installed: tuple[str, ...] = ()
        self._last_before: str | None = None
        self._read: dict[str, float] = {}
        self._looked_at = 0.0

    def add(self, entries: Iterable[str]) -> None:
        """Look into these folders too, after all that this process looks into by itself."""
        new = [entry for entry in entries if entry not in sys.path and os.path.exists(entry)]
        if new and not self._folders:
            self._last_before = next(reversed(sys.modules))
        own = set(_as_folders(sys.path)).difference(self._folders)
        sys.path += new
        self._folders += _as_folders(new)
        # A virtual environment is often beside the script: what is in it is not the user's to edit.
        self._installed = tuple(entry for entry in own if entry.startswith(self._folders))

    def refresh(self) -> None:
        """Forget the modules of these folders if the file of one has changed since it was read."""
        times = self._times()
        known = {name: self._read.get(name, min(at, self._looked_at)) for name, at in times.items()}
        if times == known:
            return
        for name in times:  # all of them: those that are unchanged may refer to what has changed
            del sys.modules[name]
        self._read.clear()

    def look(self) -> None:
        """Note when the files of the modules that were imported by now were changed last."""
        self._read |= {name: at for name, at in self._times().items() if name not in self._read}
        self._looked_at = time()

    def _times(self) -> dict[str, float]:
        """When the file of each module of these folders was changed last."""
        if not self._folders:
            return {}
        found = {name: self._file(module) for name, module in self._modules()}
        return {name: _changed_at(file) for name, file in found.items() if file is not None}

    def _modules(self) -> Iterator[tuple[str, ModuleType]]:
        """Those that were imported since there are such folders, under their own names.

        The others are not even touched: in a worker that was forked they are thousands, and each
        would cost a page.
        """
        newest_first = reversed(sys.modules)
        for name in list(iter(newest_first.__next__, self._last_before)):
            module = sys.modules.get(name)
            if isinstance(module, ModuleType) and name == module.__name__ != "__main__":
                yield name, module

    def _file(self, module: ModuleType) -> str | None:
        file = getattr(module, "__file__", None)
        if not isinstance(file, str) or file.startswith(self._installed):
            return None
        return file if file.startswith(self._folders) else None


def _as_folders(entries: Iterable[str]) -> tuple[str, ...]:
    return tuple(os.path.join(os.path.abspath(entry), "") for entry in entries)


def _changed_at(file: str) -> float:
    try:
        return os.stat(file).st_mtime
    except OSError:
        return 0.0
