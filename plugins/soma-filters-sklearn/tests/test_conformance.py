"""Filters of each kind meet the clauses of soma's own kit."""

from __future__ import annotations

import numpy as np
import pytest
from soma_filters_sklearn import estimators

from soma_core.testing import FilterConformance

RANDOM = np.random.default_rng(7)
X = np.abs(RANDOM.normal(size=(40, 4))) + 0.1


class TestStandardScaler(FilterConformance):
    def build(self):
        return estimators.StandardScaler()

    def data(self):
        return X.copy()


class TestPipeline(TestStandardScaler):
    transport = "inline"

    def build(self):
        forest = ["sklearn.RandomForestClassifier", {"n_estimators": 3, "random_state": 0}]
        steps = [["scale", "sklearn.StandardScaler"], ["forest", forest]]
        return estimators.Pipeline(steps=steps, output="predict_proba")

    def targets(self):
        return (np.arange(len(X)) % 2).astype(int)


class TestLogisticRegression(TestStandardScaler):
    transport = "inline"

    def build(self):
        return estimators.LogisticRegression(C=2.0, output="predict_proba")

    def targets(self):
        return (np.arange(len(X)) % 2).astype(int)


@pytest.mark.nightly  # its worker imports scikit-learn anew, like the one below
class TestPipelineInAProcess(TestPipeline):
    transport = "stdio"


@pytest.mark.nightly
class TestLogisticRegressionInAProcess(TestLogisticRegression):
    transport = "stdio"
