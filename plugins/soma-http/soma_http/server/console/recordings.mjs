// A recording without a page: its lines as exchanges, its arrays as tensors, two answers compared.

const READ = {
  float64: ["FP64", Float64Array], float32: ["FP32", Float32Array],
  int64: ["INT64", BigInt64Array], int32: ["INT32", Int32Array], int16: ["INT16", Int16Array],
  int8: ["INT8", Int8Array], uint64: ["UINT64", BigUint64Array], uint32: ["UINT32", Uint32Array],
  uint16: ["UINT16", Uint16Array], uint8: ["UINT8", Uint8Array], bool: ["BOOL", Uint8Array],
};
const ATOM = 400; // lines that are read before the page may draw again

/** Reads a recording piece by piece; `pause` is awaited between the pieces. */
export async function readRecording(text, pause = async () => {}) {
  const exchanges = [], open = new Map();
  let section = null, line = 0, start = 0;
  while (start < text.length) {
    let end = text.indexOf("\n", start);
    if (end < 0) end = text.length;
    const found = parsed(text.slice(start, end), ++line, end === text.length);
    start = end + 1;
    if (line === 1 && found?.soma_recording === undefined) throw new Error("this is no recording of soma");
    if (found === null) continue;
    if (found.soma_recording !== undefined) section = found;
    else if (found.direction === "command") {
      const exchange = begun(found, section);
      open.set(found.n, exchange);
      exchanges.push(exchange);
    } else if (found.direction === "reply") finish(open.get(found.command), found);
    if (line % ATOM === 0) await pause();
  }
  return exchanges;
}

function parsed(text, line, last) {
  if (text.trim() === "") return null;
  try {
    return JSON.parse(text);
  } catch {
    if (last) return null; // cut off when its host was killed
    throw new Error(`line ${line} is no JSON`);
  }
}

function begun(entry, section) {
  const message = entry.message ?? {};
  const nodes = message.node_id ?? message.node_ids ?? message.filters?.map?.((one) => one.id) ?? [];
  return {
    n: entry.n, command: message.cmd ?? "?", node: [nodes].flat().join(" > "), transport: section?.transport,
    time: entry.time, seconds: null, outcome: "no reply", error: null,
    asked: entry, answered: null,
  };
}

function finish(exchange, entry) {
  if (!exchange) return;
  const message = entry.message ?? {};
  exchange.answered = entry;
  exchange.seconds = Math.max(0, entry.time - exchange.time);
  exchange.outcome = message.ok === false ? "failed" : "ok";
  exchange.error = message.ok === false ? `${message.type ?? message.code}: ${message.error}` : null;
}

/** An array in a recorded message as a tensor of a request; null for what is none. */
export function tensorOf(value, buffers) {
  const tensor = value?.type === "Tensor" ? value.data : null;
  const [datatype, Numbers] = READ[tensor?.dtype] ?? [];
  if (!datatype || tensor.container) return null;
  if (tensor.values) return { datatype, shape: tensor.shape, data: tensor.values };
  const coded = tensor.b64 ?? buffers[tensor.buffer];
  if (typeof coded !== "string") return null; // left out of the recording
  const bytes = Uint8Array.from(atob(coded), (letter) => letter.charCodeAt(0));
  const data = Array.from(new Numbers(bytes.buffer), (item) => {
    if (datatype === "BOOL") return item !== 0;
    const number = Number(item);
    return Number.isFinite(number) ? number : null;
  });
  return { datatype, shape: tensor.shape, data };
}

/** The array of a recorded command that a field asks for by its name; else what came back. */
export function arrayOf(exchange, name) {
  const asked = exchange.asked.message ?? {}, answered = exchange.answered?.message ?? {};
  const found = tensorOf(name in asked ? asked[name] : asked.data, exchange.asked.buffers)
    ?? tensorOf(answered.result, exchange.answered?.buffers ?? []);
  if (!found) throw new Error(`entry ${exchange.n} holds no array that a page can show`);
  return found;
}

/** What can be asked of a model again, and what it answered; null if that is no array each. */
export function replayable(exchange) {
  const asked = exchange.asked.message ?? {};
  if (asked.cmd !== "FORWARD" || asked.state !== undefined || exchange.outcome !== "ok") return null;
  const given = tensorOf(asked.data, exchange.asked.buffers);
  const wanted = tensorOf(exchange.answered.message.result, exchange.answered.buffers);
  return given && wanted ? { given, wanted } : null;
}

/** How far an answer is from the recorded one. */
export function compared(wanted, found) {
  if (String(wanted.shape) !== String(found.shape)) {
    return { same: false, text: `shape [${found.shape}] instead of [${wanted.shape}]` };
  }
  let unlike = 0, most = 0;
  for (const [index, item] of wanted.data.entries()) {
    const other = found.data[index];
    if (item === other) continue;
    unlike += 1;
    if (typeof item === "number" && typeof other === "number") most = Math.max(most, Math.abs(item - other));
  }
  if (!unlike) return { same: true, text: "same" };
  return { same: false, text: `${unlike} of ${wanted.data.length} values differ, by ${most.toPrecision(3)} at most` };
}

/** The exchanges in which all words occur. */
export function matching(exchanges, text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  if (!words.length) return exchanges;
  return exchanges.filter((one) => {
    const searched = `${one.n} ${one.command} ${one.node} ${one.outcome} ${one.error ?? ""}`.toLowerCase();
    return words.every((word) => searched.includes(word));
  });
}

/** Where each exchange lies in a strip of so many columns: how many began there, how many failed. */
export function columns(exchanges, count) {
  const found = Array.from({ length: count }, () => ({ all: 0, failed: 0 }));
  if (!exchanges.length) return found;
  const first = exchanges[0].time, span = Math.max(exchanges.at(-1).time - first, 1e-9);
  for (const one of exchanges) {
    const column = found[Math.min(count - 1, Math.max(0, Math.floor(((one.time - first) / span) * count)))];
    column.all += 1;
    if (one.outcome !== "ok") column.failed += 1;
  }
  return found;
}
