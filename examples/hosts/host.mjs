#!/usr/bin/env node
// A host of soma in Node, without any package.
//
//   node host.mjs                  starts a worker:            python3 -m soma_transport_stdio
//   node host.mjs /path/to/socket  uses a worker of a daemon:  soma serve socket --path ...
//
// PYTHON names the interpreter that has soma-core and soma-filters-sklearn installed.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { connect } from "node:net";
import { createInterface } from "node:readline";

/** What the worker answers when it cannot do what it was asked. */
class Refused extends Error {
  constructor({ code, error }) {
    super(error);
    this.code = code;
  }
}

/** One line out, one line in, for each command. */
class Worker {
  #input;
  #lines;
  #id = 0;

  constructor(input, output) {
    this.#input = input;
    input.on("error", () => {}); // that nobody reads any more shows at the end of the output
    this.#lines = createInterface({ input: output })[Symbol.asyncIterator]();
  }

  static async start() {
    const command = ["-P", "-m", "soma_transport_stdio"];
    const options = { stdio: ["pipe", "pipe", "inherit"] };
    const child = spawn(process.env.PYTHON ?? "python3", command, options);
    await once(child, "spawn"); // throws where there is no such program
    return new Worker(child.stdin, child.stdout);
  }

  static async reach(path) {
    const socket = connect(path);
    await once(socket, "connect");
    return new Worker(socket, socket);
  }

  async ask(cmd, fields = {}) {
    const id = ++this.#id;
    this.#input.write(JSON.stringify({ cmd, id, ...fields }) + "\n");
    const { value, done } = await this.#lines.next();
    if (done) throw new Error(`the worker is gone, and ${cmd} was not answered`);
    const reply = JSON.parse(value);
    if (!reply.ok) throw new Refused(reply);
    if (reply.id !== id) throw new Error(`the reply to ${cmd} is that to another command`);
    return reply;
  }
}

const path = process.argv[2];
const worker = await (path ? Worker.reach(path) : Worker.start());
const rows = { type: "Tensor", data: { values: [1, 2, 3, 4], shape: [2, 2] } };

await worker.ask("LOAD", {
  filters: [{ id: "scaler", filter: "sklearn.StandardScaler", config: {} }],
});
await worker.ask("FIT", { node_id: "scaler", data: rows, return_state: false });
const { result } = await worker.ask("FORWARD", { node_id: "scaler", data: rows });
console.log("result", JSON.stringify(result.data.values), "of shape", JSON.stringify(result.data.shape));

try {
  await worker.ask("FORWARD", { node_id: "nobody", data: 1 });
} catch (error) {
  if (!(error instanceof Refused)) throw error;
  console.log(`refused with ${error.code}: ${error.message}`);
}
await worker.ask("SHUTDOWN");
