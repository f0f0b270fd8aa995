"""The folders that this program imports modules from, beside what is installed."""

from __future__ import annotations

import os
import site
import sys
import sysconfig
from importlib.machinery import PathFinder
from types import ModuleType

__all__ = ["hidden_modules", "host_path"]


def host_path() -> list[str]:
    """The entries of ``sys.path`` that are neither of Python itself nor of what is installed."""
    installed = {os.path.abspath(entry) for entry in _installed()}
    entries = [os.path.abspath(entry) for entry in sys.path if isinstance(entry, str)]
    return [entry for entry in entries if entry not in installed and os.path.isdir(entry)]


def hidden_modules() -> set[ModuleType]:
    """The modules from there that a worker may not find: another folder has one of that name.

    A worker looks into what is installed first, so that they must travel whole.
    """
    entries = [os.path.abspath(entry) for entry in sys.path if isinstance(entry, str)]
    hidden = set()
    for folder in host_path():
        if os.path.basename(folder).endswith("-packages"):  # installed, by way of a .pth file
            continue
        others = [entry for entry in entries if entry != folder]
        hidden |= {
            module
            for module in _modules_in(folder)
            if (other := PathFinder.find_spec(module.__name__, others)) and other.has_location
        }
    return hidden


def _modules_in(folder: str) -> list[ModuleType]:
    """The modules of Python code at the top of a folder that were imported.

    But for those of soma and of Python, which a worker has.
    """
    return [
        module
        for name, module in list(sys.modules.items())
        if "." not in name
        and name not in sys.stdlib_module_names | {"__main__"}
        and not name.startswith("soma_")
        and isinstance(file := getattr(module, "__file__", None), str)
        and os.path.dirname(file).removesuffix(os.sep + name) == folder
        and file.endswith(".py")
    ]


def _installed() -> list[str]:
    paths = sysconfig.get_paths()
    stdlib = [
        paths["stdlib"],
        paths["platstdlib"],
        os.path.join(paths["platstdlib"], "lib-dynload"),
    ]
    return [
        *stdlib,
        paths["purelib"],
        paths["platlib"],
        *site.getsitepackages(),
        site.getusersitepackages(),
    ]
