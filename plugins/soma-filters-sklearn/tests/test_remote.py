"""The handle of a node of an estimator is an estimator itself."""

from __future__ import annotations

import copy
import gc
import pickle

import numpy as np
import pytest
from sklearn import config_context
from sklearn.base import clone, is_classifier
from sklearn.cluster import DBSCAN
from sklearn.datasets import load_iris
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import BayesianRidge, LogisticRegression, Ridge, SGDClassifier
from sklearn.manifold import SpectralEmbedding
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.neighbors import LocalOutlierFactor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.utils import all_estimators
from sklearn.utils.estimator_checks import check_estimator

import soma_core as soma

_QUICK = ["OneHotEncoder", "SVC"]
_MORE = [
    "AgglomerativeClustering", "DBSCAN", "DecisionTreeRegressor", "GaussianNB",
    "GradientBoostingRegressor", "KMeans",
    "KNeighborsClassifier", "LinearDiscriminantAnalysis", "LinearSVC", "LocalOutlierFactor",
    "LogisticRegression",
    "MLPClassifier", "MiniBatchKMeans", "PCA", "PLSRegression", "QuantileTransformer",
    "RandomForestClassifier", "Ridge", "SGDClassifier", "SimpleImputer", "StandardScaler",
]  # fmt: skip


@pytest.fixture(scope="module")
def worker():
    with soma.connect("inline") as worker:
        yield worker


@pytest.fixture(scope="module")
def iris():
    x, y = load_iris(return_X_y=True)
    return StandardScaler().fit_transform(x), y


def _handle(worker, estimator):
    worker.load({"model": estimator})
    return worker.filter("model")


def _failures(estimator):
    checked = check_estimator(estimator, on_fail=None, on_skip=None)
    return {check["check_name"] for check in checked if check["status"] == "failed"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name", [*_QUICK, *(pytest.param(name, marks=pytest.mark.nightly) for name in _MORE)]
)
def test_what_the_estimator_passes_of_scikit_learns_checks_its_handle_passes_too(worker, name):
    estimator = dict(all_estimators())[name]()
    assert _failures(_handle(worker, estimator)) <= _failures(estimator)


def test_it_is_cross_validated_like_the_estimator(worker, iris):
    remote = _handle(worker, LogisticRegression(C=0.5))
    assert is_classifier(remote)
    wanted = cross_val_score(LogisticRegression(C=0.5), *iris)
    np.testing.assert_array_equal(cross_val_score(remote, *iris), wanted)


def test_a_search_sets_its_parameters_those_of_nested_steps_too(worker, iris):
    model = make_pipeline(StandardScaler(), LogisticRegression())
    grid = {"logisticregression__C": [0.01, 1.0], "standardscaler__with_mean": [True, False]}
    found = GridSearchCV(_handle(worker, model), grid).fit(*iris)
    home = GridSearchCV(model, grid).fit(*iris)
    assert found.best_params_ == home.best_params_
    wanted = home.cv_results_["mean_test_score"]
    np.testing.assert_array_equal(found.cv_results_["mean_test_score"], wanted)


def test_a_step_of_a_pipeline_runs_in_the_worker_under_the_estimators_name(worker, iris):
    pipeline = make_pipeline(StandardScaler(), _handle(worker, LogisticRegression()))
    pipeline.set_params(logisticregression__C=2.0).fit(*iris)
    home = make_pipeline(StandardScaler(), LogisticRegression(C=2.0)).fit(*iris)
    np.testing.assert_array_equal(pipeline.predict_proba(iris[0]), home.predict_proba(iris[0]))
    np.testing.assert_array_equal(pipeline[-1].coef_, home[-1].coef_)


def test_a_parameter_of_a_nested_step_that_is_set_on_the_step_counts(worker, iris):
    remote = _handle(worker, make_pipeline(StandardScaler(), LogisticRegression()))
    remote.steps[1][1].set_params(C=0.01)
    home = make_pipeline(StandardScaler(), LogisticRegression(C=0.01)).fit(*iris)
    np.testing.assert_array_equal(
        remote.fit(*iris).predict_proba(iris[0]), home.predict_proba(iris[0])
    )


def test_a_clone_has_learned_nothing_and_its_node_goes_with_it(iris):
    with soma.connect("inline", filters={"model": LogisticRegression()}) as worker:
        remote = worker.filter("model").fit(*iris)
        cloned = clone(remote)
        with pytest.raises(NotFittedError):
            cloned.predict(iris[0])
        cloned.fit(*iris)
        assert worker.node_ids == ["model", cloned.node_id]
        del cloned
        gc.collect()
        another = clone(remote).fit(*iris)
        assert worker.node_ids == ["model", another.node_id]


def test_a_copy_and_a_pickle_go_on_from_what_it_learned(worker, iris):
    remote = _handle(worker, LogisticRegression()).fit(*iris)
    for again in (copy.deepcopy(remote), copy.copy(remote), pickle.loads(pickle.dumps(remote))):
        remote.set_params(C=1e-6)
        np.testing.assert_array_equal(again.predict(iris[0]), remote.predict(iris[0]))
        assert again.node_id != remote.node_id


def test_a_pickle_that_is_read_where_the_worker_is_not_takes_another(iris):
    with soma.connect("inline", filters={"model": Ridge()}) as worker:
        pickled = pickle.dumps(worker.filter("model").fit(*iris))
        wanted = worker.predict("model", iris[0])
    del worker
    gc.collect()
    again = pickle.loads(pickled)
    with pytest.raises(RuntimeError, match=r"no worker here: give it one by on\(worker\)"):
        again.predict(iris[0])
    np.testing.assert_array_equal(again.fetch().predict(iris[0]), wanted)
    with soma.connect("inline", pickle="never") as other:
        np.testing.assert_array_equal(again.on(other).predict(iris[0]), wanted)


def test_weights_are_learned_with(worker, iris):
    weights = np.linspace(0, 1, 150)
    remote = _handle(worker, Ridge()).fit(*iris, sample_weight=weights)
    home = Ridge().fit(*iris, sample_weight=weights)
    np.testing.assert_array_equal(remote.coef_, home.coef_)
    assert remote.score(*iris, sample_weight=weights) == home.score(*iris, sample_weight=weights)


def test_it_asks_for_metadata_as_the_estimator_does(worker, iris):
    weights = {"sample_weight": np.arange(len(iris[1])) + 1.0}
    scores = []
    with config_context(enable_metadata_routing=True):
        for asked in (LogisticRegression(), _handle(worker, LogisticRegression())):
            asked.set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
            scores.append(cross_val_score(asked, *iris, params=weights).tolist())
    assert scores[0] == scores[1]


def test_metadata_is_routed_in_the_worker_as_it_would_be_at_home(worker, iris):
    weights = np.linspace(0, 1, 150)
    with config_context(enable_metadata_routing=True):
        asks = LogisticRegression().set_fit_request(sample_weight=True)
        asked = make_pipeline(StandardScaler().set_fit_request(sample_weight=False), asks)
        remote = _handle(worker, asked)
        home = clone(asked).fit(*iris, sample_weight=weights)
    remote.fit(*iris, sample_weight=weights)
    np.testing.assert_array_equal(remote.predict_proba(iris[0]), home.predict_proba(iris[0]))


def test_batches_are_learned_from_with_all_the_classes_named(worker, iris):
    x, y = iris
    remote, home = _handle(worker, SGDClassifier(random_state=0)), SGDClassifier(random_state=0)
    for rows in (slice(0, 50), slice(50, 150)):
        remote.partial_fit(x[rows], y[rows], classes=[0, 1, 2])
        home.partial_fit(x[rows], y[rows], classes=[0, 1, 2])
    np.testing.assert_array_equal(remote.coef_, home.coef_)


def test_set_output_holds_in_the_worker(worker, iris):
    remote = _handle(worker, PCA(2)).set_output(transform="pandas").fit(iris[0])
    assert list(remote.transform(iris[0]).columns) == list(remote.get_feature_names_out())


def test_an_estimator_that_was_fitted_before_answers_at_once(worker, iris):
    fitted = LogisticRegression().fit(*iris)
    remote = _handle(worker, fitted)
    np.testing.assert_array_equal(remote.predict(iris[0]), fitted.predict(iris[0]))
    np.testing.assert_array_equal(remote.classes_, fitted.classes_)


def test_a_question_about_more_than_samples_is_answered_here(worker, iris):
    remote = _handle(worker, BayesianRidge()).fit(*iris)
    home = BayesianRidge().fit(*iris)
    found = remote.predict(iris[0], return_std=True)
    np.testing.assert_array_equal(found, home.predict(iris[0], return_std=True))


def test_mistakes_are_told_before_anything_is_sent(worker, iris):
    remote = _handle(worker, SVC())
    with pytest.raises(TypeError, match="unexpected keyword argument 'weights'"):
        remote.fit(*iris, weights=1)
    with pytest.raises(AttributeError, match=r"no attribute 'support_vectors'; .* fetch\(\)"):
        _ = remote.support_vectors
    with pytest.raises(AttributeError, match="predict_proba"):
        _ = remote.predict_proba


def test_it_is_a_filter_too_and_its_state_is_what_fit_returned(worker, iris):
    remote = _handle(worker, Pipeline([("scale", StandardScaler())]))
    assert isinstance(remote, soma.RemoteFilter)
    state = remote.fit(iris[0])
    np.testing.assert_array_equal(remote.forward(iris[0], state), remote.transform(iris[0]))
    assert remote.meta().name == "sklearn.Pipeline"


@pytest.mark.parametrize(
    ("estimator", "asked", "learned"),
    [
        (DBSCAN(), "fit_predict", "labels_"),
        (LocalOutlierFactor(), "fit_predict", "offset_"),
        (SpectralEmbedding(random_state=0), "fit_transform", "embedding_"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_one_that_knows_its_own_samples_alone_has_a_handle_too(
    worker, iris, estimator, asked, learned
):
    remote, home = _handle(worker, estimator), clone(estimator)
    found = getattr(remote, asked)(iris[0])
    np.testing.assert_array_equal(found, getattr(home, asked)(iris[0]))
    np.testing.assert_array_equal(getattr(remote, learned), getattr(home, learned))


@pytest.mark.nightly
def test_over_a_process_without_pickles(iris):
    with soma.connect("stdio", pickle="never", filters={"model": LogisticRegression()}) as worker:
        found = cross_val_score(worker.filter("model"), *iris)
    np.testing.assert_array_equal(found, cross_val_score(LogisticRegression(), *iris))
