"""StateVerbs: what fetches states and gradients of nodes, and puts them back."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from soma_core.client import checkpoint
from soma_core.client.arguments import DEFAULT, Meta, Timeout, check_bytes
from soma_core.client.results import NodeState
from soma_core.client.steps import Steps, carrying
from soma_core.client.verbs.base import given
from soma_core.client.verbs.nodes import NodeVerbs
from soma_core.protocol import commands as c


class StateVerbs(NodeVerbs):
    """States and gradients."""

    def get_state(
        self,
        node_id: str,
        *,
        format: c.StateFormat | None = None,
        full: bool = False,
        meta: Meta = None,
        timeout: Timeout = DEFAULT,
    ) -> Steps[NodeState]:
        """Fetch what a node's object holds, and what the node learned.

        Args:
            node_id: The node.
            format: How to write it; None chooses ``torch`` for what has a ``state_dict``, or
                ``torch_pickle`` where that is more than weights; else ``cloudpickle``, or
                ``value`` where pickle is off, and for a full state of a
                :class:`~soma_core.Filter`.
            full: Whether optimizers, schedulers and random numbers come with it, so that
                training resumed from it equals training that never stopped.
            meta: As for :meth:`forward`.
            timeout: Seconds.
        """
        asked = given(format=format, full=full or None)
        command = c.GetState(cmd="GET_STATE", node_id=node_id, **asked)
        reply = yield self._call(command, timeout, meta, (node_id,))
        return NodeState(
            data=bytes(reply.state_b64),
            format=reply.format,
            fit_state={} if reply.fit_state is None else reply.fit_state,
            training=bytes(reply.training_b64) if full else None,
            config=reply.config if isinstance(reply.config, dict) else None,
        )

    def set_state(
        self,
        node_id: str,
        state: NodeState | bytes,
        *,
        format: c.StateFormat | None = None,
        meta: Meta = None,
        timeout: Timeout = DEFAULT,
    ) -> Steps[None]:
        """Put back what :meth:`get_state` returned.

        Args:
            node_id: The node.
            state: A NodeState; or bytes, which leave what the node learned as it is.
            format: How bytes are written; None as for :meth:`get_state`.
            meta: As for :meth:`forward`.
            timeout: Seconds.

        Raises:
            TypeError: ``state`` is neither.
            RemoteError: ``invalid_state``: it does not fit the node, which stays as it was.
        """
        if isinstance(state, NodeState):
            fields = {"fit_state": state.fit_state, **given(training_b64=state.training)}
            if state.data is not None:
                fields |= {"state_b64": state.data, "format": state.format}
        elif isinstance(state, bytes | bytearray | memoryview):
            fields = {"state_b64": state, **given(format=format)}
        else:
            raise TypeError(
                "Worker.set_state: state is a NodeState or bytes, as get_state returns, got a "
                f"{type(state).__name__}"
            )
        if "state_b64" in fields:  # with another configuration it may declare something else
            self._unsettled.add(object())
        yield self._call(c.SetState(cmd="SET_STATE", node_id=node_id, **fields), timeout, meta)

    def save_checkpoint(
        self, path: str | os.PathLike[str], *, meta: Meta = None, timeout: Timeout = DEFAULT
    ) -> Steps[None]:
        """Write the full states of all nodes to one file, which is replaced whole or not at all.

        Training that goes on from it equals training that never stopped. Parameters, optimizers
        and what filters learned are in it without pickles; the attributes of an object that is no
        :class:`~soma_core.Filter` and no module are a pickle. No other thread should train
        meanwhile.

        Args:
            path: The file.
            meta: As for :meth:`forward`.
            timeout: Seconds for each node.

        Raises:
            OSError: It cannot be written.
        """
        yield from self.refresh()
        yield from carrying(meta, checkpoint.save(self, Path(path), self._pickles, timeout))

    def load_checkpoint(
        self,
        path: str | os.PathLike[str],
        *,
        force: bool = False,
        meta: Meta = None,
        timeout: Timeout = DEFAULT,
    ) -> Steps[None]:
        """Put back what :meth:`save_checkpoint` wrote, into all nodes or none.

        The worker must hold the same nodes, loaded before. What they learned is put into the
        filters that are loaded, whose code and configuration stay. Only read a file that you
        trust: it may hold pickles, which ``pickle="never"`` refuses.

        Args:
            path: The file.
            force: Whether filters may be configured in another way than those that were saved.
                The optimizer and the schedule of such a one begin anew.
            meta: As for :meth:`forward`.
            timeout: Seconds for each node.

        Raises:
            OSError: It cannot be read.
            ValueError: It is no checkpoint, or its nodes or their configurations are not those of
                this worker; the message names the fields that differ.
        """
        yield from self.refresh()
        steps = checkpoint.load(self, Path(path), self._pickles, timeout, force=force)
        yield from carrying(meta, steps)

    def get_gradients(
        self, node_id: str, *, meta: Meta = None, timeout: Timeout = DEFAULT
    ) -> Steps[bytes]:
        """Fetch the gradients of a node's parameters, by name.

        Args:
            node_id: The node.
            meta: As for :meth:`forward`.
            timeout: Seconds.

        Returns:
            What ``torch.save`` writes of a dict of tensors.

        Raises:
            RemoteError: ``no_gradients``: it has none.
        """
        command = c.GetGradients(cmd="GET_GRADIENTS", node_id=node_id)
        return bytes((yield self._call(command, timeout, meta, (node_id,))).gradients_b64)

    def apply_gradients(
        self,
        node_id: str,
        gradients: bytes,
        *,
        optimizer: Mapping[str, Any] | None = None,
        meta: Meta = None,
        timeout: Timeout = DEFAULT,
    ) -> Steps[list[str]]:
        """Set the gradients of a node's parameters, all or none, and step its optimizer.

        Args:
            node_id: The node.
            gradients: What :meth:`get_gradients` returned, or ``torch.save`` of a dict by name.
            optimizer: As for :meth:`composite_fit`, over this node alone.
            meta: As for :meth:`forward`.
            timeout: Seconds.

        Returns:
            The names of the parameters that received a gradient.
        """
        check_bytes("Worker.apply_gradients: gradients", gradients, "get_gradients")
        command = c.ApplyGradients(
            cmd="APPLY_GRADIENTS",
            node_id=node_id,
            gradients_b64=gradients,
            **given(optimizer=optimizer),
        )
        updated: list[str] = (yield self._call(command, timeout, meta, (node_id,))).updated
        return updated
