"""GET_GRADIENTS and APPLY_GRADIENTS: what training left on a node's parameters, as bytes."""

from __future__ import annotations

from typing import Any

from soma_core.engine.nodes import Node
from soma_core.engine.training import tensors
from soma_core.engine.training.states import invalid_state, read_weights
from soma_core.errors import ErrorCode, ProtocolError
from soma_core.wire.weights import dump_weights


def get_gradients(node: Node) -> bytes:
    """The gradients that a node's parameters hold, by name, in torch's format.

    Raises:
        ProtocolError: ``no_gradients``: there are none.
    """
    found = {
        name: _without_surroundings(parameter.grad)
        for name, parameter in tensors.named_parameters(node)
        if parameter.grad is not None
    }
    if not found:
        raise ProtocolError(
            ErrorCode.NO_GRADIENTS,
            f"node {node.node_id!r} holds no gradients: run COMPOSITE_FIT with y first, and note "
            "that a filter with an optimizer uses its gradients up in that step",
            node_id=node.node_id,
        )
    return dump_weights(found)


def get_batch(node: Node) -> bytes | None:
    """What one batch came to for a node, for :func:`apply_gradients` in every replica of it.

    By name, in torch's format: the gradient of each parameter that wants one, None where the
    batch gave it none, and what training made of each buffer. None if there is nothing of it.
    """
    found = {
        name: None if parameter.grad is None else _without_surroundings(parameter.grad)
        for name, parameter in tensors.named_parameters(node)
        if parameter.requires_grad
    }
    found |= tensors.named_buffers(node)
    return dump_weights(found) if found else None


def _without_surroundings(tensor: Any) -> Any:
    """The tensor; a copy if it is a part of something larger, which would be written with it.

    A sparse one becomes dense: where it is read, its indices would have to be trusted.
    """
    if tensor.is_sparse:
        return tensor.to_dense()
    alone = tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.nbytes
    return tensor if alone else tensor.clone()


def apply_gradients(node: Node, data: bytes, optimizer: Any = None) -> list[str]:
    """Set the gradients of a node's parameters, all or none, and step its optimizer.

    Args:
        node: The node.
        data: The gradients by parameter name, in torch's format; None for a parameter that has
            none. Values by the name of a buffer are the buffer's from then on.
        optimizer: Steps the node, and uses the gradients up, instead of the node's own.

    Returns:
        The names of what received a gradient or a value.

    Raises:
        ProtocolError: ``invalid_state``: the names, shapes or types are not those of the
            parameters.
    """
    parameters = dict(tensors.named_parameters(node))
    if not parameters:
        raise invalid_state(
            node, f"a {type(node.obj).__name__} has no parameters to apply gradients to"
        )
    gradients = read_weights(node, data)
    _check_gradients(node, parameters, gradients)
    for name in parameters.keys() & gradients.keys():
        parameter, gradient = parameters[name], gradients[name]
        wanted = {"device": parameter.device, "dtype": parameter.dtype}
        parameter.grad = None if gradient is None else gradient.to(**wanted)
    stepped = tensors.own_optimizer(node) if optimizer is None else optimizer
    if stepped is not None:
        node.call(stepped.step)
        if node.trained_jointly:  # what it learned is in its parameters now
            node.state = {}
    if optimizer is not None:
        node.call(optimizer.zero_grad)
    tensors.put(tensors.named_buffers(node), gradients)
    return [name for name, value in gradients.items() if value is not None]


def _check_gradients(node: Node, parameters: dict[str, Any], gradients: Any) -> None:
    if not isinstance(gradients, dict) or not all(isinstance(name, str) for name in gradients):
        raise invalid_state(node, "gradients are a dict of tensors by parameter name")
    if all(gradient is None for gradient in gradients.values()):
        raise invalid_state(node, "the gradients are empty")
    known = {**parameters, **tensors.named_buffers(node)}
    wanted = {name for name, parameter in parameters.items() if parameter.requires_grad}
    unknown, missing = gradients.keys() - known.keys(), wanted - gradients.keys()
    if unknown or missing:
        raise invalid_state(
            node,
            f"the gradients do not fit the parameters: unknown {sorted(unknown)}, "
            f"missing {sorted(missing)}; its parameters are {sorted(parameters)}",
        )
    for name, gradient in gradients.items():
        if gradient is None and name in parameters:
            continue
        if not tensors.is_tensor(gradient) or gradient.shape != known[name].shape:
            raise invalid_state(
                node,
                f"the gradient of {name} has shape {list(getattr(gradient, 'shape', []))}; "
                f"the parameter has {list(known[name].shape)}",
            )
        if _kind(gradient) != _kind(known[name]):
            raise invalid_state(
                node,
                f"the gradient of {name} has the type {gradient.dtype}; the parameter has "
                f"{known[name].dtype}",
            )


def _kind(tensor: Any) -> str:
    """What one type may be converted to: among real numbers, complex ones, or none of these."""
    if tensor.is_complex():
        return "complex"
    return "floating" if tensor.is_floating_point() else str(tensor.dtype)
