"""What training needs beyond parameters to go on as if it had never stopped, as bytes.

Optimizers, schedulers and random numbers are plain data and tensors: in torch's format where the
worker uses torch, read by its reader of weights, else as typed values. No pickle is ever run.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from soma_core.engine.nodes import Node
from soma_core.engine.training import tensors
from soma_core.engine.training.moments import load_optimizer_state
from soma_core.engine.training.optimizers import Optimizers
from soma_core.engine.training.states import invalid_state
from soma_core.errors import ProtocolError
from soma_core.wire.json_text import read_json, write_json
from soma_core.wire.line_codec import LineDecoder, LineEncoder
from soma_core.wire.pickles import Pickles
from soma_core.wire.weights import dump_weights, load_weights

_TYPED_ONLY = Pickles(allowed=False)
_WORDS = 624  # of numpy's generator
_FIELDS = {"optimizer", "schedulers", "named", "own", "random"}


def get_training(node: Node, optimizers: Optimizers) -> bytes:
    """The optimizer and schedulers of a node, and the random numbers of this process.

    Schedulers are the attribute ``scheduler`` or the list ``schedulers`` of the object. An object
    that keeps more (random numbers of its own) has ``training_state()``, which returns plain data
    and tensors, and ``load_training_state(state)``.

    Raises:
        ProtocolError: ``invalid_state``: it is more than plain data and tensors.
        FilterFailed: The user's code raised.
    """
    own = getattr(node.obj, "training_state", None)
    optimizer = tensors.own_optimizer(node)
    content = {
        "optimizer": None if optimizer is None else node.call(optimizer.state_dict),
        "schedulers": [node.call(scheduler.state_dict) for scheduler in tensors.schedulers(node)],
        "named": optimizers.saved(node.node_id),
        "own": node.call(own) if callable(own) else None,
        "random": _random_numbers(),
    }
    try:
        plain = _plain(content)
        if "torch" in sys.modules:
            return dump_weights(plain)
        return write_json(LineEncoder(pickles=_TYPED_ONLY).encode(plain))
    except ProtocolError as error:
        raise invalid_state(node, f"its training state is more than plain data: {error}") from None


def set_training(node: Node, data: bytes, optimizers: Optimizers) -> None:
    """Put back what :func:`get_training` returned.

    Raises:
        ProtocolError: ``invalid_state``: it does not fit the node, which is left as it was.
    """
    content = _read(node, data)
    before = get_training(node, optimizers)
    try:
        _put(node, content, optimizers)
    except BaseException as error:  # torch's readers and the filter's own may raise anything
        _put(node, _read(node, before), optimizers)
        if not isinstance(error, Exception):
            raise
        raise invalid_state(node, f"the training state does not fit: {error}") from None


def _put(node: Node, content: Mapping[str, Any], optimizers: Optimizers) -> None:
    optimizer = tensors.own_optimizer(node)
    schedulers = tensors.schedulers(node)
    _require(optimizer is None, content["optimizer"] is None, "an optimizer")
    _require(len(schedulers), len(content["schedulers"]), "schedulers")
    if optimizer is not None:
        load_optimizer_state(optimizer, content["optimizer"])
    for scheduler, state in zip(schedulers, content["schedulers"], strict=True):
        _check_fields(scheduler, state)
        scheduler.load_state_dict(_like(scheduler, state))
    load = getattr(node.obj, "load_training_state", None)
    if callable(load) and content["own"] is not None:
        load(content["own"])
    optimizers.put(node.node_id, content["named"])
    _put_random_numbers(content["random"])


def _require(here: object, came: object, what: str) -> None:
    if here != came:
        raise ValueError(f"the node and the state do not have the same: {what}")


def _check_fields(scheduler: Any, state: Any) -> None:
    """A scheduler takes whatever attributes a state has."""
    foreign = sorted(state.keys() - scheduler.state_dict().keys())
    if foreign:
        raise ValueError(f"a {type(scheduler).__name__} has no {', '.join(map(str, foreign))}")


def _like(scheduler: Any, state: Mapping[str, Any]) -> dict[str, Any]:
    """A scheduler's state with counters where the scheduler has counters."""
    return {
        key: Counter(item) if isinstance(getattr(scheduler, key, None), Counter) else item
        for key, item in state.items()
    }


def _random_numbers() -> dict[str, Any]:
    """As bytes: a state of training would else hold six thousand numbers of them."""
    version, internal, gauss = random.getstate()
    name, key, *rest = np.random.get_state(legacy=True)
    content: dict[str, Any] = {
        "python": (version, np.array(internal, np.uint32).tobytes(), gauss),
        "numpy": (name, np.asarray(key, np.uint32).tobytes(), *rest),
        "torch": None,
        "cuda": [],
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        content["torch"] = torch.get_rng_state().numpy().tobytes()
        content["cuda"] = [state.numpy().tobytes() for state in _cuda_states(torch)]
    return content


def _cuda_states(torch: Any) -> list[Any]:
    started: Callable[[], bool] = torch.cuda.is_initialized
    return list(torch.cuda.get_rng_state_all()) if started() else []


def _put_random_numbers(content: Mapping[str, Any]) -> None:
    version, internal, gauss = content["python"]
    random.setstate((version, tuple(_numbers(internal, np.uint32).tolist()), gauss))
    name, key, position, has_gauss, cached = content["numpy"]
    words = _numbers(key, np.uint32)
    if not (0 <= position <= _WORDS == len(words)):  # numpy reads there without a look
        raise ValueError(f"random numbers of {len(words)} words cannot stand at {position}")
    np.random.set_state((name, words, position, has_gauss, cached))
    if content["torch"] is None:
        return
    import torch

    torch.set_rng_state(torch.from_numpy(_numbers(content["torch"], np.uint8)))
    if content["cuda"] and torch.cuda.device_count() == len(content["cuda"]):
        states = [torch.from_numpy(_numbers(state, np.uint8)) for state in content["cuda"]]
        torch.cuda.set_rng_state_all(states)


def _numbers(value: Any, dtype: type[np.generic]) -> np.ndarray[Any, Any]:
    """An array of its own; lists are what earlier versions wrote."""
    return np.frombuffer(value, dtype).copy() if type(value) is bytes else np.array(value, dtype)


def _plain(value: Any) -> Any:
    """Plain data of the builtin types: numpy's numbers and subclasses of dict among it."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        kind = tuple if type(value) is tuple else list
        return kind(map(_plain, value))
    return value.item() if isinstance(value, np.generic) else value


def _read(node: Node, data: bytes) -> dict[str, Any]:
    try:
        if bytes(data[:1]) == b"{":
            content = LineDecoder(pickles=_TYPED_ONLY).decode(read_json(bytes(data)))
        else:
            content = load_weights(data)
    except (ProtocolError, ValueError) as error:
        raise invalid_state(node, f"the training state cannot be read: {error}") from None
    if not isinstance(content, dict) or content.keys() != _FIELDS:
        raise invalid_state(node, f"a training state has the fields {sorted(_FIELDS)}")
    if not isinstance(content["schedulers"], list) or not _are_of_chains(content["named"]):
        raise invalid_state(node, "schedulers are a list, and so is named, of chain and moments")
    return content


def _are_of_chains(named: Any) -> bool:
    """Whether it is what optimizers save; of each row of a tensor torch would make another one."""
    return isinstance(named, list) and all(
        isinstance(item, dict)
        and isinstance(item.get("chain"), list)
        and isinstance(item.get("moments"), dict)
        for item in named
    )
