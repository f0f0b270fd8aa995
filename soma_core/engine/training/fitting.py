"""COMPOSITE_FIT and PARTIAL_FIT: fitting a chain, or one node, on one batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from soma_core.engine.nodes import Node
from soma_core.engine.training.beginning import has_learned, learning_nothing_by_half, remember
from soma_core.engine.training.chain import Chain, Fit
from soma_core.engine.training.joint import train_step
from soma_core.errors import ErrorCode, ProtocolError
from soma_core.models import rows

if TYPE_CHECKING:
    import torch


def fit_once(
    chain: Chain, x: Any, y: Any, optimizer: torch.optim.Optimizer | None = None
) -> tuple[Any, dict[str, Any], float | None]:
    """Fit the nodes one by one, then train the differentiable ones together on one batch.

    Without targets, nothing is trained by gradients.

    Returns:
        The output, the states of the nodes that were fitted apart, and the loss or None.
    """
    remember(chain.nodes)
    with learning_nothing_by_half(chain.nodes):
        return fit_and_train(chain, x, y, fit_anew, optimizer)


def partial_fit_once(node: Node, x: Any, y: Any) -> float | None:
    """Let one node go on from what it learned, on one batch.

    By its ``partial_fit(x, y, state)``, or by one step of training if it is differentiable.

    Returns:
        The loss of a step of training, else None.

    Raises:
        FilterFailed: The user's code raised.
        ProtocolError: ``filter_failed``: it can do neither, or needs targets for it.
    """
    remember([node])
    with learning_nothing_by_half([node]):
        return _partial_fit(node, x, y)


def _partial_fit(node: Node, x: Any, y: Any) -> float | None:
    if callable(getattr(node.obj, "partial_fit", None)):
        go_on(node, x, y, {})
        return None
    if not node.differentiable:
        raise _cannot_go_on(node)
    if y is None:
        raise ProtocolError(
            ErrorCode.INVALID_COMMAND,
            f"y: node {node.node_id!r} is trained by gradients, which needs targets",
            node_id=node.node_id,
        )
    return train_step(Chain([node]), x, y)[1]


def _cannot_go_on(node: Node) -> ProtocolError:
    return ProtocolError(
        ErrorCode.FILTER_FAILED,
        f"node {node.node_id!r} is a {type(node.obj).__name__}, which cannot go on from what it "
        "learned: it has no partial_fit(x, y, state) and no parameters to train; use fit",
        node_id=node.node_id,
        remote_type="AttributeError",
    )


def fit_and_train(
    chain: Chain, x: Any, y: Any, fit: Fit, optimizer: torch.optim.Optimizer | None
) -> tuple[Any, dict[str, Any], float | None]:
    """As :func:`fit_once`, with another way to fit a node."""
    states, out = chain.fit_each(x, y, fit)
    if not chain.differentiable or y is None:
        return out, states, None
    out, loss = train_step(chain, x, y, optimizer)
    return out, states, loss


def fit_anew(node: Node, x: Any, y: Any, lengths: dict[str, int]) -> Any:
    """Fit a node on these rows alone."""
    return node.fit(x, y, lengths)


def go_on(node: Node, x: Any, y: Any, lengths: dict[str, int], all_targets: Any = None) -> Any:
    """Call ``partial_fit`` with the state that a node learned; the first time, with what its
    ``initial_state(y)`` makes of all targets, if it has that method.

    Args:
        node: It has a ``partial_fit``.
        x: The rows.
        y: Their targets.
        lengths: Lengths of named axes.
        all_targets: Those of all batches; None if they are not known.
    """
    state = node.state
    begin = getattr(node.obj, "initial_state", None)
    if not has_learned(node) and callable(begin):
        targets = y if all_targets is None else rows.take(all_targets, slice(None))
        state = node.call(begin, targets)
    return node.partial_fit(x, y, state, lengths)


def learns_on(node: Node) -> bool:
    """Whether a node can go on from what it learned."""
    return node.differentiable or callable(getattr(node.obj, "partial_fit", None))
