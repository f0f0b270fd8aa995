"""For suites: conformance kits, faults to inject, mutated messages, and a watch on what is left.

Nothing here is needed to use soma. A transport or plugin author uses it to show that an
implementation keeps soma's promises; soma's own suites and ``benchmarks.faults`` use the same.

``__init__.pyi`` lists the names. Each is imported when it is first used: only the conformance
suites need pytest.
"""

import sys
from importlib import import_module
from importlib.util import find_spec

from lazy_loader import attach_stub

_ASSERTING = tuple(
    f"{__name__}.{module}" for module in ("filter_suite", "suite", "transports", "wire")
)

_load, __dir__, __all__ = attach_stub(__name__, __file__)


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name.endswith("Conformance"):
        _rewrite_assertions()
    return _load(name)


def _rewrite_assertions() -> None:
    """Let pytest rewrite the assertions of the suites, so that failures show what they compared."""
    if find_spec("pytest") is None:
        raise ModuleNotFoundError("the conformance suites need pytest: pip install pytest")
    fresh = [name for name in _ASSERTING if name not in sys.modules]  # others it warns about
    import_module("pytest").register_assert_rewrite(*fresh)
