// A host of soma in TypeScript:
//
//   npm ci && npx tsc
//   node build/host.js                  starts a worker:            python3 -m soma_transport_stdio
//   node build/host.js /path/to/socket  uses a worker of a daemon:  soma serve socket --path ...
//
// PYTHON names the interpreter that has soma-core and soma-filters-sklearn installed.
import { NDArray, RemoteError, Worker } from "./worker.js";

const path = process.argv[2];
const worker = await (path ? Worker.connect(path) : Worker.start());
const rows = new NDArray(Float64Array.of(1, 2, 3, 4), [2, 2]);

await worker.load({ scaler: ["sklearn.StandardScaler"] });
await worker.fit("scaler", rows);
const result = await worker.forward("scaler", rows);
if (!(result instanceof NDArray)) throw new Error("an array comes back for an array");
console.log("result", JSON.stringify([...result.data]), "of shape", JSON.stringify(result.shape));

try {
  await worker.forward("nobody", 1);
} catch (error) {
  if (!(error instanceof RemoteError)) throw error;
  console.log(`refused with ${error.code}: ${error.message}`);
}
await worker.close();
