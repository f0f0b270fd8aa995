import csv
import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from soma_core.cli.pipeline import read_pipeline
from soma_core.cli.run import run_pipeline

from ..support import gate_runs

EXAMPLES = Path(__file__).parents[2] / "examples" / "pipelines"

DOUBLE = """
import soma_core
from soma_core import progress

class Double(soma_core.Filter):
    shift: float = 0.0

    def fit(self, x, y=None):
        return {"seen": float(x.sum())}

    def forward(self, x, state):
        return x * 2 + self.shift + state.get("seen", 0.0)

class Words(soma_core.Filter):
    def forward(self, x, state):
        return {"a": object()}

class Slow(soma_core.Filter):
    def fit(self, x, y=None):
        for epoch in (1, 2):
            progress.report(epoch=epoch, epochs=2, loss=1 / epoch)
        return {}

    def forward(self, x, state):
        return x

class Typed(soma_core.Filter):
    takes: str
    gives: str

    def meta(self):
        sides = {"input_schema": self.takes, "output_schema": self.gives}
        return super().meta().replace(**{k: {"dtype": v} for k, v in sides.items()})

    def forward(self, x, state):
        return x
"""


@pytest.fixture
def place(install, tmp_path):
    """A directory with data, where the filter ``acme.Double`` is registered."""
    (tmp_path / "site" / "acme_filters.py").write_text(DOUBLE)
    install(
        "acme",
        "soma.filters",
        **{f"acme.{name}": f"acme_filters:{name}" for name in ("Double", "Words", "Slow", "Typed")},
    )
    np.save(tmp_path / "x.npy", np.array([1.0, 2.0, 3.0]))
    return tmp_path


def _pipeline(place, text="", *, filters='[[filters]]\nid = "a"\nfilter = "acme.Double"\n', **data):
    lines = [f"{name} = {value}" for name, value in ({"x": '"x.npy"'} | data).items()]
    if "[output]" not in text:
        text += '\n[output]\npath = "out.npy"\n'
    transport = "" if "[transport]" in text else '[transport]\nname = "inline"\n'
    path = place / "pipeline.toml"
    path.write_text("\n".join([transport, filters, "[data]", *lines, text]))
    return path


def test_a_chain_runs_on_a_file_and_its_output_is_written_beside_the_pipeline(soma, place):
    result = soma("run", _pipeline(place))
    assert result.exit_code == 0, result.stderr
    assert np.load(place / "out.npy").tolist() == [2.0, 4.0, 6.0]


def test_what_is_written_and_how_much_is_printed_on_stderr(soma, place):
    result = soma("run", _pipeline(place))
    assert result.stdout == ""
    assert "loaded a over inline" in result.stderr
    assert "out.npy (3)" in result.stderr


def test_a_fitted_chain_can_run_on_other_data(soma, place):
    np.save(place / "new.npy", np.array([0.0]))
    soma("run", _pipeline(place, '[fit]\nmode = "fit"\n', apply='"new.npy"'))
    assert np.load(place / "out.npy").tolist() == [6.0]


@pytest.mark.parametrize("mode", ["fit", "composite"])
def test_each_node_is_fitted_on_what_the_nodes_before_it_make(soma, place, mode):
    filters = "".join(f'[[filters]]\nid = "{name}"\nfilter = "acme.Double"\n' for name in "ab")
    soma("run", _pipeline(place, f'[fit]\nmode = "{mode}"\n', filters=filters))
    first = np.array([1.0, 2.0, 3.0]) * 2 + 6.0
    assert np.load(place / "out.npy").tolist() == (first * 2 + first.sum()).tolist()


def test_filters_that_cannot_follow_each_other_are_refused_before_any_of_them_learns(soma, place):
    filters = "".join(
        f'[[filters]]\nid = "{name}"\nfilter = "acme.Typed"\nconfig = {{ takes = "{takes}", '
        f'gives = "{gives}" }}\n'
        for name, takes, gives in [("a", "Float64", "Float64"), ("b", "Int64", "Int64")]
    )
    result = soma("run", _pipeline(place, '[fit]\nmode = "fit"\n', filters=filters))
    assert result.exit_code == 1
    assert "the edge 'a' -> 'b': 'a' returns Float64 and 'b' takes Int64" in result.stderr
    assert "loaded" not in result.stderr


def test_a_step_fits_only_the_nodes_that_it_names(soma, place):
    filters = "".join(f'[[filters]]\nid = "{name}"\nfilter = "acme.Double"\n' for name in "ab")
    step = '[[fit]]\nmode = "batched"\nnodes = ["b"]\nbatch_size = 3\nepochs = 2\n'
    result = soma("run", _pipeline(place, step, filters=filters))
    assert result.exit_code == 0, result.stderr
    first = np.array([1.0, 2.0, 3.0]) * 2
    assert np.load(place / "out.npy").tolist() == (first * 2 + first.sum()).tolist()
    assert "b: epoch 2/2" in result.stderr


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('{ path = "t.csv" }', [[1, 2], [3, 4]]),
        ('{ path = "t.csv", columns = "second" }', [2, 4]),
        ('{ path = "t.csv", columns = ["second", 0] }', [[2, 1], [4, 3]]),
        ('{ path = "bare.csv", header = false }', [[0.5], [1.5]]),
        ('{ path = "many.npz", key = "b" }', [7]),
        ('{ path = "one.npz" }', [8]),
    ],
)
def test_data_comes_from_csv_npy_and_npz(soma, place, source, expected):
    (place / "t.csv").write_text("first,second\n1,2\n3,4\n")
    (place / "bare.csv").write_text("0.5\n1.5\n")
    np.savez(place / "many.npz", a=[1], b=[7])
    np.savez(place / "one.npz", only=[8])
    result = soma("run", _pipeline(place, x=source))
    assert result.exit_code == 0, result.stderr
    assert np.load(place / "out.npy").tolist() == (np.array(expected) * 2.0).tolist()


def test_output_goes_to_csv_and_npz_too(soma, place):
    soma("run", _pipeline(place, '[output]\npath = "sub/out.csv"\n'))
    assert (place / "sub" / "out.csv").read_text() == "output\n2.0\n4.0\n6.0\n"
    soma("run", _pipeline(place, '[output]\npath = "out.npz"\n'))
    with np.load(place / "out.npz") as archive:
        assert archive["output"].tolist() == [2.0, 4.0, 6.0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"text": "[extra]\n"}, "extra: there is no such field"),
        ({"text": '[fit]\nmode = "dance"\n'}, "fit.0: "),
        ({"text": '[fit]\nmode = "batched"\nepochs = 0\n'}, "fit.0.batched.epochs: "),
        ({"text": '[fit]\nmode = "fit"\nepochs = 3\n'}, "epochs: there is no such field"),
        ({"text": '[fit]\nmode = "fit"\nnodes = ["z"]\n'}, "nodes ['z'] are not neighbours"),
        ({"text": '[output]\npath = "out.txt"\n'}, "output.path: 'out.txt' should end in .npy"),
        ({"x": '{ path = "x.npy", columns = 1 }'}, "data.x: columns and header are for csv"),
        ({"x": '"nowhere.npy"'}, "nowhere.npy: No such file or directory"),
        ({"x": '{ path = "t.csv", columns = "third" }'}, "there is no column 'third'"),
        ({"x": '{ path = "ragged.csv" }'}, "row 2 has 1 columns where the first has 2"),
        ({"x": '{ path = "many.npz" }'}, "set key to one of a, b"),
        ({"x": '{ path = "x.npy", dtype = "float99" }'}, "float99"),
        ({"filters": "filters = []\n"}, "filters: "),
        ({"filters": '[[filters]]\nid = "a"\nfilter = "acme.Dubble"\n'}, "'acme.Double'"),
        (
            {"filters": '[[filters]]\nid = "a"\nfilter = "acme.Double"\nconfig = { shft = 1 }\n'},
            "shft",
        ),
        ({"filters": '[[filters]]\nid = "a"\nfilter = "acme.Words"\n'}, "no array file can hold"),
        ({"text": '[transport]\nname = "stdjo"\n'}, "did you mean 'stdio'"),
        ({"text": '[transport]\nname = "stdio"\noptions = { pyton = "x" }\n'}, "no option pyton"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(soma, place, change, reason):
    (place / "t.csv").write_text("first,second\n1,2\n3,4\n")
    (place / "ragged.csv").write_text("a,b\n1\n")
    np.savez(place / "many.npz", a=[1], b=[7])
    result = soma("run", _pipeline(place, **change))
    assert result.exit_code == 1, result.stderr
    assert result.stderr.count("error: ") == 1
    assert reason in result.stderr
    assert not (place / "out.npy").exists()


def test_a_file_that_is_no_toml_is_one_line(soma, tmp_path):
    (tmp_path / "bad.toml").write_text("[data\n")
    result = soma("run", tmp_path / "bad.toml")
    assert result.exit_code == 1
    assert "bad.toml is not valid TOML" in result.stderr


SLOW = '[[filters]]\nid = "a"\nfilter = "acme.Slow"\n'


def test_the_curve_of_a_fit_is_drawn_into_a_picture(soma, place):
    pytest.importorskip("matplotlib")
    pipeline = _pipeline(place, '[fit]\nmode = "fit"\n', filters=SLOW)
    result = soma("run", pipeline, "--curve", place / "curve.png")
    assert result.exit_code == 0, result.stderr
    assert "a: epoch 2/2  loss 0.5000" in result.stderr
    assert f"drew {place / 'curve.png'}" in result.stderr
    assert (place / "curve.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("text", "suffix", "reason"),
    [
        ("", ".png", "has no [fit], so there is no curve to draw"),
        ('[fit]\nmode = "fit"\n', ".gif", "should end in .png"),
    ],
)
def test_a_curve_that_cannot_be_drawn_is_refused_before_anything_runs(
    soma, place, text, suffix, reason
):
    pytest.importorskip("matplotlib")
    result = soma("run", _pipeline(place, text), "--curve", place / f"curve{suffix}")
    assert result.exit_code == 1
    assert reason in result.stderr
    assert "loaded" not in result.stderr


def test_a_fit_without_losses_has_no_curve_and_its_output_is_kept(soma, place):
    pytest.importorskip("matplotlib")
    pipeline = _pipeline(place, '[fit]\nmode = "fit"\n')
    result = soma("run", pipeline, "--curve", place / "curve.png")
    assert result.exit_code == 1
    assert "no filter reported a loss" in result.stderr
    assert (place / "out.npy").exists()


@pytest.mark.parametrize(
    ("step", "epochs"), [('mode = "composite"', 1), ('mode = "batched"\nepochs = 2', 2)]
)
def test_training_by_gradients_has_a_loss_for_each_epoch(place, step, epochs):
    pytest.importorskip("soma_filters_torch")
    np.save(place / "rows.npy", np.ones((2, 1), "f4"))
    config = '{ sizes = [1, 1], optimizer = "SGD", lr = 0.1, seed = 0 }'
    filters = f'[[filters]]\nid = "net"\nfilter = "torch.MLP"\nconfig = {config}\n'
    data = {"x": '"rows.npy"', "y": '"rows.npy"'}
    path = _pipeline(place, f"[fit]\n{step}\n", filters=filters, **data)
    _, (curve,) = run_pipeline(read_pipeline(path), place, Console(file=io.StringIO()))
    assert list(curve.epochs) == list(range(1, epochs + 1))
    assert sorted(curve.epochs.values(), reverse=True) == list(curve.epochs.values())


def test_a_batched_step_is_validated_and_measured(place):
    pytest.importorskip("soma_filters_sklearn")
    np.save(place / "rows.npy", np.arange(8.0).reshape(4, 2) % 3)
    np.save(place / "y.npy", np.array([0, 1, 0, 1]))
    config = "{ random_state = 0 }"
    filters = f'[[filters]]\nid = "line"\nfilter = "sklearn.SGDClassifier"\nconfig = {config}\n'
    scale = '[[filters]]\nid = "scale"\nfilter = "sklearn.StandardScaler"\n'
    step = '[[fit]]\nmode = "fit"\nnodes = ["scale"]\n[[fit]]\nmode = "batched"\n'
    step += 'nodes = ["line"]\nepochs = 50\npatience = 2\nmetrics = { right = "accuracy" }\n'
    data = dict.fromkeys(("x", "validation_x"), '"rows.npy"')
    data |= dict.fromkeys(("y", "validation_y"), '"y.npy"')
    path = _pipeline(place, step, filters=scale + filters, **data)
    _, (_, curve) = run_pipeline(read_pipeline(path), place, Console(file=io.StringIO()))
    assert 3 <= len(curve.metrics["right"]) < 50


def test_metrics_without_validation_data_are_refused(soma, place):
    step = '[fit]\nmode = "batched"\nmetrics = { right = "accuracy" }\n'
    result = soma("run", _pipeline(place, step))
    assert result.exit_code == 1
    assert "metrics are measured on data.validation_x; name a file there" in result.stderr


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("example", "output"),
    gate_runs(
        ("iris", "iris.csv"),
        of=[
            ("iris", "iris.csv"),
            ("iris-network", "iris-network.npy"),
            ("iris-forest", "iris-forest.csv"),
        ],
    ),
)
def test_the_examples_learn_to_tell_the_flowers(soma, tmp_path, example, output):
    pytest.importorskip("soma_filters_sklearn")
    pytest.importorskip("soma_filters_torch")
    shutil.copytree(EXAMPLES, tmp_path / "copy", ignore=shutil.ignore_patterns("output"))
    result = soma("run", tmp_path / "copy" / f"{example}.toml")
    assert result.exit_code == 0, result.stderr
    written = tmp_path / "copy" / "output" / output
    rows = list(csv.DictReader((EXAMPLES / "iris.csv").read_text().splitlines()))
    if written.suffix == ".csv":
        read = written.read_text().split()[1:]
        right = [row["species"] for row in rows]
    else:
        read = np.load(written).tolist()
        right = [int(row["class"]) for row in rows]
    assert np.mean(np.array(read) == np.array(right)) >= 0.95
