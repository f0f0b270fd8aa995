// What the compiler knows of commands and replies: it is compiled, and never run.
import type { Command, Data, ReplyTo } from "../../../schemas/soma.js";
import type { Value, Worker } from "./worker.js";

declare function ask<C extends Command>(command: C): Promise<ReplyTo<C>>;
declare const worker: Worker;
declare function is<T>(value: T): void;

export async function checked(): Promise<void> {
  const pca = { id: "a", filter: "sklearn.PCA", config: { n_components: 2 } };
  is<string | undefined>((await ask({ cmd: "LOAD", filters: [pca, { id: "b", pickle_b64: "AA==" }] })).filters["a"]?.name);
  const tensor: Data = { type: "Tensor", data: { values: [1, null], shape: [2] } };
  is<Data | undefined>((await ask({ cmd: "FORWARD", node_id: "a", data: [tensor, { $soma: "float", value: "nan" }] })).result);
  is<number>((await ask({ cmd: "PING", id: 3 })).pid);
  is<string>((await ask({ cmd: "SET_STATE", node_id: "a", fit_state: { mean: 1 } })).ok ? "yes" : "no");
  is<Value | undefined>((await worker.request({ cmd: "FORWARD", node_id: "a", data: Float64Array.of(1).length })).result);
  is<Uint8Array>((await worker.request({ cmd: "GET_STATE", node_id: "a" })).state_b64);
  // @ts-expect-error: a filter has one source
  await ask({ cmd: "LOAD", filters: [{ id: "a" }] });
  // @ts-expect-error: it sets nothing
  await ask({ cmd: "SET_STATE", node_id: "a" });
  // @ts-expect-error: there is no such command
  await ask({ cmd: "DANCE" });
  // @ts-expect-error: what it runs on is missing
  await worker.request({ cmd: "FORWARD", data: 1 });
  // @ts-expect-error: pid is of the reply to PING
  (await ask({ cmd: "LIST" })).pid;
}
