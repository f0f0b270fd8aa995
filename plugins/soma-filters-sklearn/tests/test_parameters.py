"""An estimator that is handed over keeps every parameter, to the type."""

from __future__ import annotations

import json
import re
import warnings
from typing import Any

import numpy as np
import pytest
import scipy.stats
from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import VotingClassifier
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.feature_selection import SelectKBest, chi2, f_classif
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import f1_score, make_scorer
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV, RepeatedKFold
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.svm import SVC
from sklearn.utils._param_validation import (
    InvalidParameterError,
    generate_valid_param,
    make_constraint,
)
from soma_filters_sklearn import as_estimator, as_filter
from soma_filters_sklearn.any_estimator import Estimator
from soma_filters_sklearn.classes import class_at
from soma_filters_sklearn.parameters import check_parameters, parameters_of
from soma_filters_sklearn.spelling import construct

import soma_core as soma

from .same import alike
from .samples import ONE_IN_FOUR, sample_of


def sent(node: Any) -> Any:
    """A node as a worker gets it."""
    if not isinstance(node, tuple):
        return node
    name, config = node
    return name, json.loads(json.dumps(config))


def valid_values(kind: Any, name: str) -> list[Any]:
    """A value of each sort that an estimator says it takes for a parameter."""
    found = []
    for constraint in parameters_of(kind)[name].constraints:
        try:
            found.append(generate_valid_param(make_constraint(constraint)))
        except (NotImplementedError, ValueError, TypeError):
            continue
    return found


def takes(estimator: Any) -> bool:
    """Whether an estimator takes its parameters together."""
    try:
        check_parameters(estimator)
    except InvalidParameterError:
        return False
    return True


@pytest.mark.parametrize("name", ONE_IN_FOUR)
@pytest.mark.filterwarnings("ignore")  # some are deprecated
def test_every_parameter_of_an_estimator_comes_out_as_it_went_in(name):
    config = sample_of(name).config
    kind = class_at(f"sklearn.{name}")
    for parameter in parameters_of(kind):
        for value in valid_values(kind, parameter):
            estimator = construct(f"sklearn.{name}", config).set_params(**{parameter: value})
            if takes(estimator):
                back = as_estimator(sent(as_filter(estimator)))
                assert alike(back, estimator), (parameter, value)


@pytest.mark.parametrize(
    "estimator",
    [
        MLPClassifier(hidden_layer_sizes=(8, 4)),
        Ridge(alpha=np.array([0.5, 1.0])),
        Ridge(alpha=np.float32(0.1)),
        SVC(C=np.float64(2.0), class_weight={0: 1.0, np.int64(1): 2.0}),
        OneHotEncoder(categories=[np.array(["a", "b"], dtype=object), np.array([1, 2])]),
        OneHotEncoder(dtype=int),
        OneHotEncoder(dtype="float32"),
        CountVectorizer(ngram_range=(1, 2), vocabulary=["sklearn.PCA", "numpy.mean"]),
        CountVectorizer(dtype=np.float32, token_pattern="sklearn.SVC"),
        SelectKBest(f_classif, k="all"),
        FunctionTransformer(np.log1p, kw_args={"where": True, "$sklearn": 1, "path": ["a.b", {}]}),
        make_pipeline(SelectKBest(chi2, k=2), SVC(kernel="linear")),
        Pipeline([("sklearn.PCA", StandardScaler()), ("rest", "passthrough")]),
        Pipeline([["scale", StandardScaler()], ("model", Ridge())]),
        ColumnTransformer([("a", StandardScaler(), slice(0, 2)), ("b", "drop", (2, 3))]),
        ColumnTransformer([("a", StandardScaler(), np.array([True, False]))]),
        VotingClassifier([("a", SVC(C=2)), ("b", "drop")], weights=np.array([1.0, 2.0])),
        GridSearchCV(SVC(), {"C": [1]}, cv=[(np.arange(4), np.arange(4, 6))]),
        GridSearchCV(
            make_pipeline(CountVectorizer(), SVC()),
            [
                {"countvectorizer__ngram_range": [(1, 1), (1, 2)], "svc__C": np.logspace(-1, 1, 3)},
                {"svc": [SVC(C=3), GaussianNB()], "svc__degree": range(2, 4)},
            ],
            scoring={"f1": make_scorer(f1_score, average="macro"), "accuracy": "accuracy"},
            cv=RepeatedKFold(n_splits=3, n_repeats=2, random_state=0),
            refit="f1",
        ),
        RandomizedSearchCV(
            SVC(), {"C": scipy.stats.loguniform(1e-2, 1e2), "degree": scipy.stats.randint(1, 4)}
        ),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_what_an_estimator_holds_is_written_down_exactly(estimator):
    node = as_filter(estimator)
    assert isinstance(node, tuple), "it needs a pickle"
    assert alike(as_estimator(sent(node)), estimator)


class Hidden(BaseEstimator):
    """Hides its parameters behind ``**kwargs``, as boosters do, and tells them all the same."""

    def __init__(self, *, depth: int = 3, **kwargs: Any) -> None:
        self.depth = depth
        self.rate = kwargs.pop("rate", None)
        self.others = kwargs
        for name, value in kwargs.items():
            setattr(self, name, value)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        return {"depth": self.depth, "rate": self.rate, **self.others}

    def fit(self, x: Any, y: Any = None) -> Hidden:
        self.fitted_ = True
        return self

    def predict(self, x: Any) -> Any:
        return np.full(len(x), self.rate)


@pytest.fixture
def hidden(monkeypatch, tmp_path):
    """The class above in a module that any process can import."""
    source = (
        "import numpy as np\nfrom sklearn.base import BaseEstimator\n\n\n"
        "class Hidden(BaseEstimator):\n"
        "    def __init__(self, *, depth=3, **kwargs):\n"
        "        self.depth, self.rate = depth, kwargs.pop('rate', None)\n"
        "        self.others = kwargs\n"
        "        vars(self).update(kwargs)\n"
        "    def get_params(self, deep=True):\n"
        "        return {'depth': self.depth, 'rate': self.rate, **self.others}\n"
        "    def fit(self, x, y=None):\n        self.fitted_ = True\n        return self\n"
        "    def predict(self, x):\n        return np.full(len(x), self.rate)\n"
    )
    (tmp_path / "acme_hidden.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    import acme_hidden

    return acme_hidden.Hidden


@pytest.mark.parametrize("inside", [False, True], ids=["alone", "in a Pipeline and a search"])
def test_parameters_behind_kwargs_are_kept(hidden, inside):
    model = hidden(depth=2, rate=0.5, verbose=-1)
    if inside:
        model = GridSearchCV(make_pipeline(StandardScaler(), model), {"hidden__rate": [0.5]})
    node = as_filter(model)
    assert isinstance(node, tuple)
    assert alike(as_estimator(sent(node)), model)


def test_parameters_behind_kwargs_are_accepted_by_name(hidden):
    config = {"rate": 0.25, "verbose": -1}
    node = Estimator(estimator=["acme_hidden.Hidden", config])
    assert node.estimator_with().get_params() == {"depth": 3, **config}
    assert node.forward([[1.0]], node.fit([[1.0]], [1.0])).tolist() == [0.25]


def test_a_parameter_that_get_params_does_not_tell_of_is_refused(monkeypatch, tmp_path):
    (tmp_path / "acme_drops.py").write_text(
        "from sklearn.base import BaseEstimator\n\n\nclass Drops(BaseEstimator):\n"
        "    def __init__(self, depth=3, **kwargs):\n        self.depth = depth\n"
        "    def get_params(self, deep=True):\n        return {'depth': self.depth}\n"
        "    def fit(self, x, y=None):\n        return self\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"Drops has no parameter 'rate'; it has"):
        Estimator(estimator=["acme_drops.Drops", {"rate": 1}])


class Unfaithful(BaseEstimator):
    """Keeps something else than it is given."""

    def __init__(self, rate: float = 1.0) -> None:
        self.rate = rate * 2

    def fit(self, x: Any, y: Any = None) -> Unfaithful:
        return self


def test_an_estimator_that_changes_its_parameters_travels_as_it_is():
    estimator = Unfaithful(rate=3.0)
    node = as_filter(estimator)
    assert isinstance(node, Estimator)
    assert node.estimator_with().rate == 6.0


def test_what_cannot_be_written_down_travels_as_a_pickle_and_is_kept():
    generator = np.random.RandomState(3)
    twice = FunctionTransformer(lambda x: np.asarray(x) * 2)
    model = make_pipeline(twice, SVC(random_state=generator))
    with soma.connect("inline", filters={"node": model}) as worker:
        worker.fit("node", [[0.0], [1.0], [2.0], [3.0]], [0, 0, 1, 1])
        assert worker.forward("node", [[4.0]]).tolist() == [1]


def test_a_cache_directory_is_kept_where_pickles_travel(tmp_path):
    model = Pipeline([("scale", StandardScaler()), ("model", Ridge())], memory=str(tmp_path))
    node = as_filter(model)
    assert as_estimator(node).memory == str(tmp_path)


def test_values_that_are_no_numbers_reach_a_worker_by_name():
    grid = {"C": [float("inf"), 1.0]}
    node = as_filter(GridSearchCV(LogisticRegression(), grid, error_score=float("nan")))
    with soma.connect("inline", pickle="never", filters={"node": node}) as worker:
        assert worker.node_ids == ["node"]


@pytest.mark.parametrize(
    "spelling",
    [
        {"$sklearn": "subprocess"},
        {"$sklearn": ["tuple"]},
        {"$sklearn": "tuple"},
        {"$sklearn": "array", "dtype": "V8", "shape": [1], "items": [1]},
        {"$sklearn": "array", "dtype": "<f8", "shape": [3], "items": [1]},
        {"$sklearn": "array", "dtype": "nonsense", "shape": [1], "items": [1]},
        {"$sklearn": "function", "path": "os.system"},
        {"$sklearn": "type", "name": "subprocess.Popen"},
        {"$sklearn": "distribution", "name": "os", "items": [], "named": {}},
        {"$sklearn": "scorer", "path": "os.system", "sign": 1},
        {"$sklearn": "range", "items": ["a"]},
    ],
    ids=str,
)
def test_a_spelling_of_nothing_is_refused(spelling):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match=r"\$sklearn is one of|is not well formed"):
            Estimator(estimator=["sklearn.Ridge", {"alpha": spelling}])


@pytest.mark.parametrize(
    ("estimator", "why"),
    [
        (FunctionTransformer(lambda x: x), "FunctionTransformer.func: the builtins.function"),
        (
            make_pipeline(Ridge(random_state=np.random.RandomState(1))),
            "Pipeline.steps: Ridge.random_state",
        ),
        (Ridge().fit([[0.0], [1.0]], [0, 1]), "the estimator sklearn.Ridge is fitted"),
    ],
    ids=["function", "generator", "fitted"],
)
def test_an_estimator_that_needs_a_pickle_is_refused_with_the_reason(estimator, why):
    with pytest.raises(soma.ProtocolError, match=re.escape(f"as a pickle ({why}")):
        soma.connect("inline", pickle="never", filters={"model": estimator})
