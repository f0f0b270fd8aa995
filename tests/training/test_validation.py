"""Training is measured on data that it does not learn from, and stops when it gets no better."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

import soma_core as soma

torch = pytest.importorskip("torch")
pytest.importorskip("soma_filters_torch")

DRAW = np.random.default_rng(5)
X = DRAW.normal(size=(120, 4)).astype("f4")
CLASSES = (X[:, 0] + X[:, 1] * X[:, 2] > 0).astype("i8")
TRAINING, VALIDATION = (X[:90], CLASSES[:90]), (X[90:], CLASSES[90:])
MLP = (
    "torch.MLP",
    {"sizes": [4, 16, 2], "seed": 2, "loss": "cross_entropy", "lr": 0.02, "optimizer": "SGD"},
)


class Noisy(soma.Filter):
    """Each epoch it is as good as the script says."""

    script: list[float]

    def fit(self, x: Any, y: Any = None) -> Any:
        raise AssertionError("partial_fit is there")

    def partial_fit(self, x: Any, y: Any, state: Any) -> Any:
        return {"epoch": state.get("epoch", 0) + 1}

    def forward(self, x: Any, state: Any) -> Any:
        return np.full(len(x), self.script[state["epoch"] - 1])


def first(y: Any, out: Any) -> float:
    return float(out[0])


class Oracle:
    """The same training in plain PyTorch."""

    def __init__(self) -> None:
        torch.manual_seed(2)
        nn = torch.nn
        self.net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.02)
        self.history: dict[str, list[float]] = {"loss": [], "validation_loss": [], "accuracy": []}

    def epoch(self, batch_size: int) -> None:
        cross_entropy = torch.nn.functional.cross_entropy
        x, y = map(torch.from_numpy, TRAINING)
        total = 0.0
        for start in range(0, len(x), batch_size):
            rows = slice(start, start + batch_size)
            loss = cross_entropy(self.net(x[rows]), y[rows])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            total += loss.item() * len(x[rows])
        with torch.no_grad():
            out, wanted = self.net(torch.from_numpy(VALIDATION[0])), torch.from_numpy(VALIDATION[1])
            self.history["validation_loss"].append(cross_entropy(out, wanted).item())
            self.history["accuracy"].append((out.argmax(1) == wanted).float().mean().item())
        self.history["loss"].append(total / len(x))


def test_losses_metrics_and_rates_of_each_epoch_are_those_of_plain_pytorch(worker: Any) -> None:
    worker.load({"net": MLP})
    found = worker.batched_fit(
        ["net"],
        *TRAINING,
        batch_size=16,
        epochs=4,
        validation=VALIDATION,
        metrics={"accuracy": "accuracy"},
    )
    oracle = Oracle()
    for _ in range(4):
        oracle.epoch(16)
    assert found.losses == found.history["loss"] == oracle.history["loss"]
    assert found.history["validation_loss"] == oracle.history["validation_loss"]
    assert found.history["accuracy"] == pytest.approx(oracle.history["accuracy"])
    assert found.history["lr"] == [0.02] * 4
    assert found.best_epoch is None


def test_validation_changes_nothing_of_the_training(inline: Any) -> None:
    class Normalized(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layers = torch.nn.Sequential(
                torch.nn.BatchNorm1d(4), torch.nn.Dropout(0.5), torch.nn.Linear(4, 2)
            )
            self.layers[1].eval()  # frozen by its user
            self.optimizer = torch.optim.SGD(self.parameters(), lr=0.1)

        def forward(self, x: Any, state: Any = None) -> Any:
            return self.layers(x)

        def compute_loss(self, out: Any, y: Any) -> Any:
            return torch.nn.functional.cross_entropy(out, y)

    inline.load({"measured": Normalized(), "plain": Normalized()})
    measured = inline.batched_fit(["measured"], *TRAINING, epochs=3, validation=VALIDATION)
    plain = inline.batched_fit(["plain"], *TRAINING, epochs=3)
    assert measured.losses == plain.losses
    states = [inline.get_state(node).data for node in ("measured", "plain")]
    weights = [torch.load(io.BytesIO(state), weights_only=True) for state in states]
    assert all(torch.equal(weights[0][name], value) for name, value in weights[1].items())
    assert len(measured.history["validation_loss"]) == 3
    assert "validation_loss" not in plain.history


def test_the_loss_is_that_of_the_raw_output_whatever_forward_returns(inline: Any) -> None:
    name, config = MLP
    inline.load({"raw": MLP, "class": (name, {**config, "output": "argmax"})})
    found = [
        inline.batched_fit([node], *TRAINING, validation=VALIDATION, metrics={"a": "accuracy"})
        for node in ("raw", "class")
    ]
    assert found[0].history == found[1].history


@pytest.mark.parametrize(
    "name", ["accuracy", "f1", "roc_auc", "neg_log_loss", "balanced_accuracy", "average_precision"]
)
def test_scorers_of_scikit_learn_measure_the_outputs_of_a_network(inline: Any, name: str) -> None:
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    linear_model = pytest.importorskip("sklearn.linear_model")
    inline.load({"net": MLP})
    found = inline.batched_fit(["net"], *TRAINING, validation=VALIDATION, metrics={"m": name})
    out = inline.forward("net", VALIDATION[0])
    scores = np.exp(out) / np.exp(out).sum(axis=1, keepdims=True)

    class Same(linear_model.LogisticRegression):
        def predict(self, x: Any) -> Any:
            return scores.argmax(axis=1)

        def predict_proba(self, x: Any) -> Any:
            return scores

        decision_function = property()

    same = Same().fit(*TRAINING)
    expected = sklearn_metrics.get_scorer(name)(same, *VALIDATION)
    assert found.history["m"] == [pytest.approx(expected, rel=1e-5)]


def test_a_function_measures_targets_and_outputs_of_all_rows(worker: Any) -> None:
    worker.load({"net": MLP})

    def shapes(y: Any, out: Any) -> float:
        assert isinstance(out, np.ndarray)
        return 1000 * len(y) + out.shape[1]

    found = worker.batched_fit(
        ["net"], *TRAINING, validation=VALIDATION, metrics={"shapes": shapes}, batch_size=7
    )
    assert found.history["shapes"] == [30002.0]


def test_a_chain_without_a_loss_is_measured_by_metrics(inline: Any) -> None:
    pytest.importorskip("soma_filters_sklearn")
    inline.load({"sgd": ("sklearn.SGDClassifier", {"random_state": 0})})
    found = inline.batched_fit(
        ["sgd"], *TRAINING, epochs=2, validation=VALIDATION, metrics={"accuracy": "accuracy"}
    )
    right = inline.forward("sgd", VALIDATION[0]) == VALIDATION[1]
    assert found.history["accuracy"][-1] == pytest.approx(right.mean())
    assert found.history.keys() == {"accuracy"}


SCRIPT = [0.1, 0.5, 0.4, float("nan"), 0.3, 0.9]


def noisy(worker: Any, **options: Any) -> Any:
    worker.load({"noisy": Noisy(script=SCRIPT)})
    return worker.batched_fit(
        ["noisy"],
        np.zeros((2, 1)),
        epochs=6,
        validation=(np.zeros((3, 1)), np.zeros(3)),
        metrics={"score": first},
        **options,
    )


@pytest.mark.parametrize(("patience", "epochs"), [(1, 3), (3, 5), (4, 6), (None, 6)])
def test_training_ends_after_so_many_epochs_without_a_better_one(
    inline: Any, patience: int | None, epochs: int
) -> None:
    found = noisy(inline, patience=patience)
    assert len(found.history["score"]) == epochs
    assert inline.get_state("noisy").fit_state == {"epoch": epochs}


def test_the_best_epoch_is_put_back_where_that_is_asked(worker: Any) -> None:
    found = noisy(worker, patience=3, restore_best=True)
    assert found.best_epoch == 2
    assert found.states == {"noisy": {"epoch": 2}}
    assert worker.get_state("noisy").fit_state == {"epoch": 2}
    assert noisy(worker, restore_best=True).best_epoch == 6


def test_all_outputs_are_those_of_the_last_epoch_that_was_run(inline: Any) -> None:
    found = noisy(inline, patience=1, collect="all")
    assert found.result.tolist() == [SCRIPT[2]] * 2


def test_what_a_fit_between_epochs_replaces_is_trained_on(inline: Any) -> None:
    inline.load({"net": MLP, "other": MLP})
    options = {"epochs": 2, "optimizer": {"name": "Adam", "lr": 0.01}, "batch_size": 16}

    def replace(report: dict[str, Any]) -> None:
        if report["epoch"] == 1:
            inline.set_state("net", inline.get_state("other"))

    inline.batched_fit(["other"], *TRAINING, epochs=3)
    begun = inline.composite_fit(["other"], *VALIDATION).loss
    inline.batched_fit(["net"], *TRAINING, on_epoch=replace, **options)
    assert inline.composite_fit(["net"], *VALIDATION).loss < begun


def test_a_network_is_put_back_as_it_was_after_its_best_epoch(inline: Any) -> None:
    name, config = MLP
    inline.load({"net": (name, {**config, "lr": 0.5, "sizes": [4, 64, 2]})})
    options = {"batch_size": 8, "validation": VALIDATION}
    found = inline.batched_fit(
        ["net"], *TRAINING, epochs=60, patience=5, restore_best=True, **options
    )
    losses = found.history["validation_loss"]
    assert len(losses) == found.best_epoch + 5 < 60
    assert losses[found.best_epoch - 1] == min(losses)
    out = torch.from_numpy(inline.forward("net", VALIDATION[0]))
    loss = torch.nn.functional.cross_entropy(out, torch.from_numpy(VALIDATION[1]))
    assert loss.item() == pytest.approx(min(losses))


def test_without_validation_patience_follows_the_training_loss(inline: Any) -> None:
    name, config = MLP
    inline.load({"net": (name, {**config, "lr": 1e-12})})
    found = inline.batched_fit(["net"], *TRAINING, epochs=50, patience=2, restore_best=True)
    assert len(found.losses) < 50
    assert found.losses[found.best_epoch - 1] == min(found.losses)


def test_schedules_of_a_filter_follow_the_validation_loss(inline: Any) -> None:
    seen: list[float] = []
    name, config = MLP
    plateau = {"name": "ReduceLROnPlateau", "patience": 0, "factor": 0.1}
    inline.load({"net": (name, {**config, "lr": 5.0, "scheduler": plateau})})
    found = inline.batched_fit(["net"], *TRAINING, epochs=12, validation=VALIDATION)
    rates, losses = found.history["lr"], found.history["validation_loss"]
    best = float("inf")
    for epoch in range(11):
        better = losses[epoch] < best * (1 - 1e-4)
        best = min(best, losses[epoch]) if better else best
        expected = rates[epoch] if better else max(rates[epoch] * 0.1, 0)
        seen.append(rates[epoch + 1] / expected)
    assert seen == pytest.approx([1.0] * 11)


def test_on_epoch_is_called_between_epochs_and_may_call_the_worker(worker: Any) -> None:
    worker.load({"net": MLP})
    seen: list[Any] = []

    def on_epoch(report: dict[str, Any]) -> None:
        out = worker.forward("net", VALIDATION[0])
        seen.append((report, (out.argmax(1) == VALIDATION[1]).mean()))

    options = {"epochs": 3, "validation": VALIDATION, "metrics": {"accuracy": "accuracy"}}
    found = worker.batched_fit(
        ["net"], *TRAINING, on_epoch=on_epoch, shuffle=True, seed=1, **options
    )
    assert [report["epoch"] for report, _ in seen] == [1, 2, 3]
    assert all(report["epochs"] == 3 for report, _ in seen)
    for name in ("loss", "validation_loss", "accuracy", "lr"):
        assert [report[name] for report, _ in seen] == found.history[name]
    assert [right for _, right in seen] == pytest.approx(found.history["accuracy"])
    without = worker.batched_fit(["net"], *TRAINING, shuffle=True, seed=1, **options)
    assert without.history == found.history


def test_what_on_epoch_raises_ends_the_fit_and_leaves_the_worker_usable(inline: Any) -> None:
    inline.load({"net": MLP})
    with pytest.raises(ZeroDivisionError):
        inline.batched_fit(["net"], *TRAINING, epochs=5, on_epoch=lambda _: 1 / 0)
    first = inline.get_state("net").data
    once = inline.batched_fit(["net"], *TRAINING, epochs=1)
    assert len(once.losses) == 1
    assert inline.get_state("net").data == first


def test_a_node_that_is_loaded_anew_between_epochs_ends_the_fit(inline: Any) -> None:
    inline.load({"net": MLP})
    with pytest.raises(soma.RemoteError, match="were loaded or fitted anew"):
        inline.batched_fit(
            ["net"], *TRAINING, epochs=3, on_epoch=lambda _: inline.load({"net": MLP})
        )


def test_a_fit_ends_by_its_deadline_whatever_its_epochs_take(inline: Any) -> None:
    inline.load({"net": MLP})
    with pytest.raises(soma.DeadlineExceeded):
        inline.batched_fit(["net"], *TRAINING, epochs=10**6, on_epoch=lambda _: None, timeout=0.5)


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (
            {"metrics": {"a": "acuracy"}},
            "invalid_command",
            "metrics: 'a': 'acuracy' is not a valid",
        ),
        ({"metrics": {"loss": "r2"}}, "invalid_command", "uses this name itself"),
        (
            {"metrics": {"a": lambda y, out: 1 / 0}},
            "filter_failed",
            "the metric 'a' failed on targ",
        ),
        (
            {"metrics": {"a": lambda y, out: "x"}},
            "filter_failed",
            "the metric 'a' failed on targets",
        ),
        ({"validation": (X, CLASSES[:3])}, "invalid_command", "equally many rows"),
    ],
)
def test_what_cannot_be_measured_is_refused_by_name(
    inline: Any, options: Any, code: str, message: str
) -> None:
    inline.load({"net": MLP})
    with pytest.raises(soma.RemoteError, match=message) as caught:
        inline.batched_fit(["net"], *TRAINING, **{"validation": VALIDATION, **options})
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": {"a": "accuracy"}}, "metrics need validation="),
        ({"validation": ([1], [1]), "metrics": {"a": 3}}, "metrics: 'a' is the name of a scorer"),
        ({"validation": X}, "validation is a tuple"),
        ({"validation": (X,)}, "validation is a tuple"),
    ],
)
def test_arguments_that_do_not_go_together_are_refused_at_once(
    inline: Any, options: Any, message: str
) -> None:
    inline.load({"net": MLP})
    with pytest.raises((TypeError, ValueError), match=message):
        inline.batched_fit(["net"], *TRAINING, **options)


def test_patience_needs_something_to_follow(inline: Any) -> None:
    inline.load({"noisy": Noisy(script=SCRIPT)})
    with pytest.raises(soma.RemoteError, match="patience and restore_best need a loss or a metric"):
        inline.batched_fit(["noisy"], np.zeros((2, 1)), patience=1)


def test_metrics_are_reported_with_the_last_batch_of_each_epoch(inline: Any) -> None:
    inline.load({"net": MLP})
    reports: list[dict[str, Any]] = []
    found = inline.batched_fit(
        ["net"],
        *TRAINING,
        epochs=2,
        validation=VALIDATION,
        metrics={"accuracy": "accuracy"},
        progress=reports.append,
    )
    ends = [report for report in reports if report["batch"] == report["batches"]]
    assert [report["accuracy"] for report in ends] == found.history["accuracy"]
    assert [report["validation_loss"] for report in ends] == found.history["validation_loss"]
    assert all("accuracy" not in report for report in reports if report not in ends)
    assert len(reports) == 2 * 3
