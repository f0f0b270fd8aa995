import json

import pytest

from soma_core.protocol.json_schema import SCHEMAS

from ..support import gate_runs


@pytest.mark.parametrize("part", gate_runs("replies", of=list(SCHEMAS)))
def test_a_schema_is_printed_as_json(soma, part):
    result = soma("schema", part)
    assert result.exit_code == 0
    assert json.loads(result.stdout) == SCHEMAS[part]()


def test_without_a_name_all_are_printed(soma):
    assert list(json.loads(soma("schema").stdout)) == ["commands", "replies", "values"]


def test_a_directory_gets_one_file_for_each(soma, tmp_path):
    assert soma("schema", "--out", tmp_path / "new").exit_code == 0
    files = {path.name: json.loads(path.read_text()) for path in (tmp_path / "new").iterdir()}
    assert files == {
        "command.schema.json": SCHEMAS["commands"](),
        "reply.schema.json": SCHEMAS["replies"](),
        "value.schema.json": SCHEMAS["values"](),
    }


def test_a_directory_that_cannot_be_made_is_one_line(soma, tmp_path):
    (tmp_path / "file").write_text("")
    result = soma("schema", "--out", tmp_path / "file")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: cannot write the schemas: ")


def test_examples_of_messages_are_written(soma, tmp_path):
    assert soma("schema", "--vectors", tmp_path).exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["frame.jsonl", "line.jsonl"]
