"""Pipelines, ColumnTransformers and searches: one filter, or the nodes of a chain."""

from __future__ import annotations

import numpy as np
import pandas
import pytest
import sklearn
from pydantic import ValidationError
from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.cross_decomposition import PLSRegression
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import RandomForestClassifier, StackingClassifier, VotingClassifier
from sklearn.feature_selection import SelectKBest, chi2
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, WhiteKernel
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.svm import SVC
from soma_filters_sklearn import as_estimator, as_filter, as_nodes, state_of
from soma_filters_sklearn.any_estimator import Estimator

import soma_core as soma

STEPS = [
    ["scale", "sklearn.StandardScaler"],
    ["classify", ["sklearn.LogisticRegression", {"C": 0.5}]],
]


@pytest.fixture(scope="module")
def worker():
    with soma.connect("inline", pickle="never") as worker:
        yield worker


@pytest.fixture
def frame(data):
    cities = np.array(["Ulm", "Rome", "Oslo"])[np.arange(60) % 3]
    return pandas.DataFrame({"age": data.x[:, 0], "income": data.x[:, 1] * 1000, "city": cities})


def mixed() -> Pipeline:
    prepare = ColumnTransformer(
        [
            ("numbers", StandardScaler(), make_column_selector(dtype_include="number")),
            ("places", OneHotEncoder(handle_unknown="ignore", sparse_output=False), ["city"]),
        ]
    )
    return Pipeline([("prepare", prepare), ("classify", RandomForestClassifier(5, random_state=0))])


def columns_of(frame):
    return {name: np.array(frame[name].tolist()) for name in frame}


def test_a_pipeline_in_plain_data_is_one_filter(data, worker):
    oracle = Pipeline([("scale", StandardScaler()), ("classify", LogisticRegression(C=0.5))])
    oracle.fit(data.x, data.classes)
    config = {"steps": STEPS, "output": "predict_proba"}
    worker.load({"pipeline": ("sklearn.Pipeline", config)})
    state = worker.fit("pipeline", data.x, data.classes)
    np.testing.assert_array_equal(state["steps"]["scale"]["mean_"], oracle["scale"].mean_)
    found = worker.forward("pipeline", data.x)
    np.testing.assert_array_equal(found, oracle.predict_proba(data.x))


def test_an_estimator_handed_over_is_loaded_by_name(frame, data, worker):
    worker.load({"mixed": mixed()})
    worker.fit("mixed", columns_of(frame), data.classes)
    found = worker.forward("mixed", columns_of(frame))
    np.testing.assert_array_equal(found, mixed().fit(frame, data.classes).predict(frame))


def test_a_pipeline_is_the_nodes_of_a_chain(frame, data, worker):
    nodes = as_nodes(mixed(), output="predict_proba")
    assert [name for name, _ in nodes.values()] == [
        "sklearn.ColumnTransformer",
        "sklearn.RandomForestClassifier",
    ]
    worker.load(nodes)
    worker.composite_fit(list(nodes), columns_of(frame), data.classes)
    found = worker.composite_forward(list(nodes), columns_of(frame))
    np.testing.assert_array_equal(found, mixed().fit(frame, data.classes).predict_proba(frame))


def test_a_step_that_passes_on_is_a_node_too():
    nodes = as_nodes(Pipeline([("rest", "passthrough"), ("scale", StandardScaler())]))
    assert list(nodes) == ["rest", "scale"]


def test_only_a_pipeline_has_steps_to_be_nodes():
    with pytest.raises(TypeError, match="got StandardScaler"):
        as_nodes(StandardScaler())


@pytest.mark.parametrize(
    "estimator",
    [
        make_pipeline(SelectKBest(chi2, k=2), SVC(class_weight={0: 1.0, 1: 2.0})),
        GridSearchCV(SVC(), {"C": [0.1, 1]}, cv=StratifiedKFold(3), scoring="accuracy"),
        make_pipeline(FunctionTransformer(np.log1p), LogisticRegression()),
        GaussianProcessRegressor(2.0 * RBF(0.5) + WhiteKernel()),
    ],
    ids=["class weights", "a search", "a function", "kernels"],
)
def test_what_configures_an_estimator_is_plain_data(estimator, data, worker):
    name, _ = node = as_filter(estimator)
    assert name == f"sklearn.{type(estimator).__name__}"
    worker.load({"node": node})
    worker.fit("node", data.x, data.classes)
    wanted = estimator.fit(data.x, data.classes).predict(data.x.copy())
    np.testing.assert_array_equal(worker.forward("node", data.x), wanted)


def test_the_same_pipeline_has_the_same_hash_however_it_was_written():
    by_objects = as_filter(make_pipeline(StandardScaler(), SVC()))
    steps = [["standardscaler", "sklearn.StandardScaler"], ["svc", ["sklearn.SVC", {}]]]
    from soma_filters_sklearn import estimators

    one = estimators.Pipeline(**by_objects[1])
    other = estimators.Pipeline(steps=[("standardscaler", StandardScaler()), ("svc", SVC())])
    assert one.config_hash() == other.config_hash()
    assert estimators.Pipeline(steps=steps).fit([[0.0], [1.0]], [0, 1]).keys() == {
        "steps",
        "_sklearn_version",
    }


def test_an_estimator_that_was_told_to_return_frames_does(frame, data):
    numbers = frame[["age", "income"]]
    told = make_pipeline(StandardScaler(), StandardScaler()).set_output(transform="pandas")
    name, config = as_filter(told)
    assert (name, config["transform_output"]) == ("sklearn.Pipeline", "pandas")
    half = make_pipeline(StandardScaler(), StandardScaler())
    with sklearn.config_context(transform_output="pandas"):
        assert as_filter(StandardScaler())[1]["transform_output"] == "pandas"
    half[1].set_output(transform="pandas")
    with soma.connect("inline", filters={"told": told, "half": half}) as worker:
        for node in ("told", "half"):
            worker.fit(node, numbers)
            assert worker.forward(node, numbers).shape == (60, 2)
        assert list(worker.forward("told", numbers)) == ["age", "income"]
        assert list(worker.forward("half", numbers)) == ["x0", "x1"]


def test_a_fitted_estimator_keeps_what_it_learned(data):
    fitted = make_pipeline(StandardScaler(), LogisticRegression()).fit(data.x, data.classes)
    with soma.connect("inline", filters={"node": fitted}) as worker:
        found = worker.forward("node", data.x)
    np.testing.assert_array_equal(found, fitted.predict(data.x))


def test_a_state_goes_to_a_worker_and_comes_back_as_an_estimator(data, worker):
    model = make_pipeline(StandardScaler(), RandomForestClassifier(3, random_state=0))
    node = as_filter(model, output="predict_proba")
    model.fit(data.x, data.classes)
    worker.load({"node": node})
    found = worker.forward("node", data.x, state_of(model))
    np.testing.assert_array_equal(found, model.predict_proba(data.x))
    back = as_estimator(node, worker.fit("node", data.x, data.classes))
    np.testing.assert_array_equal(back.predict_proba(data.x), model.predict_proba(data.x))


def test_an_estimator_that_is_not_fitted_has_no_state():
    with pytest.raises(ValueError, match="this SVC is not fitted"):
        state_of(SVC())


def test_weights_of_a_step_are_named_by_the_step(data, worker):
    weights = np.arange(60) % 5 + 1.0
    oracle = Pipeline([("scale", StandardScaler()), ("classify", LogisticRegression(C=0.5))])
    oracle.fit(data.x, data.classes, classify__sample_weight=weights)
    worker.load({"node": ("sklearn.Pipeline", {"steps": STEPS, "output": "predict_proba"})})
    worker.fit("node", data.x, {"y": data.classes, "classify__sample_weight": weights})
    np.testing.assert_array_equal(worker.forward("node", data.x), oracle.predict_proba(data.x))


def test_in_a_chain_a_filter_ignores_weights_that_are_for_others(data, worker):
    targets = {"y": data.classes, "sample_weight": np.arange(60) % 5 + 1.0}
    nodes = {"pca": ("sklearn.PCA", {}), "classify": ("sklearn.LogisticRegression", {})}
    worker.load(nodes)
    with pytest.raises(soma.RemoteError, match=r"PCA.fit takes no sample_weight.*'ignore'"):
        worker.composite_fit(["pca", "classify"], data.x, targets)
    worker.load({"pca": ("sklearn.PCA", {"ignore": ["sample_weight"]})})
    worker.composite_fit(["pca", "classify"], data.x, targets)


def test_targets_in_a_dict_have_a_y(data):
    with pytest.raises(ValueError, match=r"hold y, and beside it.*got 'target'"):
        Estimator(estimator="sklearn.SVC").fit(data.x, {"target": data.classes})


class Median(BaseEstimator):
    """An estimator that scikit-learn does not know."""

    def __init__(self, shift=0.0):
        self.shift = shift

    def fit(self, x, y=None):
        self.median_ = np.median(x, axis=0)
        return self

    def transform(self, x):
        return x - self.median_ + self.shift


def test_an_estimator_of_ones_own_is_found_by_its_path(data, monkeypatch, tmp_path):
    (tmp_path / "acme_medians.py").write_text(
        "import numpy as np\nfrom sklearn.base import BaseEstimator\n\n\n"
        "class Median(BaseEstimator):\n"
        "    def __init__(self, shift=0.0):\n        self.shift = shift\n"
        "    def fit(self, x, y=None):\n        self.median_ = np.median(x, axis=0)\n"
        "        return self\n"
        "    def transform(self, x):\n        return x - self.median_ + self.shift\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    node = Estimator(estimator=["acme_medians.Median", {"shift": 1.0}])
    found = node.forward(data.x, node.fit(data.x))
    np.testing.assert_array_equal(found, data.x - np.median(data.x, axis=0) + 1.0)


def test_an_estimator_object_of_ones_own_is_a_filter(data):
    node = Estimator(estimator=Median(shift=2.0))
    found = node.forward(data.x, node.fit(data.x))
    np.testing.assert_array_equal(found, data.x - np.median(data.x, axis=0) + 2.0)


@pytest.mark.parametrize(
    ("spelling", "message"),
    [
        ("acme.Nope", "'acme.Nope' does not import .*No module named 'acme'"),
        ("sklearn.svm.Nope", "'sklearn.svm.Nope' does not import"),
        ("subprocess.Popen", "'subprocess.Popen' is no estimator"),
        (["subprocess.Popen", {"args": "true"}], "'subprocess.Popen' is no estimator"),
        (
            ["sklearn.SVC", {"kernal": "rbf"}],
            "has no parameter 'kernal'; did you mean 'kernel'",
        ),
        (["sklearn.SVC", {"c": 1.0}], "has no parameter 'c'; did you mean 'C'"),
        ("sklearn.Pipeline", "sklearn.Pipeline cannot be made without steps"),
        (7, "an estimator is the path of a class.*got 7"),
    ],
)
def test_a_path_that_leads_to_no_estimator_says_so(spelling, message):
    with pytest.raises(ValidationError, match=message):
        Estimator(estimator=spelling)


def test_a_mistake_inside_a_pipeline_is_told_when_it_is_loaded(worker):
    steps = [["scale", "sklearn.StandardScaler"], ["classify", ["sklearn.SVC", {"C": -1.0}]]]
    with pytest.raises(soma.RemoteError, match="'C' parameter of SVC must be"):
        worker.load({"node": ("sklearn.Pipeline", {"steps": steps})})
    steps[1][1][0] = "acme.Classifier"
    with pytest.raises(soma.RemoteError, match=r"'acme' is not imported for a host"):
        worker.load({"node": ("sklearn.Pipeline", {"steps": steps})})


@pytest.mark.parametrize(
    "estimator",
    [
        VotingClassifier([("a", LogisticRegression()), ("b", SVC())]),
        StackingClassifier([("a", LogisticRegression()), ("b", SVC())], cv=2),
        LinearDiscriminantAnalysis(),
        make_pipeline(StandardScaler(), LinearDiscriminantAnalysis()),
        PLSRegression(1),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_what_predicts_and_transforms_answers_with_predictions(estimator, data, worker):
    worker.load({"node": estimator, "other": as_filter(estimator, output="transform")})
    worker.fit("node", data.x, data.classes)
    worker.fit("other", data.x, data.classes)
    estimator.fit(data.x, data.classes)
    np.testing.assert_array_equal(worker.forward("node", data.x), estimator.predict(data.x))
    np.testing.assert_array_equal(worker.forward("other", data.x), estimator.transform(data.x))


def test_a_step_that_could_predict_transforms_within_a_chain(data, worker):
    model = make_pipeline(LinearDiscriminantAnalysis(), LogisticRegression())
    nodes = as_nodes(model)
    worker.load(nodes)
    worker.composite_fit(list(nodes), data.x, data.classes)
    found = worker.composite_forward(list(nodes), data.x)
    np.testing.assert_array_equal(found, model.fit(data.x, data.classes).predict(data.x))
