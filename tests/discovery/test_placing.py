"""Where filters may run reaches a transport that chooses machines, and costs the others nothing."""

from __future__ import annotations

from typing import Any

import pytest

import soma_core as soma
from soma_core.client.connect import transport_maker
from soma_core.client.loadable import distributions
from soma_core.engine.inline import InlineOptions, InlineTransport
from soma_core.plugins.catalog import PLUGINS, Catalog
from soma_core.plugins.manager import PluginSet
from soma_core.transport import TransportOptions

GPU = soma.Remote(soma.Tag("gpu"))


class OnGpu(soma.Filter):
    def forward(self, x: Any, state: Any) -> Any:
        return x

    def meta(self) -> soma.FilterMeta:
        return super().meta().replace(distribution=GPU)


class Broken(OnGpu):
    def meta(self) -> soma.FilterMeta:
        raise RuntimeError("not here")


class Registered:
    def load(self, name: str) -> type[soma.Filter]:
        if name == "acme.OnGpu":
            return OnGpu
        raise soma.PluginNotFound(name)


class PlacingOptions(TransportOptions):
    tags: tuple[str, ...] = ()

    def placed(self, distributions):
        remotes = [one.Remote for one in distributions if isinstance(one, soma.Remote)]
        return type(self)(tags=tuple(remote.Tag for remote in remotes))


class PlacingTransport(InlineTransport):
    Options = PlacingOptions


@pytest.fixture
def plugins():
    found = {"placing": PlacingTransport, "inline": InlineTransport}
    transports = type("Transports", (), {"load": lambda self, name: found[name]})()
    return PluginSet(Catalog(PLUGINS, "plugin"), {}, transports, Registered())


def test_objects_and_registered_filters_say_where_they_may_run(plugins):
    filters = {"a": OnGpu(), "b": "acme.OnGpu", "c": ("acme.OnGpu", {})}
    assert list(distributions(filters, plugins)) == [GPU] * 3


def test_what_cannot_be_asked_here_says_nothing(plugins):
    filters = {"a": Broken(), "b": "acme.Other", "c": ("acme.OnGpu", {"no": 1}), "d": object()}
    assert list(distributions({**filters, "e": OnGpu()}, plugins)) == [GPU]


def test_a_transport_that_chooses_gets_them_before_it_starts(plugins):
    make = transport_maker("placing", {}, plugins, filters={"a": OnGpu()})
    assert make().options.tags == ("gpu",)


def test_no_other_transport_has_the_filters_asked(plugins, monkeypatch):
    monkeypatch.setattr(OnGpu, "meta", lambda self: pytest.fail("it was asked"))
    make = transport_maker("inline", {}, plugins, filters={"a": OnGpu()})
    assert make().options == InlineOptions()
