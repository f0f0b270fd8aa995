"""The wheels: what they hold."""

from __future__ import annotations

import zipfile
from pathlib import Path

from .building import PLUGINS


def names_in(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_the_wheels_hold_the_packages_and_nothing_else(wheels):
    assert sorted(wheels) == sorted(["soma-core", *PLUGINS])
    expected = {
        "soma-core": {"soma_core", "soma_transport_stdio", "soma_transport_socket"},
        "soma-cache": {"soma_cache"},
        "soma-codecs-arrow": {"soma_codecs_arrow"},
        "soma-filters-onnx": {"soma_filters_onnx"},
        "soma-filters-sklearn": {"soma_filters_sklearn"},
        "soma-filters-text": {"soma_filters_text"},
        "soma-filters-torch": {"soma_filters_torch"},
        "soma-http": {"soma_http"},
        "soma-telemetry": {"soma_telemetry"},
        "soma-transport-ray": {"soma_transport_ray"},
    }
    for distribution, packages in expected.items():
        tops = {name.partition("/")[0] for name in names_in(wheels[distribution])}
        info = {top for top in tops if top.endswith(".dist-info")}
        assert tops - info == packages
        assert len(info) == 1


def test_the_wheels_hold_no_tests_and_no_rubbish(wheels):
    for wheel in wheels.values():
        for name in names_in(wheel):
            parts = Path(name).parts
            assert not {"__pycache__", ".venv"} & set(parts), name
            if "templates" not in parts:  # of tests, for distributions that are written
                assert "tests" not in parts, name
                assert not parts[-1].startswith(("test_", "conftest")), name


def test_every_package_is_typed(wheels):
    for distribution, wheel in wheels.items():
        names = names_in(wheel)
        packages = {name.partition("/")[0] for name in names if name.endswith("/__init__.py")}
        tops = {package for package in packages if package.startswith("soma_")}
        for package in tops:
            assert f"{package}/py.typed" in names, f"{distribution}: {package}"


def test_the_licence_is_included(wheels):
    for distribution, wheel in wheels.items():
        licences = [name for name in names_in(wheel) if name.endswith("LICENSE")]
        assert licences, distribution
        with zipfile.ZipFile(wheel) as archive:
            assert b"Apache License" in archive.read(licences[0])


def test_the_metadata_says_what_an_index_shows(wheels):
    for distribution, wheel in wheels.items():
        with zipfile.ZipFile(wheel) as archive:
            (name,) = [name for name in names_in(wheel) if name.endswith("/METADATA")]
            metadata = archive.read(name).decode()
        assert f"Name: {distribution}" in metadata
        assert "License-Expression: Apache-2.0" in metadata
        assert "Requires-Python: >=3.11" in metadata
        assert "Description-Content-Type: text/markdown" in metadata
