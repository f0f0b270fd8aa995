"""Every estimator that scikit-learn lists learns and answers in a worker what it would at home."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import numpy as np
import pytest
import sklearn
from scipy import sparse
from soma_filters_sklearn import catalogue, estimators
from soma_filters_sklearn.entry_points import LEFT_OUT, list_estimators
from soma_filters_sklearn.outputs import OUTPUTS, TRANSDUCTIVE, automatic
from threadpoolctl import threadpool_limits

import soma_core as soma

from .samples import NAMES, ONE_IN_FOUR, PICKLED, sample_of

BATCHED = [
    "BernoulliNB", "BernoulliRBM", "Birch", "CategoricalNB", "ComplementNB", "GaussianNB",
    "HashingVectorizer", "IncrementalPCA", "LatentDirichletAllocation", "MLPClassifier",
    "MLPRegressor", "MaxAbsScaler", "MinMaxScaler", "MiniBatchDictionaryLearning",
    "MiniBatchKMeans", "MiniBatchNMF", "MultiOutputClassifier", "MultinomialNB",
    "OneVsOneClassifier", "OneVsRestClassifier", "PassiveAggressiveClassifier",
    "PassiveAggressiveRegressor", "Perceptron", "SGDClassifier", "SGDOneClassSVM", "SGDRegressor",
    "StandardScaler",
]  # fmt: skip

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # tiny data converge badly, and some are deprecated
    pytest.mark.skipif(
        not sklearn.__version__.startswith(f"{catalogue.WRITTEN_FOR}."),
        reason=f"the samples are for scikit-learn {catalogue.WRITTEN_FOR}",
    ),
]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    with threadpool_limits(1):
        yield


@pytest.fixture(scope="module")
def worker():
    with soma.connect("inline", pickle="never") as worker:
        yield worker


@functools.cache
def classes() -> dict[str, Any]:
    return dict(list_estimators())


def at_home(value: Any) -> Any:
    """What a spelling means, without soma: the oracle."""
    if isinstance(value, str) and value.removeprefix("sklearn.") in classes():
        return classes()[value.removeprefix("sklearn.")]()
    if not isinstance(value, list):
        return value
    if len(value) == 2 and isinstance(value[1], dict):
        path, config = value
        if path.startswith("sklearn.gaussian_process.kernels."):
            return getattr(sklearn.gaussian_process.kernels, path.rpartition(".")[2])(**config)
        return made(path.removeprefix("sklearn."), config)
    if value and isinstance(value[0], list) and isinstance(value[0][0], str):
        return [tuple(at_home(item) for item in entry) for entry in value]
    return [at_home(item) for item in value]


def made(name: str, config: dict[str, Any]) -> Any:
    values = {key: at_home(value) for key, value in config.items()}
    if name == "SparseCoder":
        values["dictionary"] = np.array(values["dictionary"])
    return classes()[name](**values)


def same(found: Any, wanted: Any) -> None:
    if isinstance(wanted, list | tuple) and not isinstance(wanted, str):
        assert type(found) is type(wanted)
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            same(one, other)
    elif sparse.issparse(wanted):
        assert type(found) is type(wanted)
        same(found.toarray(), wanted.toarray())
    elif isinstance(wanted, np.ndarray):
        np.testing.assert_array_equal(found, wanted, strict=True)
    else:
        assert found == wanted


def copied(x: Any) -> Any:
    """New data: of the very array that it learned from, an estimator may know more."""
    return x.copy() if isinstance(x, np.ndarray) else x


def answers(name: str, config: dict[str, Any], state: Any, fitted: Any, x: Any) -> None:
    """Compare everything that a filter and an estimator can be asked."""
    for output in [name for name in OUTPUTS if hasattr(fitted, name)] or [automatic(fitted)]:
        asked = fitted.transform(copied(x)) if output == "inverse_transform" else copied(x)
        node = getattr(estimators, name)(**config, output=output)
        same(node.forward(copied(asked), state), getattr(fitted, output)(copied(asked)))


@pytest.mark.parametrize("name", ONE_IN_FOUR)
def test_an_estimator_answers_in_a_worker_what_it_answers_at_home(name, worker):
    sample = sample_of(name)
    home = made(name, sample.config)
    home.fit(*([sample.x] if sample.y is None else [sample.x, sample.y]))
    worker.load({"node": (f"sklearn.{name}", sample.config)})
    if name in PICKLED:
        with pytest.raises(soma.SomaError, match="can only travel as a pickle"):
            worker.fit("node", sample.x, sample.y)
        state = getattr(estimators, name)(**sample.config).fit(sample.x, sample.y)
    else:
        state = worker.fit("node", sample.x, sample.y)
    answers(name, sample.config, state, home, sample.x)


def test_the_estimators_that_learn_in_batches_are_these():
    found = []
    for name in NAMES:
        if hasattr(classes()[name], "partial_fit"):
            node = getattr(estimators, name)(**sample_of(name).config)
            found += [name] if hasattr(node, "partial_fit") else []
    assert sorted(found) == sorted(BATCHED)


@pytest.mark.parametrize("name", BATCHED)
def test_an_estimator_learns_in_batches_what_it_would_at_home(name):
    sample = sample_of(name)
    x, y, half = sample.x, sample.y, len(sample.x) // 2
    home = made(name, sample.config)
    several = y is not None and y.ndim == 2
    known = [np.unique(column) for column in y.T] if several else np.unique(y)
    named = (
        {"classes": known} if "classes" in inspect.signature(home.partial_fit).parameters else {}
    )
    for rows in (slice(half), slice(half, None)):
        home.partial_fit(x[rows], *([] if y is None else [y[rows]]), **named)
    with soma.connect("inline", filters={"node": (f"sklearn.{name}", sample.config)}) as worker:
        states = worker.batched_fit(["node"], x, y, batch_size=half).states
    answers(name, sample.config, states["node"], home, x)


@pytest.mark.parametrize("name", ONE_IN_FOUR)
def test_weights_that_come_beside_the_targets_count_or_are_refused(name):
    sample = sample_of(name)
    home = made(name, sample.config)
    weights = np.arange(len(sample.x)) % 3 + 1.0
    node = getattr(estimators, name)(**sample.config)
    taken = inspect.signature(home.fit).parameters
    if "sample_weight" in taken:
        state = node.fit(sample.x, {"y": sample.y, "sample_weight": weights})
        home.fit(sample.x, *([] if sample.y is None else [sample.y]), sample_weight=weights)
        if automatic(home) in TRANSDUCTIVE:
            np.testing.assert_array_equal(state["labels_"], home.labels_)
            return
        answers(name, sample.config, state, home, sample.x)
    elif not any(item.kind is item.VAR_KEYWORD for item in taken.values()):
        with pytest.raises(ValueError, match="takes no sample_weight"):
            node.fit(sample.x, {"y": sample.y, "sample_weight": weights})


def test_every_estimator_is_a_filter_or_is_left_out_for_a_reason():
    assert sorted([*NAMES, *LEFT_OUT]) == sorted(classes())
