"""The folders that this program imports modules from, beside what is installed."""

from __future__ import annotations

import os
import site
import sys
import sysconfig

__all__ = ["host_path"]


def host_path() -> list[str]:
    """The entries of ``sys.path`` that are neither of Python itself nor of what is installed."""
    installed = {os.path.abspath(entry) for entry in _installed()}
    entries = [os.path.abspath(entry) for entry in sys.path if isinstance(entry, str)]
    return [entry for entry in entries if entry not in installed and os.path.isdir(entry)]


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
