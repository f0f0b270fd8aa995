"""Named optimizers: built over the parameters of a whole chain, and kept for its next command."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from soma_core.engine.nodes import Node
from soma_core.engine.training import tensors
from soma_core.engine.training.chain import Chain
from soma_core.engine.training.moments import load_optimizer_state
from soma_core.errors import ErrorCode, ProtocolError
from soma_core.models.optimizers import build_optimizer

if TYPE_CHECKING:
    import torch

_Label = tuple[str, str]


class _Kept(NamedTuple):
    """An optimizer, what it was asked as, and its parameters by node id and name."""

    spec: dict[str, Any]
    optimizer: torch.optim.Optimizer
    parameters: dict[_Label, torch.nn.Parameter]


class _Pending(NamedTuple):
    """Moments that were put back before their optimizer exists again."""

    name: str
    moments: dict[_Label, dict[str, Any]]


class Optimizers:
    """The optimizers that commands named, one for each chain of nodes.

    The moments of a parameter live as long as its chain is trained by an optimizer of the same
    name: other arguments take effect at once, and a parameter that was replaced begins anew.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[str, ...], _Kept] = {}
        self._pending: dict[tuple[str, ...], _Pending] = {}

    def over(self, nodes: Sequence[Node], spec: Mapping[str, Any]) -> torch.optim.Optimizer:
        """The optimizer of a chain: the one that it had, as far as it still fits.

        Args:
            nodes: The chain; nodes that are not trainable keep their parameters.
            spec: The name of a class in ``torch.optim``, and its arguments.

        Raises:
            ProtocolError: ``invalid_command``: there is no such optimizer, its arguments do not
                fit it, or the chain has nothing that it could train.
        """
        chain = tuple(node.node_id for node in nodes)
        kept, pending = self._kept.get(chain), self._pending.get(chain)
        parameters = _labelled(nodes)
        unchanged = kept is not None and pending is None and kept.spec == spec
        if kept is not None and unchanged and _same(kept.parameters, parameters):
            return kept.optimizer
        optimizer = _build(spec, parameters)
        moments = _moments(kept, parameters, optimizer)
        if pending is not None and pending.name == spec["name"]:
            moments |= {key: item for key, item in pending.moments.items() if key in parameters}
        _put_moments(optimizer, parameters, moments)
        self._pending.pop(chain, None)
        self._kept[chain] = _Kept(dict(spec), optimizer, parameters)
        return optimizer

    def chosen(
        self, chain: Chain, spec: Mapping[str, Any] | None, y: Any
    ) -> torch.optim.Optimizer | None:
        """The optimizer that a command names for a chain; None if it names none.

        Raises:
            ProtocolError: As for :meth:`over`, or there is nothing to step.
        """
        if spec is None:
            return None
        if y is None or not chain.differentiable:
            lacking = "y is missing" if y is None else "no node is differentiable"
            raise _refused(f"there is nothing to step: {lacking}")
        return self.over(chain.nodes, spec)

    def begin_anew(self, node_ids: Iterable[str]) -> Callable[[], None]:
        """Like :meth:`forget`; calling the result undoes it."""
        kept, pending = dict(self._kept), dict(self._pending)
        self.forget(node_ids)

        def undo() -> None:
            self._kept, self._pending = kept, pending

        return undo

    def forget(self, node_ids: Iterable[str]) -> None:
        """Drop the optimizers of the chains that some nodes are part of."""
        gone = set(node_ids)
        for chain in [chain for chain in {**self._kept, **self._pending} if gone & set(chain)]:
            self._kept.pop(chain, None)
            self._pending.pop(chain, None)

    def saved(self, node_id: str) -> list[dict[str, Any]]:
        """What the optimizers know of one node's parameters, as plain data and tensors."""
        found = []
        for chain in dict.fromkeys([*self._kept, *self._pending]):
            name, moments = self._newest(chain)
            own = {label[1]: item for label, item in moments.items() if label[0] == node_id}
            if own:
                found.append({"chain": list(chain), "name": name, "moments": own})
        return found

    def put(self, node_id: str, saved: Iterable[Mapping[str, Any]]) -> None:
        """Put back what :meth:`saved` returned; it counts from the chain's next command on."""
        for item in saved:
            chain = tuple(item["chain"])
            name: str = item["name"]
            moments: dict[_Label, dict[str, Any]] = {}
            if chain in self._kept or chain in self._pending:
                known, moments = self._newest(chain)
                moments = moments if known == name else {}
            kept = {label: state for label, state in moments.items() if label[0] != node_id}
            own = {(node_id, parameter): state for parameter, state in item["moments"].items()}
            self._pending[chain] = _Pending(name, kept | own)

    def _newest(self, chain: tuple[str, ...]) -> tuple[str, dict[_Label, dict[str, Any]]]:
        pending, kept = self._pending.get(chain), self._kept.get(chain)
        if pending is not None:
            return pending.name, pending.moments
        assert kept is not None
        state = kept.optimizer.state
        held = {key: _copied(state[p]) for key, p in kept.parameters.items() if p in state}
        return kept.spec["name"], held


def _labelled(nodes: Sequence[Node]) -> dict[_Label, torch.nn.Parameter]:
    """The parameters of a chain that it may change, each once."""
    found: dict[_Label, torch.nn.Parameter] = {}
    seen: set[int] = set()
    for node in nodes:
        for name, parameter in tensors.labelled_parameters(node) if node.trainable else ():
            if id(parameter) not in seen:
                seen.add(id(parameter))
                found[node.node_id, name] = parameter
    return found


def _same(
    before: Mapping[_Label, torch.nn.Parameter], now: Mapping[_Label, torch.nn.Parameter]
) -> bool:
    return before.keys() == now.keys() and all(before[key] is now[key] for key in now)


def _moments(
    kept: _Kept | None,
    parameters: Mapping[_Label, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
) -> dict[_Label, dict[str, Any]]:
    """The moments of an optimizer that may go on in another one."""
    if kept is None or not _continues(kept.optimizer, optimizer):
        return {}
    old = kept.optimizer.state
    return {
        label: old[parameter]
        for label, parameter in parameters.items()
        if kept.parameters.get(label) is parameter and parameter in old
    }


def _continues(before: torch.optim.Optimizer, after: torch.optim.Optimizer) -> bool:
    """Whether they differ in nothing but numbers: a flag may ask for other moments."""
    if type(before) is not type(after):
        return False
    return _flags(before.defaults) == _flags(after.defaults)


def _flags(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in arguments.items()
        if isinstance(value, bool) or not isinstance(value, int | float | tuple)
    }


def _put_moments(
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[_Label, torch.nn.Parameter],
    moments: Mapping[_Label, dict[str, Any]],
) -> None:
    """Give an optimizer its moments, by torch's own reader: it moves them to the device.

    Raises:
        ProtocolError: ``invalid_command``: they are not those of such an optimizer.
    """
    if not moments:
        return
    content = optimizer.state_dict()
    content["state"] = {
        index: dict(moments[label]) for index, label in enumerate(parameters) if label in moments
    }
    try:
        load_optimizer_state(optimizer, content)
    except ValueError as error:
        raise _refused(
            f"the training state that its nodes were given does not fit: {error}; give them "
            "another one (set_state), or load them again"
        ) from None


def _copied(state: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: item.detach().clone() if tensors.is_tensor(item) else item
        for key, item in state.items()
    }


def _build(
    spec: Mapping[str, Any], parameters: Mapping[_Label, torch.nn.Parameter]
) -> torch.optim.Optimizer:
    if not parameters:
        raise _refused("no trainable node of the chain has parameters that it could train")
    try:
        return build_optimizer(spec, parameters.values())
    except ValueError as error:
        raise _refused(str(error)) from None


def _refused(message: str) -> ProtocolError:
    return ProtocolError(ErrorCode.INVALID_COMMAND, f"optimizer: {message}")
