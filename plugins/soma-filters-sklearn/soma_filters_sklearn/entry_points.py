"""Entry points: the names that this distribution registers, derived from scikit-learn itself.

::

    python -m soma_filters_sklearn.entry_points              # the table for pyproject.toml
    python -m soma_filters_sklearn.entry_points --catalogue  # catalogue.json
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from typing import Any

_ANY = '"sklearn.Estimator" = "soma_filters_sklearn.any_estimator:Estimator"'

LEFT_OUT = {
    "FrozenEstimator": (
        "its one parameter is a fitted estimator, and a configuration is plain data; load that "
        "estimator by its own name, with its state, or hand the fitted object to `filters=`"
    ),
    "SpectralBiclustering": (
        "it orders the rows and columns of one matrix and answers nothing about other data"
    ),
    "SpectralCoclustering": (
        "it orders the rows and columns of one matrix and answers nothing about other data"
    ),
}
"""The estimators that are no filters, and why."""

_EXPERIMENTAL = {"HalvingGridSearchCV", "HalvingRandomSearchCV", "IterativeImputer"}
"""What scikit-learn lists in a process where somebody has imported ``sklearn.experimental``."""


def find_estimators() -> dict[str, list[str]]:
    """The estimators of the installed scikit-learn that are filters, by public module."""
    found: dict[str, list[str]] = {}
    for name, estimator_class in list_estimators():
        if name not in LEFT_OUT:
            found.setdefault(_public_module(estimator_class), []).append(name)
    return {module: sorted(found[module]) for module in sorted(found)}


def list_estimators() -> list[tuple[str, Any]]:
    """All that scikit-learn lists, by name, but what is experimental."""
    from sklearn.utils import all_estimators

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # looking at everything, one meets what is deprecated
        return [found for found in all_estimators() if found[0] not in _EXPERIMENTAL]


def render_table(estimators: dict[str, list[str]]) -> str:
    """The ``[project.entry-points."soma.filters"]`` table of ``pyproject.toml``."""
    names = sorted(name for names in estimators.values() for name in names)
    rows = [f'"sklearn.{name}" = "soma_filters_sklearn.estimators:{name}"' for name in names]
    rows.append(_ANY)
    return "\n".join(['[project.entry-points."soma.filters"]', *rows]) + "\n"


def render_catalogue(estimators: dict[str, list[str]]) -> str:
    """The content of ``catalogue.json``."""
    modules = {module: " ".join(names) for module, names in estimators.items()}
    return json.dumps({"release": _installed_release(), "modules": modules}, indent=2) + "\n"


def _public_module(estimator_class: Any) -> str:
    """``sklearn.linear_model`` for a class defined in ``sklearn.linear_model._glm.glm``."""
    public = []
    for part in estimator_class.__module__.split("."):
        if part.startswith("_"):
            break
        public.append(part)
    return ".".join(public)


def _installed_release() -> str:
    import sklearn

    return ".".join(sklearn.__version__.split(".")[:2])


def main() -> None:
    """Print what belongs in ``pyproject.toml``, or in ``catalogue.json``."""
    parser = argparse.ArgumentParser(prog="soma_filters_sklearn.entry_points")
    parser.add_argument("--catalogue", action="store_true", help="print catalogue.json instead")
    render = render_catalogue if parser.parse_args().catalogue else render_table
    sys.stdout.write(render(find_estimators()))


if __name__ == "__main__":
    main()
