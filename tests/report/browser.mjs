// Opens reports in headless Chromium as a reader would, and checks what they would see.
// node browser.mjs CHROMIUM SCREENSHOTS RUN.html UNEVALUATED.html ABLATION.html
import assert from "node:assert/strict";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { chromium } from "playwright-core";

const [executablePath, shots, run, bare, ablation] = process.argv.slice(2);
const profile = fs.mkdtempSync(path.join(os.tmpdir(), "strata-chromium-"));
const browser = await chromium.launchPersistentContext(profile, {
  executablePath,
  headless: true,
  colorScheme: "light",
  viewport: { width: 1280, height: 860 },
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync"],
});

/** A page, with everything that it must not do. */
const open = async (file, size, scheme = "light") => {
  const page = await browser.newPage();
  page.wrong = [];
  page.on("console", (m) => { if (["error", "warning"].includes(m.type())) page.wrong.push(`console: ${m.text()}`); });
  page.on("pageerror", (e) => page.wrong.push(`exception: ${e.message}`));
  page.on("request", (r) => { if (!/^(file|data|blob):/.test(r.url())) page.wrong.push(`request: ${r.url()}`); });
  await page.emulateMedia({ colorScheme: scheme });
  if (size) await page.setViewportSize(size);
  await page.goto(pathToFileURL(path.resolve(file)).href);
  return page;
};
const done = async (page) => { assert.deepEqual(page.wrong, []); await page.close(); };
const shot = async (page, name, fullPage = false) => {
  await page.waitForTimeout(300);
  await page.screenshot({ path: path.join(shots, `${name}.png`), fullPage });
};
const goTo = async (page, hash) => { await page.evaluate((h) => { location.hash = h; }, hash); await page.waitForTimeout(150); };
const background = (page) => page.evaluate(() => getComputedStyle(document.documentElement).backgroundColor);
const allPlots = async (page) => {
  for (const box of await page.locator(".plot").all()) {
    await box.scrollIntoViewIfNeeded();
    await box.locator("svg.main-svg").first().waitFor();
  }
};
const fits = async (page, what) => {
  const [inner, outer] = await page.evaluate(() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]);
  assert.ok(inner <= outer, `${what}: ${inner} px wide in a window of ${outer} px`);
};

// A run, from the first screen to a latent and back.
let page = await open(run);
assert.match(await page.locator(".verdict").first().innerText(), /Is this a good SAE\?/);
assert.ok(await page.locator("table.headline tbody tr").count() >= 4);
await shot(page, "overview-light");
await allPlots(page);
assert.ok(await page.locator(".plot svg.main-svg").count() >= 6);
await shot(page, "overview-whole", true);
await page.evaluate(() => scrollTo(0, 0));
await page.locator(".ask").first().click();
assert.match(await page.locator(".explain:popover-open").innerText(), /in eval\.json/);
await shot(page, "explanation");
await page.keyboard.press("Escape");
const all = await page.locator("table.metrics tbody tr").count();
await page.fill("#filter", "fvu");
const kept = await page.locator("table.metrics tbody tr:visible").count();
assert.ok(kept >= 2 && kept < all, `${kept} of ${all} rows`);

await page.locator("nav a", { hasText: "Latents" }).click();
await page.locator("#tree .family").first().waitFor();
await page.waitForTimeout(200);
assert.equal(await page.evaluate(() => scrollY), 0, "a new view begins at its top");
await shot(page, "map");
const family = page.locator("#tree .family").first();
assert.equal(await family.locator(".tile").count(), 0);
await family.locator("summary").focus();
await page.keyboard.press("Enter");
await family.locator(".tile").first().waitFor();
await shot(page, "tree", true);
const rows = await page.locator("#index").evaluate((e) => { const i = JSON.parse(e.textContent); return [i.f1, i.f2]; });
const child = Math.min(7, rows[1] - 1);
await page.fill("#search", `2/${child}`);
await page.locator(".hits a", { hasText: `Child 2/${child}` }).waitFor();
const [text, owner] = await page.locator("#index").evaluate((e) => {
  const i = JSON.parse(e.textContent);
  // The rarest token that leads some latent.
  const leads = new Map();
  i.top.forEach((t, a) => { if (t.length && i.strings[t[0]].trim()) leads.set(t[0], [...(leads.get(t[0]) || []), a]); });
  const [s, who] = [...leads].sort((a, b) => a[1].length - b[1].length)[0];
  return [i.strings[s], `${who[0] < i.f1 ? 1 : 2}/${who[0] < i.f1 ? who[0] : who[0] - i.f1}`];
});
await page.fill("#search", text);
await page.locator(".hits a", { hasText: new RegExp(`${owner}$`) }).first().waitFor();
await shot(page, "search");
await page.fill("#search", `2/${child}`);
await page.locator(".hits a").first().click();
await page.locator("#latent h1", { hasText: `Child 2/${child}` }).waitFor();
assert.ok(page.url().endsWith(`#/latent/2/${child}`));
assert.ok(await page.locator(".contexts li").count() >= 1);
assert.doesNotMatch(await page.locator("#latent").innerText(), /undefined|false|NaN/);
assert.ok((await page.locator(".contexts .line .peak").first().innerText()).length > 0);
assert.notEqual(await page.locator(".contexts .line .on").first().evaluate((e) => getComputedStyle(e).backgroundColor), "rgba(0, 0, 0, 0)");
await shot(page, "latent");
await shot(page, "latent-whole", true);
await page.goBack();
await page.locator("#found .hits a").first().waitFor();
await goTo(page, `#/latent/1/${rows[0] - 1}`);
await page.locator("#latent h1", { hasText: `Parent 1/${rows[0] - 1}` }).waitFor();
await goTo(page, "#/latent/2/99999999");
await page.locator("#latent h1", { hasText: "No such latent" }).waitFor();
await goTo(page, "#/");
assert.ok(await page.locator("#overview").isVisible());
const light = await background(page);
await page.locator("#theme").click();
assert.notEqual(await background(page), light);
await done(page);

page = await open(run, null, "dark");
await page.evaluate(() => { try { localStorage.clear(); } catch { /* nothing is kept then */ } });
await page.reload();
assert.notEqual(await background(page), light);
await shot(page, "overview-dark");
await page.locator("#training").scrollIntoViewIfNeeded();
await page.locator("#training svg.main-svg").first().waitFor();
await shot(page, "training-dark");
await goTo(page, "#/map/root");
await shot(page, "map-dark");
await goTo(page, `#/latent/2/${child}`);
await shot(page, "latent-dark");
await done(page);

// A phone.
page = await open(run, { width: 360, height: 740 });
await fits(page, "overview");
await shot(page, "phone-overview");
await allPlots(page);
await page.evaluate(() => document.querySelectorAll("details").forEach((d) => { d.open = true; }));
await fits(page, "overview with everything open");
await shot(page, "phone-overview-whole", true);
await goTo(page, "#/map");
await page.locator("#tree .family summary").first().click();
await fits(page, "map");
await shot(page, "phone-map");
await goTo(page, `#/latent/2/${child}`);
await fits(page, "latent");
await shot(page, "phone-latent");
await done(page);

// A run that was only trained.
page = await open(bare);
assert.match(await page.locator(".note").first().innerText(), /has not been evaluated yet/);
assert.equal(await page.locator("#map").count(), 0);
await allPlots(page);
await done(page);

// An ablation.
page = await open(ablation);
assert.ok((await page.locator(".shows").first().innerText()).length > 20);
assert.ok(await page.locator("table.suite tbody tr").count() >= 5);
await allPlots(page);
assert.ok(await page.locator(".plot svg.main-svg .errorbar").count() >= 1);
await page.evaluate(() => scrollTo(0, 0));
await shot(page, "ablation-light");
await shot(page, "ablation-whole", true);
await done(page);
page = await open(ablation, { width: 360, height: 740 }, "dark");
await allPlots(page);
await fits(page, "ablation");
await shot(page, "phone-ablation", true);
await done(page);

await browser.close();
fs.rmSync(profile, { recursive: true, force: true });
console.log("the reports open, nothing is loaded, and all that was asked for is there");
