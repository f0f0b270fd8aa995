"""TrainingVerbs: what fits nodes, alone and in chains."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from soma_core.client.arguments import DEFAULT, Meta, Timeout, as_node_ids, check_listener
from soma_core.client.batched_fits import (
    Metric,
    OnEpoch,
    as_chunks,
    batched_fit_command,
    run_batched_fit,
)
from soma_core.client.progress.watch import Watch, watched
from soma_core.client.results import BatchedFitResult, CompositeFitResult
from soma_core.client.steps import Steps
from soma_core.client.verbs.base import VerbsBase, given
from soma_core.protocol import commands as c


class TrainingVerbs(VerbsBase):
    """Fitting nodes."""

    def fit(
        self,
        node_id: str,
        x: Any,
        y: Any = None,
        *,
        return_state: bool = True,
        progress: Watch = None,
        profile: str | os.PathLike[str] | None = None,
        meta: Meta = None,
        timeout: Timeout = DEFAULT,
    ) -> Steps[Any]:
        """Fit one node; the state that it learned is its own from then on.

        Args:
            node_id: The node.
            x: The training data.
            y: The targets, or None.
            return_state: Whether the state travels back.
            progress: Called with what the filter reports while it runs; True shows it on stderr,
                as a bar in a terminal and as lines elsewhere.
            profile: A file for a profile of the call in the worker, as cProfile writes it.
            meta: As for :meth:`forward`.
            timeout: Seconds.

        Returns:
            The state, or None with ``return_state=False``.
        """
        command = c.Fit(cmd="FIT", node_id=node_id, data=x, y=y, return_state=return_state)
        with watched(progress, [node_id], x) as listener:
            call = self._call(command, timeout, meta, (node_id,), listener)
            return (yield from self._profiled(call, profile)).result

    def partial_fit(
        self,
        node_id: str,
        x: Any,
        y: Any = None,
        *,
        return_state: bool = True,
        progress: Watch = None,
        meta: Meta = None,
        timeout: Timeout = DEFAULT,
    ) -> Steps[Any]:
        """Let one node go on from what it learned, on one batch.

        By its own ``partial_fit(x, y, state)``, or by one step of training if it is
        differentiable.

        Args:
            node_id: The node.
            x: The rows.
            y: Their targets, or None.
            return_state: Whether the state travels back.
            progress: As for :meth:`fit`.
            meta: As for :meth:`forward`.
            timeout: Seconds.

        Returns:
            The state, or None with ``return_state=False``.
        """
        command = c.PartialFit(
            cmd="PARTIAL_FIT", node_id=node_id, data=x, y=y, return_state=return_state
        )
        with watched(progress, [node_id], x) as listener:
            return (yield self._call(command, timeout, meta, (node_id,), listener)).result

    def composite_fit(
        self,
        node_ids: Sequence[str],
        x: Any,
        y: Any = None,
        *,
        return_states: bool = True,
        optimizer: Mapping[str, Any] | None = None,
        progress: Watch = None,
        profile: str | os.PathLike[str] | None = None,
        meta: Meta = None,
        timeout: Timeout = DEFAULT,
    ) -> Steps[CompositeFitResult]:
        """Fit a chain of nodes, then train its differentiable ones together by one step.

        Args:
            node_ids: The nodes in order, at least one.
            x: The training data.
            y: The targets; without them nothing is trained by gradients.
            return_states: Whether the states travel back.
            optimizer: What steps the whole chain instead of the optimizers that nodes own: a
                class of ``torch.optim`` and its arguments, ``{"name": "Adam", "lr": 0.001}``.
                The worker keeps its moments for the chain's next command.
            progress: Called with what the filters report while they run; True shows it.
            profile: A file for a profile of the call in the worker, as cProfile writes it.
            meta: As for :meth:`forward`.
            timeout: Seconds.
        """
        command = c.CompositeFit(
            cmd="COMPOSITE_FIT",
            node_ids=as_node_ids(node_ids),
            data=x,
            y=y,
            return_states=return_states,
            **given(optimizer=optimizer),
        )
        with watched(progress, command.node_ids, x) as listener:
            call = self._call(command, timeout, meta, command.node_ids, listener)
            reply = yield from self._profiled(call, profile)
        return CompositeFitResult(
            result=reply.result,
            states={key: bytes(data) for key, data in (reply.states or {}).items()},
            fit_states=reply.fit_states or {},
            loss=reply.loss,
        )

    def compute_gradients(
        self,
        node_ids: Sequence[str],
        x: Any,
        y: Any,
        *,
        meta: Meta = None,
        timeout: Timeout = DEFAULT,
    ) -> Steps[tuple[float, dict[str, bytes]]]:
        """The loss of a chain on one batch and its gradients; nothing is fitted or stepped.

        Args:
            node_ids: The nodes in order, at least one of them differentiable.
            x: The training data.
            y: The targets.
            meta: As for :meth:`forward`.
            timeout: Seconds.

        Returns:
            The loss, and the gradients of each node that has some, for :meth:`apply_gradients`.
        """
        command = c.CompositeFit(
            cmd="COMPOSITE_FIT", node_ids=as_node_ids(node_ids), data=x, y=y, step=False
        )
        reply = yield self._call(command, timeout, meta, command.node_ids)
        return reply.loss, {key: bytes(data) for key, data in (reply.gradients or {}).items()}

    def batched_fit(
        self,
        node_ids: Sequence[str],
        x: Any,
        y: Any = None,
        *,
        batch_size: int = 32,
        epochs: int = 1,
        shuffle: bool = False,
        seed: int | None = None,
        collect: Literal["last", "all"] = "last",
        return_states: bool = True,
        optimizer: Mapping[str, Any] | None = None,
        resume: bool = False,
        validation: tuple[Any, Any] | None = None,
        metrics: Mapping[str, str | Metric] | None = None,
        patience: int | None = None,
        restore_best: bool = False,
        on_epoch: OnEpoch | None = None,
        progress: Watch = None,
        profile: str | os.PathLike[str] | None = None,
        meta: Meta = None,
        timeout: Timeout = DEFAULT,
    ) -> Steps[BatchedFitResult]:
        """Fit a chain of nodes batch by batch; the data travels once.

        Every node of the chain begins anew, a network with the parameters that it was loaded
        with; with ``resume`` they go on from what they learned.

        Args:
            node_ids: The nodes in order, at least one.
            x: The training data: rows, or columns of rows in a dict; a :class:`DataFile` that
                the worker reads; an iterator of chunks ``(x, y)``, each taken when the worker has
                learned from the one before it; or a function that returns such an iterator for
                each epoch.
            y: The targets, or None.
            batch_size: Rows per batch; the last one may be shorter.
            epochs: How often the data is gone through.
            shuffle: Whether the rows are drawn in another order in each epoch.
            seed: Makes those orders repeatable.
            collect: Return the output of the last batch, or of all rows.
            return_states: Whether the states travel back.
            optimizer: What steps the whole chain instead of the optimizers that nodes own: a
                class of ``torch.optim`` and its arguments, ``{"name": "Adam", "lr": 0.001}``.
                The worker keeps its moments for the chain's next command.
            resume: Whether the nodes go on from what they learned.
            validation: Data and targets that the chain is measured on after each epoch, without
                learning from them.
            metrics: What is measured on them beside the loss, by name: names of scorers of
                scikit-learn, or functions ``metric(y, out)`` of all targets and outputs.
            patience: Stop after so many epochs without a better one: one with a lower validation
                loss; without a loss a higher first metric, without validation a lower loss.
            restore_best: Whether the nodes are put back as they were after the best epoch.
            on_epoch: Called after each epoch with its number and what it came to. The worker
                waits and can be called. What it raises ends the fit.
            progress: Called after each batch with epoch, epochs, batch, batches, its loss, and
                the mean_loss of the epoch so far; True shows it on stderr, as a bar in a
                terminal and as lines elsewhere.
            profile: A file for a profile of the call in the worker, as cProfile writes it; of a
                fit that is one command: no chunks, no ``on_epoch``.
            meta: As for :meth:`forward`.
            timeout: Seconds.
        """
        chunks = as_chunks(x, y, epochs)
        if on_epoch is not None:
            check_listener("on_epoch", on_epoch, "what an epoch came to")
        if profile is not None and (chunks or on_epoch):
            raise ValueError(
                "profile is of one command, and a fit of chunks or with on_epoch is several; "
                "leave one of them out"
            )
        command = batched_fit_command(
            as_node_ids(node_ids),
            None if chunks else x,
            y,
            validation=validation,
            metrics=metrics,
            batch_size=batch_size,
            epochs=epochs,
            shuffle=shuffle,
            collect=collect,
            return_states=return_states,
            resume=resume,
            restore_best=restore_best,
            **given(optimizer=optimizer, seed=seed, patience=patience),
        )
        seconds = self._seconds(timeout)
        with watched(progress, command.node_ids, x) as listener:
            reply = yield from run_batched_fit(
                command,
                lambda part, left: self._profiled(
                    self._call(part, left, meta, command.node_ids, listener), profile
                ),
                chunks=chunks,
                on_epoch=on_epoch,
                timeout=seconds,
            )
        return BatchedFitResult(
            result=reply.result,
            states=reply.states or {},
            losses=reply.losses,
            history=reply.history or {},
            best_epoch=reply.best_epoch,
        )
