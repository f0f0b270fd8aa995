"""The host's side: has an engine made in the cluster, looks after it, and ends it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from typing import Any, ClassVar

from soma_core.errors import StartFailed
from soma_core.transport import (
    Channel,
    Deadline,
    ExitStatus,
    OutputPump,
    Transport,
    TransportOptions,
    plugin_variables,
    thread_limits,
)
from soma_transport_ray import cluster as clusters
from soma_transport_ray.attendant import Attendant, LocalAttendant, RemoteAttendant
from soma_transport_ray.channel import RayChannel
from soma_transport_ray.cluster import Cluster
from soma_transport_ray.engine import EngineActor, Whereabouts
from soma_transport_ray.messages import LAYOUT
from soma_transport_ray.options import RayOptions
from soma_transport_ray.printed import Printout

_NAMESPACE = "soma"  # of sessions
_SLICE = 0.2  # seconds after which a start looks whether it was stopped
_FORCE = 1.0  # seconds for an engine to end that Ray was told to kill
_WATCH = 20.0  # seconds for somebody to come to the engine's node who looks after it
_LAST_WORDS = 0.5  # seconds for what it printed last to be shown
_ATTEMPTS = 10  # to have an engine made that then runs


class RayTransport(Transport):
    """Runs the engine in an actor of a Ray cluster, which ends with the host or is a session."""

    name: ClassVar[str] = "ray"
    Options: ClassVar[type[TransportOptions]] = RayOptions
    options: RayOptions

    def __init__(self, options: RayOptions) -> None:
        super().__init__(options)
        self._cluster: Cluster | None = None
        self._engine: Any = None
        self._attendant: Attendant | None = None
        self._channel: RayChannel | None = None
        self._printout: Printout | None = None
        self._here = False
        self._stopped = False

    def start(self, timeout: float | None = None) -> Channel:
        deadline = Deadline.after(timeout)
        self._stopped = False
        cluster = self._cluster = clusters.connect(self.options.address, timeout)
        with ExitStack() as undo:
            undo.callback(self._abandon)
            output = OutputPump(self.options.output)
            undo.callback(output.close)
            place = self._find_engine(cluster, deadline)
            attendant = self._attendant = self._attend(cluster, place, deadline)
            whole = self.options.session is None
            printout = self._printout = Printout(attendant, output.writing, whole=whole)
            undo.callback(printout.close)
            output.start(f"worker {place.pid}")
            undo.pop_all()
        self.output = output
        self._channel = RayChannel(
            cluster, self._engine, attendant, printout, here=self._here, at_end=self._terminate
        )
        return self._channel

    def _find_engine(self, cluster: Cluster, deadline: Deadline) -> Whereabouts:
        """Have the actor made, or find the session's, and ask where it is."""
        from ray.exceptions import RayActorError

        for attempt in range(1, _ATTEMPTS + 1):
            self._engine = self._create(cluster.ray)
            try:
                return self._where(cluster, deadline)
            except RayActorError as error:
                # Ray may choose a node whose death it has not noticed, and a session that is
                # just being ended keeps its name for a moment; neither has run anything of ours.
                if attempt == _ATTEMPTS or getattr(error, "actor_init_failed", False):
                    raise StartFailed(_not_started(error)) from error
                time.sleep(_SLICE)
        raise AssertionError("the last attempt returns or raises")

    def _create(self, ray: Any) -> Any:
        options = self.options
        wanted: dict[str, Any] = {
            "num_cpus": options.num_cpus,
            "num_gpus": options.num_gpus,
            "resources": dict(options.resources) or None,
            "runtime_env": _runtime_env(options) or None,
            "max_restarts": 0,
            "max_task_retries": 0,
        }
        if options.session is not None:
            wanted |= {"name": options.session, "namespace": _NAMESPACE, "lifetime": "detached"}
            wanted |= {"get_if_exists": True}
        given = {name: value for name, value in wanted.items() if value is not None}
        try:
            return ray.remote(EngineActor).options(**given).remote(options.pickle)
        except Exception as error:  # of many kinds: what Ray does not accept, and a lost cluster
            raise StartFailed(f"Ray does not accept the engine: {error}") from error

    def _where(self, cluster: Cluster, deadline: Deadline) -> Whereabouts:
        from ray.exceptions import RayActorError, RayError

        ref = self._engine.whereabouts.remote()
        try:
            while not cluster.ray.wait([ref], timeout=_SLICE)[0]:
                if self._stopped:
                    raise StartFailed("the transport was stopped while it started")
                if deadline.over():
                    raise StartFailed(self._why_not(cluster.ray))
            place = Whereabouts(*cluster.ray.get(ref))
        except ConnectionError as error:
            raise StartFailed(f"the engine did not start: {error}") from error
        except RayActorError:
            raise
        except RayError as error:
            raise StartFailed(_not_started(error)) from error
        if place.layout != LAYOUT:
            raise StartFailed(
                f"the engine writes messages in layout {place.layout}, this host in {LAYOUT}; "
                "install the same soma-transport-ray on all nodes"
            )
        return place

    def _why_not(self, ray: Any) -> str:
        """What is wrong with an engine that did not come up in time."""
        options = self.options
        wanted = {"CPU": options.num_cpus, "GPU": options.num_gpus, **options.resources}
        asked = {name: amount for name, amount in wanted.items() if amount}
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        fitting = [node for node in nodes if _fits(asked, node)]
        if not fitting:
            has = "; ".join(_listed(node) for node in nodes) or "none"
            return (
                f"no node of the Ray cluster has what the engine needs ({_listed(asked)}); its "
                f"nodes have: {has}. Ask for less, or start a node with: ray start --address=… "
                "--resources='{…}'"
            )
        free = _listed(ray.available_resources())
        return (
            f"the engine did not start in time: it needs {_listed(asked) or 'a CPU to start'}, "
            f"and free in the cluster is {free or 'nothing'}; close other workers, or wait longer "
            "(start_timeout)"
        )

    def _attend(self, cluster: Cluster, place: Whereabouts, deadline: Deadline) -> Attendant:
        here = place.node == cluster.ray.get_runtime_context().get_node_id()
        self._here = here
        if here:
            with suppress(OSError):  # a container of its own: then from inside of that
                return LocalAttendant(place)
        remote = RemoteAttendant(cluster, place)
        remote.begin(deadline.within(_WATCH).left() or 0.0)
        return remote

    def poll(self) -> ExitStatus | None:
        if self._stopped:
            return ExitStatus()
        if self._channel is None or self._attendant is None or self._cluster_lost():
            return None
        over = self._channel.ended is not None or self._attendant.look()
        return ExitStatus() if over else None

    def _cluster_lost(self) -> bool:
        """Nothing is known of the engine then; the channel says why it is closed."""
        return self._cluster is None or self._cluster.lost

    def interrupt(self) -> None:
        turn = None if self._channel is None else self._channel.turn()
        if turn is not None and self._attendant is not None:
            self._attendant.interrupt(turn)

    def runs_here(self, pid: int) -> bool:
        return self._here

    def diagnostics(self) -> str:
        if self._printout is not None:
            self._printout.finish()
        told = "" if self._channel is None else self._channel.told
        return "\n".join(filter(None, (super().diagnostics(), told and f"Ray: {told}")))

    def stop(self, grace: float) -> ExitStatus | None:
        """End an engine of our own; a session is only left."""
        if self.options.session is None:
            return self.shutdown(grace)
        self._stopped = True
        self._leave()
        return None

    def shutdown(self, grace: float) -> ExitStatus | None:
        self._stopped = True
        if self._channel is not None:
            self._channel.close()
        self._end_engine(grace)
        if self._printout is not None:
            self._printout.finish()
        self._leave()
        return ExitStatus()

    def _end_engine(self, grace: float) -> None:
        engine, attendant = self._engine, self._attendant
        if engine is None or attendant is None or self._cluster is None:
            return  # it was never started, or is being started: then the start ends it
        if grace > 0 and not attendant.ended():
            self._terminate()
            attendant.wait(grace)
        with suppress(Exception):  # the cluster is gone
            self._cluster.ray.kill(engine)
        if not attendant.wait(_FORCE):
            attendant.kill()
            attendant.wait(_FORCE)

    def _terminate(self) -> None:
        """Have the engine exit as soon as this comes: at once if it has answered SHUTDOWN."""
        with suppress(Exception):  # it is gone already, or the cluster
            assert self._cluster is not None
            self._cluster.check()
            self._engine.__ray_terminate__.remote()

    def _abandon(self) -> None:
        """Free what a start took that failed."""
        engine, self._engine = self._engine, None
        if engine is not None and self.options.session is None and self._cluster is not None:
            with suppress(Exception):  # the cluster is gone
                self._cluster.ray.kill(engine)

    def _leave(self) -> None:
        if self._channel is not None:
            self._channel.close()
        attendant, self._attendant = self._attendant, None
        if self._printout is not None:
            self._printout.close()
        if self.output is not None:
            self.output.finish(_LAST_WORDS)
        if attendant is not None:
            attendant.close()


def _not_started(error: Exception) -> str:
    return (
        f"Ray could not start the engine: {error}\nIts node needs soma-transport-ray in the host's "
        "version, or say runtime_env={'pip': ['soma-transport-ray']}"
    )


def _runtime_env(options: RayOptions) -> dict[str, Any]:
    given = dict(options.runtime_env)
    variables = {
        **thread_limits(options.threads),
        **plugin_variables(options.plugins),
        **given.get("env_vars", {}),
    }
    return given | ({"env_vars": variables} if variables else {})


def _fits(asked: Mapping[str, float], node: Mapping[str, float]) -> bool:
    return all(node.get(name, 0.0) >= amount for name, amount in asked.items())


def _listed(resources: Mapping[str, float]) -> str:
    """Resources as people say them, without those that Ray keeps for itself."""
    shown = {name: amount for name, amount in resources.items() if ":" not in name}
    told = {name: amount for name, amount in shown.items() if "memory" not in name}
    return ", ".join(f"{name} {amount:g}" for name, amount in sorted(told.items()))
