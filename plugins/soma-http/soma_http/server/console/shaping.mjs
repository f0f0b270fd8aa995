// Data without a page: files and texts as tensors, samples as rates, numbers as people read them.

export const DATATYPES = [
  "FP64", "FP32", "FP16", "BF16", "INT64", "INT32", "INT16", "INT8",
  "UINT64", "UINT32", "UINT16", "UINT8", "BOOL", "BYTES",
];

const NPY = {
  f8: ["FP64", "getFloat64", 8], f4: ["FP32", "getFloat32", 4],
  i8: ["INT64", "getBigInt64", 8], i4: ["INT32", "getInt32", 4], i2: ["INT16", "getInt16", 2],
  i1: ["INT8", "getInt8", 1], u8: ["UINT64", "getBigUint64", 8], u4: ["UINT32", "getUint32", 4],
  u2: ["UINT16", "getUint16", 2], u1: ["UINT8", "getUint8", 1], b1: ["BOOL", "getUint8", 1],
};

const product = (shape) => shape.reduce((size, length) => size * length, 1);

/** Rows of numbers, one a line; a line of names at the start is left out. */
export function parseCsv(text) {
  const lines = text.split(/\r?\n/).filter((line) => line.trim() !== "");
  let rows = lines.map((line) => line.split(/[,;\t]/).map((cell) => cell.trim()));
  if (rows.length > 1 && rows[0].some((cell) => cell !== "" && Number.isNaN(Number(cell)))) {
    rows = rows.slice(1);
  }
  const width = rows[0]?.length ?? 0;
  const wrong = rows.findIndex((row) => row.length !== width);
  if (wrong >= 0) throw new Error(`row ${wrong + 1} has ${rows[wrong].length} cells, not ${width}`);
  const data = rows.flat().map((cell) => {
    if (cell === "") return null;
    const number = Number(cell);
    if (Number.isNaN(number)) throw new Error(`${JSON.stringify(cell)} is no number`);
    return number;
  });
  return { datatype: "FP64", shape: [rows.length, width], data };
}

/** An array that numpy.save wrote. */
export function parseNpy(buffer) {
  const view = new DataView(buffer);
  const magic = String.fromCharCode(...new Uint8Array(buffer, 0, 6));
  if (magic !== "\x93NUMPY") throw new Error("this is no .npy file");
  const start = view.getUint8(6) === 1 ? 10 : 12;
  const size = view.getUint8(6) === 1 ? view.getUint16(8, true) : view.getUint32(8, true);
  const header = new TextDecoder("latin1").decode(new Uint8Array(buffer, start, size));
  const [, order, kind] = header.match(/'descr': '([<>|=])(\w\d)'/) ?? [];
  if (!(kind in NPY)) throw new Error("its elements are of a type that is not read here");
  if (/'fortran_order': True/.test(header)) throw new Error("it is in Fortran order; save a copy");
  const shape = (header.match(/'shape': \(([^)]*)\)/)?.[1] ?? "").match(/\d+/g)?.map(Number) ?? [];
  const [datatype, get, width] = NPY[kind];
  const data = Array.from({ length: product(shape) }, (_, index) => {
    const item = view[get](start + size + index * width, order !== ">");
    if (datatype === "BOOL") return item !== 0;
    if (typeof item === "bigint") {
      if (!Number.isSafeInteger(Number(item))) throw new Error(`${item} is too large for a page`);
      return Number(item);
    }
    return Number.isFinite(item) ? item : null;
  });
  return { datatype, shape, data };
}

/** The pixels of a picture: a batch of one, with red, green and blue of each. */
export function imageOf({ width, height, data }) {
  const pixels = Array.from({ length: width * height * 3 }, (_, index) => data[Math.floor(index / 3) * 4 + (index % 3)]);
  return { datatype: "UINT8", shape: [1, height, width, 3], data: pixels };
}

/** One input of a request, from what stands in a form. */
export function inputOf({ name, datatype, shape, data }) {
  const lengths = shape.split(",").map((text) => text.trim()).filter((text) => text !== "");
  if (lengths.some((text) => !/^\d+$/.test(text))) throw new Error(`${name}: the shape is whole numbers, such as 1, 4`);
  const text = data.trim();
  let items;
  try {
    items = JSON.parse(text.startsWith("[") ? text : `[${text.replace(/\s*[\n;]\s*/g, ",")}]`);
  } catch {
    if (datatype !== "BYTES") throw new Error(`${name}: the data are numbers with commas between, or JSON`);
    items = text.split("\n");
  }
  const found = items.flat(Infinity).length;
  const shaped = lengths.map(Number);
  if (found !== product(shaped)) throw new Error(`${name}: the shape has ${product(shaped)} elements, and there are ${found}`);
  return { name, datatype, shape: shaped, data: items };
}

const DTYPES = {
  FP64: "float64", FP32: "float32", FP16: "float16", INT64: "int64", INT32: "int32", INT16: "int16",
  INT8: "int8", UINT64: "uint64", UINT32: "uint32", UINT16: "uint16", UINT8: "uint8", BOOL: "bool",
};

/** An input of a request as the value of a command. */
export function valueOf({ name, datatype, shape, data }) {
  const values = data.flat(Infinity);
  if (datatype === "BYTES") return shape.length ? values : values[0];
  if (!(datatype in DTYPES)) throw new Error(`${name}: ${datatype} has no array; choose another datatype`);
  return { type: "Tensor", data: { values, dtype: DTYPES[datatype], shape } };
}

/** What changed between two samples of a model, by the second. */
export function rates(before, now, seconds) {
  const grown = (key) => Math.max(0, now[key] - before[key]);
  const batches = grown("batches");
  return {
    requests: (grown("done") + grown("failed")) / seconds,
    queued: now.queued,
    p99: now.p99 * 1000,
    batch: batches ? grown("batched") / batches : 0,
  };
}

/** The points of a polyline through some numbers, in a box of 100 by 30. */
export function points(numbers, most) {
  const top = Math.max(...numbers, 1e-9);
  const first = most - numbers.length;
  return numbers
    .map((number, index) => `${(((first + index) / (most - 1)) * 100).toFixed(2)},${(29 - (number / top) * 28).toFixed(2)}`)
    .join(" ");
}

/** Bytes, seconds and shares as people read them. */
export function size(bytes) {
  if (bytes === null) return "–";
  const units = ["B", "kB", "MB", "GB", "TB"];
  let number = bytes, unit = 0;
  while (number >= 1000 && unit < units.length - 1) [number, unit] = [number / 1000, unit + 1];
  return `${number < 10 && unit ? number.toFixed(1) : Math.round(number)} ${units[unit]}`;
}

export function duration(seconds) {
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}
