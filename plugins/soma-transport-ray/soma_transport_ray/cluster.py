"""The cluster: connecting this process to it, and noticing when its head is lost.

A process has one connection to Ray, so what is known of it is the process's own as well. Ray ends
a process that has not reached the head for 60 seconds, which is no way to treat a host: a
connection that was made here is given up before that.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from soma_core.errors import StartFailed

_PROBE = 2.0  # seconds for the head to accept a connection
_LOOK = 1.0  # seconds between looks at the head
_LOST = 10.0  # seconds without the head after which it counts as lost
_DRAIN = 0.5  # seconds for calls that wait to notice, before the connection goes under them
_log = logging.getLogger("soma.ray")


class Cluster:
    """A connection to a cluster.

    Args:
        ray: The module.
        ours: Whether it was made here, so that it may be given up here.

    Attributes:
        address: Where its head listens.
        lost: Whether the head has not been reached for a while.
    """

    def __init__(self, ray: Any, *, ours: bool) -> None:
        self._ray = ray
        self.address: str = ray.get_runtime_context().gcs_address
        self.lost = False
        self._ours = ours
        self._id = ray.get_runtime_context().get_worker_id()
        self._lock = threading.Lock()
        self._actors: dict[str, Any] = {}
        threading.Thread(target=self._watch, name="soma-ray-head", daemon=True).start()

    def on_node(self, node: str, actor_class: type) -> Any:
        """An actor of this class on a node, which all that ask for it share."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        there = NodeAffinitySchedulingStrategy(node, soft=False)
        with self._lock:
            if node not in self._actors:
                remote = self.ray.remote(actor_class)
                options = {"num_cpus": 0, "scheduling_strategy": there, "max_concurrency": 8}
                self._actors[node] = remote.options(**options).remote()
            return self._actors[node]

    @property
    def ray(self) -> Any:
        """The module, connected to this cluster: without a connection it would start one anew.

        Raises:
            ConnectionError: It is connected to this cluster no more.
        """
        self.check()
        return self._ray

    def check(self) -> None:
        """Make sure that this process is connected to it still.

        Raises:
            ConnectionError: It is not.
        """
        if self.lost:
            raise ConnectionError(f"the head of the Ray cluster at {self.address} is lost")
        if not self.current:
            raise ConnectionError(f"Ray was disconnected from the cluster at {self.address}")

    @property
    def current(self) -> bool:
        """Whether this process is connected to it still."""
        ray = self._ray
        return bool(ray.is_initialized() and ray.get_runtime_context().get_worker_id() == self._id)

    def _watch(self) -> None:
        seen = time.monotonic()
        while self.current:
            if _answers(self.address, _PROBE):
                seen = time.monotonic()
            elif time.monotonic() - seen > _LOST:
                self._give_up()
                return
            time.sleep(_LOOK)

    def _give_up(self) -> None:
        self.lost = True
        _log.error("the head of the Ray cluster at %s is lost", self.address)
        if self._ours:
            time.sleep(_DRAIN)
            self._ray.shutdown()


_connecting = threading.Lock()
_cluster: Cluster | None = None
_forked = False  # from a process that is connected to Ray


def _note_fork() -> None:
    global _forked
    ray = sys.modules.get("ray")
    _forked = _forked or (ray is not None and ray.is_initialized())


os.register_at_fork(after_in_child=_note_fork)


def connect(address: str | None, timeout: float | None) -> Cluster:
    """Connect this process, unless it is.

    Args:
        address: As for ``ray.init``; None is whatever Ray finds, or starts.
        timeout: Seconds that the head may take to answer.

    Raises:
        StartFailed: Ray is not installed, nobody answers, or it is another cluster or version.
    """
    global _cluster
    ray = _import_ray()
    if _forked:
        raise StartFailed(
            "this process was forked from one that is connected to Ray, and Ray does not work "
            "here; start it by spawn or forkserver instead of fork"
        )
    with _connecting:
        ours = not ray.is_initialized()
        if ours:
            _initialize(ray, address, timeout)
        if _cluster is None or not _cluster.current:
            _cluster = Cluster(ray, ours=ours)
        _check_same(address, _cluster.address)
        return _cluster


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise StartFailed(
            f"the transport 'ray' needs Ray, which cannot be imported here ({error}); "
            "pip install 'ray>=2.40', the version of the cluster, in an environment whose Python "
            "Ray has wheels for"
        ) from error
    return ray


def _initialize(ray: Any, address: str | None, timeout: float | None) -> None:
    named = address not in (None, "auto", "local")
    if named and not _answers(str(address), _PROBE if timeout is None else min(timeout, _PROBE)):
        raise StartFailed(
            f"no Ray cluster answers at {address}; start one with: ray start --head --port=PORT"
        )
    options = {"include_dashboard": False, "log_to_driver": False, "configure_logging": False}
    try:
        _in_lasting_thread(partial(ray.init, address, **options))
    except Exception as error:  # of many kinds: the address, the versions, the authentication
        remedy = "; run the host with the Python and the Ray of the cluster"
        skew = "ersion mismatch" in str(error)
        raise StartFailed(
            f"cannot connect to the Ray cluster at {address or 'the default address'}: "
            f"{str(error).strip()}{remedy if skew else ''}"
        ) from error


def _in_lasting_thread(start: Callable[[], object]) -> None:
    """Call something on the main thread, or on one that lasts as long as the process.

    The kernel ends a head that Ray starts with the thread that started it; a pool starts each
    worker in a thread that ends once it is started.
    """
    if threading.current_thread() is threading.main_thread():
        start()
        return
    started: Future[None] = Future()

    def run() -> None:
        try:
            start()
        except BaseException as error:
            started.set_exception(error)
        else:
            started.set_result(None)
            threading.Event().wait()

    threading.Thread(target=run, name="soma-ray", daemon=True).start()
    started.result()


def _check_same(wanted: str | None, connected: str) -> None:
    if wanted in (None, "auto", "local") or _place(str(wanted)) == _place(connected):
        return
    raise StartFailed(
        f"this process is connected to the Ray cluster at {connected} already, and one process "
        f"has one connection; call ray.shutdown() before connecting to {wanted}"
    )


def _answers(address: str, timeout: float) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout).close()
    except (OSError, ValueError, OverflowError):
        return False
    return True


def _place(address: str) -> tuple[str, str]:
    """An address so that two spellings of one place are equal."""
    host, _, port = address.rpartition(":")
    try:
        found = socket.gethostbyname(host.strip("[]"))
    except OSError:
        return host, port
    here = found.startswith("127.") or found == socket.gethostbyname(socket.gethostname())
    return "here" if here else found, port
