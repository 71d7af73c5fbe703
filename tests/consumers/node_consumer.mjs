// Runs documented lines with transformers.js, each run a fresh evaluation of the same module.
//
//     node node_consumer.mjs JOB.json
//
// With `web` in the job it is the build for browsers: files come through fetch, sessions run in WebAssembly.

import { readFile, symlink, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import path from "node:path";
import { pathToFileURL } from "node:url";

const job = JSON.parse(await readFile(process.argv[2], "utf8"));
process.chdir(job.folder);

const library = path.join(job.packages, "@huggingface", "transformers");
const url = (...parts) => pathToFileURL(path.join(...parts)).href;

// As a bundler for the browser would resolve it.
const resolved = (code) =>
  job.web ? code.replaceAll('"@huggingface/transformers"', `"${url(library, "dist", "transformers.web.js")}"`) : code;

// As a browser asks the site that the page came from: paths below "/" are files of the job's folder.
const fetched = async (address) => {
  try {
    const body = await readFile(path.join(job.folder, String(address)));
    return new Response(body, { headers: { "Content-Length": String(body.length) } });
  } catch {
    return new Response(null, { status: 404 });
  }
};

if (job.web) {
  // The library asks what it runs on, and Node is what it must not find.
  Object.defineProperty(process, "release", { value: { name: "a browser" } });
  globalThis.self = { constructor: { name: "DedicatedWorkerGlobalScope" } };
  globalThis.require = createRequire(import.meta.url); // onnxruntime-web itself knows Node, and reads its .wasm there
  const { env } = await import(url(library, "dist", "transformers.web.js"));
  const wasm = (extension) => url(job.packages, "onnxruntime-web", "dist", `ort-wasm-simd-threaded.asyncify.${extension}`);
  env.backends.onnx.wasm.wasmPaths = { mjs: wasm("mjs"), wasm: wasm("wasm") };
  env.useWasmCache = false;
  env.fetch = fetched;
} else {
  await symlink(job.packages, "node_modules").catch((error) => {
    if (error.code !== "EEXIST") throw error;
  });
}

const plain = (value) => {
  if (value?.dims) return { dims: value.dims, data: Array.from(value.data, Number) };
  return { dims: [value.length, ...(value[0].length ? [value[0].length] : [])], data: value.flat().map(Number) };
};

// Lists of numbers are Float32Arrays, with their dims where they have more than one.
const number = (value) => {
  if (!Array.isArray(value)) return value;
  const dims = [];
  for (let inner = value; Array.isArray(inner); inner = inner[0]) dims.push(inner.length);
  return Object.assign(Float32Array.from(value.flat(Infinity)), dims.length > 1 ? { dims } : {});
};
const given = (values) => Object.fromEntries(Object.entries(values).map(([name, list]) => [name, list.map(number)]));

const names = Object.keys(job.runs[0].given).join(", ");
const block = `block-${job.web ? "wasm" : "node"}.mjs`;
await writeFile(
  block,
  `const { ${names} } = globalThis.given;\n${resolved(job.block)}\nexport { ${job.gives.join(", ")} };\n`,
);
for (const [index, run] of job.runs.entries()) {
  globalThis.given = given(run.given);
  const module = await import(`${url(job.folder, block)}?${index}`);
  await writeFile(run.answers, JSON.stringify(Object.fromEntries(job.gives.map((name) => [name, plain(module[name])]))));
}
process.exit(0);
