"""The lowest versions that distributions promise, as constraints for pip.

``python -m tools.lowest`` takes the folders of the distributions. ``make lowest`` installs these
versions and runs tests.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

__all__ = ["constraints", "main"]

_OURS = "soma-"


def constraints(*folders: Path) -> list[str]:
    """``name==version`` of each dependency that has a lower bound, the highest of several.

    Args:
        folders: Where the ``pyproject.toml`` of each distribution is.
    """
    lowest: dict[str, Version] = {}
    for folder in folders:
        project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
        for requirement in map(Requirement, project["dependencies"]):
            if requirement.name.startswith(_OURS):
                continue
            bounds = [Version(one.version) for one in requirement.specifier if one.operator == ">="]
            known = lowest.get(requirement.name)
            lowest[requirement.name] = max([*bounds, *([known] if known else [])])
    return [f"{name}=={version}" for name, version in sorted(lowest.items())]


def main() -> None:
    """Print the constraints of the folders that are the arguments."""
    sys.stdout.write("\n".join([*constraints(*map(Path, sys.argv[1:])), ""]))


if __name__ == "__main__":
    main()
