"""Hints: which common mistake an exception of a filter looks like."""

from __future__ import annotations

import dis
import inspect
import re
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from soma_core.models.calling import accepts
from soma_core.wire.definitions.registry import registry


def hint_for_fit(fit: Callable[..., Any], y: Any, cause: BaseException) -> str:
    """What a failed ``fit`` looks like."""
    hint = _hint_for_any(cause)
    if hint:
        return hint
    if isinstance(cause, TypeError) and not accepts(fit, None, y):
        return "fit is called with x and y: define fit(self, x, y=None)"
    if y is None and "NoneType" in str(cause):
        return "fit was given no y: pass the targets beside the data, if it learns from them"
    return ""


def hint_for_forward(cause: BaseException, state: Any, unlearned: bool) -> str:
    """What a failed ``forward`` looks like."""
    hint = _hint_for_any(cause)
    if hint:
        return hint
    if not isinstance(cause, (LookupError, TypeError, AttributeError)) or _on_purpose(cause):
        return ""
    if hasattr(state, "fit_state"):
        return "its state is what get_state returned: pass fit_state of that, or call set_state"
    if unlearned and "fit" not in str(cause) and not _is_of_data(cause):
        return "it has not been fitted, so that its state is {}: call fit first, or pass a state"
    if state is None:
        return "its state is None: fit must return what forward needs, or pass a state"
    return ""


def hint_for_two_inputs(forward: Callable[..., Any], cause: BaseException) -> str:
    """What a failed ``forward`` looks like that was given ``{}`` as the state of no learner."""
    if not isinstance(cause, TypeError | AttributeError) or not re.search(r"\bdict\b", str(cause)):
        return ""
    try:
        _, second, *_ = inspect.signature(forward).parameters
    except (TypeError, ValueError):
        return ""
    if "state" in second or second.startswith("_"):
        return ""
    return f"{second} is the state, and that is {{}}: a filter has one input; send two as one dict"


def _is_of_data(cause: BaseException) -> bool:
    """Whether it says that some data lack an attribute, which no state would give them."""
    kinds = (str, bytes, int, float, list, tuple, np.ndarray)
    return isinstance(cause, AttributeError) and isinstance(getattr(cause, "obj", None), kinds)


def _hint_for_any(cause: BaseException) -> str:
    """What the failure of any method looks like."""
    if isinstance(cause, ModuleNotFoundError):
        return f"it is missing in the worker's Python, {sys.executable}: install it there"
    if isinstance(cause, EOFError) and "reading a line" in str(cause):  # of input()
        return "a worker has no standard input: ask in the host, and send the answer as data"
    if type(cause).__name__ == "BdbQuit" and registry.in_worker:
        return 'a worker has no terminal: connect with "inline" to stop in a filter'
    return ""


def _on_purpose(cause: BaseException) -> bool:
    """Whether a ``raise`` of the filter raised it, which knows best what it means."""
    last = cause.__traceback__
    if last is None:
        return True
    while last.tb_next is not None:
        last = last.tb_next
    return dis.opname[last.tb_frame.f_code.co_code[last.tb_lasti]].startswith(("RAISE", "RERAISE"))
