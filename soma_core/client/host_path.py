"""The folders that this program imports modules from, beside what is installed."""

from __future__ import annotations

import os
import site
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from importlib.machinery import PathFinder
from types import ModuleType


def host_path() -> list[str]:
    """The entries of ``sys.path`` that are neither of Python itself nor of what is installed.

    Folders, and archives such as the one that ``python app.pyz`` runs.
    """
    installed = {os.path.abspath(entry) for entry in _installed()}
    entries = [os.path.abspath(entry) for entry in sys.path if isinstance(entry, str)]
    return [entry for entry in entries if entry not in installed and os.path.exists(entry)]


def hidden_modules(names: Iterable[str]) -> set[ModuleType]:
    """The modules from there that a worker may not find, so that they must travel whole.

    Another folder has one of that name, and a worker looks into what is installed first. Or the
    package that one is in is not there: the program made it of a file, and no name imports it.
    """
    names = [*names]
    modules = [*_of_code(names)]
    entries = [os.path.abspath(entry) for entry in sys.path if isinstance(entry, str)]
    hidden = {
        module
        for name in names
        if (package := name.rpartition(".")[0]) and package not in sys.modules
        if isinstance(module := sys.modules.get(name), ModuleType) and module.__name__ == name
    }
    for folder in host_path():
        if os.path.basename(folder).endswith("-packages"):  # installed, by way of a .pth file
            continue
        others = [entry for entry in entries if entry != folder]
        hidden |= {
            module
            for name, file, module in modules
            if os.path.dirname(file).removesuffix(os.sep + name) == folder
            and (other := PathFinder.find_spec(name, others))
            and other.has_location
        }
    return hidden


def _of_code(names: Iterable[str]) -> Iterator[tuple[str, str, ModuleType]]:
    """Those of some modules that are Python code at the top of a folder, with their files.

    But for those of soma and of Python, which a worker has.
    """
    for name in names:
        if "." in name or name in _OF_A_WORKER or name.startswith("soma_"):
            continue
        module = sys.modules.get(name)
        file = getattr(module, "__file__", None)
        if module is not None and isinstance(file, str) and file.endswith(".py"):
            yield name, file, module


_OF_A_WORKER = sys.stdlib_module_names | {"__main__"}


def _installed() -> list[str]:
    paths = sysconfig.get_paths()
    return [
        *(paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")),
        os.path.join(paths["platstdlib"], "lib-dynload"),
        *site.getsitepackages(),
        site.getusersitepackages(),
    ]
