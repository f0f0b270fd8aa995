"""soma: machine-learning filters in processes of their own.

``__init__.pyi`` lists the public names. Each is imported when it is first used: a program that
may need soma pays when it does.
"""

import sys

if sys.platform == "win32":
    raise ImportError(
        "soma runs on Linux and macOS; under Windows, run this program in WSL, or let it write "
        "lines of JSON to a worker there: wsl python -m soma_transport_stdio"
    )

from lazy_loader import attach_stub

_load, __dir__, __all__ = attach_stub(__name__, __file__)


def __getattr__(name: str) -> object:
    if name == "__version__":
        from soma_core.protocol.versions import soma_version

        return soma_version()
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _load(name)
