"""The registered names are those that scikit-learn has, and cost nothing until one is used."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import sklearn
import soma_filters_sklearn
from soma_filters_sklearn import catalogue, entry_points, estimators
from soma_filters_sklearn.entry_points import (
    find_estimators,
    main,
    render_catalogue,
    render_table,
)

PROJECT = Path(__file__).parents[1] / "pyproject.toml"
REGISTERED = tomllib.loads(PROJECT.read_text())["project"]["entry-points"]["soma.filters"]

listed_release = pytest.mark.skipif(
    not sklearn.__version__.startswith(f"{catalogue.WRITTEN_FOR}."),
    reason=f"the names are those of scikit-learn {catalogue.WRITTEN_FOR}",
)


@pytest.fixture(scope="module")
def found():
    return find_estimators()


@listed_release
def test_the_names_in_pyproject_are_those_that_scikit_learn_has(found):
    assert render_table(found) in PROJECT.read_text()


@listed_release
def test_the_catalogue_is_what_scikit_learn_has(found):
    assert catalogue.FILE.read_text() == render_catalogue(found)


def test_the_script_prints_the_table(capsys, monkeypatch, found):
    monkeypatch.setattr(sys, "argv", ["entry_points"])
    monkeypatch.setattr(entry_points, "find_estimators", lambda: found)
    main()
    assert '"sklearn.PCA" = "soma_filters_sklearn.estimators:PCA"\n' in capsys.readouterr().out


def test_a_name_loads_one_class_and_always_the_same():
    entry_point = EntryPoint("sklearn.PCA", REGISTERED["sklearn.PCA"], "soma.filters")
    loaded = entry_point.load()
    assert loaded is entry_point.load() is estimators.PCA
    assert (loaded.__module__, loaded.__qualname__) == ("soma_filters_sklearn.estimators", "PCA")


@pytest.mark.nightly
def test_scikit_learn_is_not_imported_before_a_class_is_asked_for():
    code = (
        "import sys, soma_filters_sklearn.estimators as estimators\n"
        "dir(estimators); print('sklearn' in sys.modules)\n"
        "estimators.Normalizer; print('sklearn' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_what_the_package_offers_is_there_and_nothing_else():
    for name in soma_filters_sklearn.__all__:
        assert callable(getattr(soma_filters_sklearn, name))
    with pytest.raises(AttributeError, match="no attribute 'as_filters'"):
        _ = soma_filters_sklearn.as_filters


def test_the_plugin_leaves_to_others_what_is_no_estimator():
    entry_point = EntryPoint("sklearn", "soma_filters_sklearn.plugin", "soma.plugins")
    assert entry_point.load().soma_adapt(obj=object()) is None
