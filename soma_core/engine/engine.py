"""Engine: one method for each command."""

from __future__ import annotations

import os
import platform
import sys
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from pydantic import BaseModel, ConfigDict

from soma_core.engine.host_path import HostPath
from soma_core.engine.interrupts import NoInterrupts
from soma_core.engine.loading import FilterRegistry, load_nodes
from soma_core.engine.nodes import FilterFailed, Node, NodeTable
from soma_core.engine.participation import Participation
from soma_core.engine.training import gradients, states, tensors
from soma_core.engine.training.beginning import (
    has_learned,
    keep_buffers,
    learning_nothing_by_half,
    remember,
)
from soma_core.engine.training.chain import Chain
from soma_core.engine.training.fitting import fit_once, partial_fit_once
from soma_core.engine.training.joint import compute_gradients
from soma_core.engine.training.open_fits import OpenFits
from soma_core.engine.training.optimizers import Optimizers
from soma_core.engine.training.resuming import get_training, set_training
from soma_core.errors import ErrorCode, ProtocolError, Refused
from soma_core.plugins.commands import CommandSpec
from soma_core.plugins.manager import PluginSet
from soma_core.protocol import commands as c
from soma_core.protocol import replies as r
from soma_core.protocol.versions import (
    PROTOCOL_VERSION,
    Side,
    cloudpickle_version,
    skew,
    soma_version,
)
from soma_core.wire.pickles import Pickles

OF_CHAINS = frozenset({r.CompositeForwardReply, r.CompositeFitReply})
"""The replies that bring the output of a chain."""


class EngineInfo(BaseModel):
    """What HELLO answers beyond what the engine knows by itself."""

    model_config = ConfigDict(frozen=True)

    commands: tuple[str, ...]
    features: tuple[str, ...] = ()
    limits: r.Limits


class Engine:
    """Executes commands against its nodes, one at a time.

    Attributes:
        nodes: The loaded nodes.
        incarnation: Differs between any two engines.
        interrupts: How a command that runs is ended.
    """

    def __init__(
        self,
        registry: FilterRegistry,
        info: EngineInfo,
        pickles: Pickles | None = None,
        plugins: PluginSet | None = None,
    ) -> None:
        self._registry = registry
        self._info = info
        self._pickles = pickles or Pickles()
        self._participation = None if plugins is None else Participation.of(plugins)
        self._answer: r.Reply | None = None
        self._aborted: tuple[c.Command, str] | None = None
        self.interrupts = NoInterrupts()
        self.nodes = NodeTable()
        self._optimizers = Optimizers()
        self._fits = OpenFits(self._optimizers, plugins)
        self._host_path = HostPath()
        self.incarnation = uuid.uuid4().hex
        self._methods: dict[type[c.Command], Callable[[Any], r.Reply]] = {
            c.Hello: self.hello,
            c.Load: self.load,
            c.Unload: self.unload,
            c.ListNodes: self.list_nodes,
            c.Fit: self.fit,
            c.PartialFit: self.partial_fit,
            c.Forward: self.forward,
            c.CallMethod: self.call_method,
            c.CompositeForward: self.composite_forward,
            c.CompositeFit: self.composite_fit,
            c.BatchedFit: self.batched_fit,
            c.ContinueFit: self.continue_fit,
            c.GetState: self.get_state,
            c.SetState: self.set_state,
            c.GetGradients: self.get_gradients,
            c.ApplyGradients: self.apply_gradients,
            c.Interrupt: self.interrupt,
            c.Ping: self.ping,
            c.Shutdown: self.shutdown,
        }

        for spec in plugins.commands if plugins is not None else ():
            self._methods[spec.model] = partial(self._handle, spec)

    def execute(self, command: c.Command) -> r.Reply:
        """Execute one command and return its reply, user data as Python objects.

        Raises:
            FilterFailed: The user's code raised.
            ProtocolError: The command cannot be done; the code says why.
            KeyboardInterrupt: It was interrupted.
        """
        if self._participation is None:
            return self._methods[type(command)](command)
        try:
            return self._participation.execute(command, self)
        except BaseException as error:
            if self._aborted is not None and self._aborted[0] is command:
                raise Refused(self._aborted[1]) from error
            raise
        finally:
            self._answer = self._aborted = None

    def run(self, command: c.Command) -> r.Reply:
        """Execute one command without any plugin; what ``soma_execute`` comes down to."""
        answer, self._answer = self._answer, None
        return self._methods[type(command)](command) if answer is None else answer

    def answer(self, reply: r.Reply) -> None:
        """Reply with this instead of executing the command: for a wrapper, before it yields.

        Plugins that the wrapper is around still take part, and may refuse the command.
        """
        self._answer = reply

    def abort(self, command: c.Command, why: str) -> None:
        """End a command that runs, as an interrupt does; its host gets the code ``refused``.

        For a plugin, from any thread. Nothing happens if the command is over, or runs in the
        process of its host (``inline``).
        """
        self._aborted = (command, why)
        self.interrupts.abort(command)

    def _handle(self, spec: CommandSpec, command: c.Command) -> r.Reply:
        """Execute a command that a plugin added; its reply is that of FORWARD."""
        try:
            return r.ForwardReply(result=spec.handler(command, self))
        except (FilterFailed, ProtocolError, KeyboardInterrupt):
            raise
        except BaseException as error:
            raise FilterFailed(getattr(command, "node_id", None), error) from error

    def hello(self, command: c.Hello) -> r.HelloReply:
        """Compare versions, and say what this engine can do."""
        host = Side.of(command.protocol, command.client)
        mismatch = skew(host, Side.here(), pickles=self._pickles.allowed)
        if mismatch:
            raise ProtocolError(ErrorCode.INCOMPATIBLE, mismatch)
        codecs = self._pickles.codecs
        if command.codecs is not None:
            codecs.limit_to(command.codecs)
        if command.path is not None and self._pickles.allowed:
            self._host_path.add(command.path)
        if command.argv is not None and self._pickles.allowed:
            sys.argv[:] = command.argv
        return r.HelloReply(
            protocol=PROTOCOL_VERSION,
            versions=_versions(),
            pid=os.getpid(),
            incarnation=self.incarnation,
            commands=list(self._info.commands),
            features=list(self._info.features),
            codecs=codecs.names(),
            limits=self._info.limits,
            pickle="same-user" if self._pickles.allowed else "never",
        )

    def load(self, command: c.Load) -> r.LoadReply:
        """Load all filters of the command, or none."""
        self._host_path.refresh()
        loaded = load_nodes(command.filters, self._registry, self._pickles)
        self._host_path.look()
        self.nodes.add(loaded)
        self._forget_training([node.node_id for node in loaded])
        return r.LoadReply(filters={node.node_id: node.meta for node in loaded})

    def unload(self, command: c.Unload) -> r.UnloadReply:
        """Forget nodes."""
        self.nodes.remove(command.node_ids)
        self._forget_training(command.node_ids)
        return r.UnloadReply(node_ids=command.node_ids)

    def close(self) -> None:
        """Forget all nodes: the process ends, or whoever has the engine needs it no more."""
        self.nodes.close()

    def list_nodes(self, command: c.ListNodes) -> r.ListReply:
        """List loaded nodes and registered filters."""
        return r.ListReply(
            nodes={node.node_id: node.meta for node in self.nodes},
            filters=self._registry.names(),
            details={node.node_id: _details(node) for node in self.nodes},
        )

    def fit(self, command: c.Fit) -> r.FitReply:
        """Fit one node."""
        node = self.nodes.get(command.node_id)
        self._fits.forget([command.node_id])
        remember([node])
        state = node.fit(command.data, command.y, {})
        returned = {"result": state} if command.return_state else {}
        return r.FitReply(**returned, **states.learned_inside([node]))

    def partial_fit(self, command: c.PartialFit) -> r.PartialFitReply:
        """Let one node go on from what it learned."""
        node = self.nodes.get(command.node_id)
        loss = partial_fit_once(node, command.data, command.y)
        returned = {"result": node.state} if command.return_state else {}
        return r.PartialFitReply(loss=loss, **returned, **states.learned_inside([node]))

    def forward(self, command: c.Forward) -> r.ForwardReply:
        """Run one node."""
        node = self.nodes.get(command.node_id)
        given = "state" in command.__pydantic_fields_set__
        state = command.state if given else node.state
        if "torch" not in sys.modules:  # as no_gradients would find, at a tenth of the cost
            return r.ForwardReply(result=node.forward(command.data, state, {}))
        with tensors.no_gradients((node,)):
            return r.ForwardReply(result=node.forward(command.data, state, {}))

    def call_method(self, command: c.CallMethod) -> r.CallMethodReply:
        """Call a method of one node."""
        node = self.nodes.get(command.node_id)
        given = "state" in command.__pydantic_fields_set__
        state = command.state if given else node.state
        with tensors.no_gradients((node,)):
            out = node.call_method(command.method, command.data, command.y, state)
        return r.CallMethodReply(result=tensors.detached(out))

    def composite_forward(self, command: c.CompositeForward) -> r.CompositeForwardReply:
        """Run a chain."""
        chain = self._chain(command.node_ids)
        evolving = chain.nodes if command.evolve else ()
        with tensors.no_gradients(chain.nodes), learning_nothing_by_half(evolving):
            out = chain.run(command.data, command.states or {}, evolve=command.evolve)
        return r.CompositeForwardReply(result=tensors.detached(out))

    def in_kind_sent(self, command: Any, reply: Any) -> None:
        """Have the output of a chain (:data:`OF_CHAINS`) in the kind in which its data came: arrays
        for arrays.

        A host that sends lines gets the tensors that the chain computed as nested lists instead.
        """
        if any(node.differentiable for node in self.nodes.chain(command.node_ids)):
            reply.result = tensors.in_kind_of(reply.result, command.data)

    def composite_fit(self, command: c.CompositeFit) -> r.CompositeFitReply:
        """Fit a chain, and train its differentiable nodes together."""
        chain = self._chain(command.node_ids)
        if not command.step:
            return self._gradients(chain, command)
        self._fits.forget(command.node_ids)
        optimizer = self._optimizers.chosen(chain, command.optimizer, command.y)
        out, fit_states, loss = fit_once(chain, command.data, command.y, optimizer)
        inside = states.learned_inside(chain.nodes)
        reply = r.CompositeFitReply(result=out, loss=loss, states={}, **inside)
        if command.return_states:
            reply.states = states.get_weights(chain.nodes, self._pickles)
            reply.fit_states = fit_states
        return reply

    def _gradients(self, chain: Chain, command: c.CompositeFit) -> r.CompositeFitReply:
        if command.y is None or not chain.differentiable or command.optimizer is not None:
            raise ProtocolError(
                ErrorCode.INVALID_COMMAND,
                "step: gradients alone need y and a differentiable node, and no optimizer",
            )
        undo = [keep_buffers(node) for node in chain.nodes]
        try:
            _, loss = compute_gradients(chain, command.data, command.y)
            trained = [node for node in chain.nodes if node.trainable]
            batch = {node.node_id: gradients.get_batch(node) for node in trained}
        finally:
            for put_back in undo:
                put_back()
        found = {node_id: data for node_id, data in batch.items() if data is not None}
        return r.CompositeFitReply(loss=loss, states={}, gradients=found)

    def batched_fit(self, command: c.BatchedFit) -> r.BatchedFitReply:
        """Fit a chain batch by batch."""
        return self._fits.begin(self._chain(command.node_ids), command)

    def continue_fit(self, command: c.ContinueFit) -> r.ContinueFitReply:
        """Let a batched fit go on that paused."""
        return self._fits.go_on(self._chain(command.node_ids), command)

    def get_state(self, command: c.GetState) -> r.GetStateReply:
        """Fetch what a node's object holds, and what it learned."""
        node = self.nodes.get(command.node_id)
        format = command.format
        if format is None:
            format, data = states.get_usual_state(node, self._pickles, full=bool(command.full))
        else:
            data = states.get_state(node, format, self._pickles)
        reply = r.GetStateReply(state_b64=data, format=format, fit_state=node.state)
        if command.full:
            reply.training_b64 = get_training(node, self._optimizers)
            config = states.configuration(node)
            if config is not None:
                reply.config = config
        return reply

    def set_state(self, command: c.SetState) -> r.SetStateReply:
        """Put back what GET_STATE returned: all of it or nothing."""
        node = self.nodes.get(command.node_id)
        given = command.model_fields_set
        remember([node])
        if given & {"state_b64", "training_b64"}:
            self._set_object(node, command)
        if "fit_state" in given:
            node.state = command.fit_state
        return r.SetStateReply()

    def _set_object(self, node: Node, command: c.SetState) -> None:
        before, undo = node.obj, states.snapshot(node)
        try:
            if "state_b64" in command.model_fields_set:
                format = command.format or states.default_format(node, self._pickles)
                states.set_state(node, command.state_b64, format, self._pickles)
            if "training_b64" in command.model_fields_set:
                set_training(node, command.training_b64, self._optimizers)
        except BaseException:
            made = node.obj
            undo()
            if made is not before:
                node.let_go(made)
            raise
        if node.obj is not before:
            node.let_go(before)

    def get_gradients(self, command: c.GetGradients) -> r.GetGradientsReply:
        """Fetch the gradients of a node's parameters."""
        node = self.nodes.get(command.node_id)
        return r.GetGradientsReply(gradients_b64=gradients.get_gradients(node))

    def apply_gradients(self, command: c.ApplyGradients) -> r.ApplyGradientsReply:
        """Set the gradients of a node's parameters, and step its optimizer."""
        node = self.nodes.get(command.node_id)
        spec = command.optimizer
        remember([node])
        optimizer = None if spec is None else self._optimizers.over([node], spec)
        updated = gradients.apply_gradients(node, command.gradients_b64, optimizer)
        return r.ApplyGradientsReply(updated=updated)

    def interrupt(self, command: c.Interrupt) -> r.InterruptReply:
        """In its turn: the command that it names is over."""
        return r.InterruptReply()

    def ping(self, command: c.Ping) -> r.PingReply:
        """Say which process this is."""
        return r.PingReply(pid=os.getpid(), incarnation=self.incarnation)

    def shutdown(self, command: c.Shutdown) -> r.ShutdownReply:
        """Acknowledge; whoever serves the engine ends after this reply."""
        return r.ShutdownReply()

    def _forget_training(self, node_ids: Sequence[str]) -> None:
        self._optimizers.forget(node_ids)
        self._fits.forget(node_ids)

    def _chain(self, node_ids: Sequence[str]) -> Chain:
        nodes: list[Node] = self.nodes.chain(node_ids)
        return Chain(nodes)


def _details(node: Node) -> r.NodeDetails:
    learned = has_learned(node) or node.as_loaded is not None
    return r.NodeDetails(filter=node.registered, trainable=node.trainable, learned=learned)


def _versions() -> r.Versions:
    return r.Versions(
        soma=soma_version(),
        python=platform.python_version(),
        cloudpickle=cloudpickle_version(),
    )
