"""Open fits: BATCHED_FIT and CONTINUE_FIT, and the fits that wait between two of these commands."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from soma_core.engine.failures import note_executed
from soma_core.engine.training import tensors
from soma_core.engine.training.batched_fit import FitInProgress
from soma_core.engine.training.beginning import begin_anew, remember
from soma_core.engine.training.chain import Chain
from soma_core.engine.training.early_stopping import EarlyStopping
from soma_core.engine.training.evaluation import Evaluation
from soma_core.engine.training.files import open_data
from soma_core.engine.training.metrics import build_metrics
from soma_core.engine.training.optimizers import Optimizers
from soma_core.engine.training.states import learned_inside
from soma_core.errors import ErrorCode, ProtocolError
from soma_core.models import rows
from soma_core.plugins.manager import PluginSet
from soma_core.protocol import commands as c
from soma_core.protocol import replies as r

_DATA = ("data", "y", "validation_data", "validation_y")


@dataclass(frozen=True)
class _OpenFit:
    """A batched fit, its data unless they come in chunks, and a row of what came first."""

    fit: FitInProgress
    x: Any
    y: Any
    sample: Any

    @property
    def chunked(self) -> bool:
        return self.fit.command.pause == "chunk"


class OpenFits:
    """Fits chains batch by batch; a fit that pauses waits here for its next command.

    A node is in one fit that waits, at most: the newest.
    """

    def __init__(self, optimizers: Optimizers, plugins: PluginSet | None = None) -> None:
        self._optimizers, self._plugins = optimizers, plugins
        self._waiting: dict[str, _OpenFit] = {}
        self._numbers = itertools.count(1)

    def begin(self, chain: Chain, command: c.BatchedFit) -> r.BatchedFitReply:
        """Begin a fit, and run it to its first pause or to its end.

        Raises:
            FilterFailed: The user's code raised.
            ProtocolError: The command cannot be done; the code says why.
        """
        self.forget(command.node_ids)
        x, y, validation_x, validation_y = _data(command, self._plugins)
        evaluation = _evaluation(chain, command, validation_x, validation_y)
        stopping = _stopping(chain, command, evaluation, y)
        sample = rows.take(x, slice(0, 1))
        with ExitStack() as undo:
            self._prepare(chain, command, undo)
            fit = FitInProgress(
                chain,
                command.model_copy(update=dict.fromkeys(_DATA)),
                optimizer=self._optimizers.chosen(chain, command.optimizer, y),
                evaluation=evaluation,
                stopping=stopping,
                undo=undo.pop_all(),
            )
        chunked = command.pause == "chunk"
        opened = _OpenFit(fit, None if chunked else x, None if chunked else y, sample)
        with _noted(fit):
            _run(opened, x, y)
            while command.pause == "never" and not fit.finished:
                _run(opened, x, y)
            return r.BatchedFitReply(**self._reply_fields(opened))

    def go_on(self, chain: Chain, command: c.ContinueFit) -> r.ContinueFitReply:
        """Run a fit to its next pause, or to its end.

        Raises:
            FilterFailed: The user's code raised.
            ProtocolError: The command cannot be done; the code says why.
        """
        opened = self._take(chain, command)
        fit = opened.fit
        with _noted(fit):
            if command.end_epoch:
                fit.end_epoch()
            elif not command.stop:
                x, y = (command.data, command.y) if opened.chunked else (opened.x, opened.y)
                fit.chain.refresh()
                fit.optimizer = self._optimizers.chosen(fit.chain, fit.command.optimizer, y)
                _run(opened, x, y)
            return r.ContinueFitReply(**self._reply_fields(opened, stop=command.stop))

    def _take(self, chain: Chain, command: c.ContinueFit) -> _OpenFit:
        opened = self._waiting.get(command.fit_id)
        if opened is None or [*opened.fit.chain.nodes] != [*chain.nodes]:
            raise _refused(
                f"fit_id: no fit {command.fit_id!r} of these nodes waits here: it has ended, the "
                "worker was restarted, or its nodes were loaded or fitted anew since; begin again"
            )
        if command.end_epoch and not opened.chunked:
            raise _refused("end_epoch: this fit is not in chunks; it ends its epochs by itself")
        return self._waiting.pop(command.fit_id)

    def _reply_fields(self, opened: _OpenFit, *, stop: bool = False) -> dict[str, Any]:
        """The fields of a reply; a fit that goes on is kept for its next command."""
        fit, outcome = opened.fit, opened.fit.outcome
        ended = stop or fit.finished
        if ended:
            fit.end()
        fields = {
            "result": outcome.result,
            "states": outcome.states if ended and fit.command.return_states else {},
            "losses": outcome.losses,
            "history": outcome.history,
            **learned_inside(fit.chain.nodes),
        }
        if fit.chain.differentiable:
            fields["result"] = tensors.in_kind_of(outcome.result, opened.sample)
        if outcome.best_epoch is not None:
            fields["best_epoch"] = outcome.best_epoch
        if not ended:
            fields["fit_id"] = f"fit-{next(self._numbers)}"
            self._waiting[fields["fit_id"]] = opened
        return fields

    def forget(self, node_ids: Iterable[str]) -> None:
        """Drop the fits that some nodes are part of."""
        gone = set(node_ids)
        for fit_id, opened in [*self._waiting.items()]:
            if gone & {node.node_id for node in opened.fit.chain.nodes}:
                del self._waiting[fit_id]

    def _prepare(self, chain: Chain, command: c.BatchedFit, undo: ExitStack) -> None:
        """Have the nodes begin anew, if they should; ``undo`` undoes it."""
        remember(chain.nodes)
        if command.resume:
            return
        networks = command.resume is False
        undo.callback(begin_anew(chain.nodes, networks=networks))
        if networks:
            undo.callback(self._optimizers.begin_anew(command.node_ids))


@contextmanager
def _noted(fit: FitInProgress) -> Iterator[None]:
    """Have the host told if a fit fails after its nodes have learned something."""
    try:
        yield
    except BaseException as error:
        if fit.has_learned:
            note_executed(error)
        raise


def _run(opened: _OpenFit, x: Any, y: Any) -> None:
    """Fit on an epoch's data, or on a chunk of them."""
    run = opened.fit.run_chunk if opened.chunked else opened.fit.run_epoch
    run(x, y)


def _data(command: c.BatchedFit, plugins: PluginSet | None) -> list[Any]:
    """Data and targets, and those of the validation: as sent, or from files."""
    files = {name: open_data(file, plugins) for name, file in (command.files or {}).items()}
    return [files[name] if name in files else getattr(command, name) for name in _DATA]


def _evaluation(chain: Chain, command: c.BatchedFit, x: Any, y: Any) -> Evaluation | None:
    if x is None and y is None:
        if command.metrics:
            raise _refused("metrics: they are measured on validation_data and validation_y")
        return None
    return Evaluation(chain, x, y, build_metrics(command.metrics or {}), command.batch_size)


def _stopping(
    chain: Chain, command: c.BatchedFit, evaluation: Evaluation | None, y: Any
) -> EarlyStopping | None:
    if command.patience is None and not command.restore_best:
        return None
    monitored = None if evaluation is None else evaluation.monitored
    if monitored is None and chain.differentiable and y is not None:
        monitored = "loss"
    if monitored is None:
        raise _refused("patience and restore_best need a loss or a metric to follow")
    return EarlyStopping(
        chain.nodes, monitored, patience=command.patience, restore_best=command.restore_best
    )


def _refused(message: str) -> ProtocolError:
    return ProtocolError(ErrorCode.INVALID_COMMAND, message)
