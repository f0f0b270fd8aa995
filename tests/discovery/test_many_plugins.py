"""Many installed plugins: found by metadata alone, none of them imported before it is used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.plugins import install

FIFTY = 50


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A directory with 50 distributions, whose filters and transports fail when imported."""
    install(tmp_path, FIFTY, "raise AssertionError('it was imported')")
    return tmp_path


COUNT = """
import functools, json, os, sys
from importlib import metadata
os.stat = functools.cache(os.stat)  # others write in directories of the path meanwhile
read, parsed = [], []
entry_points = metadata.entry_points
def counted(**selection):
    read.append(selection)
    return entry_points(**selection)
metadata.entry_points = counted
whole = metadata.Distribution.metadata.fget
metadata.Distribution.metadata = property(
    lambda distribution: parsed.append(id(distribution)) or whole(distribution)
)
{code}
print(json.dumps({{"read": read, "parsed": parsed, "modules": sorted(sys.modules)}}))
"""


def observe(site: Path, code: str) -> dict[str, list[Any]]:
    """How often entry points are read, and which modules are imported, by some code."""
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    ended = subprocess.run(
        [sys.executable, "-P", "-c", COUNT.format(code=code)],  # files appear in the directory
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": path.rstrip(os.pathsep)},
    )
    return json.loads(ended.stdout.splitlines()[-1])


LISTING = """
from soma_core.plugins.catalog import installed_filters, installed_transports
filters, transports = installed_filters().list(), installed_transports().list()
assert sum(info.name.startswith("acme") for info in filters) == 50, filters
assert sum(info.name.startswith("acme") for info in transports) == 50, transports
"""
CONNECTING = """
import soma_core as soma
with soma.connect("inline") as worker:
    worker.ping()
"""


def test_connecting_parses_the_metadata_of_no_plugin(site):
    assert len(observe(site, CONNECTING)["parsed"]) < FIFTY


def test_listing_parses_the_metadata_of_each_distribution_once(site):
    parsed = observe(site, LISTING)["parsed"]
    assert len(parsed) == len(set(parsed))


def test_importing_soma_reads_no_metadata_of_plugins(site):
    assert observe(site, "import soma_core")["read"] == []


@pytest.mark.parametrize("code", [LISTING, CONNECTING], ids=["listing", "connecting"])
def test_fifty_plugins_are_found_without_importing_any_and_all_are_read_once(site, code):
    seen = observe(site, code)
    assert [name for name in seen["modules"] if name.startswith("acme")] == []
    assert [asked for asked in seen["read"] if asked != {"group": "pydantic"}] == [{}]
    assert {"torch", "sklearn", "pandas"} & set(seen["modules"]) == set()
