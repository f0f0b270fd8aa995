"""restart="on-crash": a death costs one call, and what the host holds is put back."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import soma_core as soma
from soma_core.client.backoff import Backoff

from ..support import PROCESSES, gate_runs, nightly, wait_until, wait_until_gone
from ..support import filters as f

KILL = ("kill", int(signal.SIGKILL))

over_a_socket = pytest.mark.parametrize("connect", ["socket"], indirect=True)
over_both = pytest.mark.parametrize("connect", PROCESSES, indirect=True)


@pytest.fixture(params=gate_runs("socket", of=PROCESSES))
def connect(request, connect):
    """Like ``soma.connect`` with restarts, over each transport with processes."""
    return partial(connect, request.param, restart="on-crash", timeout=60.0)


@pytest.fixture
def worker(connect):
    return connect(filters={"mean": f.Mean(), "other": f.Mean(), "process": f.Process()})


class LearnsAnArray:
    def fit(self, x, y=None):
        return {"array": x}

    def forward(self, x, state):
        return state["array"] + x


def kill(worker: soma.Worker) -> None:
    """Kill the process of a worker that is idle, and wait until it is gone."""
    os.kill(worker.ping().pid, signal.SIGKILL)
    wait_until(lambda: not worker.status().alive)


def is_refused_in_forked_child(call) -> bool:
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        try:
            call()
        except BaseException as error:
            os._exit(type(error) is soma.TransportError)
        os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1


@pytest.mark.usefixtures("told_how")
@over_both
def test_a_death_during_a_call_costs_that_call_and_the_next_one_works(worker) -> None:
    before = worker.ping()
    with pytest.raises(soma.WorkerDied) as caught:
        worker.forward("process", KILL)
    assert caught.value.signal == "SIGKILL"
    assert worker.forward("process", ("pid",)) != before.pid
    assert worker.ping().incarnation != before.incarnation
    assert worker.status().restarts == 1


@over_both
def test_a_death_between_calls_costs_none(worker) -> None:
    worker.fit("mean", [1.0, 3.0])
    kill(worker)
    assert worker.forward("mean", 10.0) == 8.0
    assert worker.status().restarts == 1


def test_a_ping_is_repeated(worker) -> None:
    before = worker.ping()
    kill(worker)
    assert worker.ping().pid != before.pid


@over_both
def test_states_that_the_host_holds_are_put_back_as_they_were(worker) -> None:
    state = worker.fit("mean", [1.0, 3.0])
    worker.fit("other", [5.0])
    state["mean"] = "changed by the caller"
    kill(worker)
    assert worker.composite_forward(["mean"], 10.0) == 8.0
    assert worker.forward("other", 10.0) == 5.0


def test_the_newest_of_several_states_is_put_back(worker) -> None:
    worker.fit("mean", [1.0])
    worker.set_state("mean", soma.NodeState(b"{}", "value", {"mean": 7.0}))
    kill(worker)
    assert worker.forward("mean", 10.0) == 3.0
    worker.fit("mean", [4.0])
    kill(worker)
    assert worker.forward("mean", 10.0) == 6.0


def test_a_state_that_the_host_does_not_hold_is_told_and_others_work(worker) -> None:
    worker.fit("mean", [1.0], return_state=False)
    worker.fit("other", [2.0])
    kill(worker)
    for use in (
        lambda: worker.forward("mean", 0.0),
        lambda: worker.composite_forward(["other", "mean"], 0.0),
        lambda: worker.get_state("mean"),
    ):
        with pytest.raises(soma.StateLost, match=r"'mean'.*return_state"):
            use()
    assert worker.forward("other", 10.0) == 8.0
    assert worker.forward("mean", 10.0, {"mean": 3.0}) == 7.0


@pytest.mark.parametrize("remedy", ["fit", "fit without its state", "load", "set_state"])
def test_a_lost_state_is_forgotten_once_there_is_a_new_one(worker, remedy: str) -> None:
    worker.fit("mean", [1.0], return_state=False)
    kill(worker)
    with pytest.raises(soma.StateLost):
        worker.forward("mean", 0.0)
    if remedy == "fit":
        worker.fit("mean", [9.0])
    elif remedy == "fit without its state":
        worker.fit("mean", [9.0], return_state=False)
    elif remedy == "load":
        worker.load({"mean": f.Mean()})
        worker.fit("mean", [9.0])
    else:
        worker.set_state("mean", soma.NodeState(b"{}", "value", {"mean": 9.0}))
    assert worker.forward("mean", 10.0) == 1.0


def test_a_state_that_was_fetched_is_held(worker) -> None:
    worker.fit("mean", [1.0], return_state=False)
    worker.get_state("mean")
    kill(worker)
    assert worker.forward("mean", 10.0) == 9.0


class LearnsALock:
    def fit(self, x, y=None):
        return {"lock": threading.Lock()}

    def partial_fit(self, x, y, state):
        if x[0] == "bad":
            raise ValueError("bad data")
        return {"seen": x}

    def forward(self, x, state):
        return "learned" if state else "unlearned"


def test_what_a_call_learned_that_failed_all_the_same_is_lost(connect) -> None:
    worker = connect(filters={"fitted": LearnsALock(), "batched": LearnsALock()})
    with pytest.raises(soma.RemoteError, match="was executed, and its result cannot be sent"):
        worker.fit("fitted", [1])
    with pytest.raises(soma.RemoteError, match="bad data"):
        worker.batched_fit(["batched"], ["good", "bad"], batch_size=1)
    assert [worker.forward(node, 1) for node in ("fitted", "batched")] == ["learned"] * 2
    kill(worker)
    for node, verb in (("fitted", "fit"), ("batched", "batched_fit")):
        with pytest.raises(soma.StateLost, match=rf"by {verb}\)"):
            worker.forward(node, 1)


def test_large_arrays_in_states_are_put_back_though_their_memory_was_reused(connect) -> None:
    worker = connect(filters={"learns": LearnsAnArray()})
    worker.fit("learns", np.arange(100_000.0))
    for _ in range(5):
        worker.forward("learns", np.random.default_rng(0).random(100_000))
    kill(worker)
    np.testing.assert_equal(worker.forward("learns", 1.0), np.arange(100_000.0) + 1.0)


@nightly
@over_a_socket
def test_weights_that_a_joint_step_returned_are_put_back(connect, with_torch) -> None:
    worker = connect(**with_torch, filters={"net": f.net([[1.0, 2.0]], learning_rate=0.1)})
    worker.composite_fit(["net"], [[1.0, 1.0]], [[0.0]])
    expected = worker.composite_forward(["net"], [[1.0, 2.0]])
    kill(worker)
    assert worker.composite_forward(["net"], [[1.0, 2.0]]) == expected
    worker.composite_fit(["net"], [[1.0, 1.0]], [[0.0]], return_states=False)
    kill(worker)
    with pytest.raises(soma.StateLost, match="composite_fit"):
        worker.composite_forward(["net"], [[1.0, 2.0]])


@nightly
@over_a_socket
def test_what_a_joint_step_could_not_return_is_lost(connect, with_torch) -> None:
    torch = pytest.importorskip("torch")

    class Net(torch.nn.Linear):
        """Keeps what is no weight."""

        def get_extra_state(self):
            return Path("somewhere")

        def set_extra_state(self, state):
            pass

    worker = connect(**with_torch, filters={"net": Net(2, 1)})
    assert worker.composite_fit(["net"], [[1.0, 1.0]], [[0.0]]).states == {}
    kill(worker)
    with pytest.raises(soma.StateLost, match="composite_fit"):
        worker.forward("net", [[1.0, 2.0]])


@nightly
@over_a_socket
def test_applied_gradients_are_lost_unless_the_state_was_fetched_after_them(
    connect, with_torch
) -> None:
    torch = pytest.importorskip("torch")
    worker = connect(**with_torch, filters={"net": f.net([[1.0, 2.0]], learning_rate=0.1)})
    gradients = f.saved({"weight": torch.ones(1, 2), "bias": torch.ones(1)})
    worker.apply_gradients("net", gradients)
    worker.get_state("net")
    expected = worker.forward("net", [[1.0, 2.0]])
    kill(worker)
    assert worker.forward("net", [[1.0, 2.0]]).tolist() == expected.tolist()
    worker.apply_gradients("net", gradients)
    kill(worker)
    with pytest.raises(soma.StateLost, match="apply_gradients"):
        worker.forward("net", [[1.0, 2.0]])


def test_a_fit_is_never_run_twice(connect, tmp_path) -> None:
    class Counts:
        def __init__(self, note) -> None:
            self.note = note

        def fit(self, x, y=None):
            with open(self.note, "a") as file:
                file.write("fitted\n")
            os.kill(os.getpid(), signal.SIGKILL)

        def forward(self, x, state):
            return x

    note = str(tmp_path / "note")
    worker = connect(filters={"counts": Counts(note)}, retries=3)
    with pytest.raises(soma.WorkerDied):
        worker.fit("counts", 0)
    assert worker.forward("counts", 1) == 1
    with open(note) as file:
        assert file.read() == "fitted\n"


def test_a_forward_is_repeated_as_often_as_was_asked(connect, tmp_path) -> None:
    class DiesUntil:
        def __init__(self, note, times) -> None:
            self.note, self.times = note, times

        def fit(self, x, y=None):
            return {}

        def forward(self, x, state):
            with open(self.note, "a+") as file:
                file.write("x")
                file.flush()
                deaths = file.tell()
            if deaths <= self.times:
                os.kill(os.getpid(), signal.SIGKILL)
            return deaths

    twice, thrice = str(tmp_path / "2"), str(tmp_path / "3")
    filters = {"twice": DiesUntil(twice, 2), "thrice": DiesUntil(thrice, 3)}
    worker = connect(filters=filters, retries=2)
    assert worker.forward("twice", 0) == 3
    with pytest.raises(soma.WorkerDied):
        worker.composite_forward(["thrice"], 0)


@pytest.mark.usefixtures("told_how")
@nightly
def test_a_worker_that_only_dies_is_given_up_after_five_restarts(worker) -> None:
    for _ in range(6):
        with pytest.raises(soma.WorkerDied, match="killed by SIGKILL during"):
            worker.forward("process", KILL)
    with pytest.raises(soma.WorkerDied, match="restarted 5 times") as caught:
        worker.forward("process", ("pid",))
    assert caught.value.signal == "SIGKILL"
    assert worker.status().restarts == 5


def test_a_success_makes_the_budget_whole_again(worker) -> None:
    for _ in range(4):
        for _ in range(2):
            with pytest.raises(soma.WorkerDied):
                worker.forward("process", KILL)
        assert isinstance(worker.forward("process", ("pid",)), int)


def test_the_first_restart_is_at_once_and_later_ones_wait_longer_and_longer() -> None:
    backoff = Backoff(budget=5)
    assert [backoff.next_delay() for _ in range(5)] == [0.0, 0.1, 0.2, 0.4, 0.8]
    assert backoff.exhausted
    backoff.reset()
    assert not backoff.exhausted
    assert backoff.next_delay() == 0.0


def test_a_worker_that_its_deadline_ended_is_restarted(connect) -> None:
    worker = connect(filters={"sleep": f.Sleep(), "mean": f.Mean()})
    worker.fit("mean", [2.0])
    with pytest.raises(soma.DeadlineExceeded) as caught:
        worker.forward("sleep", ("stubborn", 600), timeout=1.0)  # by then it does not listen
    assert not caught.value.worker_survived
    assert worker.forward("mean", 10.0) == 8.0


def test_calls_that_wait_while_the_worker_dies_are_sent_to_the_next(worker) -> None:
    worker.fit("mean", [3.0])
    outcomes = []

    def call() -> None:
        with suppress(soma.WorkerDied):
            outcomes.append(worker.forward("mean", 3.0))

    threads = [threading.Thread(target=call) for _ in range(8)]
    pid = worker.ping().pid
    os.kill(pid, signal.SIGSTOP)
    for thread in threads:
        thread.start()
    wait_until(lambda: worker.status().command is not None)
    os.kill(pid, signal.SIGKILL)
    for thread in threads:
        thread.join(60.0)
    # One was under way and died with the worker, at most; the others were sent to the next.
    assert set(outcomes) == {0.0}
    assert len(outcomes) >= 7


def test_a_filter_that_no_longer_loads_is_told_and_not_tried_again(connect, tmp_path) -> None:
    allowed = tmp_path / "allowed"
    allowed.touch()

    class LoadsWhileAllowed:
        def __init__(self, path) -> None:
            self.path = path

        def __setstate__(self, state) -> None:
            self.__dict__ = state
            if not os.path.exists(self.path):
                raise RuntimeError("not any more")

        def fit(self, x, y=None):
            return {}

        def forward(self, x, state):
            return os.getpid()

    worker = connect(filters={"picky": LoadsWhileAllowed(str(allowed))})
    allowed.unlink()
    kill(worker)
    for _ in range(2):
        with pytest.raises(soma.RemoteError, match="not any more") as caught:
            worker.forward("picky", 0)
        assert caught.value.code is soma.ErrorCode.LOAD_FAILED
    allowed.touch()
    with pytest.raises(soma.RemoteError, match="not any more"):
        worker.forward("picky", 0)


def test_closing_while_the_worker_restarts_ends_the_call(connect, tmp_path) -> None:
    note = tmp_path / "note"

    class LoadsSlowlyLater:
        def __init__(self, path) -> None:
            self.path = path

        def __setstate__(self, state) -> None:
            import time

            self.__dict__ = state
            if os.path.exists(self.path):
                with open(self.path, "w") as file:
                    file.write(str(os.getpid()))
                time.sleep(600)

        def fit(self, x, y=None):
            return {}

        def forward(self, x, state):
            return os.getpid()

    worker = connect(filters={"slow": LoadsSlowlyLater(str(note))})
    note.touch()
    kill(worker)
    errors = []

    def call() -> None:
        try:
            worker.forward("slow", 0)
        except soma.SomaError as error:
            errors.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    wait_until(note.read_text)
    second = int(note.read_text())
    assert is_refused_in_forked_child(lambda: worker.forward("slow", 0))
    worker.close()
    thread.join(30.0)
    assert not thread.is_alive()
    assert type(errors[0]) is soma.ChannelClosed
    wait_until_gone(second)


@nightly
def test_a_restart_does_not_outlast_the_calls_timeout(connect, tmp_path) -> None:
    note = tmp_path / "note"

    class HangsLater:
        def __init__(self, path) -> None:
            self.path = path

        def __setstate__(self, state) -> None:
            import time

            self.__dict__ = state
            if os.path.exists(self.path):
                time.sleep(600)

        def fit(self, x, y=None):
            return {}

        def forward(self, x, state):
            return os.getpid()

    worker = connect(filters={"hangs": HangsLater(str(note))})
    note.touch()
    kill(worker)
    with pytest.raises(soma.DeadlineExceeded):
        worker.forward("hangs", 0, timeout=6.0)  # by then the next worker is being loaded


def test_calls_without_the_time_for_a_restart_are_late_and_do_not_end_it(worker) -> None:
    kill(worker)
    for _ in range(10):
        with pytest.raises(soma.DeadlineExceeded):
            worker.forward("process", 0, timeout=0.001)
    assert worker.forward("other", 3.0, {"mean": 1.0}) == 2.0
    assert worker.status().restarts == 1


@nightly
def test_without_pickles_everything_is_put_back_as_typed_values(connect) -> None:
    pytest.importorskip("sklearn")
    worker = connect(
        filters={"scale": ("sklearn.StandardScaler", {"with_mean": True})}, pickle="never"
    )
    x = np.arange(6.0).reshape(3, 2)
    worker.fit("scale", x)
    expected = worker.forward("scale", x)
    kill(worker)
    np.testing.assert_equal(worker.forward("scale", x), expected)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"restart": "always"}, "'never' or 'on-crash'"),
        ({"restart": "on-crash", "retries": -1}, "from 0 on"),
        ({"restart": "on-crash", "retries": 1.5}, "from 0 on"),
        ({"retries": 1}, "needs restart='on-crash'"),
    ],
)
def test_bad_recovery_arguments_are_refused(arguments, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        soma.connect("inline", **arguments)


def test_inline_accepts_restarts_that_never_happen() -> None:
    with soma.connect("inline", filters={"mean": f.Mean()}, restart="on-crash") as worker:
        worker.fit("mean", [1.0])
        assert worker.forward("mean", 10.0) == 9.0
        assert worker.status().restarts == 0


def test_status_tells_of_the_process_while_it_is_busy(connect, note) -> None:
    worker = connect(filters={"sleep": f.Sleep()})
    with ThreadPoolExecutor() as pool:
        call = pool.submit(worker.forward, "sleep", ("loop", 60.0, str(note)))
        wait_until(note.exists)
        before = worker.status()
        assert before.memory_bytes > 1_000_000
        assert before.restarts == 0
        wait_until(lambda: worker.status().cpu_seconds > before.cpu_seconds)
        note.unlink()
        assert call.result(20.0) == "done"


def test_status_of_a_worker_behind_a_launcher_is_of_the_worker() -> None:
    launch = "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))"
    daemon = [sys.executable, "-P", "-m", "soma_transport_stdio"]
    command = [sys.executable, "-c", launch, *daemon]
    with soma.connect("stdio", command=command, filters={"mean": f.Mean()}) as worker:
        status = worker.status()
        assert status.pid == worker.ping().pid
        assert status.memory_bytes > 1_000_000


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_worker_that_is_dropped_ends_without_the_garbage_collector() -> None:
    gc.collect()
    gc.disable()
    try:
        worker = soma.connect("stdio", filters={"mean": f.Mean()}, restart="on-crash")
        pid = worker.ping().pid
        del worker
        wait_until_gone(pid)
    finally:
        gc.enable()
        gc.collect()  # here, where warnings of sockets that nobody closed are expected


class FitsThroughAnInterrupt:
    def fit(self, x, y=None):
        import time

        with suppress(KeyboardInterrupt):
            time.sleep(x)
        return {"learned": x}

    def forward(self, x, state):
        return state["learned"]


def test_a_fit_that_ended_after_its_deadline_is_not_taken_back_by_a_restart(connect) -> None:
    worker = connect(filters={"fits": FitsThroughAnInterrupt()})
    worker.fit("fits", 0)
    with pytest.raises(soma.DeadlineExceeded):
        worker.fit("fits", 60, timeout=0.2)
    assert worker.forward("fits", None) == 60
    kill(worker)
    with pytest.raises(soma.StateLost, match="by fit"):
        worker.forward("fits", None)


class FitsUntilAnInterrupt(FitsThroughAnInterrupt):
    def fit(self, x, y=None):
        time.sleep(x)
        return {"learned": x}


def test_a_fit_that_an_interrupt_ended_costs_no_state_that_the_host_holds(connect) -> None:
    worker = connect(filters={"fits": FitsUntilAnInterrupt()})
    worker.fit("fits", 0)
    with pytest.raises(soma.DeadlineExceeded):
        worker.fit("fits", 60, timeout=0.2)
    kill(worker)
    assert worker.forward("fits", None) == 0


@pytest.fixture
def ctrl_c_after_the_reply():
    """Presses Ctrl-C when the reply of a command has come, and its caller has not got it."""

    def press(frame, event, called) -> None:
        if event == "return" and frame.f_code.co_name == "result":
            sys.setprofile(None)
            signal.raise_signal(signal.SIGINT)

    def install() -> None:
        sys.setprofile(press)

    yield install
    sys.setprofile(None)


def test_a_fit_whose_reply_ctrl_c_took_is_not_taken_back_by_a_restart(
    connect, ctrl_c_after_the_reply
) -> None:
    worker = connect(filters={"fits": FitsUntilAnInterrupt()})
    worker.fit("fits", 0)
    ctrl_c_after_the_reply()
    with pytest.raises(KeyboardInterrupt):
        worker.fit("fits", 0.01)
    assert worker.forward("fits", None) == 0.01
    kill(worker)
    with pytest.raises(soma.StateLost, match="by fit"):
        worker.forward("fits", None)


def test_nodes_are_known_after_ctrl_c_took_the_reply_to_their_change(
    connect, ctrl_c_after_the_reply, tmp_path
) -> None:
    worker = connect(filters={"mean": f.Mean()})
    ctrl_c_after_the_reply()
    with pytest.raises(KeyboardInterrupt):
        worker.load({"other": f.Mean()})
    assert worker.node_ids == ["mean", "other"]
    ctrl_c_after_the_reply()
    with pytest.raises(KeyboardInterrupt):
        worker.unload(["other"])
    worker.save_checkpoint(tmp_path / "checkpoint")
    assert worker.node_ids == ["mean"]
