"""soma new: what it writes is installed, listed, tested and used by a stranger."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from soma_core.cli.console import CommandFailed
from soma_core.cli.new.names import Names, filter_names, transport_names

ROOT = Path(__file__).resolve().parents[2]


def test_a_filter_gives_its_names_to_all_that_belongs_to_it():
    assert filter_names("acme.RobustScaler") == Names(
        "acme.RobustScaler", "RobustScaler", "acme-robust-scaler", "acme_robust_scaler"
    )
    assert filter_names("big-corp.PCA").package == "big_corp_pca"


def test_a_transport_gives_its_names_to_all_that_belongs_to_it():
    assert transport_names("carrier-pigeon") == Names(
        "carrier-pigeon",
        "CarrierPigeonTransport",
        "soma-transport-carrier-pigeon",
        "soma_transport_carrier_pigeon",
    )


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("median", "acme.Median"),
        ("acme.median", "acme.Median"),
        ("Acme.Median", "acme.Median"),
        ("acme.robust_scaler", "acme.RobustScaler"),
        ("acme.None", "acme.Center"),
        ("../etc.Passwd", "etc.Passwd"),
        ("", "acme.Center"),
        ("acme.Median\n", "acme.Median"),
        ("a." + "B" * 60, "acme.Center"),
    ],
)
def test_what_is_no_name_for_a_filter_is_answered_with_one_that_is(name, suggestion):
    with pytest.raises(CommandFailed, match=r"is no name for a filter: expected") as caught:
        filter_names(name)
    assert repr(name) in str(caught.value)
    assert repr(suggestion) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [("Tcp_2", "tcp-2"), ("two--hyphens", "two-hyphens"), ("2fast", "pigeon"), ("a/b", "a-b")],
)
def test_what_is_no_name_for_a_transport_is_answered_with_one_that_is(name, suggestion):
    with pytest.raises(CommandFailed, match=r"is no name for a transport: expected") as caught:
        transport_names(name)
    assert repr(name) in str(caught.value)
    assert repr(suggestion) in str(caught.value)


def test_nothing_is_overwritten(soma, tmp_path):
    (tmp_path / "acme-median").mkdir()
    (tmp_path / "acme-median" / "work").write_text("of weeks")
    result = soma("new", "filter", "acme.Median", "--into", tmp_path)
    assert result.exit_code == 1
    assert "exists, and nothing is overwritten" in result.stderr
    assert [path.name for path in (tmp_path / "acme-median").iterdir()] == ["work"]


def test_a_name_that_is_taken_is_refused_with_its_owner(soma, tmp_path):
    result = soma("new", "transport", "stdio", "--into", tmp_path)
    assert result.exit_code == 1
    assert "soma-core provides a transport 'stdio' already" in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there_is_a_usage_error(soma, tmp_path):
    assert soma("new", "filter", "acme.Median", "--into", tmp_path / "nowhere").exit_code == 2


def test_what_to_do_next_can_be_run_by_a_shell(soma, tmp_path):
    result = soma("new", "filter", "acme.Median", "--into", tmp_path)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        f"cd {tmp_path / 'acme-median'}",
        "pip install --editable '.[test]'",
        "pytest",
        "soma filters",
    ]


class Stranger:
    """Somebody with an environment of their own, in which soma and what it needs are found."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environment = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("PYTHON", "COVERAGE", "COV_CORE"))
        } | {"PYTHONDONTWRITEBYTECODE": "1", "NO_COLOR": "1"}
        self.run(sys.executable, "-m", "venv", "--without-pip", home / "venv")
        self.python = home / "venv" / "bin" / "python"
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        site = home / "venv" / "lib" / version / "site-packages"
        (site / "soma.pth").write_text(f"{ROOT}\n{sysconfig.get_path('purelib')}\n")

    def run(self, *command: object, cwd: Path | None = None) -> str:
        done = subprocess.run(
            [str(part) for part in command],
            capture_output=True,
            text=True,
            timeout=110,
            cwd=cwd or self.home,
            env=self.environment,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def soma(self, *arguments: object) -> str:
        return self.run(self.python, "-P", "-m", "soma_core.cli", *arguments)

    def install(self, folder: Path) -> None:
        offline = ["--no-build-isolation"] if importlib.util.find_spec("hatchling") else []
        pip = [sys.executable, "-m", "pip", "--python", self.python, "install", "--quiet"]
        self.run(*pip, "--no-deps", *offline, "--disable-pip-version-check", folder)

    def test(self, folder: Path) -> str:
        return self.run(self.python, "-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=folder)


@pytest.fixture
def stranger(tmp_path) -> Stranger:
    return Stranger(tmp_path)


USE = """
import numpy as np
import soma_core as soma
with soma.connect("stdio", filters={"node": ("acme.RobustScaler", {"scale": 2.0})}) as worker:
    worker.fit("node", np.arange(4.0).reshape(2, 2))
    print(worker.forward("node", np.ones((1, 2))).tolist())
"""


def test_a_new_filter_is_installed_listed_tested_and_loaded_by_name(stranger, tmp_path):
    stranger.soma("new", "filter", "acme.RobustScaler")
    folder = tmp_path / "acme-robust-scaler"
    stranger.install(folder)
    assert "acme_robust_scaler.filters:RobustScaler" in stranger.soma("filters", "acme")
    assert " ok" in stranger.soma("plugins", "acme.RobustScaler")
    assert stranger.run(stranger.python, "-P", "-c", USE) == "[[0.0, -2.0]]\n"
    assert " passed" in stranger.test(folder)


def test_a_new_transport_is_installed_listed_tested_and_used(stranger, tmp_path):
    stranger.soma("new", "transport", "carrier-pigeon")
    folder = tmp_path / "soma-transport-carrier-pigeon"
    stranger.install(folder)
    assert "CarrierPigeonTransport" in stranger.soma("transports", "pigeon")
    use = "import soma_core as soma\nwith soma.connect('carrier-pigeon') as w: w.ping()"
    stranger.run(stranger.python, "-P", "-W", "error", "-c", use)
    assert " passed" in stranger.test(folder)


@pytest.mark.parametrize("what", [("filter", "acme.RobustScaler"), ("transport", "pigeon")])
def test_what_is_new_is_formatted_and_free_of_lint(soma, tmp_path, what):
    assert soma("new", *what, "--into", tmp_path).exit_code == 0
    (folder,) = tmp_path.iterdir()
    ruff = [sys.executable, "-m", "ruff"]
    options = ["--isolated", "--line-length", "100", "."]
    for command in (["check", "--select", "B,E,F,I,SIM,UP"], ["format", "--check"]):
        done = subprocess.run([*ruff, *command, *options], cwd=folder, capture_output=True)
        assert done.returncode == 0, done.stdout.decode()


def test_what_is_new_is_typed(soma, tmp_path):
    """With the settings and the cache of this repository: checking the libraries takes minutes."""
    soma("new", "filter", "acme.RobustScaler", "--into", tmp_path)
    soma("new", "transport", "pigeon", "--into", tmp_path)
    packages = sorted(tmp_path.glob("*/src/*"))
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *(f"--package={package.name}" for package in packages)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=115,
        env={**os.environ, "MYPYPATH": ":".join(str(package.parent) for package in packages)},
    )
    assert done.returncode == 0, done.stdout
    assert "no issues found in 5 source files" in done.stdout
