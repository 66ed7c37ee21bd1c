// Opens pages that compute in headless Chromium, types, steers, and compares what they show with what the program finds.
// node live.mjs CHROMIUM SCREENSHOTS LIVE.html ROWS.html TEXT CODES.safetensors DUMP CODES-OF-ROWS.safetensors
import assert from "node:assert/strict";
import fs from "node:fs";
import path from "node:path";
import { fits, goTo, start } from "./pages.mjs";

const [executablePath, shots, live, rows, textFile, codesFile, dump, rowCodesFile] = process.argv.slice(2);
const { open, done, shot, end } = await start(executablePath, shots);

/** The codes of `strata encode`: for each row and level `{latent: activation}`. */
const readCodes = (file) => {
  const bytes = fs.readFileSync(file);
  const len = Number(bytes.readBigUInt64LE(0));
  const head = JSON.parse(bytes.subarray(8, 8 + len));
  const words = (name) => {
    const { dtype, data_offsets: [from, to] } = head[name];
    const part = bytes.subarray(8 + len + from, 8 + len + to);
    const [size, at] = { I64: [8, (i) => Number(part.readBigInt64LE(i))], U64: [8, (i) => Number(part.readBigUInt64LE(i))], U32: [4, (i) => part.readUInt32LE(i)],
      I32: [4, (i) => part.readInt32LE(i)], F32: [4, (i) => part.readFloatLE(i)] }[dtype];
    return Array.from({ length: part.length / size }, (_, i) => at(i * size));
  };
  const levels = [1, 2].map((level) => ["indptr", "indices", "values"].map((name) => words(Object.keys(head).find((key) => key.includes(String(level)) && key.includes(name)))));
  return levels[0][0].slice(1).map((_, row) => levels.map(([ends, index, value]) =>
    Object.fromEntries(index.slice(ends[row], ends[row + 1]).map((j, i) => [j, value[ends[row] + i]]))));
};
/** What the page lists: for each level `{latent: activation}`. */
const listed = async (page) => {
  const found = [{}, {}];
  for (const [level, latent, text] of await page.locator("#live-at [data-latent]").evaluateAll((items) => items.map((i) => [i.dataset.level, i.dataset.latent, i.querySelector(".bar-cell > span:last-child").textContent])))
    found[level - 1][latent] = Number(text.replace(",", ""));
  return found;
};
/** Compares a list with what is expected. A latent that fires weakly may be missing on either side, since the language model of the page rounds otherwise. */
const same = (got, want, what) => {
  for (const l of [0, 1]) {
    const largest = Math.max(...Object.values(want[l]), 0);
    for (const j of new Set([...Object.keys(got[l]), ...Object.keys(want[l])])) {
      const [g, w] = [got[l][j] ?? 0, want[l][j] ?? 0];
      assert.ok(Math.abs(g - w) <= 0.006 * Math.max(g, w) + 0.004 * largest || Math.min(g, w) === 0 && Math.max(g, w) < 0.35 * largest, `${what}: latent ${l + 1}/${j}: ${g} and ${w}`);
    }
    const both = Object.keys(want[l]).filter((j) => got[l][j]).length;
    assert.ok(both >= 0.8 * Object.keys(want[l]).length, `${what}, level ${l + 1}: ${both} of ${Object.keys(want[l]).length} latents`);
  }
};

let page = await open(live);
await page.locator("nav a", { hasText: "Live" }).click();
await page.locator("#live h1").waitFor();
await page.locator("#live-steer[data-written='160']").waitFor();
assert.ok(await page.locator("#live-trouble").isHidden());
await shot(page, "live");
await shot(page, "live-whole", true);

// Every character has the codes that the program finds.
const text = fs.readFileSync(textFile, "utf8");
const codes = readCodes(codesFile);
assert.equal(codes.length, text.length);
await page.fill("#live-text", text);
const characters = page.locator("#live-line [data-at]");
await page.waitForFunction((n) => document.querySelectorAll("#live-line [data-at]").length === n, text.length);
for (const at of [0, 6, 40, 100, 127, 128, text.length - 1]) {
  await characters.nth(at).click();
  same(await listed(page), codes[at], `character ${at}`);
}
assert.match(await page.locator("#live-status").innerText(), /Read and encoded in [\d.,]+ ms/);
// The keyboard.
await page.locator("#live-line").focus();
await page.keyboard.press("Home");
assert.equal(await page.locator("#live-line [aria-selected='true']").getAttribute("data-at"), "0");
await page.keyboard.press("ArrowRight");
assert.equal(await page.locator("#live-line [aria-selected='true']").getAttribute("data-at"), "1");
// Where else a latent fires.
await characters.nth(40).click();
const first = page.locator("#live-at [data-latent]").first();
const [level, latent] = await first.evaluate((e) => [Number(e.dataset.level), e.dataset.latent]);
await first.locator("[data-do='show']").click();
const on = await page.locator("#live-line .on").evaluateAll((spans) => spans.map((s) => Number(s.dataset.at)));
const fires = codes.flatMap((row, i) => (row[level - 1][latent] > 0.2 ? [i] : []));
assert.ok(on.includes(40) && fires.every((i) => on.includes(i)), `${on} and ${fires}`);
await shot(page, "live-latent");

// Steering: both texts are one at 0, and differ with a strength.
const written = async (what) => {
  await page.waitForFunction(() => document.getElementById("live-plain").textContent.length >= 160 && document.getElementById("live-steered").textContent.length >= 160);
  return page.locator(`#live-${what}`).evaluate((e) => e.textContent);
};
await page.fill("#live-add", `${level}/${latent}`);
await page.keyboard.press("Enter");
const slider = page.locator(`.live-edit[data-level="${level}"][data-latent="${latent}"] input[type=range]`);
const drag = async (share) => {
  const { x, y, width, height } = await slider.boundingBox();
  await page.mouse.move(x + width / 2, y + height / 2);
  await page.mouse.down();
  await page.mouse.move(x + 2 + (width - 4) * share, y + height / 2, { steps: 5 });
  await page.mouse.up();
  await page.waitForTimeout(1500);
};
await slider.scrollIntoViewIfNeeded();
await drag(0.5);
const plain = await written("plain");
assert.equal(await written("steered"), plain, "without a strength");
await drag(0.95);
const steered = await written("steered");
assert.notEqual(steered, plain);
assert.equal(await written("plain"), plain, "the seed is the same");
assert.ok(await page.locator("#live-steered mark").innerText());
await shot(page, "live-steered", true);
await page.locator("#live-again").click();
await page.waitForTimeout(1500);
assert.notEqual(await written("plain"), plain, "another seed");
// Characters that the model does not know, and no text at all.
await page.fill("#live-text", "ROMEO: naïve 7");
await page.locator("#live-status", { hasText: "does not know “ï”, “7”" }).waitFor();
await page.fill("#live-text", "");
await page.locator("#live-at", { hasText: "Nothing was read yet" }).waitFor();
await page.fill("#live-add", "1/99999");
await page.keyboard.press("Enter");
assert.ok(await page.locator("#live-add").evaluate((e) => !e.checkValidity()));
await page.locator("#live-add").fill("");
await goTo(page, "#/latent/1/0");
await page.locator("#latent h1").waitFor();
await done(page);

page = await open(live, { width: 360, height: 740 }, "dark");
await goTo(page, "#/live");
await page.locator("#live-steer[data-written='160']").waitFor();
await fits(page, "live");
await shot(page, "phone-live", true);
await done(page);

// A run on other rows: they are given as numbers or as a file.
page = await open(rows);
await goTo(page, "#/live");
await page.locator("#live-rows").waitFor();
assert.ok(await page.locator("#live-steer").isHidden());
const d = JSON.parse(await page.locator("#live-info").evaluate((e) => e.textContent)).d;
const shard = fs.readFileSync(path.join(dump, fs.readdirSync(dump).find((name) => /^acts-.*\.safetensors$/.test(name))));
const expected = readCodes(rowCodesFile);
const numbers = rowsOf(shard, d, 3);
await page.fill("#live-numbers", Array.from(numbers).join(" "));
await page.waitForFunction(() => document.querySelectorAll("#live-line [data-at]").length === 3);
for (const at of [0, 1, 2]) { await page.locator("#live-line [data-at]").nth(at).click(); same(await listed(page), expected[at], `row ${at}`); }
await page.setInputFiles("#live-file", { name: "rows.f32", mimeType: "application/octet-stream", buffer: Buffer.from(numbers.buffer, 0, 2 * 4 * d) });
await page.waitForFunction(() => document.querySelectorAll("#live-line [data-at]").length === 2);
await page.locator("#live-line [data-at]").nth(1).click();
same(await listed(page), expected[1], "row 1 of a file");
await shot(page, "live-rows");
await done(page);

await end();
console.log("the pages compute what the program computes");

/** The first rows of a shard of f16 or f32, a safetensors file. */
function rowsOf(file, d, n) {
  const length = Number(file.readBigUInt64LE(0));
  const bytes = file.subarray(8 + length + JSON.parse(file.toString("utf8", 8, 8 + length)).activations.data_offsets[0]);
  const out = new Float32Array(n * d);
  const { dtype } = JSON.parse(fs.readFileSync(path.join(dump, "dump.json"), "utf8"));
  const half = (h) => {
    const [sign, exponent, fraction] = [h >> 15 ? -1 : 1, (h >> 10) & 31, h & 1023];
    return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024));
  };
  for (let i = 0; i < out.length; i++) out[i] = dtype === "f32" ? bytes.readFloatLE(4 * i) : half(bytes.readUInt16LE(2 * i));
  return out;
}
