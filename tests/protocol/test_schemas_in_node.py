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
NOT_UNDERSTOOD = ("malformed", "invalid_command", "unknown_command")
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


def vectors(dialect: str) -> list[dict[str, Any]]:
    """Those whose header is JSON, which a frame's with an infinity in it is not."""
    text = (ROOT / "schemas" / "vectors" / f"{dialect}.jsonl").read_text()
    return [entry for entry in map(json.loads, text.splitlines()) if "message" in entry]


@pytest.mark.nightly
@pytest.mark.parametrize("dialect", ["line", "frame"])
def test_golden_commands_fit_where_a_worker_understood_them_and_all_replies_do(validator, dialect):
    entries = vectors(dialect)
    commands = [entry for entry in entries if entry["direction"] == "command"]
    replies = [entry for entry in entries if entry["direction"] == "reply"]
    codes = {reply["command"]: reply["message"].get("code") for reply in replies}
    assert len(replies) > 15

    printed = judged(validator, "command", [command["message"] for command in commands])
    understood = [codes[command["n"]] not in NOT_UNDERSTOOD for command in commands]
    assert [line == "ok" for line in printed] == understood

    messages = [reply["message"] for reply in replies]
    assert set(judged(validator, "reply", messages)) == {"ok"}
    assert "ok" not in judged(validator, "reply", [{**message, "more": 1} for message in messages])


@pytest.mark.nightly
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
