"""Beginning anew: what training changes in a node, kept, and put back."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from soma_core.engine.nodes import Node
from soma_core.engine.training import tensors

Undo = Callable[[], None]


def remember(nodes: Iterable[Node]) -> None:
    """Keep what nodes were loaded with, once, before anything changes it.

    Only what learns inside of its object needs that: what has parameters. The copy is on the CPU.
    """
    for node in nodes:
        if node.as_loaded is None and node.trainable and node.differentiable:
            node.as_loaded = _capture(node)


def begin_anew(nodes: Iterable[Node], *, networks: bool = True) -> Undo:
    """Make trainable nodes forget what they learned.

    Args:
        nodes: Those that are not trainable stay as they are.
        networks: Whether those that learn by their parameters forget that, too.

    Returns:
        Undoes it.
    """
    with ExitStack() as undo:  # what a filter raises leaves all of them as they were
        for node in nodes:
            if node.trainable and (networks or node.fitted_apart):
                undo.callback(_forget(node, parameters=networks))
        return undo.pop_all().close


def _forget(node: Node, *, parameters: bool) -> Undo:
    state, inside = node.state, node.learned_inside
    put_back = None
    if parameters and node.as_loaded is not None:
        put_back = _capture(node)
        node.as_loaded()
    node.forget()

    def undo() -> None:
        node.state, node.learned_inside = state, inside
        if put_back is not None:
            put_back()

    return undo


@contextmanager
def learning_nothing_by_half(nodes: Iterable[Node]) -> Iterator[None]:
    """What fails within the block leaves nodes with the states that they had before.

    So it does their buffers, such as the statistics of batch normalization, which a forward
    changes. Parameters change last, in the step of an optimizer.
    """
    before = [(node, node.state, node.learned_inside) for node in nodes]
    put_back = [keep_buffers(node) for node, _, _ in before if node.differentiable]
    try:
        yield
    except BaseException:
        for node, state, inside in before:
            node.state, node.learned_inside = state, inside
        for put in put_back:
            put()
        raise


def has_learned(node: Node) -> bool:
    """Whether a node holds a state that is not empty, or learned inside of its object."""
    if node.learned_inside:
        return True
    return node.state is not None and not (isinstance(node.state, dict) and not node.state)


def _capture(node: Node) -> Undo:
    """What training changes in a node's object; calling the result puts it back.

    Parameters and buffers, the optimizer and schedulers of the object, and what it names in its
    ``training_state()``, such as where its random numbers stand.
    """
    put_weights = capture_weights(node)
    steppers = [copy.deepcopy(node.call(part.state_dict)) for part in _steppers(node)]
    own = _own_state(node)

    def put_back() -> None:
        put_weights()
        for part, content in zip(_steppers(node), steppers, strict=False):
            node.call(part.load_state_dict, copy.deepcopy(content))
        if own is not None:
            node.call(node.obj.load_training_state, copy.deepcopy(own))

    return put_back


def keep_buffers(node: Node) -> Undo:
    """The buffers of a node, where they are; calling the result puts them back."""
    return tensors.kept(lambda: tensors.named_buffers(node))


def capture_weights(node: Node) -> Undo:
    """The parameters and buffers of a node; calling the result puts them back, by name."""
    return tensors.kept(lambda: _weights(node), "cpu")


def _weights(node: Node) -> dict[str, Any]:
    return dict(tensors.labelled_parameters(node)) | tensors.named_buffers(node)


def _steppers(node: Node) -> Iterator[Any]:
    """The optimizer and the schedulers that a node owns."""
    for part in [tensors.own_optimizer(node), *tensors.schedulers(node)]:
        if callable(getattr(part, "load_state_dict", None)):
            yield part


def _own_state(node: Node) -> Any:
    ask = getattr(node.obj, "training_state", None)
    put = getattr(node.obj, "load_training_state", None)
    return copy.deepcopy(node.call(ask)) if callable(ask) and callable(put) else None
