"""Batched fits: BATCHED_FIT as a host drives it, with pauses between epochs and between chunks."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from soma_core.channel.deadline import Deadline
from soma_core.client.steps import Steps
from soma_core.errors import DeadlineExceeded, SomaError
from soma_core.models.files import DataFile
from soma_core.protocol.commands import BatchedFit, ContinueFit

Chunks = Callable[[], Iterator[tuple[Any, Any]]]
"""Gives the chunks of one epoch: the data and the targets of each."""

Metric = Callable[[Any, Any], float]
"""``metric(y, out)``: the targets and the outputs of all rows."""

OnEpoch = Callable[[dict[str, Any]], object]
"""Called after each epoch with its number and what it came to."""

Ask = Callable[[BatchedFit | ContinueFit, float | None], Steps[Any]]
"""Sends a command and returns its reply; the second argument is how many seconds it may take."""

_STOP_GRACE = 5.0  # seconds for a worker to let go of a fit that is given up


def batched_fit_command(
    node_ids: Sequence[str],
    x: Any,
    y: Any,
    *,
    validation: tuple[Any, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    **options: Any,
) -> BatchedFit:
    """The command for the arguments of ``batched_fit``.

    Args:
        node_ids: The nodes.
        x: The data, or a file of them; None if they come in chunks.
        y: The targets, likewise.
        validation: The data and targets of the validation, likewise.
        metrics: What is measured on them.
        options: Further fields of the command; what is None is left out.

    Raises:
        TypeError: ``validation`` is no tuple of two, ``metrics`` no mapping, or a metric no name
            and no function.
        ValueError: There are metrics and no validation.
    """
    given = {"data": x, "y": y}
    if validation is not None:
        if not isinstance(validation, tuple) or len(validation) != 2:
            kind = type(validation).__name__
            raise TypeError(f"validation is a tuple (x, y), got a {kind}")
        given["validation_data"], given["validation_y"] = validation
    elif metrics:
        raise ValueError("metrics need validation=(x, y): what they are measured on")
    if not isinstance(metrics, Mapping | None):
        raise TypeError(
            f'metrics is a dict from name to metric, got {metrics!r}; such as {{"accuracy": '
            '"accuracy"}'
        )
    for name, metric in (metrics or {}).items():
        if not isinstance(metric, str) and not callable(metric):
            raise TypeError(
                f"metrics: {name!r} is the name of a scorer of scikit-learn, or a function of "
                f"(y, out); got a {type(metric).__name__}"
            )
    files = {name: value for name, value in given.items() if isinstance(value, DataFile)}
    fields = {name: value for name, value in given.items() if name not in files}
    optional = {"files": files or None, "metrics": metrics and dict(metrics), **options}
    fields |= {name: value for name, value in optional.items() if value is not None}
    return BatchedFit(cmd="BATCHED_FIT", node_ids=[*node_ids], **fields)


def as_chunks(x: Any, y: Any, epochs: int) -> Chunks | None:
    """The chunks that data come in; None if they are all there.

    Args:
        x: An iterator of ``(x, y)``; what returns one for each epoch, such as a function or a
            DataLoader; or data.
        y: The targets; None with chunks, which bring their own.
        epochs: How often they are gone through.

    Raises:
        ValueError: An iterator would be gone through twice, or there are targets beside chunks.
    """
    is_iterator = isinstance(x, Iterator)
    again = partial(iter, x) if _is_loader(x) else x
    if not callable(again) and not is_iterator:
        return None
    if y is not None:
        raise ValueError("chunks are (x, y) tuples: they bring their targets, so leave y out")
    if not is_iterator:
        return lambda: _checked(again())
    if epochs > 1:
        raise ValueError(
            f"an iterator of chunks can be gone through once, and epochs is {epochs}; give a "
            "function that returns a new iterator for each epoch"
        )
    return lambda: _checked(x)


def _is_loader(x: Any) -> bool:
    """Whether it is a DataLoader, of torch or alike: not data, but what gives chunks of them."""
    return any(kind.__name__ == "DataLoader" for kind in type(x).__mro__)


def _checked(chunks: Iterable[Any]) -> Generator[tuple[Any, Any], None, None]:
    for chunk in chunks:
        pair = isinstance(chunk, list) and all(hasattr(part, "shape") for part in chunk)
        if not (pair or isinstance(chunk, tuple)) or len(chunk) != 2:
            raise TypeError(
                f"a chunk is a tuple (x, y), of which y may be None; got a {type(chunk).__name__}"
            )
        yield tuple(chunk)


def run_batched_fit(
    command: BatchedFit,
    ask: Ask,
    *,
    chunks: Chunks | None = None,
    on_epoch: OnEpoch | None = None,
    timeout: float | None = None,
) -> Steps[Any]:
    """Send BATCHED_FIT, and CONTINUE_FIT until it has ended.

    Args:
        command: The command; of chunks it holds none yet.
        ask: Sends a command.
        chunks: A chunk is taken when the worker has learned from the one before it.
        on_epoch: Called between epochs, when the worker is free for other calls.
        timeout: Seconds for everything; None for ever.

    Returns:
        The last reply.

    Raises:
        DeadlineExceeded: It did not end within its timeout.
        ValueError: There is no chunk.
    """
    fit = _RunningFit(command, ask, timeout)
    while not fit.ended:
        try:
            if chunks is None:
                yield from fit.advance("never" if on_epoch is None else "epoch")
            else:
                yield from fit.send_chunks(chunks())
            fit.epochs_done += 1
            if on_epoch is not None:
                on_epoch(fit.last_epoch())
        except SomaError:
            raise  # the worker has ended it, or is gone
        except BaseException:  # of the host's own code
            yield from fit.stop()
            raise
    return fit.reply


class _RunningFit:
    """A fit that the worker may hold open between two commands.

    Attributes:
        reply: The last reply; None before the first.
        epochs_done: The epochs that have ended, of a fit that pauses between them.
    """

    def __init__(self, command: BatchedFit, ask: Ask, timeout: float | None) -> None:
        self._command, self._ask = command, ask
        self._timeout, self._deadline = timeout, Deadline.after(timeout)
        self.reply: Any = None
        self.epochs_done = 0

    @property
    def ended(self) -> bool:
        return self.reply is not None and self.reply.fit_id is None

    def advance(self, pause: str = "never", **fields: Any) -> Steps[None]:
        """Begin the fit, which pauses where its ``pause`` says, or let it go on."""
        if self.reply is None:
            command: BatchedFit | ContinueFit = self._command
            if pause != "never":
                command = self._command.model_copy(update={"pause": pause, **fields})
        else:
            yield from self._check_time()
            command = self._next(**fields)
        self.reply = yield from self._ask(command, self._deadline.left())

    def send_chunks(self, chunks: Iterator[tuple[Any, Any]]) -> Steps[None]:
        """Send the chunks of one epoch, and end it."""
        empty = True
        for x, y in chunks:
            empty = False
            yield from self.advance("chunk", data=x, y=y)
        if empty:
            raise ValueError(f"there is no chunk of data in epoch {self.epochs_done + 1}")
        yield from self.advance(end_epoch=True)

    def last_epoch(self) -> dict[str, Any]:
        """The number of the epoch that was done last, and what it came to."""
        numbers = {name: values[-1] for name, values in self.reply.history.items()}
        return {"epoch": self.epochs_done, "epochs": self._command.epochs, **numbers}

    def stop(self) -> Steps[None]:
        """Have the worker let go of the fit, if it holds it open."""
        if self.reply is not None and not self.ended:
            with suppress(SomaError):  # then the worker is gone, or has given the fit up already
                yield from self._ask(self._next(stop=True), _STOP_GRACE)

    def _check_time(self) -> Steps[None]:
        if self._deadline.over():
            yield from self.stop()
            raise DeadlineExceeded(
                f"BATCHED_FIT of {', '.join(self._command.node_ids)} did not end within "
                f"{self._timeout:g} s; it was ended after {self.epochs_done} epochs",
                worker_survived=True,
            )

    def _next(self, **fields: Any) -> ContinueFit:
        fit_id, node_ids = self.reply.fit_id, self._command.node_ids
        return ContinueFit(cmd="CONTINUE_FIT", fit_id=fit_id, node_ids=node_ids, **fields)
