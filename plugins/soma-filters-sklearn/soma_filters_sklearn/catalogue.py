"""Catalogue: where scikit-learn keeps each estimator, known without importing it.

``catalogue.json`` is written by ``python -m soma_filters_sklearn.entry_points --catalogue``.
"""

from __future__ import annotations

import json
from pathlib import Path

FILE = Path(__file__).with_suffix(".json")
_WRITTEN = json.loads(FILE.read_text())

WRITTEN_FOR: str = _WRITTEN["release"]
"""The scikit-learn release whose estimators are listed."""

MODULES: dict[str, list[str]] = {
    module: names.split() for module, names in _WRITTEN["modules"].items()
}
"""The names of the estimators, by the public module that holds them."""

HOMES = {name: module for module, names in MODULES.items() for name in names}
"""The public module of each registered estimator."""
