"""Plugins: listed from metadata alone, loaded one by one, failures and conflicts shown."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Iterable
from importlib.metadata import Distribution, EntryPoint
from pathlib import Path
from typing import Any

import pytest

import soma_core as soma
from soma_core.plugins.catalog import (
    Catalog,
    FilterCatalog,
    installed_filters,
    installed_transports,
)

from ..support.installing import install


class FakeDistribution(Distribution):
    """A distribution with one entry point."""

    def __init__(self, name: str, version: str, point: EntryPoint) -> None:
        self._files = {
            "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
            "entry_points.txt": f"[{point.group}]\n{point.name} = {point.value}\n",
        }

    def read_text(self, filename: str) -> str | None:
        return self._files.get(filename)

    def locate_file(self, path: Any) -> Any:
        return Path(path)


def entry_point(
    name: str, target: str, distribution: str | None = "dist-a", version: str = "1.0"
) -> EntryPoint:
    point = EntryPoint(name, target, "soma.filters")
    if distribution is None:
        return point
    (provided,) = FakeDistribution(distribution, version, point).entry_points
    return provided


def catalog(*points: EntryPoint, kind: type[Catalog] = Catalog) -> Any:
    return kind("soma.filters", "filter", lambda group: points)


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch, request: Any) -> types.ModuleType:
    """A module that can be imported for the time of a test."""
    name = f"soma_fake_{abs(hash(request.node.nodeid))}"
    module = types.ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)
    return module


def test_a_plugin_is_loaded_by_its_name(module: types.ModuleType) -> None:
    module.Thing = object()  # type: ignore[attr-defined]
    plugins = catalog(entry_point("thing", f"{module.__name__}:Thing"))
    assert plugins.load("thing") is module.Thing  # type: ignore[attr-defined]
    assert plugins.failure("thing") is None


def test_names_are_sorted_and_asked_of_the_group_once() -> None:
    asked: list[str] = []

    def find(group: str) -> Iterable[EntryPoint]:
        asked.append(group)
        return [entry_point(name, "no_such:Thing") for name in ("b", "a", "c")]

    plugins = Catalog("soma.transports", "transport", find)
    assert asked == []
    assert plugins.names() == ["a", "b", "c"]
    assert [info.name for info in plugins.list()] == ["a", "b", "c"]
    assert asked == ["soma.transports"]


def test_listing_imports_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "soma_tripwire.py").write_text("raise AssertionError('it was imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    plugins = catalog(entry_point("trip", "soma_tripwire:Thing", "soma-trip", "3.2"))
    (info,) = plugins.list()
    assert (info.name, info.target) == ("trip", "soma_tripwire:Thing")
    assert (info.distribution, info.version, info.conflict) == ("soma-trip", "3.2", ())
    assert plugins.names() == ["trip"]
    assert "soma_tripwire" not in sys.modules
    assert "it was imported" in str(plugins.failure("trip"))


def test_an_unknown_name_is_answered_with_close_matches() -> None:
    plugins = catalog(entry_point("sklearn.PCA", "x:Y"), entry_point("torch.MLP", "x:Y"))
    with pytest.raises(soma.PluginNotFound, match=r"unknown filter 'sklearn.PAC'") as caught:
        plugins.load("sklearn.PAC")
    assert "did you mean 'sklearn.PCA'?" in str(caught.value)
    assert "soma filters" in str(caught.value)


def test_an_unknown_name_that_is_like_none_is_answered_with_all() -> None:
    with pytest.raises(soma.PluginNotFound, match="installed: a, b"):
        catalog(entry_point("b", "x:Y"), entry_point("a", "x:Y")).load("zzzzzz")
    with pytest.raises(soma.PluginNotFound, match="installed: none"):
        catalog().load("anything")


def test_a_name_like_those_of_a_plugin_that_is_not_installed_is_answered_with_that() -> None:
    with pytest.raises(soma.PluginNotFound, match="pip install soma-filters-sklearn, which"):
        catalog(entry_point("a", "x:Y")).load("sklearn.PCA")
    with pytest.raises(soma.PluginNotFound, match=r"installed: sklearn\.PCA"):
        catalog(entry_point("sklearn.PCA", "x:Y")).load("sklearn.Zzzzzzzzzzzzzz")


def test_two_distributions_that_claim_one_name_are_both_named(module: types.ModuleType) -> None:
    module.Thing = 1  # type: ignore[attr-defined]
    target = f"{module.__name__}:Thing"
    plugins = catalog(
        entry_point("both", target, "dist-b"),
        entry_point("both", target, "dist-a"),
        entry_point("fine", target, "dist-b"),
    )
    with pytest.raises(soma.PluginConflict, match=r"dist-a .* and dist-b .* both provide .*'both'"):
        plugins.load("both")
    assert plugins.load("fine") == 1
    claims = [info for info in plugins.list() if info.name == "both"]
    assert [info.distribution for info in claims] == ["dist-a", "dist-b"]
    assert {info.conflict for info in claims} == {("dist-a", "dist-b")}
    assert plugins.names() == ["both", "fine"]


def test_one_distribution_found_twice_is_no_conflict(module: types.ModuleType) -> None:
    module.Thing = 1  # type: ignore[attr-defined]
    target = f"{module.__name__}:Thing"
    plugins = catalog(entry_point("a", target), entry_point("a", target))
    assert plugins.load("a") == 1
    assert len(plugins.list()) == 1


BROKEN = {
    "raises": "raise RuntimeError('no GPU')",
    "cannot import": "import soma_no_such_module",
    "has no such attribute": "",
    "is not Python": "def (",
    "exits": "raise SystemExit('go away')",
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_plugin_is_a_failure_with_its_reason_and_stops_no_other(
    how: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, module: types.ModuleType
) -> None:
    name = f"soma_broken_{how.replace(' ', '_')}"
    (tmp_path / f"{name}.py").write_text(BROKEN[how])
    monkeypatch.syspath_prepend(str(tmp_path))
    module.Thing = 1  # type: ignore[attr-defined]
    plugins = catalog(
        entry_point("bad", f"{name}:Thing", "soma-bad", "0.3"),
        entry_point("good", f"{module.__name__}:Thing"),
    )
    with pytest.raises(soma.PluginLoadFailed) as caught:
        plugins.load("bad")
    text = str(caught.value)
    assert "'bad' of soma-bad 0.3" in text
    assert f"{name}:Thing" in text
    assert caught.value.__cause__ is not None
    assert type(caught.value.__cause__).__name__ in text
    assert str(plugins.failure("bad")) == text
    assert plugins.load("good") == 1
    assert plugins.failure("good") is None
    assert [info.name for info in plugins.list()] == ["bad", "good"]


def test_a_failure_is_reported_for_unknown_and_claimed_names_too() -> None:
    plugins = catalog(entry_point("a", "x:Y", "d1"), entry_point("a", "x:Y", "d2"))
    assert "both provide" in str(plugins.failure("a"))
    assert "unknown filter" in str(plugins.failure("b"))


def test_an_entry_point_without_a_distribution_is_listed_all_the_same() -> None:
    (info,) = catalog(entry_point("a", "no_such_module:Y", None)).list()
    assert info.distribution == "an unknown distribution"


class Scale(soma.Filter):
    factor: float = 2.0

    def forward(self, x: Any, state: Any) -> Any:
        return x * self.factor


@pytest.fixture
def filters(module: types.ModuleType) -> Any:
    module.Scale = Scale  # type: ignore[attr-defined]
    module.make = lambda size: [0] * size  # type: ignore[attr-defined]
    target = module.__name__
    return catalog(
        entry_point("scale", f"{target}:Scale"),
        entry_point("make", f"{target}:make"),
        kind=FilterCatalog,
    )


def test_a_filter_is_built_from_its_configuration(filters: Any) -> None:
    assert filters.create("scale", {"factor": 3}) == Scale(factor=3.0)
    assert filters.create("scale", {}) == Scale()
    assert filters.create("make", {"size": 2}) == [0, 0]


@pytest.mark.parametrize(
    ("config", "named"),
    [({"factor": "x"}, "factor: "), ({"facto": 1}, "facto: there is no such field")],
    ids=str,
)
def test_a_wrong_configuration_names_the_field(filters: Any, config: Any, named: str) -> None:
    with pytest.raises(ValueError, match=r"scale: .*\(its fields: factor\)") as caught:
        filters.create("scale", config)
    assert named in str(caught.value)


def test_an_unknown_filter_is_not_built(filters: Any) -> None:
    with pytest.raises(soma.PluginNotFound, match="did you mean 'scale'"):
        filters.create("scales", {})


def test_the_transports_of_this_distribution_are_installed() -> None:
    names = installed_transports().names()
    assert {"inline", "stdio", "socket"} <= set(names)
    by_name = {info.name: info for info in installed_transports().list()}
    assert by_name["inline"].distribution == "soma-core"
    assert installed_transports().load("inline").name == "inline"
    assert installed_filters().group == "soma.filters"


def test_what_is_installed_while_a_program_runs_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "late" not in Catalog("soma.filters", "filter").names()
    install(tmp_path, "acme-late", {"soma.filters": {"late": "acme_late:Late"}})
    importlib.invalidate_caches()
    assert "late" in Catalog("soma.filters", "filter").names()
