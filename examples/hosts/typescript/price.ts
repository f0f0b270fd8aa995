// What a call costs: the median round trip of an array, in seconds, for each size in bytes that is an
// argument. `python -m benchmarks.hosts` runs it beside the other clients.
import { NDArray, Worker } from "./worker.js";

const worker = await Worker.start();
await worker.load({ echo: ["host.Echo"] });
for (const size of process.argv.slice(2)) {
  const array = new NDArray(new Float64Array(Number(size) / 8).fill(0.5));
  const seconds: number[] = [];
  const end = performance.now() + 2000;
  while (seconds.length < 20 || performance.now() < end) {
    const start = performance.now();
    const result = await worker.forward("echo", array);
    seconds.push((performance.now() - start) / 1000);
    if (!(result instanceof NDArray) || result.data[0] !== 0.5) throw new Error("another array came back");
  }
  console.log(seconds.sort((a, b) => a - b)[seconds.length >> 1]);
}
await worker.close();
