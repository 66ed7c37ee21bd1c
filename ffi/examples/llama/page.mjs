// Opens the page of `strata-llama serve` in headless Chromium, has it write, and checks what a reader would see.
// node page.mjs CHROMIUM URL [SCREENSHOT]
import assert from "node:assert/strict";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { chromium } from "playwright-core";

const [executablePath, url, screenshot] = process.argv.slice(2);
const profile = fs.mkdtempSync(path.join(os.tmpdir(), "strata-chromium-"));
const browser = await chromium.launchPersistentContext(profile, {
  executablePath, headless: true, viewport: { width: 1200, height: 800 },
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync"],
});
const page = await browser.newPage(), wrong = [];
page.on("console", (m) => { if (["error", "warning"].includes(m.type()) && !m.text().includes("favicon")) wrong.push(m.text()); });
page.on("pageerror", (e) => wrong.push(e.message));
page.on("request", (r) => { if (!r.url().startsWith(url)) wrong.push(`request: ${r.url()}`); });

await page.goto(url);
await page.locator("#write[data-ready=yes]").waitFor();
const write = async () => {
  await page.click("#write");
  await page.locator("#write:not([disabled])").waitFor();
  assert.equal(await page.textContent("#said"), "");
  return page.textContent("#text");
};
await page.fill("#prompt", "ROMEO:\nI have");
await page.fill("#tokens", "40");
const before = await write();
const asked = await page.locator("#text .asked").count();
assert.ok(asked > 0 && await page.locator("#text span").count() > asked, "the text has tokens of the prompt, and new ones");
assert.equal(await write(), before, "the same seed writes the same");

// A token shows its latents; a latent colours the text, and gets a slider.
await page.locator("#text span").nth(asked + 3).click();
assert.ok(await page.locator("#active button").count() > 0, "latents are active on a token");
const lit = await page.evaluate(() => {
  const c = document.getElementById("map");
  return c.getContext("2d").getImageData(0, 0, c.width, c.height).data.some((v, i) => i % 4 === 3 && v > 0);
});
assert.ok(lit, "parents light up on the map");
await page.locator("#active > li > button").first().click();
assert.ok(await page.locator("#text span[style*=hsl]").count() > 0, "the text is coloured");
assert.equal(await page.locator("#sliders input").count(), 1);
await page.locator("#sliders input").evaluate((input) => { input.value = input.max; input.dispatchEvent(new Event("input")); });
if (screenshot) await page.screenshot({ path: screenshot, fullPage: true });
assert.notEqual(await write(), before, "steering changes what is written");
await page.locator("#sliders input").evaluate((input) => { input.value = 0; input.dispatchEvent(new Event("input")); });
assert.equal(await write(), before, "and at 0 nothing");
assert.deepEqual(wrong, []);
await browser.close();
fs.rmSync(profile, { recursive: true, force: true });
console.log("  the page shows the latents of what it writes, and steers");
