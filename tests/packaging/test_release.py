"""What is released together has one version, and a tree that is not ready says why."""

from __future__ import annotations

import pytest

from tools import release


def test_all_distributions_and_the_citation_have_one_version() -> None:
    known = release.distributions()
    assert len(known) == len(release.sources()) > 5
    assert {project["version"] for project in known.values()} == {known["soma-core"]["version"]}
    assert [one for one in release.problems() if "CHANGELOG" not in one] == []


def test_a_tree_that_is_not_ready_is_not_released(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(release, "problems", lambda: ["soma-cache has version 0.2.0"])
    with pytest.raises(SystemExit, match="--draft goes on anyway"):
        release.main(["--out", str(tmp_path / "dist")])
    assert "not ready: soma-cache has version 0.2.0" in capsys.readouterr().err
    assert not (tmp_path / "dist").exists()


def test_files_of_another_release_are_not_mixed_in(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(release, "problems", list)
    (tmp_path / "soma_core-0.0.1.tar.gz").touch()
    with pytest.raises(SystemExit, match="is not empty"):
        release.main(["--out", str(tmp_path)])
