"""An estimator that predicts row by row says so, and no other."""

from __future__ import annotations

import numpy as np
import pytest
from soma_filters_sklearn import estimators

from .samples import sample_of


@pytest.mark.parametrize(
    "name",
    ["LinearRegression", "RandomForestClassifier", "KNeighborsRegressor", "GaussianNB", "KMeans"],
)
def test_a_prediction_of_rows_together_is_that_of_rows_alone(name):
    sample = sample_of(name)
    node = getattr(estimators, name)(**{**sample.config, "output": "predict"})
    assert node.meta().rowwise
    state = node.fit(sample.x, sample.y)
    x = np.asarray(sample.x)
    together = node.forward(x, state)
    alone = np.concatenate([node.forward(x[index : index + 1], state) for index in range(len(x))])
    assert np.allclose(together, alone)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("StandardScaler", {}),
        ("RandomForestClassifier", {"output": "predict_proba"}),
        ("DBSCAN", {}),
    ],
)
def test_what_may_not_be_cut_by_rows_is_not_rowwise(name, config):
    assert not getattr(estimators, name)(**config).meta().rowwise
