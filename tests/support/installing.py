"""Distributions that nobody has built, as an installer leaves them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from . import ROOT

__all__ = ["install", "python_path"]


def install(
    site: Path,
    name: str,
    entry_points: Mapping[str, Mapping[str, str]],
    modules: Mapping[str, str] | None = None,
) -> None:
    """Make version 1.0 of a distribution appear in a directory of the module search path.

    Args:
        site: The directory.
        name: The distribution's.
        entry_points: What each name leads to, by group.
        modules: The code of its modules, by name.
    """
    info = site / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = [
        line
        for group, targets in entry_points.items()
        for line in (f"[{group}]", *(f"{point} = {target}" for point, target in targets.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    for module, code in (modules or {}).items():
        (site / f"{module}.py").write_text(code)


def python_path(*directories: Path) -> str:
    """The ``PYTHONPATH`` of whoever finds modules in directories, and soma in this repository."""
    return os.pathsep.join(map(str, (*directories, ROOT)))
