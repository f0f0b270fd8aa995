"""A configuration is plain data, and what is wrong with it is said when it is made."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import sklearn
from pydantic import ValidationError
from soma_filters_sklearn import estimators
from soma_filters_sklearn.catalogue import MODULES

from soma_core import FilterKind

from .samples import sample_of

NAMES = [name for names in MODULES.values() for name in names]


def test_fields_are_the_parameters_with_scikit_learns_defaults():
    node = estimators.StandardScaler()
    assert node.model_dump() == {
        "copy": True,
        "with_mean": True,
        "with_std": True,
        "output": "auto",
        "transform_output": "default",
        "metadata_routing": False,
        "ignore": [],
        "learned": None,
    }


def test_every_registered_filter_is_made_from_plain_data():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # some estimators are deprecated
        for name in NAMES:
            node = getattr(estimators, name)(**json.loads(json.dumps(sample_of(name).config)))
            assert len(node.config_hash()) == 64
            assert json.dumps(node.model_json_schema())
            assert node.meta().name == f"sklearn.{name}"


def test_an_unknown_parameter_is_refused_with_the_name_that_was_meant():
    with pytest.raises(ValidationError, match="'with_men'; did you mean 'with_mean'"):
        estimators.StandardScaler(with_men=False)


def test_a_value_that_scikit_learn_refuses_is_refused_at_once():
    with pytest.raises(ValidationError, match="'solver' parameter of LogisticRegression must be"):
        estimators.LogisticRegression(solver="magic")


def test_an_output_that_the_estimator_does_not_have_is_refused():
    with pytest.raises(ValidationError, match="'auto', 'transform' or 'inverse_transform'"):
        estimators.StandardScaler(output="predict")


def test_a_list_is_a_tuple_where_only_a_tuple_will_do():
    from_json = estimators.MinMaxScaler(feature_range=[0, 2])
    assert from_json.feature_range == (0, 2)
    assert from_json.config_hash() == estimators.MinMaxScaler(feature_range=(0, 2)).config_hash()


def test_a_dtype_is_configured_by_its_name(data):
    node = estimators.OneHotEncoder(dtype="float32", sparse_output=False)
    assert node.forward(data.x, node.fit(data.x)).dtype == np.float32


def test_an_unknown_dtype_is_refused_by_the_parameters_name():
    with pytest.raises(ValidationError, match="dtype='decimal' names no numpy dtype"):
        estimators.OneHotEncoder(dtype="decimal")


@pytest.mark.parametrize("path", ["numpy.save", "numpy.nonsense", "sklearn.metrics.nonsense"])
def test_only_functions_that_compute_are_configured_by_name(path):
    with pytest.raises(ValidationError, match=f"func='{path}' names no function"):
        estimators.FunctionTransformer(func=path)


def test_a_function_of_another_module_cannot_be_named():
    with pytest.raises(ValidationError, match="must be a callable"):
        estimators.FunctionTransformer(func="os.system")


def test_a_filter_is_trainable_and_deterministic_once_its_seed_is_set():
    assert estimators.PCA().meta().kind is FilterKind.TRAINABLE
    assert not estimators.PCA().meta().deterministic
    assert estimators.PCA(random_state=0).meta().deterministic
    assert estimators.StandardScaler().meta().deterministic


def test_an_estimator_that_is_not_there_is_named():
    with pytest.raises(AttributeError, match="no attribute 'StandardScalar'"):
        _ = estimators.StandardScalar


def test_an_estimator_of_another_release_is_named_with_the_release(monkeypatch):
    monkeypatch.setitem(estimators.HOMES, "Prophet", "sklearn.oracle")
    with pytest.raises(
        AttributeError, match=f"{sklearn.__version__} has no sklearn.oracle.Prophet"
    ):
        _ = estimators.Prophet
