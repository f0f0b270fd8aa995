"""A bake-off: a dozen of scikit-learn's classifiers, told apart by how sure they are when wrong.

    python examples/pipelines/bake_off.py                      # all of them
    python examples/pipelines/bake_off.py "one tree" "naive Bayes"

Each learns to tell malignant tumours from benign ones (569 samples, 30 measurements) in one worker
that reads no pickle, and is judged by five-fold cross-validation: the worker fits and answers, and
the host keeps the states.
"""

from __future__ import annotations

import sys

import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import StratifiedKFold

import soma_core as soma

FOREST = {"n_estimators": 50, "random_state": 0}
MODELS = {
    "logistic regression": ("LogisticRegression", {}),
    "support vectors": ("CalibratedClassifierCV", {"estimator": "sklearn.SVC", "cv": 3}),
    "nearest neighbours": ("KNeighborsClassifier", {"n_neighbors": 9}),
    "naive Bayes": ("GaussianNB", {}),
    "linear discriminant": ("LinearDiscriminantAnalysis", {}),
    "one tree": ("DecisionTreeClassifier", {"random_state": 0}),
    "random forest": ("RandomForestClassifier", FOREST),
    "extra trees": ("ExtraTreesClassifier", FOREST),
    "boosted trees": ("GradientBoostingClassifier", FOREST),
    "boosted histograms": ("HistGradientBoostingClassifier", {"max_iter": 50, "random_state": 0}),
    "neural network": ("MLPClassifier", {"max_iter": 500, "random_state": 0}),
    "three of them, voting": (
        "VotingClassifier",
        {
            "voting": "soft",
            "estimators": [
                ["line", "sklearn.LogisticRegression"],
                ["net", ["sklearn.MLPClassifier", {"max_iter": 500, "random_state": 0}]],
                ["trees", ["sklearn.ExtraTreesClassifier", FOREST]],
            ],
        },
    ),
}


def main(names: list[str]) -> None:
    """Judge the models of these names, or all, and print the table, the best first."""
    data = load_breast_cancer()
    filters = {name: as_filter(*MODELS[name]) for name in names or MODELS}
    with soma.connect("stdio", pickle="never", threads=1, filters=filters) as worker:
        worker.load({"scale": ("sklearn.StandardScaler", {})})
        judged = {name: judge(worker, name, data.data, data.target) for name in filters}
    Console(width=100).print(table(judged, len(data.target)))


def as_filter(kind: str, config: dict) -> tuple[str, dict]:
    """A model's registered name and configuration, with the output that says how sure it is."""
    return f"sklearn.{kind}", {**config, "output": "predict_proba"}


def judge(worker: soma.Worker, name: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """How sure a model was of the truth, for each sample when it was not learned from."""
    sure = np.empty(len(y))
    for learned, asked in StratifiedKFold(5, shuffle=True, random_state=0).split(x, y):
        worker.composite_fit(["scale", name], x[learned], y[learned], return_states=False)
        answer = worker.composite_forward(["scale", name], x[asked])
        sure[asked] = answer[np.arange(len(asked)), y[asked]]
    return sure


def table(judged: dict[str, np.ndarray], count: int) -> Table:
    """The models by log loss, each with a histogram of how sure it was of the truth."""
    losses = {name: -np.log(np.clip(sure, 1e-3, 1)).mean() for name, sure in judged.items()}
    shown = Table("model", "right", "log loss", "sure of the truth: never … always", "worst")
    for name in sorted(losses, key=losses.__getitem__):
        sure = judged[name]
        right = f"{np.mean(sure > 0.5):.1%}"
        wrong = f"{np.sum(sure < 0.1)} of {count}"
        shown.add_row(name, right, f"{losses[name]:.3f}", histogram(sure), wrong)
    shown.caption = "worst: how often it was surer than 90 % of what was not true"
    return shown


def histogram(sure: np.ndarray) -> str:
    """Twenty bars, by the logarithm of how many samples each stands for."""
    counts, _ = np.histogram(sure, bins=20, range=(0, 1))
    heights = np.ceil(np.log1p(counts) / np.log1p(len(sure)) * 8).astype(int)
    return "".join(" ▁▂▃▄▅▆▇█"[height] for height in heights)


if __name__ == "__main__":
    main(sys.argv[1:])
