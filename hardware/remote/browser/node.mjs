// The same device without a page: `node node.mjs ADDRESS RUNTIME_FOLDER` measures until nothing is left.
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { Client } from "./client.js";

const [address, folder] = process.argv.slice(2);
const url = new URL(address);
const memory = new Map();
const client = new Client({
  address: url.origin,
  token: url.hash.slice(1),
  hardware: `${os.cpus()[0].model.trim()}, ${os.cpus().length} cores`,
  browser: `Node ${process.versions.node.split(".")[0]}`,
  provider: "wasm",
  untilDone: true,
  patience: 300,
  memory: { getItem: (key) => memory.get(key), setItem: (key, value) => memory.set(key, value) },
  view: { hidden: false, shown: async () => {} },
  show: (event) => {
    if (event.type !== "turn") console.log(JSON.stringify(event));
  },
  load: async ({ script, wasm }) => {
    const ort = await import(pathToFileURL(path.join(folder, path.basename(script))).href);
    ort.env.wasm.numThreads = 1;
    ort.env.wasm.wasmBinary = fs.readFileSync(path.join(folder, path.basename(wasm)));
    return ort;
  },
});
try {
  await client.run();
} catch (error) {
  console.error(`supernet: ${error.message}`);
  process.exitCode = 2;
}
