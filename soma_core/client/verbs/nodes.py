"""NodeVerbs: what loads nodes into a worker, lists them, and asks plugins of it."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from typing import Any

from soma_core.client.arguments import DEFAULT, Meta, Timeout, as_node_ids, check_meta, fields_of
from soma_core.client.calls import Call
from soma_core.client.loadable import Loadable, adapt, check_filter, check_filters, check_trainable
from soma_core.client.progress.watch import Watch, watched
from soma_core.client.results import NodeListing, Pong, WorkerListing
from soma_core.client.steps import OWN_COMMANDS, Steps
from soma_core.client.verbs.base import VerbsBase
from soma_core.errors import RemoteError
from soma_core.models.filters import FilterMeta
from soma_core.protocol import commands as c


class NodeVerbs(VerbsBase):
    """Loading and listing."""

    def list(self, *, meta: Meta = None, timeout: Timeout = DEFAULT) -> Steps[WorkerListing]:
        """What the worker holds, and what it can do.

        Args:
            meta: As for :meth:`forward`.
            timeout: Seconds.

        Returns:
            Its nodes with their metas, the registered filters, and the worker's versions.
        """
        unsettled = {*self._unsettled}
        reply = yield self._call(c.ListNodes(cmd="LIST"), timeout, meta)
        details = reply.details or {}
        self.metas = dict(reply.nodes)
        self._unsettled -= unsettled
        self.registered = {node_id for node_id, known in details.items() if known.filter}
        hello = self._engine.hello
        return WorkerListing(
            nodes={
                node_id: NodeListing(meta, known.filter, known.trainable, known.learned)
                for node_id, meta in reply.nodes.items()
                if (known := details.get(node_id))
            },
            filters=reply.filters,
            versions=hello.versions.model_dump(),
            codecs=hello.codecs,
            features=hello.features,
        )

    def refresh(self) -> Steps[None]:
        """Ask what the worker holds, if that may be something else than what is known here.

        Others may have loaded something too; or the reply to a change was lost, as by Ctrl-C.
        """
        conversation = self._engine.connection.conversation
        is_unsure = self._unsettled and conversation.ended is None
        if (self._transport.options.shared or is_unsure) and not conversation.closed:
            yield from self.list()

    @contextmanager
    def _changing_nodes(self) -> Generator[None, None, None]:
        """Within the block nodes are loaded or unloaded; what comes of it is known at its end."""
        change = object()
        self._unsettled.add(change)
        try:
            yield
        except RemoteError:  # then nothing has changed
            self._unsettled.discard(change)
            raise
        self._unsettled.discard(change)

    def load(
        self,
        filters: Mapping[str, Loadable],
        *,
        trainable: bool | Mapping[str, bool] = True,
        meta: Meta = None,
        timeout: Timeout = DEFAULT,
    ) -> Steps[dict[str, FilterMeta]]:
        """Load filters, all or none; one of an id that is loaded is replaced.

        Objects are pickled; classes that the worker cannot import travel with them, by value.

        Args:
            filters: As for :func:`connect`.
            trainable: Whether the composite commands call ``fit`` of the nodes, for all or by
                id. The joint training step trains by gradients whatever has an optimizer.
            meta: As for :meth:`forward`.
            timeout: Seconds.

        Returns:
            What is known of each filter, by node id.

        Raises:
            TypeError: An object is not a filter; the message says what wraps it.
            ValueError: ``trainable`` names a node that is not among them.
        """
        check_filters(filters)
        check_trainable(trainable, filters)
        adapted = {node_id: adapt(obj, self._engine.plugins) for node_id, obj in filters.items()}
        for node_id, filter_like in adapted.items():
            check_filter(node_id, filter_like)

        self._engine.look_at_imports()

        def specs() -> list[c.FilterSpec]:
            return [self._spec(*item, trainable) for item in adapted.items()]

        call = self._call(c.Load(cmd="LOAD", filters=specs()), timeout, meta)
        call.rebuild = lambda: {"filters": specs()}
        with self._changing_nodes():
            metas: dict[str, FilterMeta] = (yield call).filters
            self.metas.update(metas)
            named = {node_id for node_id, item in adapted.items() if isinstance(item, str | tuple)}
            self.registered = (self.registered - adapted.keys()) | named
        return metas

    def _spec(
        self, node_id: str, filter_like: Loadable, trainable: bool | Mapping[str, bool]
    ) -> c.FilterSpec:
        flag = trainable if isinstance(trainable, bool) else trainable.get(node_id, True)
        if isinstance(filter_like, str):
            return c.FilterSpec(id=node_id, trainable=flag, filter=filter_like)
        if isinstance(filter_like, tuple):
            name, config = filter_like
            return c.FilterSpec(id=node_id, trainable=flag, filter=name, config=dict(config))
        return c.FilterSpec(id=node_id, trainable=flag, pickle_b64=self._pickle(filter_like))

    def _pickle(self, filter_like: object) -> bytes:
        # A recording is read by other processes, which could not return what was lent to this one.
        if self._pickles.allowed and self._recorder is None:
            lent = self._transport.lend(filter_like)
            if lent is not None:
                return lent
        return self._pickles.dump(filter_like)

    def unload(
        self, node_ids: Iterable[str], *, meta: Meta = None, timeout: Timeout = DEFAULT
    ) -> Steps[None]:
        """Forget nodes and what they learned, all or none.

        Args:
            node_ids: The nodes, at least one.
            meta: As for :meth:`forward`.
            timeout: Seconds.

        Raises:
            RemoteError: ``unknown_node``: one of them is not loaded; then none is forgotten.
        """
        ids = as_node_ids(node_ids, in_order=False)
        with self._changing_nodes():
            yield self._call(c.Unload(cmd="UNLOAD", node_ids=ids), timeout, meta)
            for node_id in ids:
                self.metas.pop(node_id, None)

    def call(
        self,
        cmd: str,
        fields: Mapping[str, Any] | None = None,
        *,
        changes_states: bool = False,
        progress: Watch = None,
        meta: Meta = None,
        timeout: Timeout = DEFAULT,
    ) -> Steps[Any]:
        """Send a command that a plugin of the worker added; the host need not have the plugin.

        Args:
            cmd: Its name: ``"EVALUATE"``.
            fields: The fields of the command, user data as Python objects.
            changes_states: Whether the command changes what its nodes learned: a restarted
                worker then raises StateLost rather than going on with older states.
            progress: Called with what the handler reports while it runs; True shows it.
            meta: As for :meth:`forward`.
            timeout: Seconds.

        Returns:
            What the handler returned.

        Raises:
            ValueError: It is one of soma's own commands, each of which has a method.
        """
        given, node_ids = fields_of(cmd, fields)
        if meta is not None:
            given["meta"] = check_meta(meta)
        if cmd in OWN_COMMANDS:
            raise ValueError(f"{cmd} has a method of its own: Worker.{OWN_COMMANDS[cmd]}")
        with watched(progress, [cmd], given.get("data")) as listener:
            call = Call(
                c.Command, given, self._seconds(timeout), node_ids, listener, self._stall_timeout
            )
            call.changes_states = changes_states
            return (yield call).result

    def ping(self, *, meta: Meta = None, timeout: Timeout = DEFAULT) -> Steps[Pong]:
        """Ask the engine whether it answers.

        Args:
            meta: As for :meth:`forward`.
            timeout: Seconds.

        Returns:
            The engine's process, and a text that differs between any two engines.
        """
        reply = yield self._call(c.Ping(cmd="PING"), timeout, meta)
        return Pong(reply.pid, reply.incarnation)
