"""A host that may send no pickles runs no code and reads no file, whatever it says."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import sparse
from soma_filters_sklearn import estimators
from soma_filters_sklearn.any_estimator import Estimator
from soma_filters_sklearn.catalogue import MODULES
from soma_filters_sklearn.classes import class_at
from soma_filters_sklearn.harmless import HARMLESS, SEARCHED, WITH_VALUES
from soma_filters_sklearn.parameters import parameters_of

import soma_core as soma
from soma_core.configuration import limit_imports

from .hostile_states import NAMES
from .samples import sample_of

pytestmark = pytest.mark.filterwarnings("ignore")  # tiny data converge badly

LIES = 100  # for each estimator; hostile_states.py tells as many as one likes
PARTS = 8  # of the estimators: each is a process that imports scikit-learn


def piped(**config: Any) -> list[Any]:
    steps = [["scale", "sklearn.StandardScaler"], ["svc", "sklearn.SVC"]]
    return ["sklearn.Pipeline", {"steps": steps, **config}]


def searching(grid: Any, name: str = "param_grid", estimator: Any = None) -> tuple[str, Any]:
    kind = "GridSearchCV" if name == "param_grid" else "RandomizedSearchCV"
    return f"sklearn.{kind}", {"estimator": estimator or piped(), name: grid}


TEXT = {"$sklearn": "text", "value": "DIRECTORY"}
HOLDING = {"$sklearn": "array", "dtype": "O", "shape": [1], "items": [piped(memory=TEXT)]}
MUTUAL = "sklearn.feature_selection.mutual_info_classif"
SCORER = {
    "$sklearn": "scorer",
    "path": "sklearn.metrics.silhouette_score",
    "sign": 1,
    "response_method": "predict",
    "named": {"n_jobs": 10**6},
}
CONFIGURATIONS = [
    ("sklearn.FeatureAgglomeration", {"memory": "DIRECTORY"}),
    ("sklearn.Pipeline", piped(memory="DIRECTORY")[1]),
    ("sklearn.Pipeline", piped(memory=TEXT)[1]),
    ("sklearn.VotingClassifier", {"estimators": [["inner", piped(memory="DIRECTORY")]]}),
    ("sklearn.Estimator", {"estimator": piped(memory="DIRECTORY")}),
    searching({"memory": ["DIRECTORY"]}),
    searching([{"svc__C": [1.0]}, {"memory": ["DIRECTORY"]}]),
    searching({"memory": [TEXT]}),
    searching({"memory": {"$sklearn": "tuple", "items": ["DIRECTORY"]}}),
    searching({"memory": ["DIRECTORY"]}, "param_distributions"),
    searching([{"memory": ["DIRECTORY"]}], "param_distributions"),
    searching({"svc": [piped(memory="DIRECTORY")]}),
    searching({"svc": HOLDING}),
    searching({"svc": [piped()], "svc__memory": ["DIRECTORY"]}),
    ("sklearn.Pipeline", {"steps": [["search", list(searching({"memory": ["DIRECTORY"]}))]]}),
    searching({"param_grid": [{"memory": ["DIRECTORY"]}]}, estimator=list(searching({"C": [1]}))),
    ("sklearn.CountVectorizer", {"input": "filename"}),
    searching({"input": ["filename"]}, estimator="sklearn.TfidfVectorizer"),
    ("sklearn.RFE", {"estimator": "sklearn.SVR", "importance_getter": "__class__.__init__"}),
    (
        "sklearn.GridSearchCV",
        {"estimator": "sklearn.SVC", "param_grid": {}, "pre_dispatch": "__import__('os')"},
    ),
    ("sklearn.RandomForestClassifier", {"n_jobs": 10**6}),
    searching({"n_jobs": [10**6]}, estimator="sklearn.RandomForestClassifier"),
    searching({"n_jobs": {"$sklearn": "range", "items": [0, 10**6]}}, estimator="sklearn.SVC"),
    ("sklearn.FunctionTransformer", {"func": MUTUAL, "kw_args": {"n_jobs": 10**6}}),
    searching({"kw_args": [{"n_jobs": 10**6}]}, estimator="sklearn.FunctionTransformer"),
    ("sklearn.Nystroem", {"kernel_params": {"n_jobs": 10**6}}),
    ("sklearn.GridSearchCV", {**searching({"C": [1]})[1], "scoring": SCORER}),
    ("sklearn.GridSearchCV", {**searching({"C": [1]})[1], "scoring": {"a": SCORER}}),
]


def located(value: Any, directory: str) -> Any:
    """A configuration with the directory in its place."""
    if isinstance(value, dict):
        return {key: located(item, directory) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(located(item, directory) for item in value)
    return directory if value == "DIRECTORY" else value


@pytest.fixture(scope="module")
def worker():
    with soma.connect("inline", pickle="never") as worker:
        yield worker


@pytest.mark.parametrize("node", CONFIGURATIONS, ids=lambda node: str(node)[:80])
def test_a_configuration_that_reads_files_or_runs_code_is_refused(node, worker, tmp_path):
    with pytest.raises(soma.RemoteError, match="a host that may send no pickles"):
        worker.load({"node": located(node, str(tmp_path))})


@pytest.mark.parametrize(
    "spelled",
    [
        {"$sklearn": "scalar", "dtype": "U300000000", "value": "a"},
        {"$sklearn": "array", "dtype": "<U300000000", "shape": [1], "items": ["a"]},
        {"$sklearn": "range", "items": [0, 10**8]},
        {"$sklearn": "range", "items": [0, 10**30]},
    ],
    ids=str,
)
def test_a_few_bytes_of_a_configuration_do_not_ask_for_gigabytes(spelled, worker):
    with pytest.raises(soma.RemoteError, match="not well formed"):
        worker.load({"node": ("sklearn.OneHotEncoder", {"categories": [spelled]})})


def test_no_pickle_of_a_cache_directory_is_read(worker, tmp_path):
    """What the refusal prevents: joblib reads whatever lies in the directory."""
    mark = tmp_path / "mark"
    bomb = pickle.dumps(Touch(str(mark)))
    for root in ("joblib/sklearn/pipeline/_fit_transform_one", "joblib"):
        (tmp_path / root).mkdir(parents=True, exist_ok=True)
        (tmp_path / root / "output.pkl").write_bytes(bomb)
    with pytest.raises(soma.RemoteError):
        worker.load({"node": located(searching({"memory": ["DIRECTORY"]}), str(tmp_path))})
    assert not mark.exists()


class Touch:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (Path(self.path),)


@pytest.mark.parametrize(
    "path",
    [
        "unittest.__main__.main",
        "antigravity.Estimator",
        "sklearn.utils._mocking.CheckingClassifier",
    ],
)
def test_only_modules_that_the_operator_allowed_are_imported(path, worker):
    for node in (
        ("sklearn.Estimator", {"estimator": path}),
        ("sklearn.Pipeline", {"steps": [["inner", [path, {}]]]}),
        ("sklearn.GridSearchCV", {"estimator": "sklearn.SVC", "param_grid": {"C": [[path, {}]]}}),
    ):
        with pytest.raises(soma.RemoteError, match="is not imported for a host"):
            worker.load({"node": node})


def test_a_module_that_the_operator_allowed_is_imported_and_its_parameters_are_its_own(
    monkeypatch, tmp_path
):
    (tmp_path / "acme_allowed.py").write_text(
        "from sklearn.base import BaseEstimator\n\n\nclass Mine(BaseEstimator):\n"
        "    def __init__(self, own=1):\n        self.own = own\n"
        "    def fit(self, x, y=None):\n        self.fitted_ = self.own\n        return self\n"
        "    def predict(self, x):\n        return [self.own] * len(x)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    grid = {"estimator": ["acme_allowed.Mine", {}], "param_grid": {"own": [2]}}
    with limit_imports(["acme_allowed"]):
        estimators.GridSearchCV(**grid, scoring="accuracy")
    with limit_imports([]), pytest.raises(ValueError, match="acme_allowed"):
        Estimator(estimator=["acme_allowed.Mine", {"own": 3}])


def test_every_parameter_of_every_estimator_has_been_looked_at():
    known = HARMLESS | SEARCHED | WITH_VALUES.keys()
    for name in (name for names in MODULES.values() for name in names):
        assert parameters_of(class_at(f"sklearn.{name}")).keys() <= known


def test_the_samples_of_all_estimators_are_allowed():
    with limit_imports([]):
        for name in (name for names in MODULES.values() for name in names):
            getattr(estimators, name)(**sample_of(name).config)


def test_a_parameter_that_nobody_has_looked_at_is_refused(monkeypatch):
    monkeypatch.setattr("soma_filters_sklearn.configuration.HARMLESS", HARMLESS - {"with_mean"})
    with limit_imports([]), pytest.raises(ValueError, match="sets with_mean, which nobody"):
        estimators.StandardScaler()


def test_a_host_that_may_send_pickles_may_use_a_cache_and_files(tmp_path):
    (tmp_path / "text").write_text("red apple")
    reader = ("sklearn.CountVectorizer", {"input": "filename"})
    cached = ("sklearn.Pipeline", piped(memory=str(tmp_path))[1])
    with soma.connect("inline", filters={"reader": reader, "cached": cached}) as worker:
        worker.fit("reader", [str(tmp_path / "text")])
        worker.fit("cached", [[0.0], [1.0]], [0, 1])
    assert any(os.scandir(tmp_path / "joblib"))


FORGED_SPARSE = [
    ("indices", np.array([0, 99])),
    ("indices", np.array([0, -1])),
    ("indptr", np.array([0, 5, 2])),
    ("indptr", np.array([1, 1, 2])),
    ("indptr", np.array([0, 1])),
    ("shape", [2, -3]),
]


@pytest.mark.parametrize(("field", "value"), FORGED_SPARSE)
def test_a_sparse_matrix_whose_numbers_lead_nowhere_is_refused(field, value):
    from soma_filters_sklearn.packing import pack, unpack

    packed = pack(sparse.csr_matrix(np.eye(2, 3)))
    with pytest.raises(ValueError, match="'sparse' that is not well formed"):
        unpack({**packed, field: value})


@pytest.mark.parametrize("position", [-1, 625, 10**9])
def test_a_generator_that_goes_on_outside_of_its_numbers_is_refused(position):
    from soma_filters_sklearn.packing import pack, unpack

    for generator in (np.random.RandomState(0), np.random.Generator(np.random.MT19937(0))):
        packed = pack(generator)
        inner = packed["state"] if "state" in packed else packed["parts"]["state"]
        inner["state"]["pos"] = position
        with pytest.raises(ValueError, match="goes on where it has numbers"):
            unpack(packed)


def test_a_state_cannot_take_the_place_of_a_method(data):
    node = estimators.StandardScaler()
    state = node.fit(data.x) | {"transform": {"$sklearn": "function", "path": "numpy.exp"}}
    with pytest.raises(ValueError, match="transform is a method of a StandardScaler"):
        node.forward(data.x, state)


@pytest.mark.parametrize("name", ["OneClassSVM", "SVC"])
def test_a_state_says_that_there_are_probabilities_only_where_it_holds_some(data, name):
    node = getattr(estimators, name)()
    state = node.fit(data.x, data.kinds) | {"_effective_probability": True}
    with pytest.raises(ValueError, match="do not fit together"):
        node.forward(data.x, state)


def test_a_pipeline_in_a_state_has_no_cache_directory(data):
    node = estimators.OneVsRestClassifier(estimator=piped())
    state = copy.deepcopy(node.fit(data.x, data.kinds))
    state["estimators_"][0]["attributes"]["memory"] = "/tmp/cache"
    with pytest.raises(ValueError, match="sets memory='/tmp/cache'"):
        node.forward(data.x, state)


def lies_told(names: list[str], count: int) -> str:
    """What a process says that told lies to others: OpenMP does not fork once it has threads."""
    few = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    command = [sys.executable, "-m", "tests.hostile_states", f"--count={count}", *names]
    plugin = Path(__file__).parents[1]
    done = subprocess.run(
        command, cwd=plugin, env=os.environ | few, capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


@pytest.mark.nightly
@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(PARTS))
def test_no_state_with_a_lie_in_it_crashes_the_worker(part):
    assert lies_told(NAMES[part::PARTS], LIES).startswith("0 crashes")
