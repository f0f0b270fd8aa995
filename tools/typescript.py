"""Types of TypeScript for all messages, from their JSON Schemas: ``python -m tools.typescript``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from soma_core.protocol.json_schema import REPLY, SCHEMAS

FILE = Path(__file__).resolve().parents[1] / "schemas" / "soma.d.ts"
_INTRODUCTION = """\
// The messages of soma, written from its JSON Schemas by `make schemas`: do not edit.
//
//     import type { Command, ReplyTo } from "./soma";
//     declare function ask<C extends Command>(command: C): Promise<ReplyTo<C>>;
//     const { nodes } = await ask({ cmd: "LIST" }); // nodes: { [key: string]: FilterMeta }
"""
_RENAMED = {
    "Bytes": "BytesValue",
    "Empty": "EmptyValue",
    "Event": "EventMessage",
    "Json": "JsonValue",
    "Object": "ObjectValue",
    "Tensor": "TensorValue",
    "Text": "TextValue",
}
"""Names that would hide one of JavaScript's or of the browser's, and those that go with them."""

_PLAIN = {
    "boolean": "boolean",
    "integer": "number",
    "null": "null",
    "number": "number",
    "string": "string",
}
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*")
JsonSchema = dict[str, Any]


def file() -> str:
    """The whole file."""
    commands, replies = SCHEMAS["commands"](), SCHEMAS["replies"]()
    definitions = commands["$defs"] | replies["$defs"]
    parts = [
        _INTRODUCTION,
        *(_declaration(name, definitions[name]) for name in sorted(definitions)),
        _alias("Command", commands["description"], _union(commands["oneOf"])),
        _alias("Message", replies["description"], _union(replies["oneOf"])),
        _replies(commands),
    ]
    return "\n".join(parts)


def _declaration(name: str, schema: JsonSchema) -> str:
    title, description = _RENAMED.get(name, name), schema.get("description", "")
    if schema.get("type") == "object" and not {"oneOf", "anyOf"} & schema.keys():
        body = _object(schema, "")
        return f"{_comment(description)}export interface {title} {body}\n"
    return _alias(title, description, _type(schema))


def _alias(name: str, description: str, body: str) -> str:
    return f"{_comment(description)}export type {name} = {body};\n"


def _replies(commands: JsonSchema) -> str:
    """The map from each command to its reply."""
    models = [commands["$defs"][_name(one)] for one in commands["oneOf"]]
    rows = [f"  {model['properties']['cmd']['const']}: {model[REPLY]};" for model in models]
    return "\n".join(
        [
            "/** The reply to each command that succeeds. */",
            "export interface Replies {",
            *rows,
            "}\n",
            "/** The reply to a command that succeeds. */",
            'export type ReplyTo<C extends { cmd: keyof Replies }> = Replies[C["cmd"]];\n',
        ]
    )


def _type(schema: JsonSchema, indent: str = "") -> str:
    """The type of what fits a schema, as an expression."""
    if "$ref" in schema:
        name = _name(schema)
        return _RENAMED.get(name, name)
    if "const" in schema:
        return json.dumps(schema["const"])
    if "enum" in schema:
        return _joined(map(json.dumps, schema["enum"]))
    choices = schema.get("oneOf") or schema.get("anyOf")
    if choices:  # each is whole: what stands beside them says it once more
        return _union(choices, indent)
    kind = schema.get("type")
    if isinstance(kind, list):
        return _joined(_PLAIN.get(one, "unknown[]") for one in kind)
    if kind == "array":
        return _array(schema, indent)
    if kind == "object" or "properties" in schema or "required" in schema:
        return _object(schema, indent)
    return _PLAIN.get(str(kind), "unknown")


def _union(choices: Iterable[JsonSchema], indent: str = "") -> str:
    return _joined(_type(choice, indent) for choice in choices)


def _joined(types: Iterable[str]) -> str:
    return " | ".join(dict.fromkeys(types))


def _array(schema: JsonSchema, indent: str) -> str:
    if "prefixItems" in schema:
        return f"[{', '.join(_type(item, indent) for item in schema['prefixItems'])}]"
    inside = _type(schema.get("items", {}), indent)
    return f"({inside})[]" if " " in inside and not inside.startswith("{") else f"{inside}[]"


def _object(schema: JsonSchema, indent: str) -> str:
    properties, required = schema.get("properties", {}), schema.get("required", ())
    if not properties:
        return _dictionary(schema, indent)
    lines = list(_fields(properties, required, indent + "  "))
    return "\n".join(["{", *lines, f"{indent}}}"])


def _dictionary(schema: JsonSchema, indent: str) -> str:
    if schema.get("maxProperties") == 0:
        return "{ [key: string]: never }"
    if schema.get("required"):
        return f"{{ {'; '.join(f'{name}: unknown' for name in schema['required'])} }}"
    inside = schema.get("additionalProperties")
    return (
        f"{{ [key: string]: {_type(inside, indent) if isinstance(inside, dict) else 'unknown'} }}"
    )


def _fields(
    properties: dict[str, JsonSchema], required: Iterable[str], indent: str
) -> Iterator[str]:
    for name, schema in properties.items():
        key = name if _IDENTIFIER.fullmatch(name) else json.dumps(name)
        optional = "" if name in required else "?"
        comment = _comment(schema.get("description", ""), indent)
        yield f"{comment}{indent}{key}{optional}: {_type(schema, indent)};"


def _comment(text: str, indent: str = "") -> str:
    plain = " ".join(text.partition("\n\nArgs:")[0].split()).replace("*/", "* /")
    return f"{indent}/** {plain} */\n" if plain else ""


def _name(schema: JsonSchema) -> str:
    return str(schema["$ref"].rpartition("/")[2])


if __name__ == "__main__":
    FILE.write_text(file(), encoding="utf-8")
