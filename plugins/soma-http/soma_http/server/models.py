"""Models: each a pool of workers, in the event loop of the server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import soma_core as soma
from soma_http.server.config import ModelConfig
from soma_http.server.inference.messages import TensorMetadata

__all__ = ["Models", "ServedModel"]

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
        self._changing = asyncio.Lock()
        self._models = {name: make(name, config) for name, config in configs.items()}

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
        async with self._changing:
            await asyncio.gather(*map(self._start, self._models.values()))

    async def _start(self, model: ServedModel) -> None:
        try:
            await model.start()
            _log.info("the model %r is ready", model.name)
        except Exception as error:
            model.failure = f"{type(error).__name__}: {error}"
            _log.error("the model %r cannot be loaded: %s", model.name, model.failure)

    async def become(self, configs: Mapping[str, ModelConfig]) -> None:
        """Serve what other configurations say.

        Those that changed are started beside the running ones, which serve until then, and are
        ended when they have answered. One that cannot be started leaves the running one in place.
        """
        async with self._changing:
            await self._change_to(configs)

    async def _change_to(self, configs: Mapping[str, ModelConfig]) -> None:
        kept = {
            name: model
            for name, model in self._models.items()
            if name in configs and model.ready and model.is_made_of(configs[name])
        }
        changed = {name: config for name, config in configs.items() if name not in kept}
        made = {name: self._make(name, config) for name, config in changed.items()}
        await asyncio.gather(*map(self._start, made.values()))
        before = self._models
        for name, model in made.items():
            old = before.get(name)
            kept[name] = old if old is not None and old.ready and not model.ready else model
        self._models = {name: kept[name] for name in configs}
        retired = [model for model in before.values() if model not in kept.values()]
        await asyncio.gather(*(model.stop(_GRACE) for model in retired))

    async def stop(self) -> None:
        """End the workers of all."""
        await asyncio.gather(*(model.stop() for model in self))
