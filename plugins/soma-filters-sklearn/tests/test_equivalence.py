"""A filter learns and answers exactly what its estimator does, also after a trip over the wire."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import sklearn
from scipy import sparse
from soma_filters_sklearn import estimators

from soma_core import ProtocolError

TYPED: list[tuple[str, dict[str, Any], str]] = [
    ("StandardScaler", {}, ""),
    ("MinMaxScaler", {"feature_range": [-1, 2]}, ""),
    ("RobustScaler", {}, ""),
    ("PowerTransformer", {}, ""),
    ("QuantileTransformer", {"n_quantiles": 10, "random_state": 0}, ""),
    ("PolynomialFeatures", {"degree": 3}, ""),
    ("KBinsDiscretizer", {"n_bins": 3, "encode": "onehot", "quantile_method": "linear"}, ""),
    ("OneHotEncoder", {"handle_unknown": "ignore"}, ""),
    ("SimpleImputer", {"add_indicator": True}, ""),
    ("Normalizer", {}, ""),
    ("FunctionTransformer", {"func": "numpy.log1p"}, ""),
    ("PCA", {"n_components": 3}, ""),
    ("TruncatedSVD", {"n_components": 3, "random_state": 0}, ""),
    ("KernelPCA", {"n_components": 2, "kernel": "rbf"}, ""),
    ("NMF", {"n_components": 2, "random_state": 0, "max_iter": 2000}, ""),
    ("SelectKBest", {"score_func": "sklearn.feature_selection.chi2", "k": 2}, "classes"),
    ("KMeans", {"n_clusters": 3, "random_state": 0}, ""),
    ("GaussianMixture", {"n_components": 2, "random_state": 0}, ""),
    ("LinearDiscriminantAnalysis", {"output": "predict_proba"}, "classes"),
    ("LogisticRegression", {"output": "predict_proba"}, "classes"),
    ("GaussianNB", {}, "classes"),
    ("RidgeClassifier", {"output": "decision_function"}, "classes"),
    ("SVC", {"kernel": "rbf", "output": "decision_function"}, "classes"),
    ("LinearRegression", {}, "numbers"),
    ("Ridge", {"alpha": 2}, "numbers"),
    ("Lasso", {"alpha": 0.1}, "numbers"),
    ("SVR", {}, "numbers"),
    ("KernelRidge", {}, "numbers"),
    ("PLSRegression", {"output": "predict"}, "numbers"),
    ("TransformedTargetRegressor", {}, "numbers"),
]
PICKLED: list[tuple[str, dict[str, Any], str]] = [
    ("RandomForestClassifier", {"n_estimators": 5, "random_state": 0}, "classes"),
    ("HistGradientBoostingRegressor", {"max_iter": 5, "random_state": 0}, "numbers"),
    ("DecisionTreeRegressor", {"random_state": 0}, "numbers"),
    ("KNeighborsClassifier", {"output": "predict_proba"}, "classes"),
    ("GaussianProcessRegressor", {}, "numbers"),
    ("SGDClassifier", {"random_state": 0}, "classes"),
]


def make(name: str, config: dict[str, Any]) -> Any:
    return getattr(estimators, name)(**config)


def expected(name: str, config: dict[str, Any], x: Any, y: Any) -> Any:
    """What scikit-learn answers without us: the oracle."""
    oracle_config = {key: _in_python(value) for key, value in config.items() if key != "output"}
    estimator = _oracles()[name](**oracle_config).fit(x, y)
    automatic = "transform" if hasattr(estimator, "transform") else "predict"
    return getattr(estimator, config.get("output", automatic))(x)


@functools.cache
def _oracles() -> dict[str, Any]:
    return dict(sklearn.utils.all_estimators())


def _in_python(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(value)
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


@pytest.mark.parametrize(("name", "config", "target"), TYPED + PICKLED, ids=str)
def test_a_filter_answers_what_its_estimator_answers(name, config, target, data):
    y = getattr(data, target, None)
    node = make(name, config)
    state = node.fit(data.x, y)
    assert_identical(node.forward(data.x, state), expected(name, config, data.x, y))


@pytest.mark.parametrize(("name", "config", "target"), TYPED, ids=str)
def test_a_plain_state_travels_without_pickle_to_another_filter(name, config, target, data, send):
    y = getattr(data, target, None)
    state = send(make(name, config).fit(data.x, y), pickle=False)
    assert_identical(make(name, config).forward(data.x, state), expected(name, config, data.x, y))


@pytest.mark.parametrize(("name", "config", "target"), PICKLED, ids=str)
def test_a_state_with_trees_travels_by_pickle_only(name, config, target, data, send):
    y = getattr(data, target)
    state = make(name, config).fit(data.x, y)
    with pytest.raises(ProtocolError, match="refuses"):
        send(state, pickle=False)
    assert_identical(
        make(name, config).forward(data.x, send(state)), expected(name, config, data.x, y)
    )


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
