"""LightGBM, XGBoost and CatBoost: parameters, predictions and states are those at home.

They are no part of the gate: ``make models`` installs them and runs this.
"""

from __future__ import annotations

import json
import re
import warnings
from typing import Any

import numpy as np
import pandas
import pytest
from sklearn.base import clone
from sklearn.ensemble import StackingClassifier
from sklearn.feature_selection import SelectFromModel
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from soma_filters_sklearn import as_estimator, as_filter, state_of
from soma_filters_sklearn.boosters import make_lightgbm, make_xgboost

import soma_core as soma

from .same import alike

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs, of each other's releases

PACKAGES = {
    "lightgbm": ["LGBMClassifier", "LGBMRegressor", "LGBMRanker"],
    "xgboost": ["XGBClassifier", "XGBRegressor", "XGBRFClassifier", "XGBRFRegressor", "XGBRanker"],
    "catboost": ["CatBoostClassifier", "CatBoostRegressor", "CatBoostRanker"],
}
NAMES = [(package, name) for package, names in PACKAGES.items() for name in names]
QUIET = {
    "lightgbm": {"verbose": -1, "n_estimators": 5},
    "xgboost": {"n_estimators": 5, "max_depth": 2},
    "catboost": {"verbose": 0, "iterations": 5, "depth": 2, "allow_writing_files": False},
}
VARIANTS: list[tuple[str, str, dict[str, Any]]] = [
    *(("lightgbm", "LGBMClassifier", {"boosting_type": kind}) for kind in ("dart", "goss")),
    ("lightgbm", "LGBMRegressor", {"linear_tree": True}),
    ("lightgbm", "LGBMRegressor", {"boosting_type": "rf", "subsample": 0.5, "subsample_freq": 1}),
    ("xgboost", "XGBClassifier", {"booster": "dart", "rate_drop": 0.5}),
    ("xgboost", "XGBRegressor", {"booster": "gblinear", "updater": "coord_descent"}),
    ("xgboost", "XGBRegressor", {"multi_strategy": "multi_output_tree"}),
    ("xgboost", "XGBRegressor", {"num_parallel_tree": 3, "objective": "reg:absoluteerror"}),
]


def made(package: str, name: str, **parameters: Any) -> Any:
    module = pytest.importorskip(package)
    return getattr(module, name)(**{**QUIET[package], **parameters})


def targets(name: str, data: Any) -> Any:
    if "Regressor" in name:
        return data.numbers
    return data.kinds


def learned_at_home(estimator: Any, x: Any, y: Any) -> Any:
    return clone(estimator).fit(x, y)


@pytest.mark.parametrize(("package", "name"), NAMES)
def test_every_parameter_comes_out_as_it_went_in(package, name):
    kind = type(made(package, name))
    told = {"random_state": 3, "n_estimators": 7}
    model = kind(**QUIET[package] | (told if package != "catboost" else {"random_state": 3}))
    for estimator in (model, make_pipeline(StandardScaler(), model), GridSearchCV(model, {})):
        node = as_filter(estimator)
        assert isinstance(node, tuple), "it needs a pickle"
        assert alike(as_estimator((node[0], json.loads(json.dumps(node[1])))), estimator)


@pytest.mark.parametrize(("package", "name"), NAMES)
def test_parameters_that_kwargs_hide_are_accepted_by_name(package, name):
    kind = type(made(package, name))
    node = ("sklearn.Estimator", {"estimator": [f"{package}.{name}", QUIET[package]]})
    assert alike(as_estimator(node), kind(**QUIET[package]))


@pytest.fixture
def allowed(monkeypatch):
    """Whoever runs the worker lets hosts name these packages."""
    monkeypatch.setenv("SOMA_ALLOW_MODULES", ",".join(PACKAGES))


@pytest.mark.parametrize("policy", ["same-user", "never"])
@pytest.mark.parametrize(
    ("package", "name", "more"),
    [*((package, name, {}) for package, name in NAMES if "Ranker" not in name), *VARIANTS],
)
def test_a_worker_learns_and_predicts_what_it_would_at_home(
    package, name, more, policy, data, allowed
):
    model, y = made(package, name, **more), targets(name, data)
    if more.get("multi_strategy"):
        y = np.stack([y, -y], axis=1)
    home = learned_at_home(model, data.x, y)
    asked = "predict" if not hasattr(home, "predict_proba") else "predict_proba"
    node = as_filter(model, output=asked)
    with soma.connect("stdio", pickle=policy, filters={"model": node}) as worker:
        if package == "catboost" and policy == "never":
            with pytest.raises(soma.SomaError, match="can only travel as a pickle"):
                worker.fit("model", data.x, y)
            return
        state = worker.fit("model", data.x, y)
        np.testing.assert_array_equal(
            worker.forward("model", data.x, state), getattr(home, asked)(data.x)
        )
        np.testing.assert_array_equal(
            getattr(as_estimator(node, state), asked)(data.x), getattr(home, asked)(data.x)
        )


@pytest.mark.parametrize("package", ["lightgbm", "xgboost"])
def test_a_model_inside_a_pipeline_keeps_its_parameters_and_its_state(package, data, allowed):
    name = PACKAGES[package][0]
    model = make_pipeline(StandardScaler(), made(package, name))
    home = learned_at_home(model, data.x, data.kinds)
    with soma.connect("inline", pickle="never", filters={"model": model}) as worker:
        worker.fit("model", data.x, data.kinds)
        np.testing.assert_array_equal(worker.forward("model", data.x), home.predict(data.x))
        found = worker.forward("model", data.x, state_of(home))
        np.testing.assert_array_equal(found, home.predict(data.x))


@pytest.mark.parametrize("package", ["lightgbm", "xgboost"])
@pytest.mark.parametrize(
    "around",
    [
        lambda model: StackingClassifier([("model", model)], cv=2),
        lambda model: OneVsRestClassifier(model),
        lambda model: SelectFromModel(model),
        lambda model: RandomizedSearchCV(model, {"max_depth": [1, 2]}, n_iter=1, cv=2),
    ],
    ids=["stacking", "one against the rest", "selection", "search"],
)
def test_a_model_inside_an_estimator_of_others_travels_without_pickle(
    around, package, data, allowed
):
    model = around(made(package, PACKAGES[package][0], random_state=0))
    with soma.connect("inline", pickle="never", filters={"model": model}) as worker:
        state = worker.fit("model", data.x, data.kinds)
        np.testing.assert_array_equal(
            worker.forward("model", data.x, state), worker.forward("model", data.x)
        )


@pytest.mark.parametrize("package", ["lightgbm", "xgboost"])
def test_a_fitted_model_that_is_handed_over_answers_at_once(package, data):
    model = made(package, PACKAGES[package][0]).fit(data.x, data.kinds)
    with soma.connect("stdio", filters={"model": model}) as worker:
        np.testing.assert_array_equal(worker.forward("model", data.x), model.predict(data.x))


@pytest.mark.parametrize(
    ("package", "parameters"), [("lightgbm", {}), ("xgboost", {"enable_categorical": True})]
)
def test_categories_of_a_data_frame_count(package, parameters, data):
    letters = pandas.Categorical(np.array(list("xyz"))[np.arange(60) % 3])
    frame = pandas.DataFrame({"number": data.x[:, 0], "letter": letters})
    model = made(package, PACKAGES[package][0], **parameters)
    home = learned_at_home(model, frame, data.kinds)
    with soma.connect("stdio", filters={"model": model}) as worker:
        state = worker.fit("model", frame, data.kinds)
        found = worker.forward("model", frame, state)
    np.testing.assert_array_equal(found, home.predict(frame))


def test_a_model_of_catboost_is_refused_where_nobody_can_check_it(data, allowed):
    model = made("catboost", "CatBoostClassifier")
    forged = {"__model": b"model", "_sklearn_version": "1.9"}
    with (
        soma.connect("inline", pickle="never", filters={"model": model}) as worker,
        pytest.raises(soma.RemoteError, match="travels as a pickle only"),
    ):
        worker.forward("model", data.x, forged)


LIGHTGBM = [
    ("max_feature_idx=4", "max_feature_idx=1", "feature_names"),
    (r"split_feature=\d", "split_feature=9", "features exist"),
    (r"left_child=-?\d+", "left_child=7000", "children exist"),
    (r"left_child=-?\d+", "left_child=-7000", "leaves exist"),
    (r"left_child=-?\d+", "left_child=0", "children exist"),
    (r"num_leaves=\d+", "num_leaves=900", "decision_type holds 899"),
    (r"tree_sizes=\d", "tree_sizes=9", "size"),
    ("num_tree_per_iteration=3", "num_tree_per_iteration=1", "each class has a tree"),
    (r"num_class:3", "num_class:300", "the objective has them too"),
    ("shrinkage=1", "shrinkage=1\nsecret=1", "'secret' is a field"),
]


@pytest.mark.parametrize(("pattern", "forged", "message"), LIGHTGBM)
def test_a_text_of_lightgbm_whose_numbers_lead_nowhere_is_refused(pattern, forged, message, data):
    model = made("lightgbm", "LGBMClassifier").fit(data.x, data.kinds)
    parts = {"params": {}, "best_iteration": 0, "best_score": {}}
    text = model.booster_.model_to_string()
    changed = re.sub(pattern, forged, text, count=1)
    size, grown = (each.index("Tree=1") - each.index("Tree=0") for each in (text, changed))
    if "tree_sizes" not in forged:  # kept right, so that the other lie is found
        changed = changed.replace(f"tree_sizes={size} ", f"tree_sizes={grown} ")
    make_lightgbm({**parts, "model": text})
    with pytest.raises(ValueError, match=message):
        make_lightgbm({**parts, "model": changed})


XGBOOST: list[tuple[list[Any], Any, str]] = [
    (["split_indices", 0], 77, "features exist"),
    (["left_children", 0], 9000, "children exist"),
    (["left_children", 0], 0, "children exist"),
    (["right_children", 0], 1, "the child of one"),
    (["base_weights"], [1.0], "nodes have a value"),
    (["tree_param", "num_nodes"], "4000", "are those of 4000 nodes"),
    (["tree_param", "size_leaf_vector"], "70", "leaves have one value"),
    (["split_type", 0], 1, "sets are those of the splits"),
    (["categories"], [2**30], "categories exist"),
]


@pytest.mark.parametrize(("place", "forged", "message"), XGBOOST)
def test_a_json_of_xgboost_whose_numbers_lead_nowhere_is_refused(place, forged, message, data):
    model = made("xgboost", "XGBClassifier").fit(data.x, data.kinds)
    whole = json.loads(bytes(model.get_booster().save_raw("json")))
    make_xgboost({"model": json.dumps(whole), "threads": 1})
    inside = whole["learner"]["gradient_booster"]["model"]["trees"][0]
    for name in place[:-1]:
        inside = inside[name]
    inside[place[-1]] = forged
    with warnings.catch_warnings(), pytest.raises(ValueError, match=message):
        make_xgboost({"model": json.dumps(whole), "threads": 1})
