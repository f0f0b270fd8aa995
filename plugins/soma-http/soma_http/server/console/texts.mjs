// JSON as a person types it: what is wrong with it, and where each part of it stands.

const NUMBER = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y;
const STRING = /"(?:[^"\\\u0000-\u001f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"/y;
const WORD = /true|false|null/y;
const BLANK = /[ \t\r\n]*/y;

/** A text that is no JSON; `start` and `end` are the place. */
export class BadText extends Error {
  constructor(text, start, end = start + 1) {
    super(text);
    [this.start, this.end] = [start, end];
  }
}

/** Reads JSON as a tree: `start`, `end`, and `items` by key or index, each with its own place. */
export function parseText(text) {
  const reader = { text, at: 0 };
  const found = value(reader);
  blank(reader);
  if (reader.at < text.length) throw new BadText("nothing may follow the command", reader.at, text.length);
  return found;
}

function blank(reader) {
  BLANK.lastIndex = reader.at;
  BLANK.exec(reader.text);
  reader.at = BLANK.lastIndex;
}

function token(reader, pattern) {
  pattern.lastIndex = reader.at;
  const found = pattern.exec(reader.text);
  if (!found) return null;
  const start = reader.at;
  reader.at = pattern.lastIndex;
  return { start, end: reader.at, text: found[0], items: new Map() };
}

function value(reader) {
  blank(reader);
  const letter = reader.text[reader.at];
  if (letter === "{") return filled(reader, "}", member);
  if (letter === "[") return filled(reader, "]", (inner, index) => [index, value(inner)]);
  const found = token(reader, STRING) ?? token(reader, NUMBER) ?? token(reader, WORD);
  if (found) return found;
  throw letter === undefined
    ? new BadText("something is missing at the end", reader.at)
    : new BadText(letter === '"' ? "this text does not end, or holds what must be escaped" : "a value is expected here", reader.at);
}

function filled(reader, close, item) {
  const found = { start: reader.at, end: 0, items: new Map() };
  reader.at += 1;
  blank(reader);
  if (reader.text[reader.at] !== close) {
    for (let index = 0; ; index += 1) {
      const [key, inner] = item(reader, index);
      found.items.set(key, inner);
      blank(reader);
      if (reader.text[reader.at] === close) break;
      if (reader.text[reader.at] !== ",") throw new BadText(`"," or "${close}" is expected here`, reader.at);
      reader.at += 1;
    }
  }
  reader.at += 1;
  found.end = reader.at;
  return found;
}

function member(reader) {
  blank(reader);
  const key = token(reader, STRING);
  if (!key) throw new BadText('a name in quotes is expected here: "cmd"', reader.at);
  blank(reader);
  if (reader.text[reader.at] !== ":") throw new BadText('":" is expected here', reader.at);
  reader.at += 1;
  return [JSON.parse(key.text), value(reader)];
}

/** The place of what a path leads to; of what is missing, the start of what lacks it. */
export function placeOf(tree, path) {
  let found = tree, whole = true;
  for (const key of path) {
    whole = found.items.has(key);
    found = found.items.get(key) ?? found;
  }
  return whole ? found : { start: found.start, end: found.start + 1 };
}

/** Where in a text a person finds a place. */
export function lineAndColumn(text, at) {
  const before = text.slice(0, at).split("\n");
  return `line ${before.length}, column ${before.at(-1).length + 1}`;
}
