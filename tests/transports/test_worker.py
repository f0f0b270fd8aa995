"""The Worker's methods: one contract over every transport."""

from __future__ import annotations

import errno
import itertools
import pickle
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import soma_core as soma
from soma_core import ErrorCode, FilterKind, RemoteError
from soma_core.client.loadable import check_filter

from ..support import PROCESSES, TRANSPORTS, gate_runs, wait_until
from ..support import filters as f

inside_and_forked = pytest.mark.parametrize(
    "transport", gate_runs("inline", "socket", of=TRANSPORTS)
)

ROWS = np.array([1.0, 2.0, 6.0])


# Loading


def test_load_returns_what_is_known_of_each_filter(warm):
    metas = warm.load({"new mean": f.Mean(), "new scale": f.Scale()})
    assert metas["new mean"].kind is FilterKind.TRAINABLE
    assert metas["new scale"].kind is FilterKind.STATELESS
    assert metas["new mean"].name == "Mean"
    assert {"new mean", "new scale", "echo"} <= set(warm.node_ids)
    warm.unload(["new mean", "new scale"])
    assert "new mean" not in warm.node_ids


def test_a_filter_keeps_its_configuration(warm):
    warm.load({"factor": f.Scale(factor=10.0)})
    assert warm.forward("factor", 2) == 20


def test_loading_again_replaces_the_filter_and_what_it_learned(warm):
    warm.load({"again": f.Mean()})
    warm.fit("again", ROWS)
    warm.load({"again": f.Mean()})
    with pytest.raises(KeyError):
        warm.forward("again", ROWS)


def test_a_failed_load_loads_nothing(warm):
    class Unloadable(f.Echo):
        def on_load(self):
            raise ZeroDivisionError

    with pytest.raises(RemoteError) as caught:
        warm.load({"good": f.Echo(), "bad": Unloadable()})
    assert caught.value.code is ErrorCode.LOAD_FAILED
    assert caught.value.node_id == "bad"
    assert "good" not in warm.node_ids
    with pytest.raises(RemoteError, match="unknown node 'good'"):
        warm.forward("good", 1)


def test_unloading_is_all_or_none(warm):
    warm.load({"stays": f.Echo()})
    with pytest.raises(RemoteError, match="unknown node 'nobody'"):
        warm.unload(["stays", "nobody"])
    assert warm.forward("stays", 1) == 1
    warm.unload(["stays"])
    with pytest.raises(RemoteError, match="unknown node 'stays'"):
        warm.forward("stays", 1)


@pytest.mark.parametrize(
    ("filter_like", "message"),
    [
        (f.Scale, "pass an instance"),
        (object(), "subclass soma_core.Filter"),
        (type("Odd", (), {"forward": 3})(), "filter 'node': .*Odd has no fit"),
        (("sklearn.PCA", {}, 1), "is a tuple \\(name, config\\)"),
    ],
    ids=["a class", "an object", "a forward that is no function", "a triple"],
)
def test_what_is_no_filter_is_refused_with_advice(warm, filter_like, message):
    with pytest.raises(TypeError, match=message):
        warm.load({"node": filter_like})


def test_an_estimator_that_no_plugin_wraps_names_the_one_that_would():
    from sklearn.preprocessing import StandardScaler

    with pytest.raises(TypeError, match=r'soma-filters-sklearn.*"sklearn\.StandardScaler"'):
        check_filter("node", StandardScaler())


def test_a_module_that_no_plugin_wraps_names_the_one_that_would():
    with pytest.raises(TypeError, match="soma-filters-torch"):
        check_filter("node", torch.nn.Linear(1, 1))


def test_an_unknown_registered_filter_suggests_or_lists(warm):
    with pytest.raises(RemoteError, match=r"unknown filter 'no\.such'") as caught:
        warm.load({"node": ("no.such", {})})
    assert caught.value.code is ErrorCode.UNKNOWN_FILTER


# One node


def test_fit_returns_the_state_and_the_node_keeps_it(warm):
    assert warm.fit("mean", ROWS) == {"mean": 3.0}
    np.testing.assert_array_equal(warm.forward("mean", ROWS), ROWS - 3)


def test_fit_without_return_state_keeps_it_in_the_worker(warm):
    assert warm.fit("mean", ROWS + 1, return_state=False) is None
    np.testing.assert_array_equal(warm.forward("mean", ROWS), ROWS - 4)


def test_an_explicit_state_is_used_once(warm):
    warm.fit("mean", ROWS)
    np.testing.assert_array_equal(warm.forward("mean", ROWS, {"mean": 1.0}), ROWS - 1)
    np.testing.assert_array_equal(warm.forward("mean", ROWS), ROWS - 3)


def test_an_empty_state_is_explicit(warm):
    warm.fit("mean", ROWS)
    with pytest.raises(KeyError):
        warm.forward("mean", ROWS, {})


@inside_and_forked
def test_targets_travel(connect, transport):
    worker = connect(transport, filters={"node": f.Apply(None, lambda x, y: {"x": x, "y": y})})
    assert worker.fit("node", [1], (2, b"3")) == {"x": [1], "y": (2, b"3")}
    assert worker.fit("node", [1]) == {"x": [1], "y": None}


def test_progress_is_told_in_order(warm):
    seen = []
    warm.fit("report", 3, progress=seen.append)
    assert [report["epoch"] for report in seen] == [1, 2, 3]
    assert seen[0]["epochs"] == 3


def test_without_progress_no_events_come(warm):
    warm.fit("report", 3)
    assert warm.forward("echo", 1) == 1


def test_what_a_progress_function_raises_ends_the_call_and_not_the_worker(warm):
    def stop(report):
        raise LookupError("enough")

    with pytest.raises(LookupError, match="enough"):
        warm.fit("report", 5, progress=stop)
    assert warm.forward("echo", 1) == 1


# Chains


def test_composite_forward_passes_each_output_on(warm):
    out = warm.composite_forward(["mean", "scale"], ROWS, {"mean": {"mean": 1.0}})
    np.testing.assert_array_equal(out, (ROWS - 1) * 2)


def test_composite_fit_fits_in_order(warm):
    fitted = warm.composite_fit(["scale", "mean"], ROWS)
    assert fitted.fit_states["mean"] == {"mean": 6.0}
    assert (fitted.states, fitted.loss) == ({}, None)
    np.testing.assert_array_equal(fitted.result, ROWS * 2 - 6)
    np.testing.assert_array_equal(warm.composite_forward(["scale", "mean"], ROWS), ROWS * 2 - 6)


def test_composite_fit_without_return_states_keeps_them_in_the_worker(warm):
    fitted = warm.composite_fit(["scale", "mean"], ROWS, return_states=False)
    assert not fitted.fit_states
    np.testing.assert_array_equal(warm.composite_forward(["scale", "mean"], ROWS), ROWS * 2 - 6)


def test_nodes_that_are_not_trainable_are_not_fitted_by_a_chain(warm):
    warm.load({"fixed": f.Mean(), "fitted": f.Mean()}, trainable={"fixed": False})
    warm.fit("fixed", ROWS)
    fitted = warm.composite_fit(["fixed", "fitted"], ROWS * 10)
    assert "fixed" not in fitted.fit_states
    assert fitted.fit_states["fitted"] == {"mean": 27.0}


def test_batched_fit_cuts_rows(warm):
    fitted = warm.batched_fit(["accumulate"], np.arange(10.0), batch_size=4, epochs=2)
    assert fitted.states == {"accumulate": {"rows": 20}}
    np.testing.assert_array_equal(fitted.result, [8.0, 9.0])
    assert fitted.losses == []


def test_batched_fit_collects_all_rows_in_the_order_sent(warm):
    rows = np.arange(50.0)
    fitted = warm.batched_fit(
        ["accumulate"], rows, rows, batch_size=7, shuffle=True, seed=3, collect="all"
    )
    np.testing.assert_array_equal(fitted.result, rows)


def test_batched_fit_reports_progress(warm):
    seen = []
    warm.batched_fit(["accumulate"], list(range(5)), batch_size=2, progress=seen.append)
    assert [(report["batch"], report["batches"]) for report in seen] == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("size", [0, -1, 1.5, "2", True])
def test_a_batch_size_that_is_none_is_refused(warm, size):
    with pytest.raises((TypeError, ValueError), match="batch_size"):
        warm.batched_fit(["accumulate"], [1, 2], batch_size=size)


def test_a_chain_of_nothing_is_refused(warm):
    with pytest.raises(ValueError, match="node_ids"):
        warm.composite_forward([], 1)


# States and gradients


def test_a_state_is_fetched_and_put_back(warm):
    warm.load({"one": f.Mean(scale=5.0), "other": f.Mean()})
    warm.fit("one", ROWS)
    state = warm.get_state("one")
    assert (state.format, state.fit_state) == ("cloudpickle", {"mean": 3.0})
    warm.set_state("other", state)
    np.testing.assert_array_equal(warm.forward("other", ROWS), (ROWS - 3) * 5)


def test_a_state_as_typed_values_is_fetched_and_put_back(warm):
    warm.load({"one": f.Mean(scale=5.0), "other": f.Mean()})
    warm.fit("one", ROWS)
    state = warm.get_state("one", format="value")
    warm.set_state("other", state)
    np.testing.assert_array_equal(warm.forward("other", ROWS), (ROWS - 3) * 5)


def test_a_state_given_as_bytes_leaves_what_was_learned(warm):
    warm.load({"node": f.Mean()})
    warm.fit("node", ROWS)
    data = warm.get_state("node").data
    warm.set_state("node", data, format="cloudpickle")
    np.testing.assert_array_equal(warm.forward("node", ROWS), ROWS - 3)


def test_a_state_that_does_not_fit_is_refused(warm):
    with pytest.raises(RemoteError) as caught:
        warm.set_state("mean", b"nonsense")
    assert caught.value.code is ErrorCode.INVALID_STATE
    assert warm.fit("mean", ROWS) == {"mean": 3.0}


def test_weights_gradients_and_training_equal_those_in_this_process(warm):
    weight, x, y = [[1.5, -2.0]], [[1.0, 2.0], [3.0, 4.0]], [[1.0], [0.0]]
    warm.load({"net": f.net(weight, learning_rate=0.25), "bare": f.net(weight)})
    here = f.net(weight, learning_rate=0.25)
    for _ in range(3):
        fitted = warm.composite_fit(["net"], np.array(x), np.array(y))
        here.optimizer.zero_grad()
        out = here.forward(torch.tensor(x))
        loss = torch.nn.functional.mse_loss(out, torch.tensor(y))
        loss.backward()
        here.optimizer.step()
        assert fitted.loss == loss.item()
        assert torch.equal(torch.as_tensor(fitted.result), out.detach())
    weights = f.loaded(warm.get_state("net").data)
    assert torch.equal(weights["weight"], here.weight.detach())

    warm.composite_fit(["bare"], x, y)
    gradients = warm.get_gradients("bare")
    bare = f.net(weight)
    torch.nn.functional.mse_loss(bare.forward(torch.tensor(x)), torch.tensor(y)).backward()
    assert torch.equal(f.loaded(gradients)["weight"], bare.weight.grad)
    warm.load({"net": f.net(weight, learning_rate=1.0)})
    assert set(warm.apply_gradients("net", gradients)) == {"weight", "bias"}
    stepped = f.loaded(warm.get_state("net").data)["weight"]
    assert torch.equal(stepped, torch.tensor(weight) - bare.weight.grad)
    warm.set_state("bare", warm.get_state("net"))
    assert torch.equal(f.loaded(warm.get_state("bare").data)["weight"], stepped)


def test_gradients_that_are_not_there_are_an_error(warm):
    with pytest.raises(RemoteError) as caught:
        warm.get_gradients("echo")
    assert caught.value.code is ErrorCode.NO_GRADIENTS


# The worker itself


def test_ping_names_the_engines_process(warm):
    pong = warm.ping()
    assert pong == warm.ping()
    assert pong.pid == warm.status().pid
    assert pong.incarnation == warm.status().incarnation


@pytest.mark.parametrize("transport", PROCESSES)
def test_the_engine_is_another_process(connect, transport):
    worker = connect(transport, filters={"pid": f.Process()})
    assert worker.forward("pid", ("pid",)) == worker.ping().pid


def test_an_idle_worker_has_a_status(warm):
    status = warm.status()
    assert (status.alive, status.command, status.node_id, status.seconds) == (True, None, None, 0.0)


def test_a_status_needs_no_descriptor(warm, monkeypatch):
    def out_of_descriptors(*_):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("psutil.Process", out_of_descriptors)
    status = warm.status()
    assert (status.alive, status.memory_bytes) == (True, None)


@pytest.mark.parametrize("transport", PROCESSES)
def test_the_status_of_a_busy_worker_says_what_runs(connect, transport):
    worker = connect(transport, filters={"sleep": f.Sleep()})
    with ThreadPoolExecutor() as pool:
        call = pool.submit(worker.forward, "sleep", ("naps", 60.0))
        wait_until(lambda: worker.status().command == "FORWARD")
        status = worker.status()
        assert (status.alive, status.node_id) == (True, "sleep")
        assert status.seconds >= 0
        worker.close()
        with pytest.raises(soma.ChannelClosed):
            call.result(20.0)
    assert worker.status().alive is False


@pytest.mark.parametrize("transport", PROCESSES)
def test_interrupt_ends_the_call_that_runs_and_not_the_worker(connect, transport):
    worker = connect(transport, filters={"sleep": f.Sleep(), "echo": f.Echo()})
    with ThreadPoolExecutor() as pool:
        call = pool.submit(worker.forward, "sleep", ("call", 60.0))

        def interrupted():
            worker.interrupt()  # again, since it does nothing before the command has begun
            time.sleep(0.1)
            return call.done()

        wait_until(interrupted)
        with pytest.raises(RemoteError) as caught:
            call.result()
    assert caught.value.code is ErrorCode.INTERRUPTED
    assert worker.forward("echo", 1) == 1


def test_interrupting_an_idle_worker_does_nothing(warm):
    for _ in range(20):
        warm.interrupt()
        assert warm.forward("echo", 1) == 1


def test_a_node_is_a_filter_of_its_own(warm):
    remote = warm.filter("mean")
    assert isinstance(remote, soma.Filter)
    assert remote.trainable is True
    assert remote.meta().name == "Mean"
    state = remote.fit(ROWS)
    np.testing.assert_array_equal(remote.forward(ROWS, state), ROWS - 3)
    np.testing.assert_array_equal(remote.forward(ROWS), ROWS - 3)
    assert warm.filter("scale").trainable is False
    with pytest.raises(KeyError, match="nobody"):
        warm.filter("nobody")


# Errors


def test_an_error_of_a_filter_is_also_of_its_builtin_type(warm):
    for name in (
        "ValueError",
        "KeyError",
        "ZeroDivisionError",
        "FileNotFoundError",
        "TimeoutError",
    ):
        kind = vars(__import__("builtins"))[name]
        with pytest.raises(kind) as caught:
            warm.forward("fail", (name, "no luck"))
        error = caught.value
        assert isinstance(error, RemoteError)
        assert (error.code, error.remote_type) == (ErrorCode.FILTER_FAILED, name)
        assert (error.node_id, error.command) == ("fail", "FORWARD")
        assert "no luck" in str(error)


def test_an_error_of_another_type_is_a_remote_error(warm):
    with pytest.raises(RemoteError) as caught:
        warm.forward("fail oddly", "no luck")
    assert (caught.value.remote_type, str(caught.value)) == ("Odd", "no luck")


def test_the_remote_traceback_is_printed(warm):
    with pytest.raises(RemoteError) as caught:
        warm.forward("fail", ("ValueError", "no luck"))
    printed = "".join(traceback.format_exception(caught.value))
    assert "in forward" in printed
    assert "in forward" in caught.value.remote_traceback


def test_a_remote_error_pickles(warm):
    with pytest.raises(RemoteError) as caught:
        warm.forward("fail", ("ValueError", "no luck"))
    again = pickle.loads(pickle.dumps(caught.value))
    assert isinstance(again, ValueError)
    assert isinstance(again, RemoteError)
    assert (again.code, again.node_id, str(again)) == (ErrorCode.FILTER_FAILED, "fail", "no luck")


@pytest.mark.parametrize(
    "name", ["SystemExit", "KeyboardInterrupt", "GeneratorExit", "StopIteration"]
)
def test_whatever_a_filter_raises_is_an_error_reply(warm, name):
    with pytest.raises(RemoteError) as caught:
        warm.forward("fail", (name, "no luck"))
    assert caught.value.remote_type == name
    assert warm.forward("echo", 1) == 1


@inside_and_forked
def test_an_exception_that_cannot_say_what_it_is_is_told_by_its_type(connect, transport):
    class Mute(Exception):
        def __str__(self):
            raise RuntimeError("no words")

    def fail(x, state):
        raise Mute

    worker = connect(transport, filters={"mute": f.Apply(fail), "echo": f.Echo()})
    with pytest.raises(RemoteError) as caught:
        worker.forward("mute", 1)
    error = caught.value
    assert (error.code, error.remote_type, error.node_id) == (
        ErrorCode.FILTER_FAILED,
        "Mute",
        "mute",
    )
    assert worker.forward("echo", 1) == 1


@inside_and_forked
def test_a_recursion_without_end_is_an_error_reply(connect, transport):
    def deeper(x, state):
        return deeper(x, state)

    worker = connect(transport, filters={"deep": f.Apply(deeper), "echo": f.Echo()})
    with pytest.raises(RecursionError):
        worker.forward("deep", 1)
    assert worker.forward("echo", 1) == 1


@inside_and_forked
def test_a_result_that_cannot_travel_is_an_error_reply(connect, transport):
    worker = connect(
        transport,
        filters={
            "generator": f.Apply(lambda x, state: (i for i in range(x))),
            "itself": f.Apply(lambda x, state: (x.append(x), x)[1]),
            "echo": f.Echo(),
        },
    )
    with pytest.raises(RemoteError, match="generator"):
        worker.forward("generator", 3)
    with pytest.raises(RemoteError, match="contains itself"):
        worker.forward("itself", [])
    assert worker.forward("echo", 1) == 1


def test_an_unknown_node_is_told_with_those_that_are_loaded(warm):
    calls = [
        lambda: warm.fit("nobody", 1),
        lambda: warm.forward("nobody", 1),
        lambda: warm.composite_forward(["echo", "nobody"], 1),
        lambda: warm.composite_fit(["echo", "nobody"], 1),
        lambda: warm.batched_fit(["nobody"], [1]),
        lambda: warm.get_state("nobody"),
        lambda: warm.set_state("nobody", b""),
        lambda: warm.get_gradients("nobody"),
        lambda: warm.apply_gradients("nobody", b""),
        lambda: warm.unload(["nobody"]),
    ]
    for call in calls:
        with pytest.raises(RemoteError, match=r"unknown node 'nobody'.*'echo'") as e:
            call()
        assert e.value.code is ErrorCode.UNKNOWN_NODE


# Threads


def test_threads_share_a_worker_and_each_gets_its_own_reply(warm):
    def work(number: int) -> None:
        for step in range(25):
            value = [number, step, np.full(100, number)]
            result = warm.forward("echo", value)
            assert result[:2] == value[:2]
            assert (result[2] == number).all()
            if step % 5 == 0:
                with pytest.raises(ValueError, match=f"thread {number}"):
                    warm.forward("fail", ("ValueError", f"thread {number}"))

    with ThreadPoolExecutor(8) as pool:
        for call in [pool.submit(work, number) for number in range(8)]:
            call.result()


@inside_and_forked
def test_calls_of_several_threads_run_one_at_a_time(connect, transport):
    def span(x, state):
        begun = f.time.monotonic()
        f.time.sleep(0.05)
        return begun, f.time.monotonic()

    worker = connect(transport, filters={"span": f.Apply(span)})
    with ThreadPoolExecutor(4) as pool:
        spans = sorted(pool.map(lambda x: worker.forward("span", x), range(4)))
    for (_, ended), (begun, _) in itertools.pairwise(spans):
        assert ended <= begun


# Options


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_an_option_that_does_not_exist_is_told_with_those_that_do(transport):
    with pytest.raises(TypeError, match=r"no option colour; its options: .*pickle"):
        soma.connect(transport, colour="red")


@pytest.mark.parametrize(
    ("transport", "options"),
    [("stdio", {"command": []}), ("stdio", {"env": 3}), ("socket", {"path": 3}), ("inline", {})],
)
def test_an_option_of_a_wrong_value_names_the_option(transport, options):
    options = options or {"pickle": "sometimes"}
    with pytest.raises(ValueError, match=f"'{transport}'.*{next(iter(options))}"):
        soma.connect(transport, **options)


def test_a_transport_that_does_not_exist_suggests_close_ones():
    with pytest.raises(soma.PluginNotFound, match=r"'sdtio'.*did you mean 'stdio'"):
        soma.connect("sdtio")


def test_stdio_passes_env_and_cwd_on(connect, tmp_path):
    worker = connect(
        "stdio",
        env={"SOMA_TEST": "yes"},
        cwd=tmp_path,
        filters={"look": f.Apply(lambda x, s: [f.os.getcwd(), f.os.environ["SOMA_TEST"]])},
    )
    assert worker.forward("look", None) == [str(tmp_path), "yes"]


def test_stdio_runs_a_command_of_the_callers(connect):
    import sys

    command = ["env", "SOMA_TEST=launched", sys.executable, "-m", "soma_transport_stdio"]
    worker = connect(
        "stdio",
        command=command,
        filters={"look": f.Apply(lambda x, s: f.os.environ["SOMA_TEST"])},
    )
    assert worker.forward("look", None) == "launched"


# Closing


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_close_twice_and_use_after_close(connect, transport):
    worker = connect(transport, filters={"echo": f.Echo()})
    remote = worker.filter("echo")
    worker.close()
    worker.close()
    assert "closed" in repr(worker)
    for call in (lambda: worker.forward("echo", 1), worker.ping, lambda: remote.forward(1)):
        with pytest.raises(soma.ChannelClosed, match="closed"):
            call()
    assert worker.status().alive is False
    worker.shutdown()


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_shutdown_ends_the_worker(connect, transport):
    worker = connect(transport, filters={"echo": f.Echo()})
    worker.shutdown()
    with pytest.raises(soma.ChannelClosed):
        worker.forward("echo", 1)


@inside_and_forked
def test_leaving_the_block_closes_even_after_an_error(options, transport):
    with (
        pytest.raises(LookupError),
        soma.connect(transport, **options(transport), filters={"echo": f.Echo()}) as worker,
    ):
        raise LookupError
    with pytest.raises(soma.ChannelClosed):
        worker.ping()


@pytest.mark.parametrize(
    ("transport", "how"),
    gate_runs(
        ("stdio", "deaf"),
        ("socket", "naps"),
        of=list(itertools.product(PROCESSES, ["naps", "call", "stubborn", "deaf"])),
    ),
)
def test_close_from_another_thread_ends_a_running_call(connect, transport, how):
    worker = connect(transport, filters={"sleep": f.Sleep()})
    with ThreadPoolExecutor() as pool:
        call = pool.submit(worker.forward, "sleep", (how, 60.0))
        wait_until(lambda: worker.status().command == "FORWARD")
        begun = time.monotonic()
        worker.close()
        assert time.monotonic() - begun < 6.0
        with pytest.raises(soma.ChannelClosed, match="closed while FORWARD of node 'sleep' ran"):
            call.result(20.0)


@pytest.mark.nightly
@pytest.mark.parametrize("transport", PROCESSES)
def test_close_ends_calls_that_wait_for_their_turn(connect, transport):
    worker = connect(transport, filters={"sleep": f.Sleep()})
    with ThreadPoolExecutor() as pool:
        calls = [pool.submit(worker.forward, "sleep", ("naps", 60.0)) for _ in range(3)]
        wait_until(lambda: worker.status().command == "FORWARD")
        worker.close()
        for call in calls:
            with pytest.raises(soma.ChannelClosed):
                call.result(20.0)


@inside_and_forked
def test_arrays_as_states_and_results_are_told_apart_call_after_call(transport, connect):
    doubles = f.Apply(lambda x, _: x * 2.0, lambda x, _: x * 3.0)
    worker = connect(transport, filters={"means": doubles})
    for factor in range(1, 6):
        x = np.full(4, float(factor))
        assert np.array_equal(worker.fit("means", x), x * 3.0)
        assert np.array_equal(worker.forward("means", x), x * 2.0)
        assert np.array_equal(worker.composite_forward(["means"], x), x * 2.0)
        assert worker.forward("means", float(factor)) == factor * 2.0
