"""The zygote: a process that has imported what workers need, and forks them warm.

It runs with one BLAS thread and refuses to fork while another thread runs that is not known to be
safe, since a forked child has only the thread that forked: a lock that another one held would stay
locked for ever. A worker is forked by way of a process that ends at once, so that the daemon,
which adopts orphans, becomes its parent and learns how it ends from the kernel itself.
"""

import os
import sys
from contextlib import suppress

from soma_transport_socket.worker.other_threads import OtherThreads

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping, Sequence
    from typing import Any, NoReturn

    from soma_transport_socket.messages import Attached, ZygoteEvent

# Those of soma_core.channel.threads, by the kind of library; set before anything else is imported.
_OPENMP = ("OMP_NUM_THREADS",)
_BLAS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", *_OPENMP)
_OTHERS = ("VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS", "NUMBA_NUM_THREADS")
_FOR_EVERY_WORKER = (
    "soma_transport_socket.worker.printing",
    "soma_transport_socket.worker.session",
    "soma_core.serve",
    "soma_core.streams",
    "soma_transport_socket.messages",
)
_LONGEST_REASON = 4000


class _Threads:
    """One thread for numerical libraries while this is the zygote, and as many as usual after."""

    def __init__(self) -> None:
        names = (*_BLAS, *_OTHERS)
        self._before = {name: os.environ.get(name) for name in names}
        os.environ.update(dict.fromkeys(names, "1"))
        self._controller: Any = None

    def find_libraries(self) -> None:
        """Look for the libraries that are loaded by now; done here, a fork need not."""
        from threadpoolctl import ThreadpoolController

        self._controller = ThreadpoolController()

    def restore(self) -> None:
        """Give a forked worker the threads that a fresh process would have."""
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        self._set(blas=self._count(_BLAS), openmp=self._count(_OPENMP))

    def limit(self, threads: int) -> None:
        """Give a forked worker as many threads as its client wants."""
        from soma_core.transport import thread_limits

        os.environ.update(thread_limits(threads))
        self._set(blas=threads, openmp=threads)

    def _set(self, *, blas: int, openmp: int) -> None:
        self._controller.limit(limits={"blas": blas, "openmp": openmp})
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(openmp)

    def _count(self, names: "Sequence[str]") -> int:
        set_by_user = (self._before[name] for name in names)
        numbers = [int(value) for value in set_by_user if value and value.isdigit()]
        return numbers[0] if numbers else len(os.sched_getaffinity(0))


def _use_the_engine_once() -> None:
    """Let the engine import and build what it does at its first command, plugins among it."""
    from soma_core.serve import Responder

    Responder().warm_up()


def _seed_anew() -> None:
    """Give a forked worker random numbers of its own; :mod:`random` does so by itself."""
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()
    if "torch" in sys.modules:
        sys.modules["torch"].seed()


def _work_once_specified(descriptor: int, threads: _Threads) -> None:
    """Wait for the specification of the worker that a client asked for, and be it."""
    import socket

    from soma_transport_socket.messages import WorkerSpec, receive, send
    from soma_transport_socket.worker.__main__ import work

    with socket.socket(fileno=descriptor) as source:
        spec, attached = receive(WorkerSpec, source)
        if spec is None:
            os._exit(0)  # it was not needed
        send(source, spec)
    if spec.threads is not None:
        threads.limit(spec.threads)
    work(spec, attached)


def _reported(error: BaseException) -> int:
    """Print what ended a process as Python does, and return its exit status."""
    status = 1
    with suppress(OSError, AttributeError):  # there is nobody to read it
        if not isinstance(error, SystemExit):
            sys.excepthook(type(error), error, error.__traceback__)
        elif error.code is None or isinstance(error.code, int):
            status = error.code or 0
        else:
            sys.stderr.write(f"{error.code}\n")
        sys.stderr.flush()
    return status


class Zygote:
    """Imports, and then forks workers that wait for their specifications.

    Args:
        daemon: The socket to the daemon.
        lifeline: This process's own lifeline, which is not a worker's.
        threads: Made before anything numerical was imported.
    """

    def __init__(self, daemon: "socket.socket", lifeline: int | None, threads: _Threads) -> None:
        self._daemon = daemon
        self._lifeline = lifeline
        self._threads = threads
        self._others = OtherThreads()

    def prepare(self, modules: "Sequence[str]") -> None:
        """Import the modules and what every worker imports; tell the daemon how it went."""
        import gc
        import importlib

        from soma_transport_socket.messages import ZygoteEvent, send

        for module in (*_FOR_EVERY_WORKER, *modules):
            try:
                importlib.import_module(module)
            except BaseException as error:
                reason = f"cannot import {module!r} ({type(error).__name__}: {error})"
                send(self._daemon, ZygoteEvent(kind="failed", reason=reason[:_LONGEST_REASON]))
                sys.exit(1)
            self._others.note(f"{module!r} was imported")
        _use_the_engine_once()
        self._others.note("the plugins were imported")
        self._threads.find_libraries()
        gc.collect()
        gc.freeze()  # a collection in a worker would copy every page that it looks at
        send(self._daemon, ZygoteEvent(kind="imported"))

    def serve(self) -> None:
        """Fork a worker whenever the daemon asks for one, until it is gone."""
        from soma_transport_socket.messages import ForkRequest, receive, send

        while True:
            request, attached = receive(ForkRequest, self._daemon)
            if request is None:
                return
            try:
                event = self._fork_if_alone(request.tree, attached)
            finally:
                for fd in attached.values():
                    os.close(fd)
            # Now the worker alone holds the socket for its specification: if it dies, that shows.
            send(self._daemon, event)

    def _fork_if_alone(self, tree: str, attached: "Mapping[Attached, int]") -> "ZygoteEvent":
        from soma_transport_socket.messages import ZygoteEvent

        reason = self._others.describe()
        if reason is not None:
            return ZygoteEvent(kind="refused", reason=reason[:_LONGEST_REASON])
        try:
            return ZygoteEvent(kind="forked", pid=self._fork_twice(tree, attached))
        except OSError as error:
            return ZygoteEvent(kind="refused", reason=f"the zygote cannot fork: {error}")

    def _fork_twice(self, tree: str, attached: "Mapping[Attached, int]") -> int:
        """Fork a worker whose parent ends at once, so that the daemon adopts it.

        Returns:
            The worker's process; the daemon is its parent by now.

        Raises:
            OSError: One of the forks failed.
        """
        from soma_transport_socket.worker.printing import flush

        flush()
        reading, writing = os.pipe()
        try:
            between = os.fork()
            if between == 0:
                self._fork_and_end(tree, attached, (reading, writing))
            os.waitpid(between, 0)
            os.set_blocking(reading, False)
            outcome = os.read(reading, 64)
        finally:
            os.close(reading)
            os.close(writing)
        if not outcome.isdigit():
            raise OSError(outcome.decode())
        return int(outcome)

    def _fork_and_end(
        self, tree: str, attached: "Mapping[Attached, int]", pipe: tuple[int, int]
    ) -> "NoReturn":
        try:
            pid = os.fork()
            if pid == 0:
                for fd in pipe:
                    os.close(fd)
                self._become_a_worker(tree, attached)
            os.write(pipe[1], str(pid).encode())
        except OSError as error:
            os.write(pipe[1], str(error).encode()[:64])
        finally:
            os._exit(0)

    def _become_a_worker(self, tree: str, attached: "Mapping[Attached, int]") -> "NoReturn":
        from soma_core.serve import hold_lifeline, join_process_tree
        from soma_transport_socket.worker.printing import print_to

        status = 1
        try:
            os.setsid()
            join_process_tree(tree)
            print_to(attached["output"])
            os.close(attached["output"])
            self._daemon.close()
            if self._lifeline is not None:
                os.close(self._lifeline)
            hold_lifeline(attached["lifeline"])
            sys.argv[1:] = []
            self._threads.restore()
            _seed_anew()
            _work_once_specified(attached["spec"], self._threads)
        except BaseException as error:
            status = _reported(error)
        finally:
            os._exit(status)


def main() -> None:
    """Import the modules that the arguments name, then fork workers as the daemon requests."""
    from soma_transport_socket.worker.__main__ import shield

    shield()
    threads = _Threads()
    import signal

    from soma_core.serve import default_signals, hold_lifeline, inherited_side

    default_signals()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a worker listens to it once it serves
    lifeline = hold_lifeline()
    daemon = inherited_side()
    if daemon is None:
        sys.exit("only the daemon starts this: soma serve socket --preload")
    zygote = Zygote(daemon, lifeline, threads)
    zygote.prepare(sys.argv[1:])
    zygote.serve()


if __name__ == "__main__":
    main()
