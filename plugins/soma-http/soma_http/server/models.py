"""Models: each a pool of workers, in the event loop of the server."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from typing import Any

import soma_core as soma
from soma_http.server.config import ModelConfig
from soma_http.server.inference.messages import TensorMetadata

_STARTING = 600.0  # seconds for each step of a start: a model may be large
_GRACE = 30.0  # seconds for the requests of a model that was replaced
_log = logging.getLogger("soma.http")
_OF_STDIO = {"pickle", "env", "allow_modules", "memory_limit", "nice", "threads"}
_DATATYPES = {
    "Float64": "FP64",
    "Float32": "FP32",
    "Float16": "FP16",
    "BFloat16": "BF16",
    "Int64": "INT64",
    "Int32": "INT32",
    "Int16": "INT16",
    "Int8": "INT8",
    "UInt8": "UINT8",
    "Bool": "BOOL",
    "Utf8": "BYTES",
    "Bytes": "BYTES",
}


class ServedModel:
    """One model.

    Attributes:
        failure: Why it could not be started; None if it could, or is being started.
        inputs: What is known of its inputs.
        outputs: What is known of its outputs.
    """

    def __init__(self, name: str, config: ModelConfig) -> None:
        self.name = name
        self.config = config
        self.failure: str | None = None
        self.inputs: list[TensorMetadata] = list(config.inputs)
        self.outputs: list[TensorMetadata] = list(config.outputs)
        self._stamp = _stamp(config)
        self._pool: soma.AsyncWorkerPool | None = None
        self._metas: Mapping[str, soma.FilterMeta] = {}
        self._node_ids = list(config.nodes(name))

    @property
    def ready(self) -> bool:
        """Whether it can be asked."""
        return self._pool is not None

    def is_made_of(self, config: ModelConfig) -> bool:
        """Whether it is what a configuration says, its checkpoint included."""
        return self.config == config and self._stamp == _stamp(config)

    @property
    def platform(self) -> str:
        """What it is made of, for who asks."""
        return " > ".join(node.filter for node in self.config.nodes(self.name).values())

    async def start(self) -> None:
        """Start its workers and load it.

        Raises:
            Exception: Whatever ``soma.AsyncWorkerPool`` raises.
        """
        pool = await self._new_pool()
        try:
            listing = await pool.list(timeout=_STARTING)
            self._metas = {node_id: node.meta for node_id, node in listing.nodes.items()}
            if self.config.checkpoint is not None:
                await pool.load_checkpoint(self.config.checkpoint, timeout=_STARTING)
        except BaseException:
            await pool.close()
            raise
        self._describe()
        self._pool = pool

    async def _new_pool(self) -> soma.AsyncWorkerPool:
        config = self.config
        filters = {
            node_id: (node.filter, dict(node.config))
            for node_id, node in config.nodes(self.name).items()
        }
        return await soma.AsyncWorkerPool(
            "stdio",
            config.workers,
            filters=filters,
            timeout=config.timeout,
            start_timeout=_STARTING,
            max_queue=config.max_queue,
            batching=self._batching(),
            **config.model_dump(include=_OF_STDIO, exclude_none=True),
        )

    def _batching(self) -> soma.Batching | None:
        """How calls are joined; its nodes are named, so that one whose rows depend on each other
        is refused instead of never joined."""
        wanted = self.config.batching
        if wanted is None:
            return None
        return soma.Batching(
            max_rows=wanted.max_rows, max_delay=wanted.max_delay, nodes=self._node_ids
        )

    def _describe(self) -> None:
        metas = list(self._metas.values())
        if not self.inputs:
            self.inputs = _of_schema("input", metas[0].input_schema)
        if not self.outputs:
            self.outputs = _of_schema("output", metas[-1].output_schema)

    async def run(self, x: Any) -> Any:
        """Run it in whichever worker is free first.

        Raises:
            Exception: Whatever ``AsyncWorkerPool.forward`` raises.
        """
        node_ids = self._node_ids
        return await self._started().forward(node_ids[0] if len(node_ids) == 1 else node_ids, x)

    async def run_node(self, node_id: str, x: Any, state: Any) -> Any:
        """Run one of its nodes, in whichever worker is free first.

        Raises:
            Exception: Whatever ``AsyncWorkerPool.forward`` raises.
        """
        return await self._started().forward(node_id, x, state)

    def metas(self) -> Mapping[str, soma.FilterMeta]:
        """The metas of its nodes, by id.

        Raises:
            StartFailed: It is not ready.
        """
        self._started()
        return self._metas

    def _started(self) -> soma.AsyncWorkerPool:
        if self._pool is None:
            raise soma.StartFailed(self.failure or "it is being loaded")
        return self._pool

    def workers(self) -> list[soma.WorkerStatus]:
        """What is known of its workers, without asking them."""
        return [] if self._pool is None else self._pool.status()

    def stats(self) -> soma.PoolStats | None:
        """What its pool has done; None while it has none."""
        return None if self._pool is None else self._pool.stats()

    async def stop(self, grace: float = 0.0) -> None:
        """End its workers, once they have done what was asked, or after so many seconds."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.shutdown(timeout=grace)


def _stamp(config: ModelConfig) -> tuple[int, ...] | None:
    """Differs once the file of a checkpoint was replaced."""
    if config.checkpoint is None:
        return None
    try:
        status = config.checkpoint.stat()
    except OSError:  # its start says so
        return ()
    return (status.st_ino, status.st_size, status.st_mtime_ns)


def _of_schema(name: str, schema: soma.Schema | None) -> list[TensorMetadata]:
    """What a filter declares, if the protocol has words for it."""
    datatype = None if schema is None else _DATATYPES.get(str(schema.dtype))
    if schema is None or datatype is None or schema.shape is None:
        return []
    shape = [axis.Fixed if isinstance(axis, soma.Fixed) else -1 for axis in schema.shape]
    fields = {"name": name, "datatype": datatype, "shape": shape}
    return [TensorMetadata.model_validate(fields)]


class Models:
    """All models of a server."""

    def __init__(
        self,
        configs: Mapping[str, ModelConfig],
        make: Callable[[str, ModelConfig], ServedModel] = ServedModel,
    ) -> None:
        self._make = make
        self._models = {name: make(name, config) for name, config in configs.items()}
        self._wanted = configs
        self._coming: dict[
            str, ServedModel
        ] = {}  # by name: those that take over once they are ready
        self._starts: dict[ServedModel, asyncio.Task[None]] = {}
        self._ends: set[asyncio.Task[None]] = set()
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)  # one start each

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._models.values())

    def get(self, name: str) -> ServedModel | None:
        """One of them."""
        return self._models.get(name)

    @property
    def ready(self) -> bool:
        """Whether all of them can be asked."""
        return all(model.ready for model in self._models.values())

    async def start(self) -> None:
        """Start them, side by side; one that fails keeps the reason, and the others go on."""
        await _all(map(self._begin, self._models.values()))

    def _begin(self, model: ServedModel) -> asyncio.Task[None]:
        """Its start, which may be under way."""
        start = self._starts.get(model)
        if start is None:
            start = self._starts[model] = asyncio.create_task(self._start(model))
            start.add_done_callback(lambda _: self._starts.pop(model))
        return start

    async def _start(self, model: ServedModel) -> None:
        try:
            async with self._turns[model.name]:
                await model.start()
            _log.info("the model %r is ready", model.name)
        except Exception as error:
            model.failure = f"{type(error).__name__}: {error}"
            _log.error("the model %r cannot be loaded: %s", model.name, model.failure)
        self._take_over(model)

    def _take_over(self, model: ServedModel) -> None:
        """Put a model that was started in its place; one that failed leaves another that serves."""
        name = model.name
        if self._coming.get(name) is not model:
            return
        del self._coming[name]
        before = self._models.get(name)
        if before is None or model.ready or not self._is_alive(before):
            self._models[name] = model
            self._retire(before)

    def become(self, configs: Mapping[str, ModelConfig]) -> Coroutine[Any, Any, bool]:
        """Serve what other configurations say.

        Those that changed are started beside the running ones, which serve until then, and are
        ended when they have answered. One that cannot be started leaves the running one in place.
        None waits for another, nor a later change for one that is still under way.

        Returns:
            What waits until all are started or have failed: whether no later change came.
        """
        before, self._coming = self._coming, {}
        for name, config in configs.items():
            known = [one[name] for one in (before, self._models) if name in one]
            kept = [one for one in known if self._is_alive(one) and one.is_made_of(config)]
            model = kept[0] if kept else self._make(name, config)
            if self._models.get(name) is not model:
                self._coming[name] = model
        for name, model in before.items():
            if self._coming.get(name) is not model:
                self._retire(model)
        for name, model in self._models.items():
            if not model.ready and (name in self._coming or name not in configs):
                self._retire(model)
        self._wanted = configs
        return self._settle(configs, [self._begin(model) for model in self._coming.values()])

    async def _settle(
        self, configs: Mapping[str, ModelConfig], starts: list[asyncio.Task[None]]
    ) -> bool:
        await _all(starts)
        if self._wanted is not configs:
            return False
        for name in self._models.keys() - configs.keys():
            self._retire(self._models[name])
        self._models = {name: self._models[name] for name in configs if name in self._models}
        return True

    def _is_alive(self, model: ServedModel) -> bool:
        """Whether it serves, or may yet."""
        start = self._starts.get(model)
        return model.ready or (start is not None and not (start.done() or start.cancelling()))

    def _retire(self, model: ServedModel | None) -> None:
        """End one that is asked nothing any more, once it has answered."""
        if model is None:
            return
        if (start := self._starts.get(model)) is not None:
            _cancel(start)
            return
        end = asyncio.create_task(model.stop(_GRACE))
        self._ends.add(end)
        end.add_done_callback(self._ends.discard)

    async def stop(self) -> None:
        """End the workers of all."""
        under_way = [*self._starts.values(), *self._ends]
        for task in under_way:
            _cancel(task)
        await asyncio.gather(*under_way, return_exceptions=True)
        await asyncio.gather(*(model.stop() for model in (*self, *self._coming.values())))


def _cancel(task: asyncio.Task[None]) -> None:
    """Cancel a task; one that is ending its workers for that already is left to it."""
    if not task.cancelling():
        task.cancel()


async def _all(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Wait for tasks; who stops waiting leaves them alone."""
    if waited := list(tasks):
        await asyncio.wait(waited)
