"""Every method of an estimator that answers can be called, whatever ``forward`` calls."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.ensemble import StackingClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

import soma_core as soma


@pytest.fixture(scope="module")
def worker():
    with soma.connect("inline", pickle="never") as worker:
        yield worker


@pytest.fixture
def model():
    return make_pipeline(StandardScaler(), LogisticRegression())


def test_a_classifier_predicts_gives_probabilities_and_scores(worker, model, data):
    worker.load({"model": model})
    worker.fit("model", data.x, data.kinds)
    model.fit(data.x, data.kinds)
    np.testing.assert_array_equal(worker.predict("model", data.x), model.predict(data.x))
    found = worker.predict_proba("model", data.x)
    np.testing.assert_array_equal(found, model.predict_proba(data.x))
    assert worker.score("model", data.x, data.kinds) == model.score(data.x, data.kinds)


def _distance(one, other):
    return float(np.abs(one - other).sum())


def _products(rows, columns):
    return rows @ columns.T


@pytest.mark.parametrize(
    ("model", "method"),
    [
        (KNeighborsClassifier(3, metric=_distance), "predict_proba"),
        (SVC(kernel=_products), "predict"),
        (StackingClassifier([("line", LogisticRegression())], cv=2), "predict_proba"),
    ],
    ids=["a distance", "a kernel", "a final estimator of its own"],
)
def test_what_is_given_a_function_or_asks_what_it_fitted_answers_also_from_its_state(
    model, method, data
):
    with soma.connect("inline", filters={"model": model}) as worker:
        worker.fit("model", data.x, data.kinds)
        state = worker.get_state("model")
        worker.load({"model": model})
        worker.set_state("model", state)
        found = getattr(worker, method)("model", data.x)
    model.fit(data.x, data.kinds)
    np.testing.assert_array_equal(found, getattr(model, method)(data.x))


def test_weights_count_in_a_score(worker, data):
    weights = np.arange(60) % 3 + 1.0
    worker.load({"line": Ridge()})
    worker.fit("line", data.x, data.kinds)
    found = worker.score("line", data.x, {"y": data.kinds, "sample_weight": weights})
    home = Ridge().fit(data.x, data.kinds)
    assert found == home.score(data.x, data.kinds, sample_weight=weights)


def test_a_transformer_transforms_and_refuses_to_predict_by_name(worker, data):
    worker.load({"pca": PCA(2)})
    state = worker.fit("pca", data.x)
    wanted = PCA(2).fit(data.x).transform(data.x)
    np.testing.assert_array_equal(worker.transform("pca", data.x, state), wanted)
    with pytest.raises(soma.RemoteError, match="node 'pca' is a PCA, which has no method predict"):
        worker.predict("pca", data.x)
