"""The clients in Rust and TypeScript do what they say, over both daemons; compiling takes long."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import ormsgpack
import pytest

from soma_core.wire.packing import pack
from soma_core.wire.pickles import Pickles

from ..support import ROOT, nightly, short_directory, socket_daemon
from ..support.installing import install, python_path
from .test_hosts import expect_the_work_was_done

pytestmark = [nightly, pytest.mark.timeout(300)]

HOSTS = Path("examples") / "hosts"
FRAMES = Path("schemas") / "vectors" / "frame.jsonl"
RECORDS, RAGGED, MAP, PICKLES, TUPLE = 16, 15, 9, 18, 3
UNREACHABLE = ("ENOTFOUND", "EAI_AGAIN", "ECONN", "ETIMEDOUT", "ENETUNREACH", "EHOSTUNREACH")
FILTERS = {"host.Echo": "soma_core.testing:Echo", "host.Actions": "soma_core.testing:Actions"}


def run(command: list[str], folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=200,
        env=os.environ | variables,
    )


# With the same flags each time: other ones would have all compiled anew.
CARGO = ["env", "RUSTFLAGS=-Dwarnings", "cargo"]


def needed(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The examples and schemas, where they may be built."""
    root = tmp_path_factory.mktemp("clients")
    built = shutil.ignore_patterns("node_modules", "build", "target")
    for folder in ("examples/hosts", "schemas"):
        shutil.copytree(ROOT / folder, root / folder, ignore=built)
    with (root / FRAMES).open("a") as vectors:
        vectors.write(json.dumps(many_objects()) + "\n")
    return root


def many_objects() -> dict[str, Any]:
    """A frame with lists of all that a frame packs at once, also within each other."""
    records = [{"id": n, "box": (n, 2.5), "at": datetime(2024, 1, n)} for n in range(1, 9)]
    ragged = [("a",) * n for n in range(9)]
    content = [records, ragged, {n: (n, UUID(int=n)) for n in range(9)}, [*map(slice, range(9))]]
    command = {"cmd": "FORWARD", "id": "many objects", "node_id": "echo"}
    map_of_frame, buffers = pack({**command, "data": [*content, tuple(records)]}, Pickles())
    used = ormsgpack.unpackb(map_of_frame, ext_hook=lambda number, data: number)
    assert used["data"] == [RECORDS, RAGGED, MAP, PICKLES, TUPLE]
    return {
        "map_b64": b64encode(map_of_frame).decode(),
        "buffers": [b64encode(buffer).decode() for buffer in buffers],
        "message": command,
    }


@pytest.fixture(scope="module")
def rust(copy: Path) -> list[str]:
    """What runs the tests of the Rust client, which are compiled."""
    needed("cargo")
    test = [*CARGO, "test", "--offline"]
    built = run([*test, "--no-run"], copy / HOSTS / "rust")
    assert built.returncode == 0, built.stderr
    return test


@pytest.fixture(scope="module")
def typescript(copy: Path) -> list[str]:
    """What runs the tests of the TypeScript client, which are compiled."""
    needed("node", "npm", "npx")
    folder = copy / HOSTS / "typescript"
    quiet = ["--no-audit", "--no-fund", "--ignore-scripts", "--prefer-offline"]
    installed = run(["npm", "ci", *quiet, "--fetch-retries=1"], folder)
    if installed.returncode and any(code in installed.stderr for code in UNREACHABLE):
        pytest.skip(f"the npm registry cannot be reached: {installed.stderr[-300:]}")
    assert installed.returncode == 0, installed.stderr
    page = (ROOT / "docs" / "other-languages.md").read_text()
    (shown,) = re.findall(r"^```typescript\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (folder / "page.ts").write_text(shown + "export { nodes };\n")
    built = run(["npx", "tsc"], folder)
    assert built.returncode == 0, built.stdout
    return ["node", "--test", "build/worker.test.js"]


@pytest.fixture(scope="module")
def variables(copy: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a worker in which the filters of the tests are registered."""
    site = tmp_path_factory.mktemp("site")
    install(site, "host-filters", {"soma.filters": FILTERS})
    found = {"PYTHONPATH": python_path(site), "PYTHON": sys.executable}
    return found | {"SOMA_VECTORS": str(copy / FRAMES)}


@pytest.fixture(scope="module")
def daemon(variables: dict[str, str]) -> Iterator[dict[str, str]]:
    """The same with a socket daemon."""
    with short_directory() as folder:
        path = folder / "soma.sock"
        with socket_daemon(path, env=os.environ | variables):
            yield variables | {"SOMA_SOCKET": str(path)}


@pytest.fixture(params=["rust", "typescript"])
def tested(request: pytest.FixtureRequest, copy: Path) -> Callable[[dict[str, str]], None]:
    """Runs the tests of a client with an environment."""
    command = request.getfixturevalue(request.param)

    def test(variables: dict[str, str]) -> None:
        ended = run(command, copy / HOSTS / request.param, **variables)
        assert ended.returncode == 0, ended.stdout[-4000:] + ended.stderr[-4000:]

    return test


def test_a_client_keeps_its_promises_with_a_worker_of_its_own(tested, variables) -> None:
    tested(variables)


def test_a_client_keeps_its_promises_with_a_worker_of_a_daemon(tested, daemon) -> None:
    tested(daemon)


@pytest.mark.skipif(
    importlib.util.find_spec("soma_filters_sklearn") is None,
    reason="the hosts load sklearn.StandardScaler, and soma-filters-sklearn is not installed",
)
@pytest.mark.parametrize(
    ("client", "host"),
    [
        ("rust", [*CARGO, "run", "--offline", "--quiet", "--example", "host"]),
        ("typescript", ["node", "build/host.js"]),
    ],
)
def test_the_example_of_a_client_does_what_the_other_hosts_do(
    client: str, host: list[str], request: pytest.FixtureRequest, copy: Path
) -> None:
    request.getfixturevalue(client)
    ended = run(host, copy / HOSTS / client, PYTHON=sys.executable)
    expect_the_work_was_done(ended)


USES = """
import type { Command } from "./command.js";
export const load: Command = { cmd: "LOAD", filters: [{ id: "a", filter: "sklearn.PCA" }] };
export const run: Command = { cmd: "FORWARD", node_id: "a", data: [[1, null], { a: "b" }] };
// @ts-expect-error: there is no such command
export const dance: Command = { cmd: "DANCE" };
"""


def test_the_types_that_json_schema_to_typescript_makes_compile(typescript, copy) -> None:
    folder = copy / HOSTS / "typescript"
    (folder / "made").mkdir()
    generator = ["npx", "--yes", "json-schema-to-typescript@15.0.4", "--unreachableDefinitions"]
    schema = str(copy / "schemas" / "command.schema.json")
    made = run([*generator, "-i", schema, "-o", "made/command.ts"], folder)
    if made.returncode and any(code in made.stderr for code in UNREACHABLE):
        pytest.skip(f"the npm registry cannot be reached: {made.stderr[-300:]}")
    assert made.returncode == 0, made.stderr
    (folder / "made" / "uses.ts").write_text(USES)
    strict = ["--noEmit", "--strict", "--module", "nodenext", "--moduleResolution", "nodenext"]
    built = run(["npx", "tsc", *strict, "made/uses.ts"], folder)
    assert built.returncode == 0, built.stdout


def test_no_file_of_a_client_is_long() -> None:
    sources = [
        path
        for folder in ("rust/src", "typescript")
        for path in (ROOT / HOSTS / folder).glob("*.[rt]s")
    ]
    assert len(sources) > 5
    assert [path.name for path in sources if len(path.read_text().splitlines()) > 400] == []
