// Checks messages, one JSON object on each line of stdin, against one of soma's JSON Schemas:
//
//     npm ci
//     node validate.mjs ../../schemas/command.schema.json < messages.jsonl
//
// Prints a line for each: `ok`, or where it is wrong and what was expected. Exits with 1 if any is.

import { readFileSync } from "node:fs";
import Ajv from "ajv/dist/2020.js";

const schema = JSON.parse(readFileSync(process.argv[2], "utf8"));
const ajv = new Ajv({ allErrors: true, strictTypes: false, keywords: ["x-soma-reply"] });
const validate = ajv.addSchema(schema).getSchema(schema.$id);

for (const line of readFileSync(0, "utf8").split("\n").filter((text) => text.trim())) {
  const message = JSON.parse(line);
  const wrong = validate(message) ? [] : complaints(message);
  console.log(wrong.length ? wrong.join("; ") : "ok");
  if (wrong.length) process.exitCode = 1;
}

// What fails a union fails each of its branches: only those of the message's own kind say why.
function complaints(message) {
  const kinds = schema.oneOf.map(({ $ref }) => $ref.replace("#/$defs/", ""));
  const kind = kinds.find((name) => isOf(message, schema.$defs[name]));
  if (!kind) return [`is none of ${kinds.join(", ")}`];
  const check = ajv.getSchema(`${schema.$id}#/$defs/${kind}`);
  check(message);
  return check.errors.map(({ instancePath, message, params }) =>
    [instancePath, message, params.additionalProperty].filter(Boolean).join(" "),
  );
}

function isOf(message, { properties = {} }) {
  return ["cmd", "type", "event"].some((tag) => {
    const constant = properties[tag]?.const;
    return constant !== undefined && message?.[tag] === constant;
  });
}
