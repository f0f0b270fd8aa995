"""partial_fit learns batch by batch what the estimator would."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.linear_model
import sklearn.neural_network
import sklearn.preprocessing
from soma_filters_sklearn import estimators

import soma_core as soma


def test_batches_accumulate(data):
    node, oracle = estimators.StandardScaler(), sklearn.preprocessing.StandardScaler()
    state = {}
    for batch in np.split(data.x, 3):
        state = node.partial_fit(batch, None, state)
        oracle.partial_fit(batch)
    np.testing.assert_array_equal(node.forward(data.x, state), oracle.transform(data.x))


def test_a_classifier_learns_classes_that_its_first_batch_lacks(data):
    order = np.argsort(data.classes, kind="stable")
    node = estimators.SGDClassifier(random_state=0, classes=[0, 1])
    oracle = sklearn.linear_model.SGDClassifier(random_state=0)
    state = {}
    for rows in np.split(order, 3):
        state = node.partial_fit(data.x[rows], data.classes[rows], state)
        oracle.partial_fit(data.x[rows], data.classes[rows], classes=[0, 1])
    np.testing.assert_array_equal(node.forward(data.x, state), oracle.predict(data.x))


def test_learning_goes_on_from_a_state_that_was_sent(data, send):
    halves = np.split(data.x, 2), np.split(data.numbers, 2)
    oracle = sklearn.neural_network.MLPRegressor(hidden_layer_sizes=8, random_state=0)
    state = {}
    for x, y in zip(*halves, strict=True):
        node = estimators.MLPRegressor(hidden_layer_sizes=8, random_state=0)
        state = send(node.partial_fit(x, y, state))
        oracle.partial_fit(x, y)
    found = estimators.MLPRegressor(hidden_layer_sizes=8, random_state=0).forward(data.x, state)
    np.testing.assert_array_equal(found, oracle.predict(data.x))


def test_the_state_that_was_given_is_not_changed(data):
    node = estimators.SGDClassifier(random_state=0, classes=[0, 1])
    first = node.partial_fit(data.x, data.classes, {})
    before = first["coef_"].copy()
    second = node.partial_fit(data.x, data.classes, first)
    np.testing.assert_array_equal(first["coef_"], before)
    assert not np.array_equal(second["coef_"], before)


def test_a_classifier_that_does_not_know_its_classes_asks_for_them(data):
    with pytest.raises(ValueError, match=r"sklearn\.GaussianNB must know every class.*classes="):
        estimators.GaussianNB().partial_fit(data.x, data.classes, {})


def test_only_estimators_that_learn_in_batches_have_partial_fit():
    assert hasattr(estimators.MiniBatchKMeans(), "partial_fit")
    assert not hasattr(estimators.PCA(), "partial_fit")
    inside = {"estimator": "sklearn.GaussianNB"}
    assert hasattr(estimators.OneVsRestClassifier(**inside), "partial_fit")
    inside = {"estimator": "sklearn.LogisticRegression"}
    assert not hasattr(estimators.OneVsRestClassifier(**inside), "partial_fit")


@pytest.mark.parametrize("name", ["BernoulliNB", "SGDClassifier", "MLPClassifier"])
def test_batched_fit_knows_the_classes_of_all_the_data(data, name):
    order = np.argsort(data.classes, kind="stable")  # the first batch has one class alone
    x, y = data.x[order], data.classes[order]
    with soma.connect("inline", filters={"node": (f"sklearn.{name}", {})}) as worker:
        fitted = worker.batched_fit(["node"], x, y, batch_size=15)
        assert fitted.states["node"]["classes_"].tolist() == [0, 1]
        assert set(worker.forward("node", x)) <= {0, 1}


def test_weights_are_cut_into_batches_with_the_targets(data):
    weights = np.arange(60) % 4 + 1.0
    oracle = sklearn.linear_model.SGDRegressor(random_state=0)
    for rows in np.split(np.arange(60), 3):
        oracle.partial_fit(data.x[rows], data.numbers[rows], sample_weight=weights[rows])
    filters = {"node": ("sklearn.SGDRegressor", {"random_state": 0})}
    with soma.connect("inline", filters=filters) as worker:
        worker.batched_fit(
            ["node"], data.x, {"y": data.numbers, "sample_weight": weights}, batch_size=20
        )
        found = worker.forward("node", data.x)
    np.testing.assert_array_equal(found, oracle.predict(data.x))


def test_a_state_that_is_of_something_else_is_named(data):
    with pytest.raises(ValueError, match="this state, which holds coef; send the state that"):
        estimators.Ridge().forward(data.x, {"coef": 1})
