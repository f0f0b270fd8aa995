"""The wheels, and what ``soma new`` writes, in a fresh environment without this repository."""

from __future__ import annotations

import os
import re
import subprocess
import sysconfig
from pathlib import Path

import pytest

from ..support import nightly, short_directory, wait_until
from .building import FOLDERS, NEW, clean_environment, page_blocks, run

# The first one installs for all, from the index.
pytestmark = [nightly, pytest.mark.timeout(600)]


def test_soma_comes_from_the_wheel(installed, tmp_path):
    code = "import soma_core, soma_transport_stdio, soma_transport_socket as s; print(s.__file__)"
    where = run(installed / "python", "-c", code, cwd=tmp_path)
    assert Path(where).is_relative_to(installed.parent)


def test_the_transports_are_listed(installed, tmp_path):
    shown = run(installed / "soma", "transports", cwd=tmp_path)
    assert all(name in shown for name in ("inline", "stdio", "socket", "ray"))


def test_a_transport_whose_library_is_missing_says_what_to_install(installed, tmp_path):
    code = (
        "import soma_core as soma\ntry: soma.connect('ray')\nexcept soma.StartFailed as e: print(e)"
    )
    assert "pip install 'ray" in run(installed / "python", "-c", code, cwd=tmp_path)


@pytest.mark.parametrize("command", ["transports", "filters", "--help"])
def test_listing_imports_neither_torch_nor_sklearn(installed, tmp_path, command):
    """They are not even there; a module that is found and imported would fail."""
    for name in ("torch", "sklearn"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('imported')\n")
    environment = clean_environment(PYTHONPATH=str(tmp_path))
    run(installed / "soma", command, env=environment)


def test_the_filters_are_listed(installed, tmp_path):
    shown = run(installed / "soma", "filters", "--all", cwd=tmp_path)
    for name in (
        "sklearn.StandardScaler",
        "sklearn.PCA",
        "sklearn.LogisticRegression",
        "torch.MLP",
    ):
        assert name in shown, shown


USE = """
import sys, numpy as np, soma_core as soma
with soma.connect(sys.argv[1], filters={"node": ("acme.RobustScaler", {"scale": 2.0})}) as worker:
    worker.fit("node", np.arange(4.0).reshape(2, 2))
    print(worker.forward("node", np.ones((1, 2))).tolist())
"""


@pytest.mark.parametrize("transport", ["inline", "stdio", "carrier-pigeon"])
def test_a_new_filter_is_loaded_by_its_name_over_transports_also_a_new_one(
    installed, tmp_path, transport
):
    shown = run(installed / "python", "-P", "-W", "error", "-c", USE, transport, cwd=tmp_path)
    assert shown == "[[0.0, -2.0]]\n"


def test_what_is_new_is_listed_and_works(installed, tmp_path):
    for group, name in (("filters", "acme.RobustScaler"), ("transports", "carrier-pigeon")):
        assert name in run(installed / "soma", group, name, cwd=tmp_path)
        assert " ok" in run(installed / "soma", "plugins", name, cwd=tmp_path)


@pytest.mark.parametrize("kind", NEW)
def test_what_is_new_passes_its_tests_at_once_and_the_kit_in_a_few_lines(installed, built, kind):
    folder = built / FOLDERS[kind]
    suite = (folder / "tests" / "test_conformance.py").read_text()
    code = [line for line in suite.splitlines() if line and not line.startswith('"""')]
    assert len(code) < 10
    shown = run(installed / "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=folder)
    assert " passed" in shown
    assert "skipped" not in shown


HOST = """
import sys
import numpy as np
import soma_core as soma

class Center(soma.Filter):
    scale: float = 1.0

    def fit(self, x, y=None):
        return {"mean": x.mean(axis=0)}

    def forward(self, x, state):
        return (x - state["mean"]) * self.scale

options = {"path": sys.argv[2]} if sys.argv[1] == "socket" else {}
with soma.connect(sys.argv[1], filters={"center": Center(scale=2.0)}, **options) as worker:
    rows = np.arange(60_000.0).reshape(-1, 3)
    worker.fit("center", rows)
    out = worker.forward("center", rows)
    assert np.array_equal(out, (rows - rows.mean(axis=0)) * 2)
    assert "torch" not in sys.modules and "sklearn" not in sys.modules
    if "sklearn" in sys.argv:
        worker.load({"scaler": ("sklearn.StandardScaler", {})})
        worker.fit("scaler", rows)
        assert abs(worker.forward("scaler", rows).std() - 1) < 1e-6
        assert "sklearn" not in sys.modules
    else:
        try:
            worker.load({"scaler": ("sklearn.StandardScaler", {})})
        except soma.RemoteError as error:
            assert "sklearn" in str(error) and "soma-filters-sklearn" in str(error), error
        else:
            raise AssertionError("loaded without sklearn")
    print("done", soma.__file__)
"""


@pytest.fixture
def host(tmp_path) -> Path:
    script = tmp_path / "host.py"
    script.write_text(HOST)
    return script


def test_a_filter_runs_over_stdio(installed, host):
    shown = run(installed / "python", host, "stdio", cwd=host.parent)
    assert shown.startswith("done")


def test_filters_run_over_a_socket(installed, host):
    with short_directory() as directory:
        path = directory / "soma.sock"
        command = [str(installed / "soma"), "serve", "socket", "--path", str(path)]
        daemon = subprocess.Popen(
            command, cwd=host.parent, env=clean_environment(), stderr=subprocess.DEVNULL
        )
        try:
            wait_until(path.exists, 60.0)
            assert run(installed / "python", host, "socket", path, cwd=host.parent)
        finally:
            daemon.terminate()
            assert daemon.wait(20.0) == 0


def test_a_filter_of_a_plugin_runs(installed, host):
    """With this interpreter's scikit-learn, which would take long to install."""
    environment = clean_environment(PYTHONPATH=sysconfig.get_path("purelib"))
    shown = run(installed / "python", host, "stdio", "", "sklearn", env=environment)
    assert str(installed.parent) in shown


def test_the_command_of_the_page_is_called_from_a_host_and_known_to_the_shell(installed, tmp_path):
    """As the page shows it, in the environment in which the page had it installed."""
    double = page_blocks("write-a-command.md", "python")[1]
    script = [
        "import numpy as np\nimport soma_core as soma\nx = np.arange(4.0)",
        re.search(r"^class Double.*?(?=\n\n\n)", double, re.MULTILINE | re.DOTALL)[0],
        *page_blocks("write-a-command.md", "py"),
    ]
    shown = run(installed / "python", "-P", "-c", "\n".join(script), cwd=tmp_path)
    assert shown == "{'error': 1.5, 'count': 4}\n"
    (lines,) = [text for text in page_blocks("write-a-command.md", "console") if "printf" in text]
    environment = clean_environment(PATH=f"{installed}:{os.environ['PATH']}")
    told = subprocess.run(
        ["bash", "-c", lines], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    reply, schema, validated = told.stdout.splitlines()[:3]
    assert '"code":"unknown_node"' in reply
    assert '"const": "EVALUATE"' in schema
    assert "EVALUATE: node_id: input should be a valid string, got 3" in validated


@pytest.mark.parametrize(
    ("page", "module", "blocks"),
    [("write-a-transport.md", "acme_transport", 2), ("write-a-filter.md", "acme_filters", 1)],
)
def test_what_a_page_shows_passes_the_kit_with_the_few_lines_that_it_shows(
    installed, tmp_path, page, module, blocks
):
    """As a stranger does it: the code of the page in two files, and pytest."""
    (tmp_path / f"{module}.py").write_text("\n".join(page_blocks(page, "python")[:blocks]))
    (test,) = page_blocks(page, "py")
    lines = [line for line in test.splitlines() if line.strip()]
    assert len(lines) < 10
    (tmp_path / f"test_{module}.py").write_text(test)
    environment = clean_environment(PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    shown = run(
        installed / "python", "-m", "pytest", "-q", "-W", "error", cwd=tmp_path, env=environment
    )
    assert "passed" in shown
