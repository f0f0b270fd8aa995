"""The lowest versions that are tested are those that the distributions promise."""

from __future__ import annotations

from tools.lowest import constraints


def test_the_highest_lower_bound_of_several_distributions_is_taken(tmp_path) -> None:
    needs = {
        "one": ["numpy>=2.0", "soma-core>=0.1", "pydantic>=2.11.5,<3"],
        "two": ["numpy>=2.1; python_version > '3'", "pydantic>=2.9"],
    }
    for name, dependencies in needs.items():
        (tmp_path / name).mkdir()
        project = f"[project]\nname = {name!r}\ndependencies = {dependencies!r}\n"
        (tmp_path / name / "pyproject.toml").write_text(project)
    found = constraints(tmp_path / "one", tmp_path / "two")
    assert found == ["numpy==2.1", "pydantic==2.11.5"]
