"""A daemon with a zygote: its workers are forked warm, and are as good as fresh ones."""

from __future__ import annotations

import base64
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import cloudpickle
import pytest

import soma_core as soma

from ..support import filters as f
from ..support import (
    gate_runs,
    nightly,
    short_directory,
    socket_daemon,
    wait_until,
    wait_until_gone,
)

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux adopts orphans")

WARM = "import os\nIMPORTED_BY = os.getpid()\n"
MUTE = "import sys\nsys.stderr.close()\nsys.stdout = None\n"
THREADED = "import threading, time\nthreading.Thread(target=time.sleep, args=[600]).start()\n"
ARROW = """
import glob
import pyarrow
KEPT = pyarrow.array(range(100_000), memory_pool=pyarrow.jemalloc_memory_pool())
THREADS = [open(name).read().strip() for name in glob.glob("/proc/self/task/*/comm")]
"""


@pytest.fixture(scope="module")
def modules():
    """A directory on the daemons' module search path, with a module that knows its importer."""
    with short_directory() as directory:
        (directory / "warm_module.py").write_text(WARM)
        (directory / "mute_module.py").write_text(MUTE)
        (directory / "threaded_module.py").write_text(THREADED)
        (directory / "arrow_module.py").write_text(ARROW)
        (directory / "broken_module.py").write_text("raise RuntimeError('it is broken')\n")
        yield directory


@pytest.fixture(scope="module")
def environment(modules):
    path = os.pathsep.join(filter(None, [str(modules), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path}


@pytest.fixture(scope="module")
def shared(environment):
    """A daemon for the tests that leave it as it was."""
    with (
        short_directory() as directory,
        socket_daemon(directory / "s", "--preload=warm_module", env=environment) as daemon,
    ):
        yield daemon


@pytest.fixture
def own(environment):
    with (
        short_directory() as directory,
        socket_daemon(directory / "s", "--preload", "warm_module", env=environment) as daemon,
    ):
        yield daemon


@pytest.fixture(scope="module")
def fresh():
    """A daemon without a zygote, to compare with."""
    with short_directory() as directory, socket_daemon(directory / "s") as daemon:
        yield daemon


@pytest.fixture
def connect(connect):
    """Like ``soma.connect`` to a daemon; the workers are closed at the end of the test."""
    return lambda daemon, **arguments: connect("socket", path=daemon.path, **arguments)


def ask(worker: soma.Worker, forward) -> object:
    worker.load({"asked": f.Apply(forward)})
    return worker.forward("asked", None)


def importer(worker: soma.Worker) -> int | None:
    """The process that imported the module, as a worker sees it."""
    return ask(worker, lambda x, s: getattr(f.sys.modules.get("warm_module"), "IMPORTED_BY", None))


def descendants(pid: int) -> list[int]:
    """The children of a process, but for the guards of workers."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children if not is_guard(int(child))]


def is_guard(pid: int) -> bool:
    try:
        return b"soma-guard" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


# Warm


def test_a_worker_has_what_the_zygote_imported(shared, connect):
    one, other = connect(shared), connect(shared)
    assert importer(one) == importer(other)
    assert importer(one) in descendants(shared.pid)
    assert importer(one) not in (one.ping().pid, other.ping().pid)


@pytest.mark.nightly
def test_modules_are_named_by_commas_or_by_repetition(environment, connect):
    arguments = ["--preload", "warm_module,colorsys", "--preload", "tabnanny"]
    with (
        short_directory() as directory,
        socket_daemon(directory / "s", *arguments, env=environment) as daemon,
    ):
        names = ["warm_module", "colorsys", "tabnanny"]
        worker = connect(
            daemon, filters={"asked": f.Apply(lambda x, s: [n in f.sys.modules for n in x])}
        )
        assert worker.forward("asked", names) == [True, True, True]
        worker.close()


@nightly
def test_a_first_fit_imports_nothing_that_the_plugins_of_a_library_could_have_imported(connect):
    for package in ("torch", "sklearn", "soma_filters_torch", "soma_filters_sklearn"):
        pytest.importorskip(package)
    asked = f.Apply(lambda x, s: list(f.sys.modules))
    x = f.np.ones((4, 2), "f4")
    with (
        short_directory() as directory,
        socket_daemon(directory / "s", "--preload=torch,sklearn") as daemon,
    ):
        worker = connect(daemon, filters={"asked": asked})
        before = worker.forward("asked", None)
        worker.load({"scale": ("sklearn.StandardScaler", {})})
        worker.load({"net": ("torch.MLP", {"sizes": [2, 1]})})
        worker.composite_fit(["scale", "net"], x, x[:, :1])
        assert len(set(worker.forward("asked", None)).difference(before)) < 5


# As isolated as a fresh one


def test_a_template_has_the_models_of_all_messages_and_what_reads_a_pickled_filter():
    code = """
import sys
from soma_core.engine.serving import Responder
from soma_core.protocol.commands import COMMANDS
from soma_core.protocol.replies import REPLIES
Responder().warm_up()
print([m.__name__ for m in (*COMMANDS, *REPLIES) if not m.__pydantic_complete__])
print("soma_core.wire.definitions.reading" in sys.modules)
"""
    printed = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert printed.split() == ["[]", "True"]


def test_a_forked_worker_leads_a_session_of_its_own_and_is_the_daemons_child(shared, connect):
    worker = connect(shared)
    pid, session, group, parent = ask(
        worker, lambda x, s: [f.os.getpid(), f.os.getsid(0), f.os.getpgrp(), f.os.getppid()]
    )
    assert pid == session == group == worker.ping().pid
    assert parent == shared.pid


def test_two_workers_draw_different_random_numbers(shared, connect):
    def draw(x, state):
        import random

        return [random.random(), f.np.random.rand()]

    drawn = [ask(connect(shared), draw) for _ in range(3)]
    assert len({one for one, _ in drawn}) == 3
    assert len({other for _, other in drawn}) == 3


@nightly
def test_two_workers_draw_different_random_tensors():
    pytest.importorskip("torch")

    def draw(x, state):
        import torch

        return torch.rand(1).item()

    with (
        short_directory() as directory,
        socket_daemon(directory / "s", "--preload=torch") as daemon,
    ):
        drawn = set()
        for _ in range(3):
            with soma.connect("socket", path=daemon.path) as worker:
                drawn.add(ask(worker, draw))
    assert len(drawn) == 3


@nightly
@pytest.mark.parametrize("set_by_user", gate_runs(None, of=[None, "1", "2"]))
def test_a_worker_has_the_threads_of_a_fresh_process(environment, connect, set_by_user):
    """The zygote itself had one."""

    def count(x, state):
        import threadpoolctl

        f.np.ones((300, 300)) @ f.np.ones((300, 300))
        pools = threadpoolctl.threadpool_info()
        return [f.os.environ.get("OMP_NUM_THREADS"), [pool["num_threads"] for pool in pools]]

    environment = {key: value for key, value in environment.items() if "_NUM_THREADS" not in key}
    if set_by_user is not None:
        environment["OMP_NUM_THREADS"] = set_by_user
    counts = []
    for arguments in (["--preload=warm_module"], []):
        with (
            short_directory() as directory,
            socket_daemon(directory / "s", *arguments, env=environment) as daemon,
        ):
            worker = connect(daemon)
            counts.append(ask(worker, count))
            worker.close()
    forked, fresh = counts
    assert forked == fresh
    assert forked[0] == set_by_user


@pytest.mark.parametrize("kind", gate_runs("forked", of=["forked", "fresh"]))
def test_a_worker_is_given_the_threads_that_were_asked_for(request, kind):
    count = """
class Count:
    def fit(self, x, y=None): return {}
    def forward(self, x, state):
        import os, numpy, threadpoolctl
        numpy.ones((300, 300)) @ numpy.ones((300, 300))
        pools = threadpoolctl.threadpool_info()
        return [os.environ["OMP_NUM_THREADS"], [pool["num_threads"] for pool in pools]]
"""
    names: dict = {}
    exec(count, names)
    pickled = base64.b64encode(cloudpickle.dumps(names["Count"]())).decode()
    load = {"cmd": "LOAD", "filters": [{"id": "count", "pickle_b64": pickled}]}
    daemon = request.getfixturevalue("shared" if kind == "forked" else "fresh")
    with socket.socket(socket.AF_UNIX) as client, client.makefile("rb") as lines:
        client.settimeout(30.0)
        client.connect(str(daemon.path))
        client.sendall(b'\x93SOMR{"op":"connect","threads":1}\n')
        assert json.loads(lines.readline())["ok"] is True
        client.sendall(json.dumps(load).encode() + b"\n")
        assert json.loads(lines.readline())["ok"] is True
        client.sendall(b'{"cmd":"FORWARD","node_id":"count"}\n')
        variable, threads = json.loads(lines.readline())["result"]
    assert variable == "1"
    assert set(threads) == {1}


def test_a_forked_worker_holds_the_descriptors_that_a_fresh_one_does(shared, fresh, connect):
    def kinds(x, state):
        links = []
        for fd in f.os.listdir("/proc/self/fd"):
            try:
                links.append(f.os.readlink(f"/proc/self/fd/{fd}").partition(":")[0])
            except FileNotFoundError:
                continue
        return sorted(links)

    assert ask(connect(shared), kinds) == ask(connect(fresh), kinds)


def test_the_wire_is_not_inherited_by_children_of_filters(shared, connect):
    def descriptors_of_a_child(x, state):
        child = f.subprocess.run(
            ["ls", "-l", "/proc/self/fd"], close_fds=False, capture_output=True, text=True
        )
        return child.stdout

    assert "socket:" not in ask(connect(shared), descriptors_of_a_child)


def test_what_filters_print_and_read_does_not_reach_the_wire(shared, connect):
    def noise(x, state):
        print("noise")  # noqa: T201 - what it is about
        f.os.write(1, b"noise")
        return f.os.read(0, 10)

    worker = connect(shared)
    assert ask(worker, noise) == b""
    assert ask(worker, lambda x, s: bytes(200_000)) == bytes(200_000)


def test_the_path_for_modules_is_that_of_a_fresh_worker(shared, fresh, connect, modules):
    def search_path(x, state):
        return f.sys.path

    forked = [entry for entry in ask(connect(shared), search_path) if entry != str(modules)]
    assert forked == ask(connect(fresh), search_path)


@pytest.mark.nightly
def test_a_daemon_without_pickles_forks_workers_without_pickles(environment):
    arguments = ["--preload=warm_module", "--pickle=never"]
    with (
        short_directory() as directory,
        socket_daemon(directory / "s", *arguments, env=environment) as daemon,
        soma.connect("socket", path=daemon.path) as worker,
    ):
        with pytest.raises(soma.ProtocolError) as caught:
            worker.load({"echo": f.Echo()})
        assert caught.value.code is soma.ErrorCode.PICKLE_REFUSED


# Its life and death


@pytest.mark.usefixtures("told_how")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_forked_worker_that_is_killed_is_told_with_its_signal(shared, connect, number):
    worker = connect(shared, filters={"process": f.Process()})
    with pytest.raises(soma.WorkerDied) as caught:
        worker.forward("process", ("complain_and_kill", "my last words", number))
    assert caught.value.signal == number.name
    assert "my last words" in caught.value.stderr


@pytest.mark.usefixtures("told_how")
def test_a_forked_worker_that_exits_is_told_with_its_status(shared, connect):
    worker = connect(shared, filters={"process": f.Process()})
    with pytest.raises(soma.WorkerDied) as caught:
        worker.forward("process", ("leave", 7))
    assert (caught.value.exit_code, caught.value.signal) == (7, None)


def test_a_forked_worker_gives_up_a_command_at_its_deadline(shared, connect, long_grace):
    worker = connect(shared, filters={"sleep": f.Sleep()})
    with pytest.raises(soma.DeadlineExceeded) as caught:
        worker.forward("sleep", ("call", 60.0), timeout=0.3)
    assert caught.value.worker_survived
    assert worker.ping().pid


def test_a_forked_worker_and_its_children_end_with_its_client(shared, connect):
    worker = connect(shared, filters={"process": f.Process()})
    pid, grandchild = worker.ping().pid, worker.forward("process", ("forked_grandchild",))
    worker.close()
    wait_until_gone(pid, grandchild)


def test_a_killed_daemon_takes_zygote_warm_worker_and_workers_with_it(own, connect):
    worker = connect(own, filters={"process": f.Process()})
    grandchild = worker.forward("process", ("grandchild",))
    wait_until(lambda: len(descendants(own.pid)) == 3)
    family = descendants(own.pid)
    assert worker.ping().pid in family
    own.process.kill()
    wait_until_gone(*family, grandchild)


def test_a_daemon_that_ends_leaves_nobody_behind(own, connect):
    worker = connect(own)
    family = [*descendants(own.pid), worker.ping().pid]
    assert own.stop() == 0
    wait_until_gone(*family)
    assert not own.path.exists()


@nightly
def test_what_a_worker_leaves_behind_is_buried_by_the_daemon(own, connect):
    """It adopts orphans, and so must reap them: no zombies stay."""
    worker = connect(own, filters={"process": f.Process()})
    orphan = worker.forward("process", ("escaped_grandchild",))
    worker.close()
    wait_until(lambda: orphan in descendants(own.pid))
    os.kill(orphan, signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{orphan}").exists())


@nightly
def test_many_clients_at_once_each_get_a_worker(own):
    def use(number: int) -> tuple[int, int]:
        with soma.connect("socket", path=own.path, filters={"echo": f.Echo()}) as worker:
            return worker.forward("echo", number), worker.ping().pid

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(use, range(16)))
    assert [answer for answer, _ in answers] == list(range(16))
    assert len({pid for _, pid in answers}) == 16
    wait_until(lambda: len(descendants(own.pid)) == 2, what="the zygote and the warm worker")


# When the zygote cannot do it


def refused(*arguments: str, env) -> str:
    with short_directory() as directory:
        path = directory / "s"
        command = [sys.executable, "-m", "soma_transport_socket", "--path", str(path), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=env)
        assert done.returncode == 1, done
        assert "Traceback" not in done.stderr
        assert not path.exists()
        return done.stderr


def test_a_module_that_does_not_exist_ends_the_daemon_with_its_name(environment):
    said = refused("--preload=warm_module,no_such_module", env=environment)
    assert "cannot import 'no_such_module'" in said
    assert "listening" not in said


@nightly
def test_a_module_that_raises_ends_the_daemon_with_what_it_said(environment):
    said = refused("--preload=broken_module", env=environment)
    assert "cannot import 'broken_module' (RuntimeError: it is broken)" in said


@pytest.mark.nightly
def test_a_module_that_starts_threads_is_named_and_workers_are_started_afresh(environment, caplog):
    with (
        short_directory() as directory,
        socket_daemon(
            directory / "s",
            "--preload=threaded_module",
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        ) as daemon,
    ):
        with soma.connect("socket", path=daemon.path) as worker:
            assert ask(worker, lambda x, s: "threaded_module" in f.sys.modules) is False
        daemon.process.terminate()
        said = daemon.process.stderr.read()
    for heard in (said, caplog.text):
        assert "since 'threaded_module' was imported" in heard
        assert "started afresh" in heard


@nightly
def test_the_thread_of_an_allocator_does_not_keep_workers_from_being_forked(environment):
    pytest.importorskip("pyarrow")
    with (
        short_directory() as directory,
        socket_daemon(directory / "s", "--preload=arrow_module", env=environment) as daemon,
        soma.connect("socket", path=daemon.path) as worker,
    ):
        assert ask(worker, lambda x, s: "arrow_module" in f.sys.modules) is True
        threads = ask(worker, lambda x, s: f.sys.modules["arrow_module"].THREADS)
    assert "jemalloc_bg_thd" in threads, "there was nothing that could have kept it from forking"


@pytest.mark.nightly
def test_a_zygote_that_is_killed_is_replaced(own, connect):
    zygote = importer(connect(own))
    os.kill(zygote, signal.SIGKILL)
    for _ in range(3):
        assert connect(own).ping().pid

    def warm_again() -> int | None:
        worker = connect(own)
        found = importer(worker)
        worker.close()
        return found

    assert wait_until(warm_again) != zygote


@nightly
def test_a_warm_worker_that_is_killed_costs_nobody_anything(own, connect):
    worker = connect(own)
    wait_until(lambda: len(descendants(own.pid)) == 3)
    (warm,) = set(descendants(own.pid)) - {importer(worker), worker.ping().pid}
    os.kill(warm, signal.SIGKILL)
    wait_until_gone(warm)
    assert importer(connect(own)) == importer(worker)


@nightly
def test_a_zygote_that_does_not_answer_is_not_waited_for_for_ever(own, connect):
    zygote = importer(connect(own))
    os.kill(zygote, signal.SIGSTOP)
    begun = time.monotonic()
    workers = [connect(own) for _ in range(3)]
    assert len({worker.ping().pid for worker in workers}) == 3
    assert time.monotonic() - begun < 60.0
    wait_until_gone(zygote)


@nightly
def test_a_client_gets_the_warm_worker_also_where_there_is_no_descriptor_for_the_next(own, connect):
    others = importer(connect(own))
    wait_until(lambda: len(descendants(own.pid)) == 3)
    before = resource.prlimit(own.pid, resource.RLIMIT_NOFILE)
    enough = len(list(Path(f"/proc/{own.pid}/fd").iterdir())) + 9  # for a client and no worker
    resource.prlimit(own.pid, resource.RLIMIT_NOFILE, (enough, before[1]))
    assert importer(connect(own)) == others
    resource.prlimit(own.pid, resource.RLIMIT_NOFILE, before)
    assert importer(connect(own)) == others


@nightly
def test_a_module_that_closes_the_output_and_blocked_signals_of_who_starts_it_cost_nothing(
    environment, connect, long_grace
):
    """Such a daemon forks, its workers can be interrupted, and SIGTERM ends it."""
    everything = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    with short_directory() as directory, ExitStack() as stack:
        try:
            options = "--preload=warm_module,mute_module"
            daemon = socket_daemon(directory / "s", options, env=environment)
            daemon = stack.enter_context(daemon)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, everything)
        worker = connect(daemon)
        assert importer(worker) is not None
        worker.load({"sleep": f.Sleep()})
        with pytest.raises(soma.DeadlineExceeded) as raised:
            worker.forward("sleep", ("call", 60.0), timeout=0.3)
        assert raised.value.worker_survived
        worker.close()
        os.kill(daemon.pid, signal.SIGTERM)
        wait_until_gone(daemon.pid)
