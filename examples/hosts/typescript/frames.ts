// Frames of soma, layout 2: values to bytes and back. No input or output happens here.
import { decode, encode, ExtensionCodec } from "@msgpack/msgpack";
import { crc32 } from "node:zlib";

/** What a message may hold: JSON, and what only a frame can say. */
export type Value =
  | null
  | boolean
  | number
  | bigint
  | string
  | Uint8Array
  | NDArray
  | Complex
  | Opaque
  | Map<Value, Value>
  | Value[]
  | { [key: string]: Value };

export type Elements =
  | Float64Array | Float32Array
  | Int8Array | Int16Array | Int32Array | BigInt64Array
  | Uint8Array | Uint16Array | Uint32Array | BigUint64Array;

const ELEMENTS = {
  float64: Float64Array, float32: Float32Array,
  int8: Int8Array, int16: Int16Array, int32: Int32Array, int64: BigInt64Array,
  uint8: Uint8Array, uint16: Uint16Array, uint32: Uint32Array, uint64: BigUint64Array,
  bool: Uint8Array,
};
const NAMES = new Map<unknown, string>(
  Object.entries(ELEMENTS).filter(([name]) => name !== "bool").map(([name, type]) => [type, name]),
);

/**
 * An array, or with `torch` a tensor: its elements in C order.
 *
 * Of a type that JavaScript lacks (`float16`, `<U5`), `data` are the bytes.
 */
export class NDArray {
  readonly dtype: string | unknown[];

  constructor(
    readonly data: Elements,
    readonly shape: readonly number[] = [data.length],
    dtype?: string | unknown[],
    readonly torch = false,
  ) {
    this.dtype = dtype ?? NAMES.get(data.constructor) ?? "uint8";
  }
}

export class Complex {
  constructor(readonly re: number, readonly im: number) {}
}

/** What JavaScript has no use for but to send it back: a pickle, a codec's or a library's object. */
export class Opaque {
  constructor(readonly type: number, readonly content: Uint8Array, readonly buffers: Uint8Array[]) {}
}

/** A message that is not a frame, or not one of this layout. */
export class Malformed extends Error {}

const enum Ext {
  ARRAY = 1, TENSOR, TUPLE, TUPLES, SCALAR, SCALARS, INT, COMPLEX, MAP, TEXT, BYTES, STDLIB, CODEC, PICKLE,
  RAGGED, RECORDS, STDLIBS, PICKLES,
}
const MAGIC = Uint8Array.of(0x93, 0x53, 0x4f, 0x4d, 0x41, 2, 0, 0);
const PREAMBLE = 28;
const ENTRY = 24;
const NO_BYTES = new Uint8Array(0);

/** The buffers of one message, as they are put aside or taken. */
type Buffers = { all: Uint8Array[] };

const codec = new ExtensionCodec<Buffers>();
const options = (all: Uint8Array[]) => ({ extensionCodec: codec, context: { all }, ignoreUndefined: true });
const inner = (content: unknown, { all }: Buffers) => encode(content, options(all));
const outer = (data: Uint8Array, { all }: Buffers) => decode(data, options(all)) as any;
const rows = (columns: unknown[][]) => (columns[0] ?? []).map((_, row) => columns.map((column) => column[row]));

function bytesOf(data: ArrayBufferView): Uint8Array {
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}

function putAside(data: Uint8Array, { all }: Buffers): number {
  return all.push(data) - 1;
}

function take(index: number, { all }: Buffers): Uint8Array {
  const found = all[index];
  if (found === undefined) throw new Malformed(`there is no buffer ${index}`);
  return found;
}

function arrayOf(data: Uint8Array, buffers: Buffers, torch: boolean): NDArray {
  const [index, dtype, shape, more] = outer(data, buffers);
  const order: number[] | undefined = torch ? more?.order : more;
  const elements = elementsOf(take(index, buffers), dtype);
  return new NDArray(order ? inCOrder(elements, shape, order) : elements, shape, dtype, torch);
}

function elementsOf(bytes: Uint8Array, dtype: unknown): Elements {
  const Type = ELEMENTS[dtype as keyof typeof ELEMENTS] ?? Uint8Array;
  const aligned = bytes.byteOffset % Type.BYTES_PER_ELEMENT ? new Uint8Array(bytes) : bytes;
  const length = aligned.byteLength / Type.BYTES_PER_ELEMENT;
  return new Type(aligned.buffer as ArrayBuffer, aligned.byteOffset, length);
}

/** Elements that lie in the order of other axes, put into C order. */
function inCOrder(elements: Elements, shape: number[], order: number[]): Elements {
  const width = elements.length / shape.reduce((product, length) => product * length, 1);
  const strides: number[] = [];
  order.reduceRight((stride, axis) => ((strides[axis] = stride), stride * shape[axis]!), width);
  const moved = elements.slice();
  const index = shape.map(() => 0);
  for (let to = 0; to < moved.length; to += width) {
    const from = index.reduce((sum, at, axis) => sum + at * strides[axis]!, 0);
    for (let part = 0; part < width; part++) moved[to + part] = elements[from + part]!;
    for (let axis = shape.length - 1; axis >= 0 && ++index[axis]! === shape[axis]; axis--) index[axis] = 0;
  }
  return moved;
}

function scalars(data: Uint8Array, buffers: Buffers): unknown[] {
  const [dtype, content] = outer(data, buffers);
  const elements = elementsOf(content, dtype);
  return dtype === "bool" ? Array.from(elements, Boolean) : [...elements];
}

function integer(data: Uint8Array): bigint {
  const hex = Buffer.from(data).toString("hex");
  return BigInt.asIntN(8 * data.length, BigInt(`0x${hex || "0"}`));
}

function fromInteger(number: bigint): Uint8Array {
  let size = 1;
  while (BigInt.asIntN(8 * size, number) !== number) size++;
  const hex = BigInt.asUintN(8 * size, number).toString(16).padStart(2 * size, "0");
  return Buffer.from(hex, "hex");
}

function complex(data: Uint8Array): Complex {
  const view = new DataView(data.buffer, data.byteOffset);
  return new Complex(view.getFloat64(0), view.getFloat64(8));
}

function fromComplex({ re, im }: Complex): Uint8Array {
  const bytes = Buffer.alloc(16);
  bytes.writeDoubleBE(re, 0);
  bytes.writeDoubleBE(im, 8);
  return bytes;
}

/** Objects that are sent back as they came: their own buffers are found by their place. */
function opaque(type: number, data: Uint8Array, buffers: Buffers): Opaque {
  const content = type === Ext.STDLIB ? [] : outer(data, buffers);
  const named: number[] = (type === Ext.CODEC ? content[3] : content.slice(-2).flat()) ?? [];
  return new Opaque(type, new Uint8Array(data), named.map((index) => take(index, buffers)));
}

function fromOpaque(obj: Opaque, buffers: Buffers): Uint8Array {
  if (obj.type === Ext.STDLIB) return obj.content;
  const indexes = obj.buffers.map((buffer) => putAside(buffer, buffers));
  if (obj.type === Ext.PICKLE) return inner([indexes[0], indexes.slice(1)], buffers);
  const [name, distribution, data] = outer(obj.content, buffers);
  if (obj.type === Ext.PICKLES) return inner([name, indexes[0], indexes.slice(1)], buffers);
  return inner([name, distribution, data, indexes], buffers);
}

type Write<T> = (obj: T, buffers: Buffers) => Uint8Array;
type Read = (data: Uint8Array, buffers: Buffers) => unknown;
const never = () => null;

function register<T>(type: Ext, is: (obj: unknown) => obj is T, write: Write<T>, read: Read): void {
  codec.register({ type, encode: (obj, buffers) => (is(obj) ? write(obj, buffers) : null), decode: (data, _, buffers) => read(data, buffers) });
}

function array(torch: boolean): [(obj: unknown) => obj is NDArray, Write<NDArray>, Read] {
  return [
    (obj): obj is NDArray => obj instanceof NDArray && obj.torch === torch,
    (obj, buffers) => inner([putAside(bytesOf(obj.data), buffers), obj.dtype, obj.shape], buffers),
    (data, buffers) => arrayOf(data, buffers, torch),
  ];
}

register(Ext.ARRAY, ...array(false));
register(Ext.TENSOR, ...array(true));
register(Ext.INT, (obj): obj is bigint => typeof obj === "bigint", fromInteger, integer);
register(Ext.COMPLEX, (obj): obj is Complex => obj instanceof Complex, fromComplex, complex);
register(
  Ext.MAP,
  (obj): obj is Map<unknown, unknown> => obj instanceof Map,
  (obj, buffers) => inner([[...obj.keys()], [...obj.values()]], buffers),
  (data, buffers) => new Map(rows(outer(data, buffers)) as [unknown, unknown][]),
);

/** A list of tuples of several lengths, whose items came one after the other. */
function ragged([lengths, items]: [number[], unknown[]]): unknown[][] {
  let at = 0;
  return lengths.map((length) => items.slice(at, (at += length)));
}

function records([keys, ...columns]: [string[], ...unknown[][]]): object[] {
  return rows(columns).map((row) => Object.fromEntries(row.map((value, index) => [keys[index], value])));
}

/** Objects of one type of Python's library, each as it would have come alone. */
function stdlibs([name, contents]: [string, unknown[]], buffers: Buffers): Opaque[] {
  return contents.map((content) => opaque(Ext.STDLIB, inner([name, content], buffers), buffers));
}

const readers: [Ext, Read][] = [
  [Ext.TUPLE, outer],
  [Ext.TUPLES, (data, buffers) => rows(outer(data, buffers))],
  [Ext.RAGGED, (data, buffers) => ragged(outer(data, buffers))],
  [Ext.RECORDS, (data, buffers) => records(outer(data, buffers))],
  [Ext.STDLIBS, (data, buffers) => stdlibs(outer(data, buffers), buffers)],
  [Ext.SCALAR, (data, buffers) => scalars(data, buffers)[0]],
  [Ext.SCALARS, scalars],
  [Ext.TEXT, (data) => Buffer.from(data).toString("utf8")],
  [Ext.BYTES, (data, buffers) => take(outer(data, buffers)[0], buffers)],
];
for (const [type, read] of readers) codec.register({ type, encode: never, decode: (data, _, buffers) => read(data, buffers) });
for (const type of [Ext.STDLIB, Ext.CODEC, Ext.PICKLE, Ext.PICKLES]) {
  const is = (obj: unknown): obj is Opaque => obj instanceof Opaque && obj.type === type;
  register(type, is, fromOpaque, (data, buffers) => opaque(type, data, buffers));
}

/** A frame in pieces: write them one after the other. */
export function writeFrame(fields: object): Uint8Array[] {
  const buffers: Uint8Array[] = [];
  const map = encode(fields, options(buffers));
  const table = Buffer.alloc(ENTRY * buffers.length);
  buffers.forEach((buffer, index) => table.writeBigUInt64LE(BigInt(buffer.byteLength), ENTRY * index + 16));
  const size = buffers.reduce((sum, buffer) => sum + buffer.byteLength, map.byteLength + table.byteLength);
  const preamble = Buffer.alloc(PREAMBLE);
  preamble.set(MAGIC);
  preamble.writeUInt32LE(map.byteLength, 8);
  preamble.writeUInt32LE(buffers.length, 12);
  preamble.writeBigUInt64LE(BigInt(size), 16);
  preamble.writeUInt32LE(crc32(preamble.subarray(0, 24)), 24);
  return [preamble, map, table, ...buffers];
}

/** The fields of a message whose map and buffers are known, as in a golden vector. */
export function readMap(map: Uint8Array, buffers: Uint8Array[]): any {
  return decode(map, options(buffers));
}

/** A frame that is on its way: its bytes so far, aligned where its first buffer starts. */
interface Arriving {
  bytes: Uint8Array;
  have: number;
  mapSize: number;
  count: number;
}

/** Finds the messages in a stream of bytes: frames, and lines of JSON. */
export class Reader {
  #pending: Uint8Array = NO_BYTES;
  #arriving: Arriving | undefined;

  feed(chunk: Uint8Array): void {
    const rest = this.#fill(chunk);
    if (rest.byteLength) this.#pending = this.#pending.byteLength ? Buffer.concat([this.#pending, rest]) : rest;
  }

  /** The next message, or undefined if more bytes are needed. */
  next(): any {
    if (!this.#arriving && !this.#pending.byteLength) return undefined;
    return this.#arriving || this.#pending[0] === MAGIC[0] ? this.#frame() : this.#line();
  }

  #line(): any {
    const end = this.#pending.indexOf(10);
    if (end < 0) return undefined;
    const line = Buffer.from(this.#pending.subarray(0, end)).toString("utf8");
    this.#pending = this.#pending.subarray(end + 1);
    return JSON.parse(line);
  }

  #frame(): any {
    this.#arriving ??= this.#begin();
    if (!this.#arriving || this.#arriving.have < this.#arriving.bytes.byteLength) return undefined;
    const { bytes, mapSize, count } = this.#arriving;
    this.#arriving = undefined;
    const table = new DataView(bytes.buffer, bytes.byteOffset + PREAMBLE + mapSize);
    const buffers: Uint8Array[] = [];
    let at = PREAMBLE + mapSize + ENTRY * count;
    for (let index = 0; index < count; index++) {
      if (table.getUint32(ENTRY * index, true) !== 0) continue; // an offer of shared memory
      const size = Number(table.getBigUint64(ENTRY * index + 16, true));
      buffers.push(size ? bytes.subarray(at, (at += size)) : NO_BYTES);
    }
    return readMap(bytes.subarray(PREAMBLE, PREAMBLE + mapSize), buffers);
  }

  /** Read a preamble, and make room for its frame; undefined if not all of it is here. */
  #begin(): Arriving | undefined {
    if (this.#pending.byteLength < PREAMBLE) return undefined;
    const start = Buffer.from(this.#pending.buffer, this.#pending.byteOffset, PREAMBLE);
    if (!MAGIC.every((byte, index) => byte === start[index]) || crc32(start.subarray(0, 24)) !== start.readUInt32LE(24))
      throw new Malformed("what came is no frame of layout 2");
    const mapSize = start.readUInt32LE(8);
    const count = start.readUInt32LE(12);
    const size = PREAMBLE + Number(start.readBigUInt64LE(16));
    // So that the first buffer is aligned, and arrays are laid over it without a copy.
    const unused = -(PREAMBLE + mapSize + ENTRY * count) & 63;
    const bytes = new Uint8Array(Buffer.allocUnsafeSlow(unused + size).buffer, unused);
    this.#arriving = { bytes, have: 0, mapSize, count };
    this.#pending = this.#fill(this.#pending);
    return this.#arriving;
  }

  /** Put what belongs to the frame that is on its way where it belongs; returns the rest. */
  #fill(chunk: Uint8Array): Uint8Array {
    const frame = this.#arriving;
    if (!frame) return chunk;
    const part = chunk.subarray(0, frame.bytes.byteLength - frame.have);
    frame.bytes.set(part, frame.have);
    frame.have += part.byteLength;
    return chunk.subarray(part.byteLength);
  }
}
