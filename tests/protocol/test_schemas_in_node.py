"""ajv, in Node, says of the golden vectors and of right and wrong messages what Python says."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from .test_schemas import (
    BAD_COMMANDS,
    BAD_REPLIES,
    BAD_VALUES,
    GOOD_COMMANDS,
    GOOD_REPLIES,
    GOOD_VALUES,
)

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "schemas"
UNREACHABLE = ("ENOTFOUND", "EAI_AGAIN", "ECONN", "ETIMEDOUT", "ENETUNREACH", "EHOSTUNREACH")
VECTORS = [
    json.loads(line)
    for name in ("line", "frame")
    for line in (ROOT / "schemas" / "vectors" / f"{name}.jsonl").read_text().splitlines()
]
MESSAGES = {
    "command": (GOOD_COMMANDS, BAD_COMMANDS),
    "reply": (GOOD_REPLIES, BAD_REPLIES),
    "value": (GOOD_VALUES, BAD_VALUES),
}


@pytest.fixture(scope="module")
def validator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, with the packages that its lock file names."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not both installed")
    folder = tmp_path_factory.mktemp("node") / "schemas"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("node_modules"))
    quiet = ["--no-audit", "--no-fund", "--ignore-scripts", "--prefer-offline"]
    installed = subprocess.run(
        ["npm", "ci", *quiet, "--fetch-retries=1"], cwd=folder, capture_output=True, text=True
    )
    if installed.returncode and any(code in installed.stderr for code in UNREACHABLE):
        pytest.skip(f"the npm registry cannot be reached: {installed.stderr[-300:]}")
    assert installed.returncode == 0, installed.stderr
    return folder / "validate.mjs"


def judged(validator: Path, part: str, messages: list[Any]) -> list[str]:
    """What it prints for each message."""
    lines = "".join(json.dumps(message) + "\n" for message in messages)
    schema = ROOT / "schemas" / f"{part}.schema.json"
    ended = subprocess.run(
        ["node", validator, schema], input=lines, capture_output=True, text=True, timeout=60
    )
    assert ended.stderr == ""
    printed = ended.stdout.splitlines()
    assert ended.returncode == int(any(line != "ok" for line in printed))
    return printed


@pytest.mark.parametrize("part", ["command", "reply"])
def test_the_golden_vectors_are_what_the_schemas_say(validator, part):
    messages = [entry["message"] for entry in VECTORS if entry.get("direction") == part]
    assert len(messages) > 30
    assert judged(validator, part, messages) == ["ok"] * len(messages)
    with_more = [{**message, "surprise": 1} for message in messages]
    assert "ok" not in judged(validator, part, with_more)


@pytest.mark.parametrize("part", MESSAGES)
def test_right_and_wrong_messages_are_told_apart(validator, part):
    good, bad = MESSAGES[part]
    printed = judged(validator, part, [*good, *bad])
    assert [line == "ok" for line in printed] == [True] * len(good) + [False] * len(bad)


def test_what_is_wrong_is_told_of_the_kind_of_message_that_it_is(validator):
    messages = [{"cmd": "FIT", "node_id": 3}, {"cmd": "FIT", "node_id": "a", "dta": 1}]
    assert judged(validator, "command", messages) == [
        "/node_id must be string",
        "must NOT have additional properties dta",
    ]


def test_the_page_shows_a_check_that_runs(validator):
    page = (ROOT / "docs" / "other-languages.md").read_text()
    (program,) = re.findall(r"^```javascript\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (validator.parent / "check.mjs").write_text(program)
    shutil.copytree(ROOT / "schemas", validator.parent / "schemas")
    ended = subprocess.run(
        ["node", "check.mjs"],
        input='{"cmd": "FIT", "node_id": 3}',
        cwd=validator.parent,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (ended.stdout, ended.stderr) == ("data/node_id must be string\n", "")
    assert ended.stdout in page
