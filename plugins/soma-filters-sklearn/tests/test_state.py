"""What a filter learned is its state: needed, checked, and rebuilt once."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import cloudpickle
import numpy as np
import pytest
import sklearn
import sklearn.linear_model
import sklearn.neighbors
from scipy import sparse
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.exceptions import InconsistentVersionWarning
from sklearn.pipeline import FeatureUnion
from sklearn.preprocessing import StandardScaler
from soma_filters_sklearn import estimators
from soma_filters_sklearn.any_estimator import Estimator
from soma_filters_sklearn.packing import pack, unpack
from soma_filters_sklearn.state import learned_state, restore

import soma_core as soma


def test_the_state_is_the_fitted_attributes_by_name(data):
    state = estimators.StandardScaler().fit(data.x)
    oracle = sklearn.preprocessing.StandardScaler().fit(data.x)
    np.testing.assert_array_equal(state["mean_"], oracle.mean_)
    assert state["n_features_in_"] == 5
    assert "with_mean" not in state


@pytest.mark.parametrize("state", [{}, None])
def test_an_estimator_without_a_state_says_that_it_is_not_fitted(state, data):
    with pytest.raises(ValueError, match="not fitted: call fit first or send a state"):
        estimators.PCA().forward(data.x, state)


def test_an_estimator_that_learns_nothing_needs_no_state(data):
    found = estimators.Normalizer().forward(data.x, {})
    np.testing.assert_array_equal(found, sklearn.preprocessing.normalize(data.x))


class Beside(TransformerMixin, BaseEstimator):
    """What it learns has no underscore at its end."""

    def fit(self, x, y=None):
        self._model = sklearn.linear_model.Ridge().fit(x, x[:, 0])
        return self

    def transform(self, x):
        return self._model.predict(x)


class Double(TransformerMixin, BaseEstimator):
    """It learns nothing."""

    def fit(self, x, y=None):
        return self

    def transform(self, x):
        return 2 * x


class Bare:
    """No BaseEstimator, but it has what one has."""

    def get_params(self, deep=True):
        return {}

    def fit(self, x, y=None):
        self.low = x.min(axis=0)
        return self

    def transform(self, x):
        return x - self.low


class Whole(TransformerMixin, BaseEstimator):
    """It pickles as a whole, and has a ``forward`` of its own, as the networks of skorch do."""

    def __init__(self, by=1):
        self.by = by

    def fit(self, x, y=None):
        self.low_ = x.min(axis=0)
        return self

    def forward(self, x, training=False):
        raise NotImplementedError

    def transform(self, x):
        return (x - self.low_) * self.by

    def __getstate__(self):
        return {"by": self.by, "learned": pickle.dumps(vars(self))}

    def __setstate__(self, state):
        assert state["by"] == self.by
        vars(self).update(pickle.loads(state["learned"]))


def test_one_that_pickles_as_a_whole_is_read_from_pickles_alone(data):
    with soma.connect("inline", filters={"whole": Whole(by=3)}) as worker:
        state = worker.fit("whole", data.x)
        expected = Whole(by=3).fit(data.x).transform(data.x)
        np.testing.assert_array_equal(worker.forward("whole", data.x, state), expected)
    with pytest.raises(ValueError, match="what a Whole learned travels as a pickle only"):
        restore(Whole(), {"learned": pickle.dumps({"low_": 1})})


@pytest.mark.parametrize("kind", [Beside, Double, Bare])
def test_an_estimator_of_ones_own_may_learn_under_any_name_or_nothing(kind, data):
    node = Estimator(estimator=kind())
    state = node.fit(data.x)
    np.testing.assert_array_equal(
        copy.deepcopy(node).forward(data.x, state), kind().fit(data.x).transform(data.x)
    )


def test_one_of_ones_own_that_is_not_fitted_says_so(data):
    with pytest.raises(ValueError, match="Beside is not fitted: call fit first or send a state"):
        Estimator(estimator=Beside()).forward(data.x, {})


def test_a_state_that_is_no_dict_is_refused_with_what_came(data):
    with pytest.raises(ValueError, match=r"a dict of fitted attributes.*got list"):
        estimators.PCA().forward(data.x, [1, 2])


def test_the_state_of_another_filter_is_refused_with_what_it_lacks_and_has(data):
    state = estimators.StandardScaler().fit(data.x)
    with pytest.raises(ValueError, match=r"has no components_, .*it has .*scale_.*another filter"):
        estimators.PCA().forward(data.x, state)


def test_a_state_cannot_change_the_configuration(data):
    node = estimators.StandardScaler()
    state = node.fit(data.x) | {"with_mean": False}
    with pytest.raises(ValueError, match="sets with_mean, which belongs to the configuration"):
        node.forward(data.x, state)


def test_a_damaged_state_is_refused(data):
    with pytest.raises(ValueError, match="'scalar' that is not well formed"):
        estimators.StandardScaler().forward(data.x, {"mean_": {"$sklearn": "scalar"}})


def test_a_state_of_another_release_is_noticed(data):
    node = estimators.StandardScaler()
    state = node.fit(data.x) | {"_sklearn_version": "1.0"}
    with pytest.warns(InconsistentVersionWarning):
        node.forward(data.x, state)


def test_an_estimator_that_predicts_asks_for_its_targets(data):
    with pytest.raises(ValueError, match=r"LogisticRegression requires y to be passed"):
        estimators.LogisticRegression().fit(data.x)


def test_one_filter_serves_many_states(data):
    node = estimators.StandardScaler()
    first, second = node.fit(data.x), node.fit(data.x * 2)
    np.testing.assert_array_equal(node.forward(data.x, first), node.forward(data.x * 2, second))


def test_the_estimator_is_rebuilt_once_for_one_state(data, send, monkeypatch):
    node = estimators.StandardScaler()
    state = send(node.fit(data.x))
    node.forward(data.x, state)
    monkeypatch.setattr("soma_filters_sklearn.filters.restore", None)
    node.forward(data.x, state)


def test_a_changed_copy_does_not_use_the_estimator_of_the_original(data):
    node = estimators.StandardScaler()
    state = node.fit(data.x)
    copied = node.model_copy(update={"with_mean": False})
    wanted = sklearn.preprocessing.StandardScaler(with_mean=False).fit_transform(data.x)
    np.testing.assert_array_equal(copied.forward(data.x, state), wanted)


def test_filters_of_one_configuration_are_equal_whatever_they_served(data):
    used = estimators.StandardScaler()
    used.fit(data.x)
    assert used == estimators.StandardScaler()
    assert used != estimators.StandardScaler(with_std=False)


@pytest.mark.parametrize("pickler", [pickle, cloudpickle])
def test_a_filter_pickles_by_reference_and_without_what_it_served(pickler, data):
    fresh = pickler.dumps(estimators.PCA(n_components=2))
    node = estimators.PCA(n_components=2)
    node.fit(data.x)
    assert len(pickler.dumps(node)) == len(fresh)
    assert type(pickle.loads(fresh)) is estimators.PCA


@pytest.mark.nightly
def test_a_pickled_filter_loads_in_a_process_that_has_not_seen_its_class(tmp_path):
    path = tmp_path / "filter.pickle"
    path.write_bytes(pickle.dumps(estimators.PCA(n_components=2)))
    code = f"import pickle; print(pickle.load(open({str(path)!r}, 'rb')).n_components)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "2\n"


@pytest.mark.parametrize(
    "value",
    [
        (1, ("a", None)),
        np.float32(0.1),
        np.str_("text"),
        np.datetime64("2024-01-01"),
        np.array([["a", None], [1.5, True]], dtype=object),
        np.array(["a", "bcd"]),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(12.0).reshape(3, 4)[:, :2],
        np.asfortranarray(np.arange(12.0).reshape(4, 3))[:2],
        np.ma.MaskedArray([1.0, 2.0], mask=[False, True]),
        np.dtype("float32"),
        np.int64,
        {1: "one", np.int64(2): (2,)},
        {"$sklearn": "mine"},
        [float("inf"), b"bytes", {"deep": [np.bool_(True)]}],
    ],
    ids=repr,
)
def test_plain_values_survive_the_wire_exactly(value, send):
    found = unpack(send(pack(value), pickle=False))
    assert type(found) is type(value)
    if isinstance(value, np.ndarray):
        np.testing.assert_array_equal(found, value, strict=True)
        assert found.strides == value.strides
    else:
        assert found == value


@pytest.mark.parametrize("make", [sparse.csr_matrix, sparse.csc_array])
def test_sparse_matrices_survive_the_wire_as_what_they_are(make, send):
    value = make(np.eye(3, 4))
    found = unpack(send(pack(value), pickle=False))
    assert type(found) is type(value)
    np.testing.assert_array_equal(found.toarray(), value.toarray())


def test_a_union_that_passes_its_input_through_keeps_its_state(data):
    parts = [("scaled", StandardScaler()), ("own", "passthrough"), ("none", "drop")]
    fitted = FeatureUnion(parts).fit(data.x)
    union = FeatureUnion(parts)
    restore(union, learned_state(fitted))
    np.testing.assert_array_equal(union.transform(data.x), fitted.transform(data.x))
    assert list(union.get_feature_names_out()) == list(fitted.get_feature_names_out())


def test_a_random_generator_goes_on_where_it_was(send):
    generator = np.random.RandomState(3)
    generator.normal(size=3)
    found = unpack(send(pack(generator), pickle=False))
    assert found.normal() == generator.normal()


def grown(data):
    """A forest of three trees, its state, and where the nodes of the second one are in it."""
    node = estimators.RandomForestClassifier(n_estimators=3, random_state=0)
    state = copy.deepcopy(node.fit(data.x, data.classes))
    tree = state["estimators_"][1]["attributes"]["tree_"]["parts"]
    return node, state, tree


@pytest.mark.parametrize(
    ("field", "number"),
    [("left_child", 10**6), ("right_child", -7), ("left_child", 0), ("feature", 99)],
)
def test_a_tree_whose_numbers_lead_nowhere_is_refused(field, number, data):
    node, state, tree = grown(data)
    tree["nodes"][field][0] = number
    with pytest.raises(ValueError, match=r"'estimator' that is not well formed.*exist"):
        node.forward(data.x, state)


def test_a_tree_of_more_features_than_the_forest_is_refused(data):
    node, state, tree = grown(data)
    tree["n_features"] = 50
    tree["nodes"]["feature"][0] = 40
    state["estimators_"][1]["attributes"]["n_features_in_"] = 50
    with pytest.raises(ValueError, match="as many features as data"):
        node.forward(data.x, state)


@pytest.mark.parametrize(("field", "number"), [("left", 500), ("feature_idx", 40)])
def test_a_booster_whose_numbers_lead_nowhere_is_refused(field, number, data):
    node = estimators.HistGradientBoostingRegressor(max_iter=2, min_samples_leaf=5)
    state = copy.deepcopy(node.fit(data.x, data.numbers))
    state["_predictors"][1][0]["parts"]["nodes"][field][0] = number
    with pytest.raises(ValueError, match="exist"):
        node.forward(data.x, state)


@pytest.mark.parametrize(
    "forged",
    [
        {"$sklearn": "made", "parts": {"class": "subprocess.Popen", "arguments": ["true"]}},
        {"$sklearn": "plain", "parts": {"class": "os.Environ", "attributes": {}}},
        {"$sklearn": "estimator", "name": "subprocess.Popen", "attributes": {}},
        {"$sklearn": "estimator", "name": "sklearn.utils.Bunch", "attributes": {}},
        {"$sklearn": "function", "path": "numpy.save"},
        {"$sklearn": "object", "name": "subprocess.Popen", "parameters": {"args": "true"}},
        {"$sklearn": "nonsense"},
    ],
    ids=lambda forged: str(list(forged.values())[:2]),
)
def test_a_state_makes_nothing_but_what_states_hold(forged, data):
    with pytest.raises(ValueError, match="not well formed"):
        estimators.StandardScaler().forward(data.x, {"mean_": forged})


def test_points_are_searched_as_before_after_a_trip(data, send):
    weights = {"y": None, "sample_weight": np.arange(60) + 1.0}
    node = estimators.KernelDensity(metric="manhattan", algorithm="ball_tree", kernel="tophat")
    state = send(node.fit(data.x, weights), pickle=False)
    oracle = sklearn.neighbors.KernelDensity(
        metric="manhattan", algorithm="ball_tree", kernel="tophat"
    ).fit(data.x, sample_weight=weights["sample_weight"])
    found = estimators.KernelDensity(
        metric="manhattan", algorithm="ball_tree", kernel="tophat"
    ).forward(data.x, state)
    np.testing.assert_array_equal(found, oracle.score_samples(data.x))
