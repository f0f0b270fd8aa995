"""Thread budgets: how many threads the numerical libraries of a worker may start."""

from __future__ import annotations

import os

_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)


def thread_limits(threads: int | None) -> dict[str, str]:
    """The environment that limits numerical libraries, which read it once: when imported.

    Args:
        threads: How many each library may start; None limits nothing.
    """
    return {} if threads is None else dict.fromkeys(_VARIABLES, str(threads))


def available_cores() -> int:
    """How many cores this process may use, which may be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
