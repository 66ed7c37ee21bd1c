// Runs the proof in node. node run.mjs MODULE.wasm
import fs from "node:fs";

const { instance } = await WebAssembly.instantiate(fs.readFileSync(process.argv[2]), {});
const { memory, prove, text, text_len } = instance.exports;
const status = prove();
process.stdout.write(new TextDecoder().decode(new Uint8Array(memory.buffer, text(), text_len())));
console.error(`wasm32, ${memory.buffer.byteLength >> 20} MiB of memory`);
process.exit(status);
