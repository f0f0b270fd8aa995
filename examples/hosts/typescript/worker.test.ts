// What a worker makes of what is sent, over the socket that SOMA_SOCKET names or a child process.
//
// The worker has the filters host.Echo, which returns its input, and host.Actions, which does what
// its input names (soma_core.testing). Run by `pytest tests/examples`.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, before, test } from "node:test";
import { Complex, NDArray, Reader, RemoteError, Worker, readMap, writeFrame, type Value } from "./worker.js";

const path = process.env.SOMA_SOCKET;
const reach = (session?: string) => (path ? Worker.connect(path, session ? { session } : {}) : Worker.start());
let worker: Worker;

before(async () => {
  worker = await reach();
  await worker.load({ echo: ["host.Echo"], actions: ["host.Actions"] });
});
after(() => worker.close());

const values: Value[] = [
  null, true, 1.5, -7, NaN, -Infinity, 2 ** 40, "tëxt 🦀",
  -(2n ** 90n), 2n ** 64n, Uint8Array.of(0, 255), new Complex(1, -2),
  [1, ["a", []]], { rows: [{ a: null }], more: {} },
  new Map<Value, Value>([[1, "one"], [2, null]]),
  new NDArray(new Float64Array(1 << 17).fill(0.5), [1 << 10, 1 << 7]),
  new NDArray(Float32Array.of(1, NaN), [2, 1]),
  new NDArray(BigInt64Array.of(1n, -2n)),
  new NDArray(Uint8Array.of(1, 0), [2], "bool"),
  new NDArray(new Float64Array(0), [0, 3]),
  new NDArray(Uint8Array.of(97, 0, 0, 0), [1], "<U1"),
];

for (const [index, value] of values.entries()) {
  test(`value ${index} comes back as what was sent`, async () => {
    assert.deepEqual(await worker.forward("echo", value), value);
  });
}

test("an error reply has its code", async () => {
  const failed = worker.forward("nobody", 1);
  await assert.rejects(failed, (error) => error instanceof RemoteError && error.code === "unknown_node");
});

test("a call that takes too long is interrupted, and the worker goes on", async () => {
  await assert.rejects(worker.forward("actions", ["sleep", 60.5], { timeout: 300 }), /longer than 300 ms/);
  assert.equal(await worker.forward("echo", 1), 1);
});

test("a call that is aborted is interrupted; one that waits is not sent", async () => {
  const abort = new AbortController();
  const running = worker.forward("actions", ["sleep", 60.5], { signal: abort.signal });
  const waiting = worker.forward("echo", 1, { signal: abort.signal });
  setTimeout(() => abort.abort(new Error("enough")), 200);
  await assert.rejects(running, /enough/);
  await assert.rejects(waiting, /enough/);
});

test("events come before the reply", async () => {
  const epochs: Value[] = [];
  const onEvent = ({ data }: { data: Value }) => epochs.push((data as { epoch: number }).epoch);
  await worker.request({ cmd: "BATCHED_FIT", node_ids: ["echo"], data: [1, 2], epochs: 2 }, { onEvent });
  assert.equal(epochs.at(-1), 2);
});

test("a worker that ends during a call closes the channel", async () => {
  const other = await reach();
  await other.load({ actions: ["host.Actions"] });
  await assert.rejects(other.forward("actions", ["die", 9]), /FORWARD was not answered/);
  await assert.rejects(other.forward("actions", ["sleep", 0]), /FORWARD was not sent/);
});

test("the clients of a session share what is loaded", { skip: !path }, async () => {
  const [first, second] = [await reach("node"), await reach("node")];
  await first.load({ shared: ["host.Echo"] });
  const { nodes } = await second.request({ cmd: "LIST" });
  assert.equal(nodes["shared"]?.name, "Echo");
  await second.request({ cmd: "SHUTDOWN" });
  await first.close();
});

const bytes = (base64: string) => new Uint8Array(Buffer.from(base64, "base64"));

test("every golden frame is read, and written so that it is read again", () => {
  const lines = readFileSync(process.env.SOMA_VECTORS!, "utf8").trim().split("\n");
  const entries = lines.map((line) => JSON.parse(line)).filter((entry) => entry.map_b64);
  assert(entries.length > 40);
  for (const { map_b64, buffers, message } of entries) {
    const fields = readMap(bytes(map_b64), buffers.map(bytes));
    for (const name of ["cmd", "id", "ok", "code", "node_id"]) if (message) assert.deepEqual(fields[name], message[name]);
    const reader = new Reader();
    for (const piece of writeFrame(fields)) for (let at = 0; at < piece.length; at += 7) reader.feed(piece.subarray(at, at + 7));
    assert.deepEqual(reader.next(), fields);
  }
});
