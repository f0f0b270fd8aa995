"""The joint training step: one forward, one loss, one backward through a whole chain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from soma_core.engine.nodes import Node
from soma_core.engine.training import tensors
from soma_core.engine.training.chain import Chain, Watch
from soma_core.errors import ErrorCode, ProtocolError

if TYPE_CHECKING:
    import torch


def train_step(
    chain: Chain, x: Any, y: Any, optimizer: torch.optim.Optimizer | None = None
) -> tuple[Any, float]:
    """Train the differentiable nodes of a chain on one batch.

    Gradients are cleared first. Trainable nodes that own an ``optimizer`` step it and clear them
    again; the others keep them, for GET_GRADIENTS. An optimizer of the whole chain takes the place
    of those that nodes own.

    Args:
        chain: At least one of its nodes is differentiable.
        x: The data, as it was sent.
        y: The targets; lists and floating arrays take the output's type.
        optimizer: Steps the whole chain; None leaves it to the nodes' own.

    Returns:
        The output before the step, and the loss.

    Raises:
        FilterFailed: The user's code raised, or backward did.
        ProtocolError: ``filter_failed``: the output is not a tensor, its shape is not the
            target's, or gradients cannot reach a node that has parameters.
    """
    out, loss = compute_gradients(chain, x, y)
    if optimizer is not None:
        chain.nodes[-1].call(_step, optimizer)
    else:
        for node, own in chain.optimizers():
            node.call(_step, own)
    chain.drop_states()  # what was learned is in the parameters now
    return out, loss


def compute_gradients(chain: Chain, x: Any, y: Any) -> tuple[Any, float]:
    """Leave in the parameters of a chain the gradients of one batch, and nothing else changed.

    Arguments, result and errors are those of :func:`train_step`.
    """
    import torch

    for parameter in chain.parameters():
        parameter.grad = None
    flow = _Flow(chain).watch if len(chain.nodes) > 1 else None
    if torch.is_grad_enabled():  # as nearly always: to enable it again takes a while
        out, loss = _run(chain, x, y, flow)
    else:
        with torch.enable_grad():
            out, loss = _run(chain, x, y, flow)
    if loss.requires_grad:
        chain.nodes[-1].call(loss.backward)
    else:
        _refuse_constant(chain)
    is_several = isinstance(out, dict | list | tuple)
    plain = tensors.all_detached(out) if is_several else out.detach()
    return plain, float(loss.item())


def compute_loss(chain: Chain, x: Any, y: Any) -> tuple[Any, float]:
    """The output and the loss of a chain that is not trained now: on validation data.

    Call it where autograd is off. Arguments, result and errors are those of :func:`train_step`.
    """
    out, loss = _run(chain, x, y, None, raw=True)
    return out, float(loss.item())


def _run(
    chain: Chain, x: Any, y: Any, watch: Watch | None, *, raw: bool = False
) -> tuple[Any, torch.Tensor]:
    out, aux = _split(chain.run(x, {}, watch, raw=raw))
    last = chain.nodes[-1]
    first = out if tensors.is_tensor(out) else next(tensors.within(out), None)
    if first is None or (first is not out and not callable(_own_loss(last))):
        raise _failed(
            last,
            f"the chain returned a {type(out).__name__}; training needs a tensor, or a dict, list "
            "or tuple of tensors of which compute_loss(out, y) of the last filter makes a loss",
        )
    if not first.numel():
        raise _failed(
            last, f"there is nothing to learn from: the output has shape {list(first.shape)}"
        )
    return out, _loss(last, out, tensors.to_tensors(y, first.dtype, first.device), aux)


def _own_loss(last: Node) -> Any:
    return getattr(last.obj, "compute_loss", None) or getattr(last.obj, "loss_fn", None)


class MeanLoss:
    """The mean over the rows of an epoch so far: a short last batch counts for what it holds."""

    def __init__(self) -> None:
        self._sum, self._rows = 0.0, 0

    def add(self, loss: float, rows: int) -> None:
        """Count the loss of a batch; data without rows counts as one."""
        rows = rows or 1
        self._sum += rows * loss
        self._rows += rows

    @property
    def value(self) -> float | None:
        """None where no batch had a loss."""
        return self._sum / self._rows if self._rows else None


def _split(result: Any) -> tuple[Any, tuple[Any, ...]]:
    """A filter may return ``(out, aux)``; the loss receives what stands beside the output."""
    if isinstance(result, tuple) and len(result) == 2:
        return result[0], (result[1],)
    return result, ()


def _loss(last: Node, out: Any, y: Any, aux: tuple[Any, ...]) -> torch.Tensor:
    if callable(compute_loss := getattr(last.obj, "compute_loss", None)):
        loss = last.call(compute_loss, out, y, *aux)
    elif callable(loss_fn := getattr(last.obj, "loss_fn", None)):
        loss = last.call(loss_fn, out, y)
    else:
        loss = _mean_squared_error(last, out, y)
    if not tensors.is_tensor(loss) or loss.numel() != 1:
        raise _failed(last, "the loss is not a tensor of one number")
    return loss  # type: ignore[no-any-return]


def _mean_squared_error(last: Node, out: torch.Tensor, y: Any) -> torch.Tensor:
    import torch

    if not tensors.is_tensor(y) or y.shape != out.shape:
        came = list(y.shape) if tensors.is_tensor(y) else type(y).__name__
        raise _failed(
            last,
            f"the output has shape {list(out.shape)} and the target {came}; the mean squared error "
            "needs equal shapes (or define compute_loss(out, y) on the last filter)",
        )
    return torch.nn.functional.mse_loss(out, y)


def _step(optimizer: torch.optim.Optimizer) -> None:
    optimizer.step()
    optimizer.zero_grad()


class _Flow:
    """Follows gradients through a chain of several nodes, to name the one that stops them."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._before: list[Node] = []

    def watch(self, node: Node, x: Any, out: Any) -> None:
        """Note what came of a node's input.

        Raises:
            ProtocolError: ``filter_failed``: the node cuts parameters before it off.
        """
        cut_off = [] if self._flows_in(out) else list(filter(self._learns, self._before))
        if cut_off:
            names = ", ".join(repr(before.node_id) for before in cut_off)
            raise _failed(
                node,
                f"node {node.node_id!r} stops the gradients: its output does not depend on its "
                f"input for autograd, so that {names} cannot be trained",
            )
        self._before.append(node)

    def _flows_in(self, out: Any) -> bool:
        return any(tensor.requires_grad for tensor in tensors.within(_split(out)[0]))

    def _learns(self, node: Node) -> bool:
        return any(parameter.requires_grad for parameter in self._chain.parameters_of(node))


def _refuse_constant(chain: Chain) -> None:
    """Make sure that nothing could have been trained by a loss without gradients.

    Raises:
        ProtocolError: ``filter_failed``: the chain has parameters that want gradients.
    """
    if any(parameter.requires_grad for parameter in chain.parameters()):
        raise _failed(chain.nodes[-1], "the loss does not depend on any parameter of the chain")


def _failed(node: Node, message: str) -> ProtocolError:
    return ProtocolError(
        ErrorCode.FILTER_FAILED, message, node_id=node.node_id, remote_type="ValueError"
    )
