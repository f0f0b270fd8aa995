"""The protocol reference, written from the models: ``python -m tools.reference``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from soma_core.protocol.json_schema import SCHEMAS

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "protocol.md"
_INTRODUCTION = """\
# Commands and replies

Written from the models by `make reference`; the prose is in [the protocol](../protocol.md). Every
command also takes `id`, `events`, `meta`, `profile` and `encoding`; every reply has `ok` and the
`id` of its command. A field without a default is required in a command; in a reply it may be absent
where its command did not ask for it.
"""
_COMMON = {"cmd", "id", "events", "meta", "profile", "encoding", "ok"}


def page() -> str:
    """The whole page."""
    return "\n".join([_INTRODUCTION, *_commands(), *_values(), *_error(), *_parts()]) + "\n"


def _commands() -> Iterator[str]:
    replies = SCHEMAS["replies"]()["$defs"]
    for name, model in SCHEMAS["commands"]()["$defs"].items():
        word = model.get("properties", {}).get("cmd", {}).get("const")
        if word is None:
            continue
        yield f"## {word}\n\n{_prose(model)}\n"
        yield from _table(model, _COMMON)
        reply = replies[f"{name.removesuffix('Nodes')}Reply"]
        yield f"Reply: {_prose(reply)}\n"
        yield from _table(reply, _COMMON)


def _error() -> Iterator[str]:
    definitions = SCHEMAS["replies"]()["$defs"]
    yield f"## Error reply\n\n{_prose(definitions['ErrorReply'])}\n"
    yield from _table(definitions["ErrorReply"], {"id"})
    codes = ", ".join(f"`{code}`" for code in definitions["ErrorCode"]["enum"])
    yield f"Codes: {codes}.\n"


def _values() -> Iterator[str]:
    yield "## Values\n"
    definitions = SCHEMAS["values"]()["$defs"]
    for name in ("Tensor", "Text", "Json", "Bytes", "Object", "Empty"):
        yield from _part(name, definitions[name])


def _parts() -> Iterator[str]:
    """What commands and replies are made of, and is an object of its own."""
    yield "## Parts\n"
    commands, replies = SCHEMAS["commands"]()["$defs"], SCHEMAS["replies"]()["$defs"]
    for name in ("ClientInfo", "FilterSpec"):
        yield from _part(name, commands[name])
    for name in ("Versions", "Limits", "FilterMeta", "Event"):
        yield from _part(name, replies[name])


def _part(name: str, model: dict[str, Any]) -> Iterator[str]:
    yield f"### {name}\n\n{_prose(model)}\n"
    yield from _table(model, set())


def _prose(model: dict[str, Any]) -> str:
    text: str = model.get("description", "")
    return text.partition("\n\nAttributes:")[0].strip().replace("``", "`")


def _table(model: dict[str, Any], left_out: set[str]) -> Iterator[str]:
    fields = {
        name: field for name, field in model.get("properties", {}).items() if name not in left_out
    }
    if not fields:
        return
    required = model.get("required", [])
    yield "| field | type | default | meaning |\n|---|---|---|---|"
    for name, field in fields.items():
        default = "" if name in required else _default(field)
        meaning = " ".join(field.get("description", "").split()).replace("|", "\\|")
        yield f"| `{name}` | {_type(field)} | {default} | {meaning} |"
    yield ""


def _default(field: dict[str, Any]) -> str:
    return f"`{json.dumps(field['default'])}`" if "default" in field else "absent"


def _type(field: dict[str, Any]) -> str:
    """A type in words: ``list of string, or null``."""
    if "$ref" in field:
        return str(field["$ref"].rpartition("/")[2])
    if "const" in field:
        return f"`{json.dumps(field['const'])}`"
    if "enum" in field:
        return " or ".join(f"`{json.dumps(value)}`" for value in field["enum"])
    for choice in ("anyOf", "oneOf", "allOf"):
        if choice in field:
            return " or ".join(dict.fromkeys(_type(option) for option in field[choice]))
    kind = field.get("type", "any JSON")
    if kind == "array":
        return f"list of {_type(field.get('items', {}))}"
    if kind == "object":
        inside = field.get("additionalProperties")
        return f"object of {_type(inside)}" if isinstance(inside, dict) else "object"
    words = " or ".join(kind) if isinstance(kind, list) else str(kind)
    least = field.get("minimum")
    return words if least is None else f"{words} from {least} on"


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")
