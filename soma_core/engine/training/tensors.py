"""What the engine needs of torch, which is imported only where a node is differentiable."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from soma_core.engine.nodes import Node

if TYPE_CHECKING:
    import torch


def is_tensor(value: object) -> bool:
    """Whether it is a torch tensor; never imports torch."""
    module = sys.modules.get("torch")
    return module is not None and isinstance(value, module.Tensor)


def named_parameters(node: Node) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """A node's parameters by name; none if it has none."""
    listed = getattr(node.obj, "named_parameters", None)
    return iter(listed()) if callable(listed) else iter(())


def named_buffers(node: Node) -> dict[str, torch.Tensor]:
    """A node's buffers by name: what training may change beside its parameters."""
    listed = getattr(node.obj, "named_buffers", None)
    return dict(listed()) if callable(listed) else {}


def labelled_parameters(node: Node) -> list[tuple[str, torch.nn.Parameter]]:
    """A node's parameters by name; those that only its optimizer knows by their number."""
    found = list(named_parameters(node))
    if found:
        return found
    groups = getattr(own_optimizer(node), "param_groups", ())
    listed = [parameter for group in groups for parameter in group["params"]]
    return [(str(index), parameter) for index, parameter in enumerate(listed)]


def parameters(node: Node) -> list[torch.nn.Parameter]:
    """A node's parameters, those that only its optimizer knows included."""
    return [parameter for _, parameter in labelled_parameters(node)]


def own_optimizer(node: Node) -> Any:
    """The optimizer that a node steps by; None where ``optimizer`` is a setting, such as a name."""
    found = getattr(node.obj, "optimizer", None)
    return found if callable(getattr(found, "step", None)) else None


def schedulers(node: Node) -> list[Any]:
    """The schedulers of a node's own optimizer: its ``scheduler``, and those in ``schedulers``."""
    one, several = getattr(node.obj, "scheduler", None), getattr(node.obj, "schedulers", None)
    listed = [one, *(several if isinstance(several, list | tuple) else ())]
    return [part for part in listed if callable(getattr(part, "load_state_dict", None))]


@contextmanager
def evaluating(nodes: Iterable[Node]) -> Iterator[None]:
    """Within the block, torch modules are in the mode of evaluation, and autograd is off.

    A filter that holds its network inside does the same by itself, where autograd is off.
    """
    if "torch" not in sys.modules:
        yield
        return
    import torch

    modules = [
        module
        for node in nodes
        if isinstance(node.obj, torch.nn.Module)
        for module in node.obj.modules()
    ]
    before = [module.training for module in modules]
    try:
        for module in modules:
            module.training = False
        with torch.no_grad():
            yield
    finally:
        for module, training in zip(modules, before, strict=True):
            module.training = training


def no_gradients(nodes: Sequence[Node]) -> AbstractContextManager[Any]:
    """Autograd off, where a node could use it: it is on in the joint training step alone."""
    if "torch" not in sys.modules or not any(node.differentiable for node in nodes):
        return _NOTHING
    import torch

    return torch.no_grad()


_NOTHING: AbstractContextManager[Any] = nullcontext()


def kept(tensors: Callable[[], Mapping[str, Any]], device: str | None = None) -> Callable[[], None]:
    """Copy tensors; calling the result puts the copies back in place, by name.

    Args:
        tensors: Returns them as they are now; of what is no tensor there is no copy.
        device: Where the copies are kept; None for where the tensors are.
    """
    copies = {
        name: value.detach().to(device or value.device, copy=True)
        for name, value in tensors().items()
        if is_tensor(value)
    }
    return lambda: put(tensors(), copies)


def put(tensors: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Copy values into the tensors of their names, where they have the shape."""
    names = tensors.keys() & values.keys()
    if not names:
        return
    import torch

    with torch.no_grad():
        for name in names:
            if tensors[name].shape == values[name].shape:
                tensors[name].copy_(values[name])


def detached(value: Any) -> Any:
    """A result without its autograd graph, so that it can leave the step."""
    return value.detach() if is_tensor(value) else value


def all_detached(value: Any) -> Any:
    """The same of a result that may hold tensors in dicts, lists and tuples."""
    return _map_tensors(value, detached)


def within(value: Any) -> Iterator[torch.Tensor]:
    """The tensors of a result: itself, or those in its dicts, lists and tuples."""
    if is_tensor(value):
        yield value
    elif isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            yield from within(part)


def to_arrays(value: Any) -> Any:
    """A value with arrays in place of tensors, in its tuples, lists and dicts too."""
    return _map_tensors(value, _as_array)


def in_kind_of(out: Any, x: Any) -> Any:
    """What a chain computed as tensors, in the kind in which its data were sent.

    Args:
        out: The output.
        x: The data. Tensors and lists of tensors leave tensors as they are, numbers and lists of
            numbers ask for nested lists, anything else for arrays.
    """
    first = _first(x)
    if is_tensor(first):
        return out
    as_lists = isinstance(first, list | int | float)
    return _map_tensors(out, _as_lists if as_lists else _as_array)


def _first(x: Any) -> Any:
    """The first column of some data, or the first item of a list: what tells its kind."""
    if isinstance(x, dict):
        return _first(next(iter(x.values()), None))
    return _first(x[0]) if isinstance(x, list | tuple) and x else x


def _map_tensors(value: Any, change: Callable[[torch.Tensor], Any]) -> Any:
    """A value with each tensor in it changed; the same object if there is none."""
    if is_tensor(value):
        return change(value)
    if isinstance(value, dict):
        items = {key: _map_tensors(item, change) for key, item in value.items()}
        same = all(items[key] is value[key] for key in value)
        return value if same else items
    if type(value) in (list, tuple):
        changed = [_map_tensors(item, change) for item in value]
        same = all(new is old for new, old in zip(changed, value, strict=True))
        return value if same else type(value)(changed)
    return value


def _as_array(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    tensor = tensor.detach().cpu()
    try:
        return tensor.numpy()
    except TypeError:  # a type that numpy lacks, such as bfloat16
        return tensor.float().numpy()


def _as_lists(tensor: torch.Tensor) -> Any:
    return tensor.detach().tolist()


def kind_of(parameters: Iterable[torch.nn.Parameter]) -> tuple[torch.dtype, torch.device]:
    """The type and device of the first floating parameter; without one torch's default type, and
    the CPU."""
    for parameter in parameters:
        if parameter.is_floating_point() or parameter.is_complex():
            return parameter.dtype, parameter.device
    import torch

    return torch.get_default_dtype(), torch.device("cpu")


def to_tensors(value: Any, dtype: torch.dtype, device: torch.device) -> Any:
    """What a differentiable node is given for a plain value, and a loss as target.

    Numbers, lists of numbers and floating arrays become tensors of the type, other numeric arrays
    tensors of their own type; dicts are converted by column; the rest stays.

    Args:
        value: The value.
        dtype: The :func:`kind_of` the chain's parameters; of a target, the type of the output.
        device: Where the tensors shall be.
    """
    if isinstance(value, np.ndarray):
        return _array_to_tensor(value, dtype, device)
    import torch

    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: to_tensors(item, dtype, device) for key, item in value.items()}
    if isinstance(value, int | float) and not isinstance(value, bool):
        return torch.tensor(value, dtype=dtype, device=device)
    if isinstance(value, list):
        return _list_to_tensor(value, dtype, device)
    return value


def _array_to_tensor(array: np.ndarray[Any, Any], dtype: torch.dtype, device: torch.device) -> Any:
    own = array.dtype
    if own.kind not in "fciub":
        return array
    import torch

    is_plain = array.flags.carray and own.isnative and own.char not in "gG"
    tensor = torch.from_numpy(array if is_plain else _plain_array(array))
    if own.kind in "fc":
        same = tensor.dtype is dtype and tensor.device == device
        return tensor if same else tensor.to(device, dtype)
    return tensor if tensor.device == device else tensor.to(device)


def _plain_array(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A copy of an array in a type and layout that torch takes."""
    dtype = array.dtype
    if dtype.char in "gG":  # long double
        dtype = np.dtype(np.float64 if dtype.char == "g" else np.complex128)
    return np.require(array, dtype=dtype.newbyteorder("="), requirements=["C", "W"])


def _list_to_tensor(value: list[Any], dtype: torch.dtype, device: torch.device) -> Any:
    import torch

    try:
        return torch.tensor(value, dtype=dtype, device=device)
    except (TypeError, ValueError):  # not numbers: a tokenizer may wait for these
        return value
