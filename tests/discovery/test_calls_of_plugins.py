"""What plugins do around the calls of a host: they see each, may refuse it, and add to its meta."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import soma_core as soma
from soma_core.plugins.manager import installed_plugins


class Echo(soma.Filter):
    """Returns what came; a negative number raises."""

    def meta(self) -> soma.FilterMeta:
        return super().meta().replace(rowwise=True)

    def forward(self, x: Any, state: Any) -> Any:
        if x == -1:
            raise ValueError("no negative numbers")
        return x


class Around:
    """Notes each call of a host and, in the worker, with what meta it came."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.came: list[Any] = []

    @soma.hookimpl(wrapper=True)
    def soma_call(self, call: Any) -> Any:
        meta = call.fields.get("meta") or {}
        if "refuse" in meta:
            raise soma.Refused("not for you")
        call.fields["meta"] = {**meta, "added": True}
        try:
            reply = yield
        except BaseException as error:
            self.seen.append((call.cmd, type(error)))
            raise
        self.seen.append((call.cmd, len(call.contexts)))
        return reply

    @soma.hookimpl
    def soma_command_finished(self, command: Any) -> None:
        self.came.append((command.cmd, command.meta))


class OnlyOf:
    """Takes part in the calls of one node."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    @soma.hookimpl(wrapper=True, commands={"FORWARD", "COMPOSITE_FORWARD"}, nodes={"b"})
    def soma_call(self, call: Any) -> Any:
        self.seen.append(call.cmd)
        return (yield)


@pytest.fixture
def register() -> Iterator[Callable[[str, Any], Any]]:
    plugins = installed_plugins()
    names: list[str] = []

    def add(name: str, plugin: Any) -> Any:
        plugins.register(name, plugin)
        names.append(name)
        return plugin

    yield add
    for name in names:
        plugins.unregister(name)


def test_what_a_caller_and_a_plugin_add_reaches_the_worker(register: Any) -> None:
    around = register("around", Around())
    with soma.connect("inline", filters={"echo": Echo()}) as worker:
        around.came.clear()
        worker.forward("echo", 1, meta={"tenant": "a"})
        worker.ping()
    assert around.came == [
        ("FORWARD", {"tenant": "a", "added": True}),
        ("PING", {"added": True}),
    ]
    assert around.seen == [("LOAD", 0), ("FORWARD", 0), ("PING", 0)]


def test_a_call_that_is_refused_in_the_host_is_not_sent(register: Any) -> None:
    around = register("around", Around())
    with soma.connect("inline", filters={"echo": Echo()}) as worker:
        around.came.clear()
        with pytest.raises(soma.Refused) as caught:
            worker.forward("echo", 1, meta={"refuse": True})
        assert str(caught.value) == "the plugin 'around' refuses this: not for you"
        assert worker.forward("echo", 2) == 2
    assert [cmd for cmd, _ in around.came] == ["FORWARD"]


def test_what_a_call_raises_is_raised_within_the_wrapper(register: Any) -> None:
    around = register("around", Around())
    with soma.connect("inline", filters={"echo": Echo()}) as worker:
        with pytest.raises(ValueError, match="no negative numbers"):
            worker.forward("echo", -1)
        assert issubclass(around.seen[-1][1], soma.RemoteError)


def test_wrappers_nest_and_an_outer_one_sees_that_an_inner_one_refuses(register: Any) -> None:
    register("inner", Around())
    outer = register("outer", Around())
    with soma.connect("inline", filters={"echo": Echo()}) as worker:
        assert worker.forward("echo", 1, meta={"t": 1}) == 1
    assert [cmd for cmd, _ in outer.seen] == ["LOAD", "FORWARD"]


def test_a_plugin_takes_part_only_where_it_says(register: Any) -> None:
    only = register("only", OnlyOf())
    with soma.connect("inline", filters={"a": Echo(), "b": Echo()}) as worker:
        worker.forward("a", 1)
        worker.fit("b", 1)
        assert only.seen == []
        worker.forward("b", 1)
        worker.composite_forward(["a", "b"], 1)
    assert only.seen == ["FORWARD", "COMPOSITE_FORWARD"]


def test_calls_that_are_awaited_and_those_of_pools_have_the_wrapper_too(register: Any) -> None:
    around = register("around", Around())

    async def awaited() -> None:
        async with soma.connect_async("inline", filters={"echo": Echo()}) as worker:
            around.seen.clear()
            assert await worker.forward("echo", 1, meta={"t": 1}) == 1
            with pytest.raises(soma.Refused):
                await worker.forward("echo", 1, meta={"refuse": True})

    asyncio.run(awaited())
    assert around.seen == [("FORWARD", 0)]
    with soma.WorkerPool("inline", 1, filters={"echo": Echo()}) as pool:
        around.seen.clear()
        assert pool.submit("echo", 1, meta={"t": 1}).result() == 1
        assert list(pool.map("echo", [1, 2], meta={"t": 1})) == [1, 2]
        with pytest.raises(soma.Refused):
            pool.forward("echo", 1, meta={"refuse": True})
    assert around.seen == [("FORWARD", 1)] * 3


def test_every_command_of_a_fit_a_checkpoint_and_a_stream_carries_the_meta(
    register: Any, tmp_path: Any
) -> None:
    around = register("around", Around())
    with soma.connect("inline", filters={"echo": Echo()}) as worker:
        around.came.clear()
        meta = {"tenant": "a"}
        worker.batched_fit(["echo"], iter([([1], [1]), ([2], [2])]), meta=meta)
        worker.save_checkpoint(tmp_path / "saved", meta=meta)
        worker.load_checkpoint(tmp_path / "saved", meta=meta)
        assert list(worker.stream(["echo"], [1, 2], meta=meta)) == [1, 2]
    assert len(around.came) > 6
    assert all(came["tenant"] == "a" for _, came in around.came)


@pytest.mark.parametrize("meta", [3, [("a", 1)], {1: 2}])
def test_a_meta_that_is_no_dict_of_names_is_refused_before_anything_is_sent(meta: Any) -> None:
    with soma.connect("inline", filters={"echo": Echo()}) as worker:
        with pytest.raises(TypeError, match="meta is a dict of data by name"):
            worker.forward("echo", 1, meta=meta)
        with pytest.raises(TypeError, match="meta is a dict of data by name"):
            worker.ping(meta=meta)


def never_yields(call: Any) -> Any:
    return
    yield


def yields_twice(call: Any) -> Any:
    reply = yield
    yield
    return reply


def returns_nothing(call: Any) -> Any:
    yield


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (never_yields, "returned before it yielded"),
        (yields_twice, "yielded twice"),
        (returns_nothing, "returned None"),
    ],
)
def test_a_wrapper_that_is_wrong_is_named(register: Any, wrong: Any, said: str) -> None:
    class Wrong:
        soma_call = staticmethod(soma.hookimpl(wrapper=True, commands={"PING"})(wrong))

    register("wrong", Wrong())
    with (
        soma.connect("inline") as worker,
        pytest.raises(TypeError, match=f"the plugin 'wrong': .*{said}"),
    ):
        worker.ping()


def test_a_soma_call_that_is_no_wrapper_is_refused() -> None:
    class Answers:
        @soma.hookimpl
        def soma_call(self, call: Any) -> Any:
            return None

    with pytest.raises(soma.PluginLoadFailed, match="soma_call is a wrapper: mark it"):
        installed_plugins().register("answers", Answers())


def test_calls_of_a_pool_are_joined_only_with_those_of_the_same_meta() -> None:
    metas = {"echo": Echo().meta()}
    batching = soma.Batching()

    def key(meta: Any) -> Any:
        joinable = batching.joinable(("echo",), [1], None, metas, meta)
        return None if joinable is None else joinable.key

    assert key({"a": 1, "b": 2}) == key({"b": 2, "a": 1})
    assert len({key(None), key({"a": 1}), key({"a": 2}), key({"a": 1.0})}) == 4
    assert key({"a": object()}) is None
    assert hash(key({})) != hash(key(None))


def test_what_a_plugin_puts_into_meta_and_no_worker_takes_is_said_to_be_the_plugins(
    register: Any,
) -> None:
    class Adds:
        @soma.hookimpl(wrapper=True, commands={"PING"})
        def soma_call(self, call: Any) -> Any:
            call.fields["meta"] = 5
            return (yield)

    register("adds", Adds())
    with (
        soma.connect("inline") as worker,
        pytest.raises(TypeError, match=r"the plugin 'adds': meta is a dict .*got 5"),
    ):
        worker.ping()


def test_a_wrapper_ends_though_what_would_mend_the_call_fails(
    register: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    around = register("around", Around())

    def fails(call: Any, error: BaseException) -> None:
        raise KeyboardInterrupt

    with soma.connect("inline", filters={"echo": Echo()}) as worker:
        monkeypatch.setattr(worker.verbs, "remedy", fails)
        with pytest.raises(KeyboardInterrupt):
            worker.forward("echo", -1)
    assert around.seen[-1] == ("FORWARD", KeyboardInterrupt)


def test_a_plugin_that_raises_a_cancellation_ends_its_call_and_not_the_pool(register: Any) -> None:
    class Cancels:
        @soma.hookimpl(wrapper=True, commands={"FORWARD"})
        def soma_call(self, call: Any) -> Any:
            if call.fields.get("meta"):
                raise asyncio.CancelledError
            return (yield)

    register("cancels", Cancels())
    for batching in (None, soma.Batching()):
        with soma.WorkerPool("inline", 1, filters={"echo": Echo()}, batching=batching) as pool:
            futures = [pool.submit("echo", [1], meta={"tenant": "a"}) for _ in range(3)]
            for future in futures:
                with pytest.raises(asyncio.CancelledError):
                    future.result(60.0)
            assert pool.forward("echo", [2], timeout=60.0) == [2]
