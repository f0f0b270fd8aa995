// The messages of soma, written from its JSON Schemas by `make schemas`: do not edit.
//
//     import type { Command, ReplyTo } from "./soma";
//     declare function ask<C extends Command>(command: C): Promise<ReplyTo<C>>;
//     const { nodes } = await ask({ cmd: "LIST" }); // nodes: { [key: string]: FilterMeta }

/** Set the gradients of a node's parameters, and step its optimizer if it has one. A parameter may have null for a gradient; a value under the name of a buffer becomes its own. */
export interface ApplyGradients {
  /** Echoed in the reply. */
  id?: number | string | null;
  /** Whether progress and log events may be sent before the reply. */
  events?: boolean;
  /** Open to the host; not interpreted. */
  meta?: { [key: string]: unknown } | null;
  /** Whether the reply brings a profile of the command. */
  profile?: boolean;
  /** `b64`: arrays and bytes in the reply as base64, not as numbers; for lines. */
  encoding?: "b64" | null;
  /** From now on, the least level of what a logger sends, by its name; the root's is `""`. Of no effect without `log_level` in HELLO. */
  log_levels?: { [key: string]: number } | null;
  cmd: "APPLY_GRADIENTS";
  node_id: string;
  gradients_b64: Binary;
  /** As for COMPOSITE_FIT: steps this node instead of its own optimizer. */
  optimizer?: { [key: string]: unknown } | null;
}

/** The names of the parameters that received a gradient. */
export interface ApplyGradientsReply {
  ok: true;
  /** The id of the command. */
  id?: number | string | null;
  /** What plugins of the worker say of the command and of themselves, by plugin. */
  meta?: { [key: string]: unknown } | null;
  /** With `profile`: the statistics of Python's `cProfile`, written by `marshal`. */
  profile_b64?: Binary;
  updated: string[];
}

/** Fit a chain of nodes batch by batch. */
export interface BatchedFit {
  /** Echoed in the reply. */
  id?: number | string | null;
  /** Whether progress and log events may be sent before the reply. */
  events?: boolean;
  /** Open to the host; not interpreted. */
  meta?: { [key: string]: unknown } | null;
  /** Whether the reply brings a profile of the command. */
  profile?: boolean;
  /** `b64`: arrays and bytes in the reply as base64, not as numbers; for lines. */
  encoding?: "b64" | null;
  /** From now on, the least level of what a logger sends, by its name; the root's is `""`. Of no effect without `log_level` in HELLO. */
  log_levels?: { [key: string]: number } | null;
  cmd: "BATCHED_FIT";
  node_ids: string[];
  data?: Data;
  y?: Data;
  /** Rows per batch; the last batch may be shorter. */
  batch_size?: number;
  /** How often the data is gone through. */
  epochs?: number;
  /** Whether the rows are drawn in another order in each epoch. */
  shuffle?: boolean;
  /** Makes the order of a shuffle repeatable. */
  seed?: number | null;
  /** The output of the last batch, or those of all rows in the order sent. */
  collect?: "last" | "all";
  /** Whether the reply carries the states. */
  return_states?: boolean;
  /** A class of `torch.optim` by `name`, with its arguments, for the whole chain. */
  optimizer?: { [key: string]: unknown } | null;
  /** Whether nodes go on from what they learned; false: all begin anew; null: networks go on and others begin anew, as in the original. */
  resume?: boolean | null;
  /** What the chain is measured on after each epoch, without learning from it. */
  validation_data?: Data;
  /** The targets of `validation_data`. */
  validation_y?: Data;
  /** What is measured beside the loss, by name: names of scorers of scikit-learn, or functions of targets and outputs. */
  metrics?: { [key: string]: Data };
  /** Stop after so many epochs without a better one. */
  patience?: number | null;
  /** Whether the nodes are put back in the end as they were after the best epoch. */
  restore_best?: boolean;
  /** Data that the worker reads from files, in place of the fields of these names. */
  files?: { [key: string]: DataFile } | null;
  /** When the reply comes before the fit has ended: after each epoch, or after each chunk, of which `data` and `y` are the first. CONTINUE_FIT goes on. */
  pause?: "never" | "epoch" | "chunk";
}

/** The output, and what was learned. */
export interface BatchedFitReply {
  ok: true;
  /** The id of the command. */
  id?: number | string | null;
  /** What plugins of the worker say of the command and of themselves, by plugin. */
  meta?: { [key: string]: unknown } | null;
  /** With `profile`: the statistics of Python's `cProfile`, written by `marshal`. */
  profile_b64?: Binary;
  /** Nodes that learned inside of their objects, which the states do not tell: `fit` returned null or the object itself. GET_STATE fetches it. */
  in_objects?: string[] | null;
  result?: Data;
  /** What `fit` returned last, of each node. */
  states?: { [key: string]: Data };
  /** The mean loss of each epoch; empty if nothing was trained by gradients. */
  losses: (number | null | {
    "$soma": "float";
    value: "nan" | "inf" | "-inf";
  })[];
  /** By name, a number for each epoch: `loss`, `validation_loss`, the metrics, and `lr`, the rate of the first optimizer. */
  history?: { [key: string]: Data };
  /** The epoch from 1 after which the nodes were best; with `patience` or `restore_best`. */
  best_epoch?: number | null;
  /** The fit pauses here: what CONTINUE_FIT names. Absent once it has ended. */
  fit_id?: string | null;
}

/** Bytes: base64, or a Bytes value. */
export type Binary = string | BytesValue;

/** A byte string: a list of numbers from 0 to 255, or base64. */
export interface BytesValue {
  type: "Bytes";
  data: number[] | EncodedBytes;
}

/** Call a method of one node by its name; refused by name where the filter has none. `score` is called with `x, y, state`, the others with `x, state`. */
export interface CallMethod {
  /** Echoed in the reply. */
  id?: number | string | null;
  /** Whether progress and log events may be sent before the reply. */
  events?: boolean;
  /** Open to the host; not interpreted. */
  meta?: { [key: string]: unknown } | null;
  /** Whether the reply brings a profile of the command. */
  profile?: boolean;
  /** `b64`: arrays and bytes in the reply as base64, not as numbers; for lines. */
  encoding?: "b64" | null;
  /** From now on, the least level of what a logger sends, by its name; the root's is `""`. Of no effect without `log_level` in HELLO. */
  log_levels?: { [key: string]: number } | null;
  cmd: "CALL_METHOD";
  node_id: string;
  method: "decision_function" | "inverse_transform" | "predict" | "predict_log_proba" | "predict_proba" | "score" | "score_samples" | "transform";
  data?: Data;
  /** The targets, for `score`. */
  y?: Data;
  /** Omitted: the state that the node learned last. `null`: None. */
  state?: Data;
}

/** What the method returned. */
export interface CallMethodReply {
  ok: true;
  /** The id of the command. */
  id?: number | string | null;
  /** What plugins of the worker say of the command and of themselves, by plugin. */
  meta?: { [key: string]: unknown } | null;
  /** With `profile`: the statistics of Python's `cProfile`, written by `marshal`. */
  profile_b64?: Binary;
  result?: Data;
}

/** Who says HELLO, in versions. */
export interface ClientInfo {
  name: string;
  soma: string;
  python: string;
  cloudpickle: string;
}

/** Fit a chain of nodes, and train its differentiable nodes together. */
export interface CompositeFit {
  /** Echoed in the reply. */
  id?: number | string | null;
  /** Whether progress and log events may be sent before the reply. */
  events?: boolean;
  /** Open to the host; not interpreted. */
  meta?: { [key: string]: unknown } | null;
  /** Whether the reply brings a profile of the command. */
  profile?: boolean;
  /** `b64`: arrays and bytes in the reply as base64, not as numbers; for lines. */
  encoding?: "b64" | null;
  /** From now on, the least level of what a logger sends, by its name; the root's is `""`. Of no effect without `log_level` in HELLO. */
  log_levels?: { [key: string]: number } | null;
  cmd: "COMPOSITE_FIT";
  node_ids: string[];
  data?: Data;
  y?: Data;
  /** Whether the reply carries the states. */
  return_states?: boolean;
  /** A class of `torch.optim` by `name`, with its arguments, for the whole chain. */
  optimizer?: { [key: string]: unknown } | null;
  /** False: nothing is fitted or stepped; the reply carries gradients instead of the output. */
  step?: boolean;
}

/** The output before the training step, and what was learned. */
export interface CompositeFitReply {
  ok: true;
  /** The id of the command. */
  id?: number | string | null;
  /** What plugins of the worker say of the command and of themselves, by plugin. */
  meta?: { [key: string]: unknown } | null;
  /** With `profile`: the statistics of Python's `cProfile`, written by `marshal`. */
  profile_b64?: Binary;
  /** Nodes that learned inside of their objects, which the states do not tell: `fit` returned null or the object itself. GET_STATE fetches it. */
  in_objects?: string[] | null;
  result?: Data;
  /** The `state_dict` of each node that has one of weights alone, in torch's format. */
  states?: { [key: string]: Binary };
  /** What `fit` returned, of each node that was fitted. */
  fit_states?: { [key: string]: Data };
  /** The loss of the training step; null if there was none. */
  loss?: number | null | {
    "$soma": "float";
    value: "nan" | "inf" | "-inf";
  };
  /** With `step=false`, by node, in torch's format: the gradient of each parameter by name, null where there is none, and the new value of each buffer, for APPLY_GRADIENTS. */
  gradients?: { [key: string]: Binary };
}

/** Run a chain of nodes, the output of each being the input of the next. */
export interface CompositeForward {
  /** Echoed in the reply. */
  id?: number | string | null;
  /** Whether progress and log events may be sent before the reply. */
  events?: boolean;
  /** Open to the host; not interpreted. */
  meta?: { [key: string]: unknown } | null;
  /** Whether the reply brings a profile of the command. */
  profile?: boolean;
  /** `b64`: arrays and bytes in the reply as base64, not as numbers; for lines. */
  encoding?: "b64" | null;
  /** From now on, the least level of what a logger sends, by its name; the root's is `""`. Of no effect without `log_level` in HELLO. */
  log_levels?: { [key: string]: number } | null;
  cmd: "COMPOSITE_FORWARD";
  node_ids: string[];
  data?: Data;
  /** States by node id; a node that is not named uses the one that it learned last. */
  states?: { [key: string]: Data };
  /** Whether Evolving nodes learn from the data, by `partial_fit`, before they run. */
  evolve?: boolean;
}

/** The output of the last node; torch tensors as nested lists in the lines dialect. */
export interface CompositeForwardReply {
  ok: true;
  /** The id of the command. */
  id?: number | string | null;
  /** What plugins of the worker say of the command and of themselves, by plugin. */
  meta?: { [key: string]: unknown } | null;
  /** With `profile`: the statistics of Python's `cProfile`, written by `marshal`. */
  profile_b64?: Binary;
  result?: Data;
}

/** Let a BATCHED_FIT go on that paused. */
export interface ContinueFit {
  /** Echoed in the reply. */
  id?: number | string | null;
  /** Whether progress and log events may be sent before the reply. */
  events?: boolean;
  /** Open to the host; not interpreted. */
  meta?: { [key: string]: unknown } | null;
  /** Whether the reply brings a profile of the command. */
  profile?: boolean;
  /** `b64`: arrays and bytes in the reply as base64, not as numbers; for lines. */
  encoding?: "b64" | null;
  /** From now on, the least level of what a logger sends, by its name; the root's is `""`. Of no effect without `log_level` in HELLO. */
  log_levels?: { [key: string]: number } | null;
  cmd: "CONTINUE_FIT";
  /** The `fit_id` of its last reply. */
  fit_id: string;
  /** The nodes that are fitted. */
  node_ids: string[];
  /** The next chunk. */
  data?: Data;
  /** Its targets. */
  y?: Data;
  /** No chunk follows in this epoch; with this, the command brings none. */
  end_epoch?: boolean;
  /** End the fit now, as if this had been its last epoch. */
  stop?: boolean;
}

/** As for BATCHED_FIT. */
export interface ContinueFitReply {
  ok: true;
  /** The id of the command. */
  id?: number | string | null;
  /** What plugins of the worker say of the command and of themselves, by plugin. */
  meta?: { [key: string]: unknown } | null;
  /** With `profile`: the statistics of Python's `cProfile`, written by `marshal`. */
  profile_b64?: Binary;
  /** Nodes that learned inside of their objects, which the states do not tell: `fit` returned null or the object itself. GET_STATE fetches it. */
  in_objects?: string[] | null;
  result?: Data;
  /** What `fit` returned last, of each node. */
  states?: { [key: string]: Data };
  /** The mean loss of each epoch; empty if nothing was trained by gradients. */
  losses: (number | null | {
    "$soma": "float";
    value: "nan" | "inf" | "-inf";
  })[];
  /** By name, a number for each epoch: `loss`, `validation_loss`, the metrics, and `lr`, the rate of the first optimizer. */
  history?: { [key: string]: Data };
  /** The epoch from 1 after which the nodes were best; with `patience` or `restore_best`. */
  best_epoch?: number | null;
  /** The fit pauses here: what CONTINUE_FIT names. Absent once it has ended. */
  fit_id?: string | null;
}

/** Any JSON value, or a tagged value, or lists and objects that hold some. */
export type Data = null | boolean | number | string | Value | SpecialValue | Data[] | { [key: string]: Data };

/** Rows in a file, of which a worker reads those that a batch needs. Give one to `batched_fit` in place of an array: the data may be larger than memory. */
export interface DataFile {
  /** A `.npy` file, a `.npz` file that `numpy.savez` wrote (not compressed), or a `.parquet` file where soma-codecs-arrow is installed. The worker opens it; a relative path is one of the host's working directory. */
  path: string;
  /** The name of the array in a `.npz` file; None where it holds one array. Of a `.parquet` file the name of a column, the names of several, which make a matrix, or None for all columns by name. */
  key?: string | string[] | null;
}

/** The element types that a schema can ask for; `Json` accepts every value. */
export type DataType = "Float64" | "Float32" | "Float16" | "BFloat16" | "Int64" | "Int32" | "Int16" | "Int8" | "UInt8" | "Bool" | "Utf8" | "Bytes" | "Json";

/** An axis of any length; axes of one name have one length within a call. `Dynamic("batch")`, in JSON `{"Dynamic": "batch"}`. */
export interface Dynamic {
  Dynamic: string;
}

/** Nothing: `{}` where a state is expected, `None` elsewhere. */
export interface EmptyValue {
  type: "Empty";
}

/** Bytes in a denser form than a list of numbers. */
export interface EncodedBytes {
  b64: string;
}

/** What kind of failure an error reply reports; the fixed list of the protocol. */
export type ErrorCode = "malformed" | "invalid_command" | "unknown_command" | "unknown_node" | "unknown_filter" | "load_failed" | "filter_failed" | "schema_mismatch" | "pickle_refused" | "incompatible" | "too_large" | "interrupted" | "invalid_state" | "no_gradients" | "refused" | "internal";

/** The reply to a message that failed, whatever it held. */
export interface ErrorReply {
  ok: false;
  /** The id of the command, if the message held a valid one. */
  id?: number | string | null;
  /** What plugins of the worker say of the command, by plugin. */
  meta?: { [key: string]: unknown } | null;
  /** What came, what was expected and what to do; of a filter, the text of its exception. */
  error: string;
  code: ErrorCode;
  /** The class of the exception in the worker. */
  type?: string | null;
  cmd?: string | null;
  node_id?: string | null;
  /** What Python would have printed of it. */
  traceback?: string | null;
  /** What else is known of the exception. */
  exception?: Raised | null;
  /** Given if the command was executed all the same, or a part of it: what nodes had learned is gone. */
  executed?: true | null;
}

/** Sent before the reply: progress only to a command that said `"events": true`, what filters log and warn only to a host that said `log_level` in HELLO. */
export interface EventMessage {
  event: "progress" | "log" | "warning";
  /** The id of the command that runs. */
  id?: number | string | null;
  cmd: string;
  /** What the filter reported, logged or warned, an object. */
  data: Data;
}

/** Whether a filter learns. `Opaque`: it does, and where soma cannot know: an object that is no `Filter` may learn in the state that its `fit` returns, or inside of itself. */
export type FilterKind = "Stateless" | "Trainable" | "Opaque";

/** What the host may know about a filter without running it. */
export interface FilterMeta {
  /** What the filter is called in listings and messages. */
  name: string;
  /** Whether it learns. */
  kind?: FilterKind;
  /** Whether equal input and state give a result that may be kept. */
  cacheable?: boolean;
  /** Whether gradients flow through it in a composite. */
  differentiable?: boolean;
  /** Whether equal input and state give an equal result. */
  deterministic?: boolean;
  /** How it treats data that comes in chunks. */
  stream_mode?: StreamMode;
  /** Where it may run. */
  distribution?: "Local" | "Any" | Remote;
  /** What `forward` takes; None if it is not declared. */
  input_schema?: Schema | null;
  /** What `forward` returns; None if it is not declared. */
  output_schema?: Schema | null;
  /** Whether each row of the output comes from the same row of the input alone, so that a pool may join calls. It is written as JSON only if it is true: hosts that do not know it refuse it. */
  rowwise?: boolean;
}

/** One filter to load: a pickled object, or a registered filter by name. */
export type FilterSpec = {
  id: string;
  /** The object, pickled with cloudpickle. */
  pickle_b64: Binary;
  /** The registered name: `sklearn.PCA`. */
  filter?: null;
  /** The configuration of the registered filter, validated by it. */
  config?: { [key: string]: never };
  /** Whether COMPOSITE_FIT and BATCHED_FIT fit this node. */
  trainable?: boolean;
} | {
  id: string;
  /** The object, pickled with cloudpickle. */
  pickle_b64?: null;
  /** The registered name: `sklearn.PCA`. */
  filter: string;
  /** The configuration of the registered filter, validated by it. */
  config?: { [key: string]: unknown };
  /** Whether COMPOSITE_FIT and BATCHED_FIT fit this node. */
  trainable?: boolean;
};

/** Fit one node; what it learned becomes its state. */
export interface Fit {
  /** Echoed in the reply. */
  id?: number | string | null;
  /** Whether progress and log events may be sent before the reply. */
  events?: boolean;
  /** Open to the host; not interpreted. */
  meta?: { [key: string]: unknown } | null;
  /** Whether the reply brings a profile of the command. */
  profile?: boolean;
  /** `b64`: arrays and bytes in the reply as base64, not as numbers; for lines. */
  encoding?: "b64" | null;
  /** From now on, the least level of what a logger sends, by its name; the root's is `""`. Of no effect without `log_level` in HELLO. */
  log_levels?: { [key: string]: number } | null;
  cmd: "FIT";
  node_id: string;
  data?: Data;
  y?: Data;
  /** Whether the reply carries the state. */
  return_state?: boolean;
}

/** The state that the node learned; absent with `return_state=false`. */
export interface FitReply {
  ok: true;
  /** The id of the command. */
  id?: number | string | null;
  /** What plugins of the worker say of the command and of themselves, by plugin. */
  meta?: { [key: string]: unknown } | null;
  /** With `profile`: the statistics of Python's `cProfile`, written by `marshal`. */
  profile_b64?: Binary;
  /** Nodes that learned inside of their objects, which the states do not tell: `fit` returned null or the object itself. GET_STATE fetches it. */
  in_objects?: string[] | null;
  result?: Data;
}

/** An axis of exactly this length: `Fixed(64)`, in JSON `{"Fixed": 64}`. */
export interface Fixed {
  Fixed: number;
}

/** Run one node. */
export interface Forward {
  /** Echoed in the reply. */
  id?: number | string | null;
  /** Whether progress and log events may be sent before the reply. */
  events?: boolean;
  /** Open to the host; not interpreted. */
  meta?: { [key: string]: unknown } | null;
  /** Whether the reply brings a profile of the command. */
  profile?: boolean;
  /** `b64`: arrays and bytes in the reply as base64, not as numbers; for lines. */
  encoding?: "b64" | null;
  /** From now on, the least level of what a logger sends, by its name; the root's is `""`. Of no effect without `log_level` in HELLO. */
  log_levels?: { [key: string]: number } | null;
  cmd: "FORWARD";
  node_id: string;
  data?: Data;
  /** Omitted: the state that the node learned last. `null`: None. */
  state?: Data;
}

/** The output. */
export interface ForwardReply {
  ok: true;
  /** The id of the command. */
  id?: number | string | null;
  /** What plugins of the worker say of the command and of themselves, by plugin. */
  meta?: { [key: string]: unknown } | null;
  /** With `profile`: the statistics of Python's `cProfile`, written by `marshal`. */
  profile_b64?: Binary;
  result?: Data;
}

/** Fetch the gradients of a node's parameters by name. */
export interface GetGradients {
  /** Echoed in the reply. */
  id?: number | string | null;
  /** Whether progress and log events may be sent before the reply. */
  events?: boolean;
  /** Open to the host; not interpreted. */
  meta?: { [key: string]: unknown } | null;
  /** Whether the reply brings a profile of the command. */
  profile?: boolean;
  /** `b64`: arrays and bytes in the reply as base64, not as numbers; for lines. */
  encoding?: "b64" | null;
  /** From now on, the least level of what a logger sends, by its name; the root's is `""`. Of no effect without `log_level` in HELLO. */
  log_levels?: { [key: string]: number } | null;
  cmd: "GET_GRADIENTS";
  node_id: string;
}

/** The gradients by parameter name, in torch's format. */
export interface GetGradientsReply {
  ok: true;
  /** The id of the command. */
  id?: number | string | null;
  /** What plugins of the worker say of the command and of themselves, by plugin. */
  meta?: { [key: string]: unknown } | null;
  /** With `profile`: the statistics of Python's `cProfile`, written by `marshal`. */
  profile_b64?: Binary;
  gradients_b64: Binary;
}

/** Fetch what a node's object holds, and the state that it learned. */
export interface GetState {
  /** Echoed in the reply. */
  id?: number | string | null;
  /** Whether progress and log events may be sent before the reply. */
  events?: boolean;
  /** Open to the host; not interpreted. */
  meta?: { [key: string]: unknown } | null;
  /** Whether the reply brings a profile of the command. */
  profile?: boolean;
  /** `b64`: arrays and bytes in the reply as base64, not as numbers; for lines. */
  encoding?: "b64" | null;
  /** From now on, the least level of what a logger sends, by its name; the root's is `""`. Of no effect without `log_level` in HELLO. */
  log_levels?: { [key: string]: number } | null;
  cmd: "GET_STATE";
  node_id: string;
  /** Omitted: `torch` for a module, `torch_pickle` if it holds more than weights; for others `cloudpickle`, or `value` without pickle. */
  format?: "torch" | "torch_pickle" | "cloudpickle" | "value" | "safetensors" | null;
  /** Whether the reply carries what training needs to go on, too. */
  full?: boolean;
}

/** What the node's object holds, in the format named, and the state that it learned. */
export interface GetStateReply {
  ok: true;
  /** The id of the command. */
  id?: number | string | null;
  /** What plugins of the worker say of the command and of themselves, by plugin. */
  meta?: { [key: string]: unknown } | null;
  /** With `profile`: the statistics of Python's `cProfile`, written by `marshal`. */
  profile_b64?: Binary;
  state_b64: Binary;
  format: "torch" | "torch_pickle" | "cloudpickle" | "value" | "safetensors";
  fit_state?: Data;
  /** Optimizers, schedulers and random numbers; absent unless `full` was asked for. */
  training_b64?: Binary;
  /** How a filter is configured; absent for other objects, and unless `full` was asked for. */
  config?: Data;
}

/** Agree on versions and features before anything else. Optional. Fields of a later version are ignored: which version it is, is what both sides find out by it. */
export interface Hello {
  /** Echoed in the reply. */
  id?: number | string | null;
  /** Whether progress and log events may be sent before the reply. */
  events?: boolean;
  /** Open to the host; not interpreted. */
  meta?: { [key: string]: unknown } | null;
  /** Whether the reply brings a profile of the command. */
  profile?: boolean;
  /** `b64`: arrays and bytes in the reply as base64, not as numbers; for lines. */
  encoding?: "b64" | null;
  /** From now on, the least level of what a logger sends, by its name; the root's is `""`. Of no effect without `log_level` in HELLO. */
  log_levels?: { [key: string]: number } | null;
  cmd: "HELLO";
  protocol: number;
  client: ClientInfo;
  /** The codecs of plugins that the host has; without this the worker uses all that it has. */
  codecs?: string[] | null;
  /** Folders from which the host imports modules, for a worker that has the same folders: it looks there after all that it looks into by itself. Of no effect where pickles are refused. */
  path?: string[] | null;
  /** The host's `sys.argv`, which is that of the worker's filters, too. Of no effect where pickles are refused. */
  argv?: string[] | null;
  /** Have what filters log, from this level on, and what they warn sent as events. */
  log_level?: number | null;
  /** `wire`: the host sends no signals, and INTERRUPT ends a command while it runs. Of no effect where the reply's `features` lack `interrupts`. */
  interrupts?: "wire" | null;
}

/** What the worker is and can do. */
export interface HelloReply {
  ok: true;
  /** The id of the command. */
  id?: number | string | null;
  /** What plugins of the worker say of the command and of themselves, by plugin. */
  meta?: { [key: string]: unknown } | null;
  /** With `profile`: the statistics of Python's `cProfile`, written by `marshal`. */
  profile_b64?: Binary;
  protocol: number;
  versions: Versions;
  pid: number;
  /** Differs between any two engines. */
  incarnation: string;
  commands: string[];
  features: string[];
  /** The codecs of plugins that the worker has: types that travel as typed values. */
  codecs?: string[];
  limits: Limits;
  pickle: "same-user" | "never";
}

/** End the command that runs, for a host that said `interrupts` in HELLO. The reply to that command has the code `interrupted`. INTERRUPT does nothing once it is over. The reply to INTERRUPT comes in its turn, after that of the command. */
export interface Interrupt {
  /** Echoed in the reply. */
  id?: number | string | null;
  /** Whether progress and log events may be sent before the reply. */
  events?: boolean;
  /** Open to the host; not interpreted. */
  meta?: { [key: string]: unknown } | null;
  /** Whether the reply brings a profile of the command. */
  profile?: boolean;
  /** `b64`: arrays and bytes in the reply as base64, not as numbers; for lines. */
  encoding?: "b64" | null;
  /** From now on, the least level of what a logger sends, by its name; the root's is `""`. Of no effect without `log_level` in HELLO. */
  log_levels?: { [key: string]: number } | null;
  cmd: "INTERRUPT";
  /** The `id` of the command to end. */
  command: number | string;
}

/** INTERRUPT was read, whether or not the command still ran. */
export interface InterruptReply {
  ok: true;
  /** The id of the command. */
  id?: number | string | null;
  /** What plugins of the worker say of the command and of themselves, by plugin. */
  meta?: { [key: string]: unknown } | null;
  /** With `profile`: the statistics of Python's `cProfile`, written by `marshal`. */
  profile_b64?: Binary;
}

/** Any JSON value; tagged values inside it are decoded too. */
export interface JsonValue {
  type: "Json";
  data: Data;
}

/** The largest messages that the worker accepts, in bytes, and how deep they may nest. */
export interface Limits {
  line: number;
  header: number;
  nesting: number;
}

/** List the loaded nodes and the registered filters. */
export interface ListNodes {
  /** Echoed in the reply. */
  id?: number | string | null;
  /** Whether progress and log events may be sent before the reply. */
  events?: boolean;
  /** Open to the host; not interpreted. */
  meta?: { [key: string]: unknown } | null;
  /** Whether the reply brings a profile of the command. */
  profile?: boolean;
  /** `b64`: arrays and bytes in the reply as base64, not as numbers; for lines. */
  encoding?: "b64" | null;
  /** From now on, the least level of what a logger sends, by its name; the root's is `""`. Of no effect without `log_level` in HELLO. */
  log_levels?: { [key: string]: number } | null;
  cmd: "LIST";
}

/** What is loaded, and what could be. */
export interface ListReply {
  ok: true;
  /** The id of the command. */
  id?: number | string | null;
  /** What plugins of the worker say of the command and of themselves, by plugin. */
  meta?: { [key: string]: unknown } | null;
  /** With `profile`: the statistics of Python's `cProfile`, written by `marshal`. */
  profile_b64?: Binary;
  nodes: { [key: string]: FilterMeta };
  /** The registered names that LOAD accepts. */
  filters: string[];
  /** More of each node. */
  details?: { [key: string]: NodeDetails } | null;
}

/** Load filters under ids; all of them or, if one fails, none. */
export interface Load {
  /** Echoed in the reply. */
  id?: number | string | null;
  /** Whether progress and log events may be sent before the reply. */
  events?: boolean;
  /** Open to the host; not interpreted. */
  meta?: { [key: string]: unknown } | null;
  /** Whether the reply brings a profile of the command. */
  profile?: boolean;
  /** `b64`: arrays and bytes in the reply as base64, not as numbers; for lines. */
  encoding?: "b64" | null;
  /** From now on, the least level of what a logger sends, by its name; the root's is `""`. Of no effect without `log_level` in HELLO. */
  log_levels?: { [key: string]: number } | null;
  cmd: "LOAD";
  filters: FilterSpec[];
}

/** What was loaded. */
export interface LoadReply {
  ok: true;
  /** The id of the command. */
  id?: number | string | null;
  /** What plugins of the worker say of the command and of themselves, by plugin. */
  meta?: { [key: string]: unknown } | null;
  /** With `profile`: the statistics of Python's `cProfile`, written by `marshal`. */
  profile_b64?: Binary;
  filters: { [key: string]: FilterMeta };
}

/** What LIST says of a node beside its meta. */
export interface NodeDetails {
  /** The registered name that it was loaded by; null for an object. */
  filter?: string | null;
  /** Whether the composite commands fit it. */
  trainable: boolean;
  /** Whether it has learned anything, or was given a state, since it was loaded. */
  learned: boolean;
}

/** A pickled Python object: its bytes as in `Bytes`. */
export interface ObjectValue {
  type: "Object";
  data: number[] | EncodedBytes;
}

/** Let one node go on from what it learned, on one batch. */
export interface PartialFit {
  /** Echoed in the reply. */
  id?: number | string | null;
  /** Whether progress and log events may be sent before the reply. */
  events?: boolean;
  /** Open to the host; not interpreted. */
  meta?: { [key: string]: unknown } | null;
  /** Whether the reply brings a profile of the command. */
  profile?: boolean;
  /** `b64`: arrays and bytes in the reply as base64, not as numbers; for lines. */
  encoding?: "b64" | null;
  /** From now on, the least level of what a logger sends, by its name; the root's is `""`. Of no effect without `log_level` in HELLO. */
  log_levels?: { [key: string]: number } | null;
  cmd: "PARTIAL_FIT";
  node_id: string;
  data?: Data;
  y?: Data;
  /** Whether the reply carries the state. */
  return_state?: boolean;
}

/** The state that the node learned. */
export interface PartialFitReply {
  ok: true;
  /** The id of the command. */
  id?: number | string | null;
  /** What plugins of the worker say of the command and of themselves, by plugin. */
  meta?: { [key: string]: unknown } | null;
  /** With `profile`: the statistics of Python's `cProfile`, written by `marshal`. */
  profile_b64?: Binary;
  /** Nodes that learned inside of their objects, which the states do not tell: `fit` returned null or the object itself. GET_STATE fetches it. */
  in_objects?: string[] | null;
  /** Absent with `return_state=false`. */
  result?: Data;
  /** The loss of a step of training by gradients; null if there was none. */
  loss?: number | null | {
    "$soma": "float";
    value: "nan" | "inf" | "-inf";
  };
}

/** Ask whether the engine answers. */
export interface Ping {
  /** Echoed in the reply. */
  id?: number | string | null;
  /** Whether progress and log events may be sent before the reply. */
  events?: boolean;
  /** Open to the host; not interpreted. */
  meta?: { [key: string]: unknown } | null;
  /** Whether the reply brings a profile of the command. */
  profile?: boolean;
  /** `b64`: arrays and bytes in the reply as base64, not as numbers; for lines. */
  encoding?: "b64" | null;
  /** From now on, the least level of what a logger sends, by its name; the root's is `""`. Of no effect without `log_level` in HELLO. */
  log_levels?: { [key: string]: number } | null;
  cmd: "PING";
}

/** The process that answered. */
export interface PingReply {
  ok: true;
  /** The id of the command. */
  id?: number | string | null;
  /** What plugins of the worker say of the command and of themselves, by plugin. */
  meta?: { [key: string]: unknown } | null;
  /** With `profile`: the statistics of Python's `cProfile`, written by `marshal`. */
  profile_b64?: Binary;
  pid: number;
  incarnation: string;
}

/** An exception, as far as another process can make use of it. */
export interface Raised {
  /** The name of its class. */
  type?: string | null;
  /** Its text. */
  error?: string;
  /** The built-in classes that it is an instance of, the nearest first. */
  bases?: string[];
  /** Its arguments; null if they are not plain data. */
  args?: unknown[] | null;
  /** Those of its attributes that are plain data, such as `errno`. */
  attributes?: { [key: string]: unknown };
  notes?: string[];
  /** Its traceback, the outermost entry first. */
  stack?: StackEntry[];
  cause?: Raised | null;
  /** What was being handled when it was raised, unless that was suppressed. */
  context?: Raised | null;
  /** The exceptions of a group. */
  exceptions?: Raised[];
}

/** Run on a worker elsewhere: `Remote(Tag("gpu"))`. */
export interface Remote {
  Remote: Tag | WorkerId;
}

/** The element type and shape that a filter declares for its input or output. */
export interface Schema {
  /** The element type. An array must have exactly this type; the numbers of a plain list need only fit it, since JSON knows one kind of number: whole ones are of every type in whose range they lie. */
  dtype: DataType;
  /** One `Fixed` or `Dynamic` per axis; None where it is unknown. */
  shape?: (Fixed | Dynamic)[] | null;
}

/** Put back what GET_STATE returned. */
export type SetState = {
  /** Echoed in the reply. */
  id?: number | string | null;
  /** Whether progress and log events may be sent before the reply. */
  events?: boolean;
  /** Open to the host; not interpreted. */
  meta?: { [key: string]: unknown } | null;
  /** Whether the reply brings a profile of the command. */
  profile?: boolean;
  /** `b64`: arrays and bytes in the reply as base64, not as numbers; for lines. */
  encoding?: "b64" | null;
  /** From now on, the least level of what a logger sends, by its name; the root's is `""`. Of no effect without `log_level` in HELLO. */
  log_levels?: { [key: string]: number } | null;
  cmd: "SET_STATE";
  node_id: string;
  /** Omitted: the object stays as it is. */
  state_b64: Binary;
  /** As for GET_STATE. */
  format?: "torch" | "torch_pickle" | "cloudpickle" | "value" | "safetensors" | null;
  /** Omitted: the learned state stays as it is. */
  fit_state?: Data;
  /** What GET_STATE returned with `full`; omitted: optimizers stay as they are. */
  training_b64?: Binary;
} | {
  /** Echoed in the reply. */
  id?: number | string | null;
  /** Whether progress and log events may be sent before the reply. */
  events?: boolean;
  /** Open to the host; not interpreted. */
  meta?: { [key: string]: unknown } | null;
  /** Whether the reply brings a profile of the command. */
  profile?: boolean;
  /** `b64`: arrays and bytes in the reply as base64, not as numbers; for lines. */
  encoding?: "b64" | null;
  /** From now on, the least level of what a logger sends, by its name; the root's is `""`. Of no effect without `log_level` in HELLO. */
  log_levels?: { [key: string]: number } | null;
  cmd: "SET_STATE";
  node_id: string;
  /** Omitted: the object stays as it is. */
  state_b64?: Binary;
  /** As for GET_STATE. */
  format?: "torch" | "torch_pickle" | "cloudpickle" | "value" | "safetensors" | null;
  /** Omitted: the learned state stays as it is. */
  fit_state: Data;
  /** What GET_STATE returned with `full`; omitted: optimizers stay as they are. */
  training_b64?: Binary;
};

/** The state is put back. */
export interface SetStateReply {
  ok: true;
  /** The id of the command. */
  id?: number | string | null;
  /** What plugins of the worker say of the command and of themselves, by plugin. */
  meta?: { [key: string]: unknown } | null;
  /** With `profile`: the statistics of Python's `cProfile`, written by `marshal`. */
  profile_b64?: Binary;
}

/** Answer, then exit with status 0. */
export interface Shutdown {
  /** Echoed in the reply. */
  id?: number | string | null;
  /** Whether progress and log events may be sent before the reply. */
  events?: boolean;
  /** Open to the host; not interpreted. */
  meta?: { [key: string]: unknown } | null;
  /** Whether the reply brings a profile of the command. */
  profile?: boolean;
  /** `b64`: arrays and bytes in the reply as base64, not as numbers; for lines. */
  encoding?: "b64" | null;
  /** From now on, the least level of what a logger sends, by its name; the root's is `""`. Of no effect without `log_level` in HELLO. */
  log_levels?: { [key: string]: number } | null;
  cmd: "SHUTDOWN";
}

/** The worker exits after this. */
export interface ShutdownReply {
  ok: true;
  /** The id of the command. */
  id?: number | string | null;
  /** What plugins of the worker say of the command and of themselves, by plugin. */
  meta?: { [key: string]: unknown } | null;
  /** With `profile`: the statistics of Python's `cProfile`, written by `marshal`. */
  profile_b64?: Binary;
}

/** What JSON has no form for, and no Value either. */
export type SpecialValue = {
  "$soma": "float";
  value: "nan" | "inf" | "-inf";
} | {
  "$soma": "int";
  value: string;
} | {
  "$soma": "dict";
  items: ([string, Data])[];
} | {
  "$soma": "tuple";
  items: Data[];
} | {
  "$soma": "scalar";
  array: TensorValue;
} | {
  "$soma": "codec";
  /** The name of the codec; HELLO lists them. */
  codec: string;
  /** What to install for it. */
  distribution?: string;
  data?: Data;
  buffers?: Binary[];
} | {
  __pickle_b64__: string;
};

/** One entry of a traceback. */
export interface StackEntry {
  file: string;
  line: number;
  name: string;
  first_line?: number;
  end_line?: number | null;
  column?: number | null;
  end_column?: number | null;
  source?: string;
}

/** How a filter treats data that comes in chunks. `FixedState` treats each chunk alike, `Evolving` carries its state from chunk to chunk, `Barrier` needs all the data at once. */
export type StreamMode = "FixedState" | "Evolving" | "Barrier";

/** The reply to a command that succeeded; which one, the host knows. */
export type SuccessReply = HelloReply | LoadReply | UnloadReply | ListReply | FitReply | PartialFitReply | ForwardReply | CallMethodReply | CompositeForwardReply | CompositeFitReply | BatchedFitReply | ContinueFitReply | GetStateReply | SetStateReply | GetGradientsReply | ApplyGradientsReply | InterruptReply | PingReply | ShutdownReply;

/** Any worker that carries this tag: `Tag("gpu")`. */
export interface Tag {
  Tag: string;
}

/** Numbers of one type on a regular grid. */
export interface TensorValue {
  type: "Tensor";
  data: TensorData;
}

/** The content of a `Tensor`. */
export type TensorData = {
  /** The length of each axis; empty for a single number. */
  shape: number[];
  /** The element type. Without it the tensor is a plain list of numbers and arrives as nested lists. With it the tensor is an array: numpy's name for the type (`"float32"`), its `dtype.str` (`"<U5"`), or a list of fields for structured types. */
  dtype?: string | unknown[] | null;
  /** `"torch"` if the array is to arrive as a torch tensor. */
  container?: "torch" | null;
  /** The elements in C order; `null` is NaN. */
  values: (number | boolean | null)[];
  /** The elements as base64 of little-endian bytes in C order; needs `dtype`. */
  b64?: null;
} | {
  /** The length of each axis; empty for a single number. */
  shape: number[];
  /** The element type. Without it the tensor is a plain list of numbers and arrives as nested lists. With it the tensor is an array: numpy's name for the type (`"float32"`), its `dtype.str` (`"<U5"`), or a list of fields for structured types. */
  dtype: string | unknown[];
  /** `"torch"` if the array is to arrive as a torch tensor. */
  container?: "torch" | null;
  /** The elements in C order; `null` is NaN. */
  values?: null;
  /** The elements as base64 of little-endian bytes in C order; needs `dtype`. */
  b64: string;
};

/** A string. */
export interface TextValue {
  type: "Text";
  data: string;
}

/** Forget nodes and what they learned. */
export interface Unload {
  /** Echoed in the reply. */
  id?: number | string | null;
  /** Whether progress and log events may be sent before the reply. */
  events?: boolean;
  /** Open to the host; not interpreted. */
  meta?: { [key: string]: unknown } | null;
  /** Whether the reply brings a profile of the command. */
  profile?: boolean;
  /** `b64`: arrays and bytes in the reply as base64, not as numbers; for lines. */
  encoding?: "b64" | null;
  /** From now on, the least level of what a logger sends, by its name; the root's is `""`. Of no effect without `log_level` in HELLO. */
  log_levels?: { [key: string]: number } | null;
  cmd: "UNLOAD";
  node_ids: string[];
}

/** What was forgotten. */
export interface UnloadReply {
  ok: true;
  /** The id of the command. */
  id?: number | string | null;
  /** What plugins of the worker say of the command and of themselves, by plugin. */
  meta?: { [key: string]: unknown } | null;
  /** With `profile`: the statistics of Python's `cProfile`, written by `marshal`. */
  profile_b64?: Binary;
  node_ids: string[];
}

/** One value in tagged form. */
export type Value = TensorValue | TextValue | JsonValue | BytesValue | ObjectValue | EmptyValue;

/** The worker's versions. */
export interface Versions {
  soma: string;
  python: string;
  cloudpickle: string;
}

/** The one worker of this id: `WorkerId("w1")`. */
export interface WorkerId {
  WorkerId: string;
}

/** One command: what a host sends, as one line of JSON. */
export type Command = Hello | Load | Unload | ListNodes | Fit | PartialFit | Forward | CallMethod | CompositeForward | CompositeFit | BatchedFit | ContinueFit | GetState | SetState | GetGradients | ApplyGradients | Interrupt | Ping | Shutdown;

/** One message of a worker: the reply to a command, or an event before it. */
export type Message = SuccessReply | ErrorReply | EventMessage;

/** The reply to each command that succeeds. */
export interface Replies {
  HELLO: HelloReply;
  LOAD: LoadReply;
  UNLOAD: UnloadReply;
  LIST: ListReply;
  FIT: FitReply;
  PARTIAL_FIT: PartialFitReply;
  FORWARD: ForwardReply;
  CALL_METHOD: CallMethodReply;
  COMPOSITE_FORWARD: CompositeForwardReply;
  COMPOSITE_FIT: CompositeFitReply;
  BATCHED_FIT: BatchedFitReply;
  CONTINUE_FIT: ContinueFitReply;
  GET_STATE: GetStateReply;
  SET_STATE: SetStateReply;
  GET_GRADIENTS: GetGradientsReply;
  APPLY_GRADIENTS: ApplyGradientsReply;
  INTERRUPT: InterruptReply;
  PING: PingReply;
  SHUTDOWN: ShutdownReply;
}

/** The reply to a command that succeeds. */
export type ReplyTo<C extends { cmd: keyof Replies }> = Replies[C["cmd"]];
