"""Run: a pipeline from a TOML file, in a worker, from data files to an output file."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from soma_core.cli.console import CommandFailed
from soma_core.cli.curve import Curve
from soma_core.cli.files import read_array, write_array
from soma_core.cli.picture import PictureFile, check_drawing, draw_curves
from soma_core.cli.pipeline import ArrayFile, Batched, Composite, Each, PipelineFile, read_pipeline
from soma_core.client.connect import connect
from soma_core.client.plain_console import PlainConsole
from soma_core.client.progress.display import ProgressDisplay
from soma_core.client.progress.watch import each_of
from soma_core.client.worker import Worker
from soma_core.errors import SomaError
from soma_core.models.chains import ChainMismatch, ChainNode, check_chain
from soma_core.models.rows import count_if_equal
from soma_core.progress import Listener


def run(
    pipeline: Annotated[Path, typer.Argument(help="A TOML file; see examples/pipelines.")],
    curve: PictureFile = None,
) -> None:
    """Fit a chain of filters on data files, run it, and write its output."""
    read = read_pipeline(pipeline)
    if curve is not None:
        check_drawing(curve)
        if not read.fit:
            raise CommandFailed(f"--curve: {pipeline} has no [fit], so there is no curve to draw")
    console = PlainConsole(stderr=True)
    _, curves = run_pipeline(read, pipeline.parent, console)
    if curve is not None:
        draw_curves(curves, curve)
        _say(console, f"drew {curve}")


def run_pipeline(pipeline: PipelineFile, base: Path, console: Console) -> tuple[Any, list[Curve]]:
    """Run a pipeline, and return the output that was written and the curve of each fit.

    Raises:
        SomaError: A file, a filter or the worker failed.
    """
    started = time.perf_counter()
    data = pipeline.data
    x, y = read_array(data.x, base), _read(data.y, base)
    validation = _read(data.validation_x, base), _read(data.validation_y, base)
    applied = read_array(data.apply, base) if data.apply else x
    with _connect(pipeline) as worker:
        chain = pipeline.node_ids
        _check_chain(worker, chain)
        _say(console, f"loaded {', '.join(chain)} over {pipeline.transport.name}")
        fits = _Fits(console)
        for step in pipeline.fit:
            learned_from = (x, y, None if data.validation_x is None else validation)
            _fit(worker, chain, step, learned_from, fits)
        output = worker.composite_forward(chain, applied)
    path = base / pipeline.output.path
    shape = " x ".join(map(str, write_array(output, path))) or "a single value"
    _say(console, f"wrote {path} ({shape}) after {time.perf_counter() - started:.1f} s")
    return output, fits.curves


def _read(source: ArrayFile | None, base: Path) -> Any:
    return None if source is None else read_array(source, base)


class _Fits:
    """Shows each fit on the console, and keeps its curve."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self.curves: list[Curve] = []

    @contextmanager
    def watching(self, title: str, x: Any) -> Iterator[Listener]:
        """Within the block, a fit runs; its reports go to what is yielded."""
        self.curves.append(Curve(title))
        with ProgressDisplay(self._console, title, count_if_equal(x)) as shown:
            yield each_of(shown, self.curves[-1])


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _connect(pipeline: PipelineFile) -> Worker:
    filters = {node.id: (node.filter, node.config) for node in pipeline.filters}
    section = pipeline.transport
    reserved = {"transport", "filters", "timeout"} & section.options.keys()
    if reserved:
        raise CommandFailed(
            f"transport.options: {', '.join(sorted(reserved))} is not an option of a transport"
        )
    try:
        return connect(section.name, filters=filters, timeout=section.timeout, **section.options)
    except SomaError:
        raise
    except (TypeError, ValueError) as error:
        raise CommandFailed(f"transport.options: {error}") from error


def _check_chain(worker: Worker, chain: list[str]) -> None:
    """Refuse a chain of filters whose schemas cannot fit, before any of them is fitted."""
    metas = worker.metas
    try:
        check_chain(ChainNode.of(node_id, metas[node_id]) for node_id in chain)
    except ChainMismatch as error:
        raise CommandFailed(str(error)) from None


def _fit(
    worker: Worker,
    chain: list[str],
    step: Each | Composite | Batched,
    data: tuple[Any, Any, tuple[Any, Any] | None],
    fits: _Fits,
) -> None:
    nodes = step.nodes or chain
    before = chain[: chain.index(nodes[0])]
    x, y, validation = data
    if before:
        x = worker.composite_forward(before, x)
        if validation is not None:
            validation = worker.composite_forward(before, validation[0]), validation[1]
    if isinstance(step, Each):
        _fit_each(worker, nodes, x, y, fits)
        return
    with fits.watching(" → ".join(nodes), x) as on_report:
        if isinstance(step, Composite):
            fitted = worker.composite_fit(nodes, x, y, return_states=False, progress=on_report)
            on_report({"epoch": 1, "epochs": 1, "loss": fitted.loss})
            return
        worker.batched_fit(
            nodes,
            x,
            y,
            epochs=step.epochs,
            batch_size=step.batch_size,
            shuffle=step.shuffle,
            seed=step.seed,
            resume=step.resume,
            validation=validation,
            metrics=step.metrics,
            patience=step.patience,
            restore_best=step.restore_best,
            return_states=False,
            progress=on_report,
        )


def _fit_each(worker: Worker, nodes: list[str], x: Any, y: Any, fits: _Fits) -> None:
    for position, node_id in enumerate(nodes):
        if position:
            x = worker.forward(nodes[position - 1], x)
        with fits.watching(node_id, x) as on_report:
            worker.fit(node_id, x, y, return_state=False, progress=on_report)
