// A worker of soma, driven from Node: typed commands over a child process or the socket of a daemon.
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { createConnection } from "node:net";
import type { Readable, Writable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import type { Binary, Command, Data, ErrorCode, ErrorReply, EventMessage, FilterMeta, ReplyTo } from "../../../schemas/soma.js";
import { Reader, writeFrame, type Value } from "./frames.js";

export * from "./frames.js";

/** A command or reply as a frame has it: data are values of JavaScript, and bytes are bytes. */
export type Framed<T> = { [K in keyof T]: Field<T[K]> };
type Field<T> = Data extends T ? Value : Binary extends T ? Uint8Array : { [key: string]: Data } extends T ? { [key: string]: Value } : T;

/** What a call may take beside its command. */
export interface CallOptions {
  /** Ends the call: the worker interrupts the command. */
  signal?: AbortSignal;
  /** Milliseconds after which the call is ended likewise. */
  timeout?: number;
  /** Called with each report of progress, log record and warning before the reply. */
  onEvent?: (event: Framed<EventMessage>) => void;
}

/** A filter by its registered name, with its configuration. */
export type Registered = readonly [name: string, config?: { [key: string]: unknown }];

/** The worker answered that it could not do what it was asked. */
export class RemoteError extends Error {
  readonly code: ErrorCode;

  constructor(readonly reply: ErrorReply) {
    super(reply.error);
    this.name = reply.type ?? "RemoteError";
    this.code = reply.code;
  }
}

/** The worker, or the way to it, is gone: what was asked has no answer. */
export class ChannelClosed extends Error {}

/** How a worker is reached, and what can be done about it from aside. */
interface Link {
  input: Writable;
  output: Readable;
  kill(): Promise<void>;
}

const GRACE = 3_000; // milliseconds that an interrupted command has to end
const AGAIN = 200; // milliseconds between interrupts
const OF_INTERRUPTS = 0; // the id of interrupts, for whose replies nobody waits
const HELLO = { cmd: "HELLO", protocol: 1, interrupts: "wire", client: { name: "soma-typescript", soma: "", python: "", cloudpickle: "" } } as const;
const REQUEST = Buffer.from([0x93, 0x53, 0x4f, 0x4d, 0x52]);

export interface StartOptions {
  /** The program and its arguments: any that serves soma on its stdin and stdout. */
  command?: string[];
  env?: NodeJS.ProcessEnv;
}

export interface ConnectOptions {
  /** Share the worker of this name, which outlives the connection. */
  session?: string;
  pickle?: "same-user" | "never";
}

/** One engine. Calls are executed one after the other, in the order in which they were made. */
export class Worker {
  #link: Link;
  #reader = new Reader();
  #lane: Promise<unknown> = Promise.resolve();
  #waiting: ((message: any) => void) | undefined;
  #lost: ((error: Error) => void) | undefined;
  #closed: Error | undefined;
  #id = 0;
  #running = OF_INTERRUPTS;

  private constructor(link: Link) {
    this.#link = link;
    link.input.on("error", () => {}); // that nobody reads any more shows at the end of the output
    link.output.on("data", (chunk: Uint8Array) => this.#received(chunk));
    link.output.on("error", (error) => this.#end(error));
    link.output.on("close", () => this.#end(new Error("the worker is gone")));
  }

  /** A worker that has been asked to take interrupts as messages. */
  static async #greet(link: Link): Promise<Worker> {
    const worker = new Worker(link);
    try {
      await worker.request(HELLO);
    } catch (error) {
      await link.kill();
      throw error;
    }
    return worker;
  }

  /** Start a worker as a child process. */
  static async start(options: StartOptions = {}): Promise<Worker> {
    const [program, ...rest] = options.command ?? [process.env.PYTHON ?? "python3", "-P", "-m", "soma_transport_stdio", "--pickle=never"];
    const child: ChildProcess = spawn(program!, rest, { stdio: ["pipe", "pipe", "inherit"], env: options.env ?? process.env });
    await once(child, "spawn"); // throws where there is no such program
    return Worker.#greet({ input: child.stdin!, output: child.stdout!, kill: async () => void child.kill("SIGKILL") });
  }

  /** Use a worker of the daemon at a path: one of its own, or that of a session. */
  static async connect(path: string, options: ConnectOptions = {}): Promise<Worker> {
    const { session, pickle = "never" } = options;
    const [socket, { worker, client }] = await ask(path, { op: "connect", session, pickle });
    const kill = async () => {
      if (session !== undefined) return void socket.destroy(); // others use it too
      const [aside] = await ask(path, { op: "kill", worker, client });
      aside.destroy();
    };
    return Worker.#greet({ input: socket, output: socket, kill });
  }

  /** Send a command and wait for its reply, whose type belongs to the command. */
  request<C extends Framed<Command>>(command: C, options: CallOptions = {}): Promise<Framed<ReplyTo<C>>> {
    const call = this.#lane.then(() => this.#call(command, options));
    this.#lane = call.catch(() => {});
    return call;
  }

  /** Load registered filters by id, all or none. */
  async load(filters: { [id: string]: Registered }, options?: CallOptions): Promise<{ [id: string]: FilterMeta }> {
    const specs = Object.entries(filters).map(([id, [filter, config = {}]]) => ({ id, filter, config }));
    return (await this.request({ cmd: "LOAD", filters: specs }, options)).filters;
  }

  /** Fit a node; what it learned stays in the worker. */
  async fit(node_id: string, data: Value, y?: Value, options?: CallOptions): Promise<void> {
    const targets = y === undefined ? {} : { y };
    await this.request({ cmd: "FIT", node_id, data, return_state: false, ...targets }, options);
  }

  /** Run a node. */
  async forward(node_id: string, data: Value, options?: CallOptions): Promise<Value> {
    return (await this.request({ cmd: "FORWARD", node_id, data }, options)).result ?? null;
  }

  /** Interrupt the command that runs; its call ends with the code `interrupted`. */
  interrupt(): void {
    if (this.#running !== OF_INTERRUPTS) this.#write({ cmd: "INTERRUPT", command: this.#running, id: OF_INTERRUPTS });
  }

  /** End the stream: a worker of one's own finishes what was sent, and exits. */
  async close(): Promise<void> {
    await this.#lane;
    if (this.#closed) return;
    const gone = once(this.#link.output, "close");
    this.#link.input.end();
    if ((await Promise.race([gone, sleep(GRACE, "late", { ref: false })])) === "late") await this.#link.kill();
  }

  async #call(command: any, { signal, timeout, onEvent }: CallOptions): Promise<any> {
    signal?.throwIfAborted();
    if (this.#closed) throw new ChannelClosed(`${command.cmd} was not sent: ${this.#closed.message}`);
    const id = ++this.#id;
    let gaveUp: Error | undefined;
    let last: NodeJS.Timeout | undefined;
    let again: NodeJS.Timeout | undefined;
    const giveUp = (reason: Error) => {
      if (gaveUp) return;
      gaveUp = reason;
      this.interrupt();
      again = setInterval(() => this.interrupt(), AGAIN);
      last = setTimeout(() => void this.#link.kill().catch(() => {}), GRACE);
    };
    const aborted = () => giveUp(signal!.reason);
    const limit = timeout === undefined ? undefined : setTimeout(() => giveUp(new Error(`${command.cmd} took longer than ${timeout} ms`)), timeout);
    signal?.addEventListener("abort", aborted, { once: true });
    this.#running = id;
    try {
      const reply = await this.#exchange({ ...command, id, ...(onEvent && { events: true }) }, onEvent);
      if (gaveUp) throw gaveUp;
      if (!reply.ok) throw new RemoteError(reply);
      if (reply.id !== id) throw new ChannelClosed(`the reply to ${command.cmd} is that to another command`);
      return reply;
    } finally {
      this.#running = OF_INTERRUPTS;
      clearTimeout(limit);
      clearTimeout(last);
      clearInterval(again);
      signal?.removeEventListener("abort", aborted);
    }
  }

  #exchange(command: { cmd: string }, onEvent?: (event: any) => void): Promise<any> {
    return new Promise((resolve, reject) => {
      this.#lost = (error) => reject(new ChannelClosed(`${command.cmd} was not answered: ${error.message}`));
      this.#waiting = (message) => {
        if ("event" in message) onEvent?.(message);
        else if (message.id !== OF_INTERRUPTS) resolve(message);
      };
      this.#write(command);
    });
  }

  #write(command: object): void {
    const { input } = this.#link;
    input.cork();
    for (const piece of writeFrame(command)) input.write(piece);
    input.uncork();
  }

  #received(chunk: Uint8Array): void {
    try {
      this.#reader.feed(chunk);
      for (let message = this.#reader.next(); message !== undefined; message = this.#reader.next()) this.#waiting?.(message);
    } catch (error) {
      this.#link.output.destroy(error as Error);
    }
  }

  #end(error: Error): void {
    this.#closed ??= error;
    this.#lost?.(this.#closed);
  }
}

/** Ask the daemon at a path: a line to it, a line back, and the connection. */
async function ask(path: string, request: object): Promise<[ReturnType<typeof createConnection>, any]> {
  const socket = createConnection(path);
  await once(socket, "connect");
  socket.write(Buffer.concat([REQUEST, Buffer.from(JSON.stringify(request) + "\n")]));
  const reader = new Reader();
  for (;;) {
    const chunk: Uint8Array | null = socket.read();
    if (chunk) reader.feed(chunk);
    const answer = reader.next();
    if (answer?.ok || answer?.ended) return [socket, answer];
    if (answer) throw new ChannelClosed(`the daemon refused: ${answer.error}`);
    if (socket.readableEnded || socket.destroyed) throw new ChannelClosed("the daemon closed the connection");
    await Promise.race([once(socket, "readable"), once(socket, "close")]);
  }
}
