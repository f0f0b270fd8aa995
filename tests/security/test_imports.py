"""A host that may send no pickles has no module imported that nobody allowed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import soma_core as soma
from soma_core.models.imports import check_import, limit_imports

from ..support import PROCESSES, short_directory, socket_daemon
from ..support.installing import install, python_path

NAMES_A_MODULE = '''
import importlib
from pydantic import field_validator
from soma_core import Filter
from soma_core.models.imports import check_import

class Names(Filter):
    """Imports the module that its configuration names."""

    module: str

    @field_validator("module")
    @classmethod
    def _check(cls, module):
        check_import(module, own=["json"])
        return module

    def forward(self, x, state):
        return importlib.import_module(self.module).__name__
'''


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Of a worker that has the filter, and a module that leaves a file where it is imported."""
    trap = f"open({str(tmp_path / 'imported')!r}, 'w').close()"
    registered = {"names": "names_a_module:Names"}
    modules = {"names_a_module": NAMES_A_MODULE, "trap": trap}
    install(tmp_path, "names-a-module", {"soma.filters": registered}, modules)
    return {**os.environ, "PYTHONPATH": python_path(tmp_path)}


@pytest.fixture(params=PROCESSES)
def connect(request: pytest.FixtureRequest, environment: dict[str, str]) -> Iterator[Any]:
    """Connects without pickles to a worker whose operator allows ``email`` and ``http``."""
    if request.param == "stdio":
        allowed = ["email", "http"]
        yield lambda **options: soma.connect(
            "stdio",
            **{"pickle": "never", "env": environment, "allow_modules": allowed, **options},
        )
        return
    with (
        short_directory() as directory,
        socket_daemon(directory / "s", "--allow-module", "email,http", env=environment) as daemon,
    ):
        yield lambda **options: soma.connect(
            "socket", **{"path": str(daemon.path), "pickle": "never", **options}
        )


def test_a_worker_imports_by_name_what_filter_and_operator_allow_and_nothing_else(
    connect: Any, tmp_path: Path
) -> None:
    with connect() as worker:
        for module in ("json.decoder", "email", "http.client"):
            worker.load({"a": ("names", {"module": module})})
            assert worker.forward("a", 1) == module
            with pytest.raises(soma.RemoteError, match=r"'trap' is not imported .* no pickles"):
                worker.load({"b": ("names", {"module": "trap"})})
        state = b'{"module": "trap"}'
        with pytest.raises(soma.RemoteError, match="'trap' is not imported") as caught:
            worker.set_state("a", soma.NodeState(state, "value", {}))
        assert caught.value.code is soma.ErrorCode.INVALID_STATE
        assert worker.forward("a", 1) == "http.client"
    assert not (tmp_path / "imported").exists()


def test_a_host_that_may_send_pickles_names_any_module(connect: Any, tmp_path: Path) -> None:
    with connect(pickle="same-user") as worker:
        worker.load({"a": ("names", {"module": "trap"})})
        worker.forward("a", 1)
    assert (tmp_path / "imported").exists()


def test_a_module_is_allowed_with_all_below_it_and_nothing_beside_it() -> None:
    with limit_imports(["a.b"]):
        for module in ("a.b", "a.b.c", "own", "own.x.y"):
            check_import(module, own=["own"])
        for module in ("a", "a.bc", "owner", "b", "", ".own"):
            with pytest.raises(ValueError, match=r"allowed: own, a\.b\."):
                check_import(module, own=["own"])
    check_import("anything", own=[])


def test_a_limit_ends_with_its_block_also_when_that_raises() -> None:
    with pytest.raises(ZeroDivisionError), limit_imports([]):
        sys.exit(1 // 0)
    check_import("anything", own=[])
