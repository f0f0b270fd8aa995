"""Classes: those that a configuration may name, found by their paths.

A path is a registered name (``"sklearn.PCA"``) or the import path of a class: of an estimator,
whoever wrote it, or of scikit-learn's kernels, splitters and column selectors.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

from soma_core.configuration import check_import
from soma_filters_sklearn.catalogue import HOMES, MODULES

_CONFIGURES = frozenset(
    {
        "sklearn.compose._column_transformer.make_column_selector",
        "sklearn.gaussian_process.kernels.Kernel",
        "sklearn.model_selection._split.BaseCrossValidator",
        "sklearn.model_selection._split.BaseShuffleSplit",
        "sklearn.model_selection._split._RepeatedSplits",
    }
)  # by name, since importing them all takes longer than most filters need
_MODULES = (*MODULES, "sklearn.gaussian_process.kernels")


def class_at(path: str) -> Any:
    """The class at an import path or of a registered name.

    Raises:
        ValueError: It does not import, or is none that may be configured.
    """
    module, _, name = _full_path(path).rpartition(".")
    check_import(module, own=_MODULES)
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{path!r} does not import ({type(error).__name__}: {error}); give the path of a class "
            "that this worker can import, as in 'sklearn.svm.SVC'"
        ) from error
    if not isinstance(found, type) or not may_be_built(found):
        raise ValueError(
            f"{path!r} is no estimator: it has to be a class with get_params, set_params and fit, "
            "or one of scikit-learn's kernels, splitters and column selectors"
        )
    if not _is_listed(found):
        check_import(found.__module__, own=())
    return found


def class_or_none(path: str) -> Any:
    """The class at a path, of a module that is imported; None if there is none."""
    module, _, name = _full_path(path).rpartition(".")
    return getattr(sys.modules.get(module), name, None)


def is_registered(path: str) -> bool:
    """Whether a path is the registered name of an estimator."""
    return path.startswith("sklearn.") and path.removeprefix("sklearn.") in HOMES


def may_be_built(kind: type) -> bool:
    """Whether objects of a class may be made from a configuration."""
    if all(callable(getattr(kind, name, None)) for name in ("get_params", "set_params", "fit")):
        return True
    return any(_path(base) in _CONFIGURES for base in kind.__mro__)


def _is_listed(kind: type) -> bool:
    """Whether a class is one of scikit-learn's that do nothing but compute."""
    if kind.__module__.partition(".")[0] != "sklearn":
        return False
    home = HOMES.get(kind.__name__)
    named = home is not None and getattr(importlib.import_module(home), kind.__name__) is kind
    return named or any(_path(base) in _CONFIGURES for base in kind.__mro__)


def _path(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _full_path(path: str) -> str:
    name = path.removeprefix("sklearn.")
    return f"{HOMES[name]}.{name}" if is_registered(path) else path
