"""LOAD, UNLOAD, LIST: all or nothing, and every refusal says what to do."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
from pydantic import PrivateAttr

import soma_core as soma
from soma_core.models.filters import FilterMeta
from soma_core.plugins.catalog import FilterCatalog

from .conftest import Host


class Plain:
    def forward(self, x: Any, state: Any) -> Any:
        return x


class Learner(Plain):
    def fit(self, x: Any, y: Any = None) -> Any:
        return {"n": len(x)}


class Scale(soma.Filter):
    factor: float = 2.0
    steps: tuple[int, ...] = ()

    def forward(self, x: Any, state: Any) -> Any:
        return x * self.factor


class WithMeta(Plain):
    def __init__(self, meta: Any) -> None:
        self._meta = meta

    def meta(self) -> Any:
        if isinstance(self._meta, BaseException):
            raise self._meta
        return self._meta


class Explodes:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        return _raise, (self.error,)


def _raise(error: BaseException) -> Any:
    raise error


class Registry(FilterCatalog):
    """A catalog of classes, without entry points."""

    def __init__(self, **classes: Any) -> None:
        from importlib.metadata import EntryPoint

        points = [EntryPoint(name, f"{__name__}:{name}", "soma.filters") for name in classes]
        super().__init__("soma.filters", "filter", lambda group: points)
        self._classes = classes

    def load(self, name: str) -> Any:
        return self._classes[name] if name in self._classes else super().load(name)


@pytest.fixture
def registered() -> Host:
    """A host of an engine that knows some filters by name."""

    class Broken:
        def __init__(self, **config: Any) -> None:
            raise config.get("error", RuntimeError)("no such device")

        def forward(self, x: Any, state: Any) -> Any:
            return x

    class NeedsFile(Plain):
        def __init__(self, path: str) -> None:
            with open(path) as file:
                self.text = file.read()

    return Host(filters=Registry(Scale=Scale, Broken=Broken, NeedsFile=NeedsFile))


def test_loaded_filters_are_described_in_the_reply(host: Any) -> None:
    metas = host.load(plain=Plain(), learner=Learner(), scale=Scale())
    assert {node_id: meta["kind"] for node_id, meta in metas.items()} == {
        "plain": "Stateless",
        "learner": "Opaque",
        "scale": "Stateless",
    }
    assert metas["scale"] == {
        "name": "Scale",
        "kind": "Stateless",
        "cacheable": True,
        "differentiable": False,
        "deterministic": True,
        "stream_mode": "FixedState",
        "distribution": "Local",
        "input_schema": None,
        "output_schema": None,
    }


class Readied(soma.Filter):
    error: Any = None
    _ready: list[str] = PrivateAttr(default_factory=list)

    def on_load(self) -> None:
        if self.error is not None:
            raise self.error
        self._ready.append("loaded")

    def forward(self, x: Any, state: Any) -> Any:
        return self._ready


def test_a_filter_is_told_once_that_it_was_loaded(host: Any) -> None:
    host.load(a=Readied())
    assert host.ask("FORWARD", node_id="a", data=1)["result"] == ["loaded"]
    assert host.ask("FORWARD", node_id="a", data=1)["result"] == ["loaded"]


@pytest.mark.parametrize("error", [RuntimeError("no such device"), SystemExit("no such device")])
def test_what_a_filter_raises_when_it_is_loaded_is_why_nothing_was_loaded(
    host: Any, refused: Any, error: BaseException
) -> None:
    with pytest.raises(refused, match="node 'bad': no such device") as failure:
        host.load(good=Plain(), bad=Readied(error=error))
    assert (failure.value.code, failure.value.type) == ("load_failed", type(error).__name__)
    assert failure.value.node_id == "bad"
    assert host.ask("LIST")["nodes"] == {}


def test_what_is_not_to_be_trained_is_described_as_such(host: Any) -> None:
    assert host.load(trainable=False, learner=Learner())["learner"]["kind"] == "Stateless"


def test_loading_nothing_is_fine(host: Any) -> None:
    assert host.ask("LOAD", filters=[])["filters"] == {}


def test_a_failed_load_leaves_nothing_of_itself_and_everything_from_before(
    host: Any, pickled: Any, refused: Any
) -> None:
    host.load(kept=Scale(factor=5))
    specs = [
        {"id": "new", "pickle_b64": pickled(Plain())},
        {"id": "kept", "pickle_b64": pickled(Plain())},
        {"id": "bad", "pickle_b64": pickled(object())},
    ]
    with pytest.raises(refused) as caught:
        host.ask("LOAD", filters=specs)
    assert caught.value.code == "load_failed"
    assert caught.value.node_id == "bad"
    assert host.node_ids == ["kept"]
    assert host.ask("FORWARD", node_id="kept", data=2)["result"] == 10


def test_an_id_may_stand_once_in_a_command(host: Any, pickled: Any, refused: Any) -> None:
    spec = {"id": "twice", "pickle_b64": pickled(Plain())}
    with pytest.raises(refused, match=r"repeated: \['twice'\]") as caught:
        host.ask("LOAD", filters=[spec, spec])
    assert caught.value.code == "invalid_command"
    assert host.node_ids == []


def test_loading_an_id_again_replaces_the_filter_and_what_it_learned(host: Any) -> None:
    host.load(a=Learner())
    host.ask("FIT", node_id="a", data=[1, 2])
    host.load(a=Learner())
    assert host.node("a").state == {}


@pytest.mark.parametrize("obj", [set(), 5, {"forward": 1}, None, "text"], ids=repr)
def test_an_object_without_forward_is_refused_by_its_type(
    host: Any, refused: Any, obj: Any
) -> None:
    with pytest.raises(refused, match="forward") as caught:
        host.load(a=obj)
    assert caught.value.code == "load_failed"
    assert type(obj).__name__ in str(caught.value)
    assert "node 'a'" in str(caught.value)


@pytest.mark.parametrize("raw", ["", "bm8gcGlja2xl", "gASVCgAAAAA="])
def test_a_damaged_pickle_names_the_node_and_the_versions_here(
    host: Any, refused: Any, raw: str
) -> None:
    with pytest.raises(refused, match=r"node 'a': unpickling failed.*Python 3") as caught:
        host.ask("LOAD", filters=[{"id": "a", "pickle_b64": raw}])
    assert caught.value.code == "load_failed"
    assert caught.value.node_id == "a"


@pytest.mark.parametrize("error", [ValueError("inside"), OSError("inside"), KeyError("inside")])
def test_a_pickle_that_raises_is_an_error_of_that_type(
    host: Any, refused: Any, error: BaseException
) -> None:
    with pytest.raises(refused, match="inside") as caught:
        host.load(a=Explodes(error))
    assert caught.value.code == "load_failed"
    assert caught.value.type == type(error).__name__


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()], ids=repr)
def test_a_pickle_that_tries_to_end_the_process_is_an_error_reply(
    host: Any, refused: Any, error: BaseException
) -> None:
    with pytest.raises(refused) as caught:
        host.load(a=Explodes(error))
    assert caught.value.type == type(error).__name__
    with pytest.raises(refused) as caught:
        host.ask("FIT", node_id="a", data=Explodes(error))
    assert caught.value.type == type(error).__name__
    assert host.ask("PING")["pid"] == os.getpid()


@pytest.mark.parametrize(
    "meta",
    [
        None,
        {},
        {"name": "x", "kind": "Sometimes"},
        {"name": "x", "cachable": True},
        {"name": "x", "distribution": {"Remote": {"Planet": "mars"}}},
        {"name": "x", "input_schema": {"dtype": "Float8"}},
        ValueError("who am I"),
    ],
    ids=repr,
)
def test_a_meta_that_is_wrong_is_refused_with_the_reason(
    host: Any, refused: Any, meta: Any
) -> None:
    with pytest.raises(refused, match=r"node 'a': meta\(\)") as caught:
        host.load(a=WithMeta(meta))
    assert caught.value.code == "load_failed"
    assert host.node_ids == []


def test_a_meta_may_be_a_dict_in_the_spelling_of_the_protocol(host: Any) -> None:
    spelled = {
        "name": "far",
        "kind": "Opaque",
        "distribution": {"Remote": {"Tag": "gpu"}},
        "output_schema": {"dtype": "Float32", "shape": [{"Dynamic": "batch"}, {"Fixed": 64}]},
    }
    meta = host.load(a=WithMeta(spelled))["a"]
    assert meta == {**FilterMeta(name="far").model_dump(mode="json"), **spelled}


def test_a_registered_filter_is_built_from_its_configuration(registered: Any) -> None:
    spec = {"id": "a", "filter": "Scale", "config": {"factor": 4, "steps": [1]}}
    registered.ask("LOAD", filters=[spec])
    assert registered.ask("FORWARD", node_id="a", data=2)["result"] == 8


def test_an_unknown_filter_is_told_with_close_matches(registered: Any, refused: Any) -> None:
    with pytest.raises(refused, match="did you mean 'Scale'") as caught:
        registered.ask("LOAD", filters=[{"id": "a", "filter": "Skale"}])
    assert caught.value.code == "unknown_filter"
    assert caught.value.node_id == "a"
    with pytest.raises(refused, match="installed: Broken, NeedsFile, Scale"):
        registered.ask("LOAD", filters=[{"id": "a", "filter": "zzz"}])


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"factor": "much"}, "factor"),
        ({"factr": 2}, "factr: there is no such field"),
        ({"steps": [1, "x"]}, "steps.1"),
        ({"factor": None}, "factor"),
    ],
    ids=str,
)
def test_a_wrong_configuration_names_the_field_and_lists_the_known_ones(
    registered: Any, refused: Any, config: Any, named: str
) -> None:
    with pytest.raises(refused) as caught:
        registered.ask("LOAD", filters=[{"id": "a", "filter": "Scale", "config": config}])
    assert caught.value.code == "load_failed"
    assert named in str(caught.value)
    assert "(its fields: factor, steps)" in str(caught.value)
    assert registered.node_ids == []


@pytest.mark.parametrize(
    ("name", "config"),
    [("Broken", {}), ("NeedsFile", {"path": "/no/such/file"}), ("NeedsFile", {})],
)
def test_a_registered_filter_that_cannot_be_built_is_a_failed_load_of_its_node(
    registered: Any, refused: Any, name: str, config: Any
) -> None:
    with pytest.raises(refused) as caught:
        registered.ask("LOAD", filters=[{"id": "a", "filter": name, "config": config}])
    assert caught.value.code == "load_failed"
    assert caught.value.node_id == "a"


def test_unload_forgets_all_or_none(host: Any, refused: Any) -> None:
    host.load(a=Plain(), b=Plain(), c=Plain())
    with pytest.raises(refused, match=r"unknown node 'x'.*'a', 'b', 'c'") as caught:
        host.ask("UNLOAD", node_ids=["a", "x"])
    assert caught.value.code == "unknown_node"
    assert host.node_ids == ["a", "b", "c"]
    assert host.ask("UNLOAD", node_ids=["a", "c", "a"])["node_ids"] == ["a", "c", "a"]
    assert host.node_ids == ["b"]


def test_list_tells_loaded_nodes_and_registered_filters(registered: Any) -> None:
    registered.load(a=Plain())
    reply = registered.ask("LIST")
    assert list(reply["nodes"]) == ["a"]
    assert reply["nodes"]["a"]["name"] == "Plain"
    assert reply["filters"] == ["Broken", "NeedsFile", "Scale"]


@pytest.mark.parametrize(
    ("cmd", "fields"),
    [
        ("FIT", {"node_id": "x"}),
        ("FORWARD", {"node_id": "x"}),
        ("COMPOSITE_FORWARD", {"node_ids": ["a", "x"]}),
        ("COMPOSITE_FIT", {"node_ids": ["a", "x"]}),
        ("BATCHED_FIT", {"node_ids": ["a", "x"]}),
        ("GET_STATE", {"node_id": "x"}),
        ("SET_STATE", {"node_id": "x", "state_b64": ""}),
        ("GET_GRADIENTS", {"node_id": "x"}),
        ("APPLY_GRADIENTS", {"node_id": "x", "gradients_b64": ""}),
        ("UNLOAD", {"node_ids": ["x"]}),
    ],
)
def test_an_unknown_node_is_named_and_the_loaded_ones_are_listed(
    host: Any, refused: Any, cmd: str, fields: Any
) -> None:
    host.load(a=Plain(), b=Plain())
    with pytest.raises(refused, match="unknown node 'x'; loaded nodes: 'a', 'b'") as caught:
        host.ask(cmd, **fields)
    assert caught.value.code == "unknown_node"
    assert caught.value.node_id == "x"
    assert caught.value.fields["cmd"] == cmd


def test_with_pickle_off_pickled_filters_are_refused(
    host_without_pickle: Any, pickled: Any, refused: Any
) -> None:
    with pytest.raises(refused, match="registered name") as caught:
        host_without_pickle.ask("LOAD", filters=[{"id": "a", "pickle_b64": pickled(Plain())}])
    assert caught.value.code == "pickle_refused"
    assert caught.value.node_id == "a"


def test_a_node_id_may_be_any_text(host: Any, pickled: Any) -> None:
    for node_id in ("ünï", "a b", "\n", "'", "x" * 1000):
        reply = host.line(
            {"cmd": "LOAD", "filters": [{"id": node_id, "pickle_b64": pickled(Plain())}]}
        )
        assert list(reply["filters"]) == [node_id]
        assert host.line({"cmd": "FORWARD", "node_id": node_id, "data": 1})["result"] == 1


@pytest.mark.parametrize("value", [np.ones(2), b"raw", {1, 2}], ids=lambda v: type(v).__name__)
def test_a_configuration_that_cannot_travel_is_refused_by_the_node_s_name(value: Any) -> None:
    with soma.connect("inline") as worker:
        with pytest.raises((TypeError, soma.ProtocolError), match=r"'a'.*config"):
            worker.load({"a": ("any.filter", {"field": value})})
        assert worker.ping().pid == os.getpid()
