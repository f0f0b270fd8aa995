// The settings of a filter, from its JSON Schema: what to ask for, and what an answer means.

/** What a form asks for: one entry for each setting, those that are wanted first. */
export function settingsOf(schema) {
  const required = new Set(schema?.required ?? []);
  const found = Object.entries(schema?.properties ?? {}).map(([name, part]) => {
    const { nullable, ...one } = simple(part, schema.$defs ?? {});
    return {
      name, required: required.has(name), nullable, kind: kindOf(one), choices: one.enum ?? [],
      initial: "default" in part ? part.default : undefined, meaning: part.description ?? one.description ?? "",
      least: one.minimum ?? one.exclusiveMinimum, most: one.maximum ?? one.exclusiveMaximum,
    };
  });
  return [...found.filter((one) => one.required), ...found.filter((one) => !one.required)];
}

/** A schema without references, and without the null among its alternatives. */
function simple(part, definitions, depth = 0) {
  if (part.$ref && depth < 8) return simple(definitions[part.$ref.split("/").pop()] ?? {}, definitions, depth + 1);
  if (part.const !== undefined) return { enum: [part.const] };
  const alternatives = part.anyOf ?? part.oneOf ?? (part.allOf?.length === 1 ? part.allOf : null);
  if (!alternatives) return part;
  const others = alternatives.filter((one) => one.type !== "null");
  const nullable = others.length < alternatives.length;
  if (others.length !== 1) return { nullable };
  return { ...simple(others[0], definitions, depth + 1), nullable };
}

function kindOf({ type, enum: choices }) {
  if (choices) return "choice";
  return ["boolean", "integer", "number", "string"].includes(type) ? type : "any";
}

/** How a value is written into its field. */
export function written(setting, value) {
  if (value === undefined || (value === null && setting.kind !== "any")) return "";
  if (setting.kind === "string" || (setting.kind === "any" && typeof value === "string" && !reads(value))) return value;
  return JSON.stringify(value);
}

function reads(text) {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

/** What stands in a field; undefined if nothing does, so that the default holds. */
export function readSetting(setting, text) {
  if (text === "") return undefined;
  if (setting.kind === "string") return text;
  try {
    return JSON.parse(text);
  } catch {
    if (setting.kind === "any") return text;
    throw new Error(`${setting.name}: ${JSON.stringify(text)} is no ${setting.kind}`);
  }
}

/** The settings that differ from what the schema says they are anyway. */
export function configOf(settings, texts) {
  const config = {};
  for (const [index, setting] of settings.entries()) {
    const found = readSetting(setting, texts[index]);
    if (found === undefined || JSON.stringify(found) === JSON.stringify(setting.initial)) continue;
    config[setting.name] = found;
  }
  return config;
}
