"""What estimators and embeddings keep in a worker: parameters, answers, scikit-learn's own checks.

``python -m benchmarks.estimators`` prints the table. Rows of packages that are not installed
(lightgbm, xgboost, sentence-transformers) are left out: ``make models`` has them.
"""

from __future__ import annotations

import argparse
import importlib.util
import pickle
import runpy
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.utils import all_estimators
from sklearn.utils.estimator_checks import check_estimator

import soma_core as soma
from benchmarks import embeddings
from benchmarks.table import Row, markdown, none_of

CHECKED = [
    "LogisticRegression", "PCA", "StandardScaler", "SVC", "OneHotEncoder", "SimpleImputer",
    "PLSRegression", "Ridge", "DecisionTreeRegressor", "GaussianNB", "KNeighborsClassifier",
    "LinearDiscriminantAnalysis", "LinearSVC", "QuantileTransformer", "SGDClassifier", "KMeans",
    "MiniBatchKMeans", "MLPClassifier", "GradientBoostingRegressor", "RandomForestClassifier",
]  # fmt: skip


def handed_over(worker: soma.Worker, quick: bool) -> list[Row]:
    """Estimators of scikit-learn, handed over as they are, beside the same here."""
    from soma_filters_sklearn.catalogue import MODULES
    from soma_filters_sklearn.spelling import construct

    samples = runpy.run_path("plugins/soma-filters-sklearn/tests/samples.py")
    pickled, sample_of = samples["PICKLED"], samples["sample_of"]
    names = [name for listed in MODULES.values() for name in listed if name not in pickled]
    names = names[::20] if quick else names
    complaints = []
    for name in names:
        sample = sample_of(name)
        home = construct(f"sklearn.{name}", sample.config)
        complaints += differences(worker, name, home, sample.x, sample.y)
    asked = "estimators of scikit-learn, handed over raw: other parameters or answers than here"
    return [none_of(asked, complaints, f"{len(names)} estimators")]


def differences(worker: soma.Worker, name: str, home: Any, x: Any, y: Any) -> Iterator[str]:
    """What is different of an estimator in a worker: a line for each thing."""
    worker.load({"it": home})
    handle = worker.filter("it")
    if hasattr(handle, "get_params"):
        found, wanted = (repr(each.get_params()) for each in (handle, home))
        if found != wanted:
            yield f"{name}: parameters {found} for {wanted}"
    fitted = clone(home).fit(*([x] if y is None else [x, y]))
    worker.fit("it", x, y)
    for method in ("predict", "transform"):
        if hasattr(fitted, method) and hasattr(handle, method):
            answers = worker.call_method(method, "it", x), getattr(fitted, method)(x)
            if len({_bytes(answer) for answer in answers}) > 1:
                yield f"{name}: {method} differs"


def _bytes(answer: Any) -> bytes:
    dense = answer.toarray() if hasattr(answer, "toarray") else np.asarray(answer)
    return pickle.dumps((dense.dtype.str, dense.shape, dense.tolist()))


def boosters(worker: soma.Worker) -> list[Row]:
    """Estimators of lightgbm and xgboost, where they are installed."""
    x = np.random.default_rng(0).normal(size=(400, 5))
    classes, numbers = (x[:, 0] + x[:, 1] > 0).astype(int), x @ np.arange(5.0)
    complaints, tried = [], 0
    for package, kinds in (("lightgbm", "LGBM"), ("xgboost", "XGB")):
        if importlib.util.find_spec(package) is None:
            continue
        module = importlib.import_module(package)
        for kind, y in (("Classifier", classes), ("Regressor", numbers)):
            home = getattr(module, f"{kinds}{kind}")(n_estimators=7, max_depth=3, learning_rate=0.3)
            complaints += differences(worker, f"{kinds}{kind}", home, x, y)
            tried += 1
    asked = "estimators of lightgbm and xgboost: other parameters or answers than here"
    return [none_of(asked, complaints, f"{tried} estimators")] if tried else []


def checked(worker: soma.Worker, quick: bool) -> list[Row]:
    """scikit-learn's check_estimator of the handle of an estimator, beside the estimator's own."""
    names = CHECKED[:3] if quick else CHECKED
    complaints = []
    for name in names:
        estimator = dict(all_estimators())[name]()
        worker.load({"it": estimator})
        beyond = failures(worker.filter("it")) - failures(estimator)
        complaints += [f"{name}: {check}" for check in sorted(beyond)]
    asked = "failures of check_estimator of worker.filter() beyond the estimator's own"
    return [none_of(asked, complaints, f"{len(names)} estimators")]


def failures(estimator: Any) -> set[str]:
    """The checks that an estimator fails."""
    ran = check_estimator(estimator, on_fail=None, on_skip=None)
    return {check["check_name"] for check in ran if check["status"] == "failed"}


def main() -> int:
    """Parse the arguments, measure, and print; 1 if a goal was missed."""
    parser = argparse.ArgumentParser("python -m benchmarks.estimators", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few of each")
    quick = parser.parse_args().quick
    with warnings.catch_warnings(), soma.connect("inline") as worker:
        warnings.simplefilter("ignore")  # tiny data converge badly
        rows = [*handed_over(worker, quick), *boosters(worker), *checked(worker, quick)]
    rows += embeddings.rows(quick)
    print(markdown(rows, "python -m benchmarks.estimators" + (" --quick" if quick else "")))
    return 0 if all(row.kept for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
