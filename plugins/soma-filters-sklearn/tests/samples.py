"""Samples: for each estimator, a small configuration and data that it can be tried with.

The tests and the table of estimators in the documentation go through them all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from soma_filters_sklearn.catalogue import MODULES
from soma_filters_sklearn.classes import class_at
from soma_filters_sklearn.parameters import parameters_of
from soma_filters_sklearn.spelling import construct

__all__ = ["NAMES", "ONE_IN_FOUR", "PICKLED", "Sample", "sample_of"]

NAMES = [name for names in MODULES.values() for name in names]
"""All estimators, module by module."""

ONE_IN_FOUR = [
    pytest.param(name, marks=[pytest.mark.nightly] if number % 4 and name != "Birch" else [])
    for number, name in enumerate(NAMES)
]
"""Cases for ``parametrize``: of each kind the gate runs some, the night all."""

PICKLED = {"Birch": "its clusters are linked to one another in rings"}
"""The estimators whose states travel as pickles only, and why."""

_TREE = ["sklearn.DecisionTreeClassifier", {"random_state": 0}]
_LINE = "sklearn.LinearRegression"
_RIDGE = ["sklearn.Ridge", {"alpha": 0.5}]
_LOGISTIC = "sklearn.LogisticRegression"
_BAYES = "sklearn.GaussianNB"
_SCALE = "sklearn.StandardScaler"

_CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "ClassifierChain": {"estimator": _LOGISTIC},
    "ColumnTransformer": {
        "transformers": [["scale", _SCALE, [0, 1]], ["keep", "passthrough", [2]]]
    },
    "FeatureUnion": {
        "transformer_list": [["scale", _SCALE], ["pca", ["sklearn.PCA", {"random_state": 0}]]]
    },
    "FixedThresholdClassifier": {"estimator": _LOGISTIC, "threshold": 0.3},
    "GaussianProcessRegressor": {
        "kernel": ["sklearn.gaussian_process.kernels.RBF", {"length_scale": 2.0}]
    },
    "GridSearchCV": {"estimator": _LOGISTIC, "param_grid": {"C": [0.1, 1.0]}, "cv": 2},
    "HDBSCAN": {"copy": True},
    "HistGradientBoostingClassifier": {"max_iter": 3},
    "HistGradientBoostingRegressor": {"max_iter": 3},
    "IsotonicRegression": {"out_of_bounds": "clip"},
    "KBinsDiscretizer": {"quantile_method": "averaged_inverted_cdf"},
    "KNeighborsTransformer": {"n_neighbors": 3},
    "KernelPCA": {"fit_inverse_transform": True},
    "LocalOutlierFactor": {"novelty": True, "n_neighbors": 5},
    "LogisticRegressionCV": {"cv": 2, "Cs": 2, "l1_ratios": [0.0], "use_legacy_attributes": False},
    "MDS": {"n_init": 1, "init": "random"},
    "MLPClassifier": {"hidden_layer_sizes": [4]},
    "MLPRegressor": {"hidden_layer_sizes": [4]},
    "MultiOutputClassifier": {"estimator": _BAYES},
    "MultiOutputRegressor": {"estimator": _RIDGE},
    "OrthogonalMatchingPursuitCV": {"max_iter": 3},
    "OneVsOneClassifier": {"estimator": _BAYES},
    "OneVsRestClassifier": {"estimator": _BAYES},
    "OutputCodeClassifier": {"estimator": _LOGISTIC},
    "Pipeline": {"steps": [["scale", _SCALE], ["classify", [_LOGISTIC, {"C": 2.0}]]]},
    "PLSSVD": {"n_components": 1},
    "QuantileTransformer": {"n_quantiles": 5},
    "RFE": {"estimator": _RIDGE},
    "RFECV": {"estimator": _RIDGE, "cv": 2},
    "RadiusNeighborsClassifier": {"radius": 9.0},
    "RadiusNeighborsRegressor": {"radius": 9.0},
    "RandomizedSearchCV": {
        "estimator": _LOGISTIC,
        "param_distributions": {"C": [0.1, 1.0, 2.0]},
        "n_iter": 2,
        "cv": 2,
    },
    "RegressorChain": {"estimator": _RIDGE},
    "SelectFromModel": {"estimator": _RIDGE},
    "SelfTrainingClassifier": {"estimator": _BAYES},
    "SequentialFeatureSelector": {"estimator": _LINE, "n_features_to_select": 2, "cv": 2},
    "SimpleImputer": {"add_indicator": True},
    "SparseCoder": {"dictionary": [[1.0, 0.0, 0.0, 0.0], [0.0, 0.6, 0.8, 0.0]]},
    "SparseRandomProjection": {"n_components": 2},
    "GaussianRandomProjection": {"n_components": 2},
    "SpectralClustering": {"n_clusters": 2, "affinity": "rbf"},
    "StackingClassifier": {"estimators": [["tree", _TREE], ["bayes", _BAYES]], "cv": 2},
    "StackingRegressor": {"estimators": [["line", _LINE], ["ridge", _RIDGE]], "cv": 2},
    "TSNE": {"perplexity": 5.0, "max_iter": 250, "method": "exact"},
    "TheilSenRegressor": {"max_subpopulation": 20},
    "TransformedTargetRegressor": {"regressor": _RIDGE, "transformer": _SCALE},
    "TunedThresholdClassifierCV": {"estimator": _LOGISTIC, "thresholds": 5, "cv": 2},
    "VotingClassifier": {"estimators": [["line", _LOGISTIC], ["bayes", _BAYES]], "voting": "soft"},
    "VotingRegressor": {"estimators": [["line", _LINE], ["ridge", _RIDGE]]},
}
_SMALL: dict[str, Any] = {
    "random_state": 0,
    "n_estimators": 3,
    "n_components": 2,
    "n_clusters": 2,
    "n_neighbors": 4,
    "max_iter": 20,
    "n_init": 1,
    "cv": 2,
}
_KEPT = {  # whose default of a parameter in _SMALL says more, or takes no such number
    "LinearDiscriminantAnalysis": {"n_components"},
}
_CLASSES_NEEDED = frozenset(
    {"GridSearchCV", "Pipeline", "RandomizedSearchCV", "SelectKBest", "SelectPercentile"}
)  # though their tags do not say so, or not for the estimator inside
_NUMBERS_NEEDED = frozenset({"SelectFromModel", "SequentialFeatureSelector"})
_SEVERAL_TARGETS = frozenset(
    {
        "CCA",
        "ClassifierChain",
        "MultiOutputClassifier",
        "MultiOutputRegressor",
        "MultiTaskElasticNet",
        "MultiTaskElasticNetCV",
        "MultiTaskLasso",
        "MultiTaskLassoCV",
        "PLSCanonical",
        "PLSSVD",
        "RegressorChain",
    }
)
_TEXTS = ["red apple", "green pear", "the sky is red", "a green apple", "blue sky", "red pear"] * 2


@dataclass(frozen=True)
class Sample:
    """What an estimator can be tried with.

    Attributes:
        config: Its configuration, in plain spelling.
        x: The samples.
        y: The targets, or None.
    """

    config: dict[str, Any]
    x: Any
    y: Any = None


def sample_of(name: str) -> Sample:
    """A configuration and data for an estimator of scikit-learn, by its name."""
    known = parameters_of(class_at(f"sklearn.{name}"))
    kept = _KEPT.get(name, set())
    small = {key: value for key, value in _SMALL.items() if key in known and key not in kept}
    config = small | _CONFIGURATIONS.get(name, {})
    if name in _OTHER_DATA:
        return Sample(config, *_OTHER_DATA[name])
    x = np.abs(np.random.default_rng(7).normal(size=(40, 4))) + 0.1
    return Sample(config, x, _targets(name, config, x))


def _targets(name: str, config: dict[str, Any], x: Any) -> Any:
    tags = construct(f"sklearn.{name}", config).__sklearn_tags__()
    classes = (x[:, 0] > x[:, 1]).astype(int)
    numbers = x @ np.arange(1.0, 5.0)
    if name in _SEVERAL_TARGETS:
        return np.stack([classes, 1 - classes] if "lassif" in name else [numbers, -numbers], axis=1)
    if tags.estimator_type == "regressor" or name in _NUMBERS_NEEDED:
        return numbers
    return classes if tags.target_tags.required or name in _CLASSES_NEEDED else None


_DICTS = [{"red": 1.0, "green": 2.0}, {"green": 3.0}, {"blue": 1.0, "red": 0.5}] * 4
_CATEGORIES = np.array([["a", "x"], ["b", "y"], ["a", "y"], ["c", "x"]] * 5)
_SYMMETRIC = np.array([[2.0, 1.0, 0.5], [1.0, 3.0, 0.2], [0.5, 0.2, 1.0]])
_OTHER_DATA: dict[str, tuple[Any, ...]] = {
    "CountVectorizer": (_TEXTS,),
    "DictVectorizer": (_DICTS,),
    "FeatureHasher": (_DICTS,),
    "HashingVectorizer": (_TEXTS,),
    "IsotonicRegression": (np.arange(20.0), np.sin(np.arange(20.0))),
    "KernelCenterer": (_SYMMETRIC,),
    "LabelBinarizer": (["red", "green", "blue"] * 4,),
    "LabelEncoder": (["red", "green", "blue"] * 4,),
    "MultiLabelBinarizer": ([["red"], ["green", "blue"], []] * 4,),
    "OneHotEncoder": (_CATEGORIES,),
    "OrdinalEncoder": (_CATEGORIES,),
    "PatchExtractor": (np.arange(2 * 20 * 20.0).reshape(2, 20, 20),),
    "TargetEncoder": (_CATEGORIES, np.arange(20) % 2),
    "TfidfVectorizer": (_TEXTS,),
}
