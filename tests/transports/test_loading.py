"""Where filters and data come from: __main__, lambdas, local modules; and pickle=never."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

import soma_core as soma
from soma_core import ErrorCode, ProtocolError, RemoteError

from ..support import TRANSPORTS, gate_runs
from ..support import filters as f
from ..support.hosts import run_host


@pytest.fixture
def run(tmp_path, options):
    """Runs a script as a host over a transport: in a directory that no worker looks into."""
    return partial(run_host, tmp_path, options)


over_each = pytest.mark.parametrize("transport", gate_runs("socket", of=TRANSPORTS))


@over_each
def test_classes_and_functions_of_main_load(run, transport):
    source = """
    import dataclasses

    def helper(x):
        return x + OFFSET

    OFFSET = 10

    class Base:
        def fit(self, x, y=None):
            return {}

    class Local(Base):
        def __init__(self, function):
            self.function = function

        def forward(self, x, state):
            return self.function(helper(x))

    class Configured(soma.Filter):
        factor: int = 2

        def forward(self, x, state):
            return dataclasses.replace(x, a=x.a * self.factor)

    @dataclasses.dataclass
    class Data:
        a: int

    with connect(filters={"local": Local(lambda x: x * 2)}) as worker:
        print(worker.forward("local", 1))
        worker.load({"configured": Configured(factor=3)})
        print(worker.forward("configured", Data(5)) == Data(15))
        state = worker.get_state("local")
        worker.set_state("local", state)
        print(worker.forward("local", 2))
    """
    assert run(transport, source) == "22\nTrue\n24\n"


MODULE = """
import dataclasses
import soma_core as soma

@dataclasses.dataclass
class Data:
    a: int

class Local(soma.Filter):
    factor: int = 2

    def forward(self, x, state):
        return Data(helper(x.a) * self.factor)

def helper(x):
    return x + 1
"""


@over_each
def test_a_filter_of_a_module_that_the_worker_cannot_import_loads(run, transport):
    source = """
    import mine
    with connect(filters={"local": mine.Local(factor=3)}) as worker:
        result = worker.forward("local", mine.Data(1))
        print(result, isinstance(result, mine.Data))
    """
    assert run(transport, source, {"mine.py": MODULE}) == "Data(a=6) True\n"


@pytest.mark.nightly
@over_each
def test_a_filter_of_a_package_that_the_worker_cannot_import_loads(run, transport):
    source = """
    import mine.inner
    with connect(filters={"local": mine.inner.Local(factor=3)}) as worker:
        print(worker.forward("local", mine.inner.Data(1)))
    """
    files = {"mine/__init__.py": "", "mine/inner.py": MODULE}
    assert run(transport, source, files) == "Data(a=6)\n"


@pytest.mark.nightly
@over_each
def test_a_filter_of_a_folder_without_init_loads(run, transport):
    source = """
    import mine.inner
    with connect(filters={"local": mine.inner.Local(factor=3)}) as worker:
        print(worker.forward("local", mine.inner.Data(1)))
    """
    assert run(transport, source, {"mine/inner.py": MODULE}) == "Data(a=6)\n"


@pytest.mark.nightly
@over_each
def test_a_filter_that_uses_another_local_module_loads(run, transport):
    source = """
    import mine
    with connect(filters={"local": mine.Outer()}) as worker:
        print(worker.forward("local", 1))
    """
    mine = """
    import other

    class Outer(other.Base):
        def forward(self, x, state):
            return other.helper(x)
    """
    other = """
    class Base:
        def fit(self, x, y=None):
            return {}

    def helper(x):
        return x + 1
    """
    assert run(transport, source, {"mine.py": mine, "other.py": other}) == "2\n"


@over_each
def test_local_classes_as_data_and_state_travel(run, transport):
    source = """
    import mine

    class Echo:
        def fit(self, x, y=None):
            return {"kept": x}
        def forward(self, x, state):
            return [x, state["kept"]]

    with connect(filters={"echo": Echo()}) as worker:
        worker.fit("echo", mine.Data(1))
        print(worker.forward("echo", mine.Data(2)) == [mine.Data(2), mine.Data(1)])
        state = worker.fit("echo", mine.Data(3))
        print(worker.forward("echo", 0, state)[1] == mine.Data(3))
    """
    assert run(transport, source, {"mine.py": MODULE}) == "True\nTrue\n"


@pytest.mark.nightly
@over_each
def test_threads_may_send_objects_of_local_modules_at_once(run, transport):
    source = """
    import threading, time
    import mine

    class Pass:
        def fit(self, x, y=None):
            return {}
        def forward(self, x, state):
            time.sleep(0.002)
            return x.a

    errors = []

    def work(number):
        for step in range(40):
            try:
                assert worker.forward("pass", mine.Data(number)) == number
            except BaseException as error:
                errors.append(repr(error))

    with connect(filters={"pass": Pass()}) as worker:
        threads = [threading.Thread(target=work, args=[number]) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    print(len(errors), errors[:1])
    """
    assert run(transport, source, {"mine.py": MODULE}) == "0 []\n"


def test_a_module_that_neither_side_can_send_is_told_with_a_remedy(connect):
    class Needs(f.Echo):
        def __reduce__(self):
            return (__import__, ("no_such_module_anywhere",))

    worker = connect("stdio")
    with pytest.raises(RemoteError) as caught:
        worker.load({"node": Needs()})
    assert caught.value.code is ErrorCode.LOAD_FAILED
    assert isinstance(caught.value, ModuleNotFoundError)
    for part in ("no_such_module_anywhere", "install it there", "register_pickle_by_value"):
        assert part in str(caught.value)


# Without pickle


@over_each
def test_without_pickle_filter_objects_are_refused_before_they_are_sent(connect, transport):
    with pytest.raises(ProtocolError, match="by registered name") as caught:
        connect(transport, pickle="never", filters={"echo": f.Echo()})
    assert caught.value.code is ErrorCode.PICKLE_REFUSED


@over_each
def test_without_pickle_objects_are_refused_before_they_are_sent(connect, transport):
    worker = connect(transport, pickle="never")
    for value in (slice(1, 2), f.Point(1, 2), [np.array([None])]):
        with pytest.raises(ProtocolError) as caught:
            worker.forward("node", value)
        assert caught.value.code is ErrorCode.PICKLE_REFUSED
    assert worker.ping().pid


@pytest.fixture
def scaler() -> Any:
    pytest.importorskip("soma_filters_sklearn", reason="soma-filters-sklearn is not installed")
    return ("sklearn.StandardScaler", {})


@over_each
def test_without_pickle_registered_filters_and_typed_values_do_all(connect, transport, scaler):
    worker = connect(transport, pickle="never", filters={"scaler": scaler})
    rows = np.array([[0.0, 1.0], [2.0, 5.0]])
    worker.fit("scaler", rows)
    expected = [[-1.0, -1.0], [1.0, 1.0]]
    np.testing.assert_allclose(worker.forward("scaler", rows), expected)
    state = worker.get_state("scaler")
    assert state.format == "value"
    worker.load({"other": scaler})
    worker.set_state("other", state)
    np.testing.assert_allclose(worker.forward("other", rows), expected)


@pytest.mark.nightly
@over_each
def test_without_pickle_a_pickled_state_is_refused(connect, transport, scaler):
    worker = connect(transport, pickle="never", filters={"scaler": scaler})
    for call in (
        lambda: worker.get_state("scaler", format="cloudpickle"),
        lambda: worker.set_state("scaler", b"\x80\x04N.", format="cloudpickle"),
    ):
        with pytest.raises(RemoteError) as caught:
            call()
        assert caught.value.code is ErrorCode.PICKLE_REFUSED


# Starting


def test_an_interpreter_that_does_not_exist_is_named():
    with pytest.raises(soma.StartFailed, match=r"/no/such/python"):
        soma.connect("stdio", python="/no/such/python")


def test_a_directory_that_does_not_exist_is_named():
    with pytest.raises(soma.StartFailed, match=r"/no/such/directory"):
        soma.connect("stdio", cwd="/no/such/directory")


def test_an_interpreter_that_ends_at_once_is_told_with_its_last_words(tmp_path):
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho the interpreter is broken >&2\nexit 3\n")
    broken.chmod(0o755)
    with pytest.raises(soma.StartFailed) as caught:
        soma.connect("stdio", python=broken)
    assert "the interpreter is broken" in str(caught.value)
    assert "exited with status 3" in str(caught.value)


def test_an_interpreter_without_soma_says_what_is_missing():
    with pytest.raises(soma.StartFailed, match="soma_transport_stdio"):
        soma.connect("stdio", command=["python3", "-I", "-S", "-m", "soma_transport_stdio"])


def test_a_worker_that_does_not_answer_fails_within_the_start_timeout():
    silent = ["sh", "-c", "exec sleep 60"]
    with pytest.raises(soma.StartFailed, match=r"did not end within [01](\.\d+)? s"):
        soma.connect("stdio", command=silent, start_timeout=1.0, interrupt_grace=0.3)


def test_what_answers_nonsense_is_no_worker():
    with pytest.raises(soma.StartFailed, match="did not answer HELLO"):
        soma.connect("stdio", command=["sh", "-c", "echo Welcome to this host; exec cat"])


def test_an_absent_daemon_is_told_with_the_command_that_starts_one(tmp_path):
    path = tmp_path / "absent.sock"
    with pytest.raises(soma.StartFailed, match=f"soma serve socket --path {path}"):
        soma.connect("socket", path=path)


def test_a_load_that_fails_while_connecting_stops_the_worker(options):
    from ..support import is_running, wait_until_gone

    class Unloadable(f.Echo):
        def __reduce__(self):
            return (exec, ("import os; raise RuntimeError(os.getpid())",))

    for transport in ("stdio", "socket"):
        with pytest.raises(RemoteError) as caught:
            soma.connect(transport, **options(transport), filters={"bad": Unloadable()})
        pid = int(str(caught.value).split("RuntimeError: ")[1].split()[0].rstrip("().,;"))
        wait_until_gone(pid)
        assert not is_running(pid)


# Forks


FORK = """
    import os, warnings
    import mine

    warnings.simplefilter("ignore", DeprecationWarning)  # forking is what this is about
    with connect(filters={"local": mine.Local()}) as worker:
        before = worker.ping()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                worker.ping()
            except soma.TransportError as error:
                status = 0 if "forked" in str(error) else 2
            CHILD
            os._exit(status)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        print(worker.ping() == before)
"""


@pytest.mark.nightly
@over_each
def test_a_worker_refuses_to_be_used_in_a_forked_child(run, transport):
    assert run(transport, FORK.replace("CHILD", "pass"), {"mine.py": MODULE}) == "0\nTrue\n"


@over_each
def test_closing_a_worker_in_a_forked_child_leaves_the_parents_alone(run, transport):
    assert (
        run(transport, FORK.replace("CHILD", "worker.close()"), {"mine.py": MODULE}) == "0\nTrue\n"
    )


@pytest.mark.nightly
@over_each
def test_shutting_a_worker_down_in_a_forked_child_leaves_the_parents_alone(run, transport):
    assert (
        run(transport, FORK.replace("CHILD", "worker.shutdown()"), {"mine.py": MODULE})
        == "0\nTrue\n"
    )


@pytest.mark.nightly
@over_each
def test_interrupting_in_a_forked_child_leaves_the_parents_alone(run, transport):
    source = FORK.replace("CHILD", "worker.interrupt()")
    assert run(transport, source, {"mine.py": MODULE}) == "0\nTrue\n"
