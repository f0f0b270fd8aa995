"""soma new: names, and what is written. tests/packaging installs it and runs the whole kit."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from soma_core.cli.console import CommandFailed
from soma_core.cli.new.names import (
    command_names,
    filter_names,
    plugin_names,
    transport_names,
)
from soma_core.testing import ProcessMark

from ..support import ROOT, installing, nightly


def test_a_filter_gives_its_names_to_all_that_belongs_to_it():
    names = filter_names("acme.RobustScaler")
    assert names == ("acme.RobustScaler", "RobustScaler", "acme-robust-scaler", "")
    assert names.package == "acme_robust_scaler"
    assert filter_names("big-corp.PCA").package == "big_corp_pca"


def test_a_transport_gives_its_names_to_all_that_belongs_to_it():
    names = transport_names("carrier-pigeon")
    assert names == (
        "carrier-pigeon",
        "CarrierPigeonTransport",
        "soma-transport-carrier-pigeon",
        "",
    )


def test_a_command_and_a_plugin_give_their_names_to_all_that_belongs_to_them():
    assert command_names("acme.WarmUp") == ("acme-warm-up", "WarmUp", "acme-warm-up", "WARM_UP")
    assert plugin_names("acme-audit") == ("acme-audit", "", "acme-audit", "")


def test_what_is_no_name_for_a_command_or_a_plugin_is_answered_with_one_that_is():
    with pytest.raises(CommandFailed, match=r"not a valid command name: .*'acme.Evaluate'"):
        command_names("acme.evaluate")
    with pytest.raises(CommandFailed, match=r"not a valid plugin name: .*'acme-audit'"):
        plugin_names("Acme_Audit")


@pytest.mark.parametrize(
    ("names_of", "name"),
    [(plugin_names, "class"), (plugin_names, "logging"), (filter_names, "soma.Core")],
)
def test_a_package_that_cannot_be_imported_or_hides_another_is_refused(names_of, name):
    with pytest.raises(CommandFailed, match="choose another name"):
        names_of(name)


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
    with pytest.raises(CommandFailed, match=r"is not a valid filter name: expected") as caught:
        filter_names(name)
    assert repr(name) in str(caught.value)
    assert repr(suggestion) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [("Tcp_2", "tcp-2"), ("two--hyphens", "two-hyphens"), ("2fast", "pigeon"), ("a/b", "a-b")],
)
def test_what_is_no_name_for_a_transport_is_answered_with_one_that_is(name, suggestion):
    with pytest.raises(CommandFailed, match=r"is not a valid transport name: expected") as caught:
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


@pytest.mark.parametrize(
    "what",
    [
        ("filter", "acme.RobustScaler"),
        ("transport", "pigeon"),
        ("transport", "pigeon", "--channel"),
        ("command", "acme.WarmUp"),
        ("plugin", "acme-audit"),
    ],
)
def test_what_is_new_is_formatted_and_free_of_lint(soma, tmp_path, what):
    assert soma("new", *what, "--into", tmp_path).exit_code == 0
    (folder,) = tmp_path.iterdir()
    ruff = [sys.executable, "-m", "ruff"]
    options = ["--isolated", "--line-length", "100", "."]
    for command in (["check", "--select", "B,E,F,I,SIM,UP"], ["format", "--check"]):
        done = subprocess.run([*ruff, *command, *options], cwd=folder, capture_output=True)
        assert done.returncode == 0, done.stdout.decode()


@pytest.mark.parametrize(
    ("what", "group", "target", "chosen"),
    [
        ("filter acme.RobustScaler", "soma.filters", "acme_robust_scaler:RobustScaler", ""),
        pytest.param(
            "transport pigeon",
            "soma.transports",
            "soma_transport_pigeon:PigeonTransport",
            "not conformance or every_fault",
            marks=nightly,
        ),
        pytest.param(
            "transport pigeon --channel",
            "soma.transports",
            "soma_transport_pigeon:PigeonTransport",
            "not a_message_interrupts",  # which needs a stream
            marks=[nightly, pytest.mark.timeout(400)],
        ),
        pytest.param("command acme.WarmUp", "soma.plugins", "acme_warm_up", "", marks=nightly),
        pytest.param("plugin acme-audit", "soma.plugins", "acme_audit:Plugin", "", marks=nightly),
    ],
)
def test_what_is_new_passes_its_tests_and_leaves_no_process(
    soma, tmp_path, what, group, target, chosen
):
    assert soma("new", *what.split(), "--into", tmp_path).exit_code == 0
    (source,) = tmp_path.glob("*/src")
    name = what.split()[1].replace("acme.WarmUp", "acme-warm-up")
    installing.install(source, "what-is-new", {group: {name: target}})
    mark = ProcessMark()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", chosen],
        cwd=source.parent,
        capture_output=True,
        text=True,
        timeout=380,
        env={
            **os.environ,
            **mark.environment,
            "PYTHONPATH": installing.python_path(source),
            "PYTEST_ADDOPTS": "",
        },
    )
    assert done.returncode == 0, done.stdout
    assert "skipped" not in done.stdout
    assert mark.wait_until_gone(20.0) == set()


@nightly
def test_what_is_new_is_typed(soma, tmp_path):
    """With the settings and the cache of this repository: checking the libraries takes minutes."""
    soma("new", "filter", "acme.RobustScaler", "--into", tmp_path)
    soma("new", "transport", "pigeon", "--into", tmp_path)
    soma("new", "transport", "courier", "--channel", "--into", tmp_path)
    soma("new", "command", "acme.WarmUp", "--into", tmp_path)
    soma("new", "plugin", "acme-audit", "--into", tmp_path)
    packages = sorted(tmp_path.glob("*/src/*"))
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *(f"--package={package.name}" for package in packages)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=380,
        env={**os.environ, "MYPYPATH": ":".join(str(package.parent) for package in packages)},
    )
    assert done.returncode == 0, done.stdout
    assert "no issues found in 11 source files" in done.stdout
