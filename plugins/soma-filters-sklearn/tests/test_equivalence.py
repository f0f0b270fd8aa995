"""A filter learns and answers exactly what its estimator does, also after a trip over the wire."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import sklearn
from scipy import sparse
from soma_filters_sklearn import estimators

CONFIGURED: list[tuple[str, dict[str, Any], str]] = [
    ("MinMaxScaler", {"feature_range": [-1, 2]}, ""),
    ("PolynomialFeatures", {"degree": 3}, ""),
    ("KBinsDiscretizer", {"n_bins": 3, "encode": "onehot", "quantile_method": "linear"}, ""),
    ("OneHotEncoder", {"handle_unknown": "ignore"}, ""),
    ("FunctionTransformer", {"func": "numpy.log1p"}, ""),
    ("KernelPCA", {"n_components": 2, "kernel": "rbf"}, ""),
    ("SelectKBest", {"score_func": "sklearn.feature_selection.chi2", "k": 2}, "classes"),
    ("SVC", {"kernel": "rbf", "output": "decision_function"}, "classes"),
    ("PLSRegression", {"output": "predict"}, "numbers"),
    ("RandomForestClassifier", {"n_estimators": 5, "random_state": 0}, "classes"),
    ("KNeighborsClassifier", {"algorithm": "ball_tree", "p": 3}, "classes"),
]

VARIANTS: list[tuple[str, str, list[Any], str]] = [
    ("SGDClassifier", "loss", ["log_loss", "modified_huber", "squared_hinge", "huber"], "kinds"),
    ("SGDRegressor", "loss", ["epsilon_insensitive", "squared_epsilon_insensitive"], "numbers"),
    ("GradientBoostingRegressor", "loss", ["absolute_error", "huber", "quantile"], "numbers"),
    ("GradientBoostingRegressor", "init", ["sklearn.Ridge", "zero"], "numbers"),
    ("GradientBoostingClassifier", "loss", ["exponential"], "classes"),
    ("GradientBoostingClassifier", "loss", ["log_loss"], "kinds"),
    ("HistGradientBoostingRegressor", "loss", ["absolute_error", "gamma", "poisson"], "numbers"),
    ("HistGradientBoostingClassifier", "early_stopping", [True], "kinds"),
    ("MLPClassifier", "solver", ["sgd", "lbfgs"], "kinds"),
    ("TweedieRegressor", "power", [1.5, 3], "numbers"),
    ("KNeighborsClassifier", "metric", ["manhattan", "chebyshev"], "kinds"),
    ("CalibratedClassifierCV", "method", ["isotonic", "temperature"], "kinds"),
    ("DecisionTreeClassifier", "max_leaf_nodes", [6], "kinds"),
    ("RandomForestRegressor", "criterion", ["absolute_error"], "numbers"),
    ("IsolationForest", "max_features", [0.5], ""),
]
SMALL = {"n_estimators": 3, "max_iter": 10, "random_state": 0}


def make(name: str, config: dict[str, Any]) -> Any:
    return getattr(estimators, name)(**config)


def expected(name: str, config: dict[str, Any], x: Any, y: Any) -> Any:
    """What scikit-learn answers without us: the oracle."""
    oracle_config = {key: _in_python(value) for key, value in config.items() if key != "output"}
    estimator = _oracles()[name](**oracle_config).fit(x, y)
    asked = sklearn.base.is_classifier(estimator) or sklearn.base.is_regressor(estimator)
    automatic = "predict" if asked or not hasattr(estimator, "transform") else "transform"
    return getattr(estimator, config.get("output", automatic))(x.copy())


@functools.cache
def _oracles() -> dict[str, Any]:
    return dict(sklearn.utils.all_estimators())


def _in_python(value: Any) -> Any:
    if value == [-1, 2]:
        return (-1, 2)
    if value == "sklearn.Ridge":
        return sklearn.linear_model.Ridge()
    if isinstance(value, str) and value.startswith("numpy."):
        return getattr(np, value.removeprefix("numpy."))
    if isinstance(value, str) and value.startswith("sklearn.feature_selection."):
        return getattr(sklearn.feature_selection, value.rpartition(".")[2])
    return value


def assert_identical(found: Any, wanted: Any) -> None:
    if sparse.issparse(wanted):
        found, wanted = found.toarray(), wanted.toarray()
    assert found.dtype == wanted.dtype
    np.testing.assert_array_equal(found, wanted, strict=True)


@pytest.mark.parametrize(("name", "config", "target"), CONFIGURED, ids=str)
def test_a_state_travels_without_pickle_to_another_filter(name, config, target, data, send):
    y = getattr(data, target, None)
    state = send(make(name, config).fit(data.x, y), pickle=False)
    found = make(name, config).forward(data.x.copy(), state)
    assert_identical(found, expected(name, config, data.x, y))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    ("name", "config", "target"),
    [(name, {key: value}, y) for name, key, values, y in VARIANTS for value in values],
    ids=str,
)
def test_whatever_loss_or_tree_a_state_holds_it_travels(name, config, target, data, send):
    y = getattr(data, target, None)
    known = getattr(estimators, name).estimator_parameters
    config = config | {key: value for key, value in SMALL.items() if key in known}
    state = send(make(name, config).fit(data.x, y), pickle=False)
    found = make(name, config).forward(data.x.copy(), state)
    assert_identical(found, expected(name, config, data.x, y))


def test_a_booster_that_splits_by_categories_travels_without_pickle(data, send):
    data.x[:, 4] = np.arange(60) % 5
    config = {"categorical_features": [4], "max_iter": 5, "min_samples_leaf": 2, "random_state": 0}
    numbers = (data.x[:, 4] % 2) + data.numbers / 100
    state = send(make("HistGradientBoostingRegressor", config).fit(data.x, numbers), pickle=False)
    found = make("HistGradientBoostingRegressor", config).forward(data.x, state)
    oracle = sklearn.ensemble.HistGradientBoostingRegressor(**config).fit(data.x, numbers)
    np.testing.assert_array_equal(found, oracle.predict(data.x))


def test_text_is_learned_and_travels_without_pickle(send):
    texts = ["red apple", "green pear", "the sky is red"]
    state = send(estimators.TfidfVectorizer().fit(texts), pickle=False)
    found = estimators.TfidfVectorizer().forward(texts, state)
    wanted = sklearn.feature_extraction.text.TfidfVectorizer().fit_transform(texts)
    assert_identical(found, wanted)


def test_classes_that_are_texts_travel_without_pickle(data, send):
    names = np.array(["no", "yes"], dtype=object)[data.classes]
    node = estimators.LogisticRegression()
    state = send(node.fit(data.x, names), pickle=False)
    found = node.forward(data.x, state)
    assert found.dtype == object
    assert list(found) == list(
        sklearn.linear_model.LogisticRegression().fit(data.x, names).predict(data.x)
    )


def test_a_label_encoder_learns_from_its_only_argument():
    node = estimators.LabelEncoder()
    state = node.fit(["b", "a", "c"], y=[1, 2, 3])
    assert node.forward(["c", "a"], state).tolist() == [2, 0]
