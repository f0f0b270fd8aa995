"""What a configuration names: which modules may be imported, and whether files may be read."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_limit: ContextVar[tuple[str, ...] | None] = ContextVar("modules_to_import", default=None)


@contextmanager
def limit_imports(allowed: Iterable[str]) -> Iterator[None]:
    """Within the block, :func:`check_import` lets only some modules through.

    The engine makes and configures filters in such a block where it refuses pickles: the host
    then may run no code of its choice, and a configuration is its choice.

    Args:
        allowed: Modules that the operator of the worker allowed, each with all below it.
    """
    token = _limit.set(tuple(allowed))
    try:
        yield
    finally:
        _limit.reset(token)


def are_imports_limited() -> bool:
    """Whether a configuration is being taken from a host that may send no pickles.

    A filter asks this while it validates its configuration, to refuse what would read files or run
    code for such a host.
    """
    return _limit.get() is not None


def check_import(module: str, *, own: Iterable[str]) -> None:
    """Refuse to import a module of this name, unless it is known to be harmless.

    A filter whose configuration names modules, classes or functions calls this while it validates
    that configuration, for every name in it, before anything is imported::

        @field_validator("estimator")
        @classmethod
        def _check_path(cls, path: str) -> str:
            check_import(path.rpartition(".")[0], own=["sklearn"])
            return path

    Later is too late to be refused: the engine limits imports while a configuration is taken
    (LOAD, SET_STATE), not while the filter runs. Where the host may send pickles, everything may
    be imported, and this does nothing.

    Args:
        module: The whole name of the module: ``"torch.nn"``.
        own: Modules that this filter always allows, each with all below it.

    Raises:
        ValueError: It is neither among these nor among those that the operator allowed.
    """
    limit = _limit.get()
    if limit is None:
        return
    allowed = [*own, *limit]
    if not any(module == name or module.startswith(f"{name}.") for name in allowed):
        raise ValueError(
            f"the module {module!r} is not imported for a host that may send no pickles; allowed: "
            f"{', '.join(allowed) or 'none'}. Whoever runs the worker may allow more: "
            "allow_modules=[…] of soma.connect, --allow-module of soma serve, or "
            "SOMA_ALLOW_MODULES in its environment"
        )


def check_file(path: str) -> None:
    """Refuse to read a file that a configuration names, where the operator of this process says so.

    A filter whose configuration names files, folders or downloads calls this before it opens one,
    as a rule in ``on_load``. Only the environment of the process counts:
    ``SOMA_FILTER_FILES=never``, which workers of ``soma serve http`` have.

    Args:
        path: What the configuration names.

    Raises:
        ValueError: No file may be read.
    """
    if os.environ.get("SOMA_FILTER_FILES") == "never":
        raise ValueError(
            f"{path!r} is not read: in this worker a configuration names no files "
            "(SOMA_FILTER_FILES=never in its environment; whoever runs soma serve http allows them "
            "by filter_files = true in [workers]). Send the content instead"
        )
