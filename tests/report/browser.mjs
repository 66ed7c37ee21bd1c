// Opens reports in headless Chromium as a reader would, and checks what they would see.
// node browser.mjs CHROMIUM SCREENSHOTS RUN.html UNEVALUATED.html ABLATION.html PAIR.html
import assert from "node:assert/strict";
import fs from "node:fs";
import { fits, goTo, start } from "./pages.mjs";

const [executablePath, shots, run, bare, ablation, pair] = process.argv.slice(2);
const { open, done, shot, end } = await start(executablePath, shots);
const background = (page) => page.evaluate(() => getComputedStyle(document.documentElement).backgroundColor);
const allPlots = async (page) => {
  for (const box of await page.locator(".plot").all()) {
    await box.scrollIntoViewIfNeeded();
    await box.locator("svg.main-svg").first().waitFor();
  }
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
  // The rarest token that is the first token of some latent.
  const leads = new Map();
  i.top.forEach((t, a) => { if (t.length && i.strings[t[0]].trim()) leads.set(t[0], [...(leads.get(t[0]) || []), a]); });
  const [s, who] = [...leads].sort((a, b) => a[1].length - b[1].length)[0];
  return [i.strings[s], `${who[0] < i.f1 ? 1 : 2}/${who[0] < i.f1 ? who[0] : who[0] - i.f1}`];
});
await page.fill("#search", text);
await page.locator(".hits a", { hasText: new RegExp(`${owner}$`) }).first().waitFor();
await shot(page, "search");
await page.fill("#search", `2/${child}`);
await page.locator(".hits a", { hasText: `Child 2/${child}` }).first().click();
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

// The page of a latent: its activations, contexts of every quarter, windows that open, and folded contexts with the same text.
page = await open(run);
const known = await page.evaluate(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const index = read("index");
  const stream = read("stream");
  const records = document.getElementById("records").textContent.split("\n").map((l) => JSON.parse(l));
  const all = (r) => [...r.contexts, ...r.sampled];
  const name = (a) => (a < index.f1 ? `1/${a}` : `2/${a - index.f1}`);
  const parent = records.findIndex((r, a) => a < index.f1 && all(r).some((c) => c.kids?.length));
  const folded = records.findIndex((r) => r.contexts.some((c) => c.like != null));
  const weak = records.findIndex((r) => r.sampled.some((c) => c.q < 0.25));
  // A text that occurs with a capital letter, around the largest activation of some latent.
  const text = (c) => {
    const i = stream.first.findLastIndex((f) => f <= c.first);
    return stream.tokens[i].slice(c.first - stream.first[i], c.first - stream.first[i] + c.n).map((s) => index.strings[s]);
  };
  const words = records.flatMap((r) => r.contexts).map((c) => text(c).slice(c.row - c.first, c.row - c.first + 6).join("")).filter((t) => /^[A-Z][a-z]{3}/.test(t));
  return { f1: index.f1, root: index.parent.slice(index.f1).some((p) => p < 0), parent: name(parent), folded: folded < 0 ? null : name(folded), weak: name(weak), word: words[0].slice(0, 4) };
});
await goTo(page, `#/latent/${known.parent}`);
assert.ok(await page.locator(".histogram .histogram-bar").count() >= 8);
assert.match(await page.locator(".histogram").getAttribute("aria-label"), /^Histogram of [\d,]+ activations from 0/);
const kid = page.locator(".line .kid[data-kids]").first();
assert.match(await kid.evaluate((e) => getComputedStyle(e).boxShadow), /inset/);
assert.ok(await page.locator(".line .kid[data-mark]").count() >= 1, "a letter beside the colour");
const key = page.locator(".kids .kid-key").first();
const letter = (await key.locator(".kid-mark").innerText()).trim();
assert.ok(await page.locator(`.line .kid[data-mark="${letter}"]`).count() >= 1);
await key.focus();
await page.keyboard.press("Enter");
assert.equal(await key.getAttribute("aria-pressed"), "true");
assert.ok(await page.locator(".line .kid.is-it").count() >= 1);
await shot(page, "parent-one-child");
await key.click();
assert.equal(await page.locator(".line .kid.is-it").count(), 0);
const more = page.locator(".context-tools button", { hasText: "more" }).first();
const row = await more.evaluateHandle((button) => button.closest("li"));
const tokensOf = () => row.evaluate((li) => li.querySelectorAll(".line > span").length);
const before = await tokensOf();
await more.click();
assert.ok(await tokensOf() > before, "an opened window is wider");
assert.match(await row.evaluate((li) => li.innerText), /stronger than/);
if (known.folded) {
  await goTo(page, `#/latent/${known.folded}`);
  const fold = page.locator("button", { hasText: "alike" }).first();
  assert.equal(await page.locator(".folded li:visible").count(), 0);
  await fold.click();
  assert.ok(await page.locator(".folded li:visible").count() >= 1);
}
await goTo(page, `#/latent/${known.weak}`);
assert.ok(await page.locator(".contexts-section h3", { hasText: "Weakest quarter" }).isVisible());

// The search finds text of contexts, exact hits first, and those that fire on it before those near it.
await goTo(page, "#/map");
await page.fill("#search", known.word);
await page.locator("#found h2", { hasText: "Contexts with exactly this text" }).waitFor();
const hits = page.locator("#found section", { hasText: "exactly this text" }).locator(".hits li");
const order = await hits.evaluateAll((list) => list.map((l) => l.querySelector(".count").textContent));
assert.equal(order[0], "fires on it");
assert.ok(!order.includes("near it") || order.lastIndexOf("fires on it") < order.indexOf("near it"), order.join(", "));
assert.equal((await hits.first().locator(".line .hit").allInnerTexts()).join("").slice(0, 4), known.word);
await shot(page, "search-contexts");
await page.fill("#search", "");

// Every family can be reached with the mouse and the keyboard; ROOT is at the margin of the map.
await page.locator(".pager").waitFor();
let seen = 0;
for (;;) {
  seen += await page.locator("#tree .family").count();
  const next = page.locator(".pager button", { hasText: "Next" });
  if (!(await next.isVisible()) || (await next.isDisabled())) break;
  await next.click();
}
assert.equal(seen, known.f1 + (known.root ? 1 : 0));
await page.fill("#tree-filter", `1/${known.f1 - 1}`);
assert.ok(await page.locator(`#tree .family[data-family="${known.f1 - 1}"]`).isVisible());
await page.fill("#tree-filter", "");
const map = await page.locator("#canvas").boundingBox();
const at = async (x) => { await page.mouse.move(map.x + map.width * x, map.y + map.height / 2); await page.waitForTimeout(60); return page.locator("#tip").innerText(); };
await page.evaluate(() => scrollTo(0, 0));
assert.doesNotMatch(await at(0.4), /ROOT/);
if (known.root) assert.doesNotMatch(await at(0.84), /ROOT/, "ROOT takes no more than a seventh");
await page.locator("#canvas").focus();
await page.keyboard.press("ArrowRight");
await page.keyboard.press("ArrowDown");
assert.match(await page.locator("#tip").innerText(), /Parent 1\/\d+/);
await page.keyboard.press("Enter");
await page.locator("#map h1", { hasText: "Family of parent" }).waitFor();
await page.locator("#tree .family.chosen[open]").waitFor();

// Labels are stored, shown on the pages of their latents, exported and imported.
await goTo(page, "#/latent/1/0");
await page.fill("#label-text", "names of <b>speakers</b>");
await page.fill("#label-note", "and the colon");
await page.locator(".label-form", { hasText: "Kept in this browser" }).waitFor();
assert.match(await page.locator(".called").innerText(), /“names of <b>speakers<\/b>”/);
await page.reload();
assert.equal(await page.inputValue("#label-text"), "names of <b>speakers</b>");
await goTo(page, "#/map");
await page.fill("#search", "speakers");
await page.locator("#found section", { hasText: "By label" }).locator("a", { hasText: "Parent 1/0" }).waitFor();
await goTo(page, "#/labels");
assert.match(await page.locator("#labels tbody tr").first().innerText(), /Parent 1\/0\s+names of <b>speakers<\/b>\s+and the colon\s+this browser/);
await shot(page, "labels");
const [download] = await Promise.all([page.waitForEvent("download"), page.locator("#labels-export").click()]);
const exported = JSON.parse(fs.readFileSync(await download.path(), "utf8"));
assert.deepEqual([exported.format, exported.version], ["strata-labels", 1]);
assert.deepEqual(exported.labels, [{ level: 1, latent: 0, label: "names of <b>speakers</b>", note: "and the colon" }]);
assert.match(exported.model, /^[0-9a-f]{64}$/);
const forget = page.locator("#labels button", { hasText: "Forget" });
await forget.click();
await forget.click();
await page.locator("#labels", { hasText: "No latent has a label yet" }).waitFor();
const take = async (labels) => page.setInputFiles("#labels-import", { name: "labels.json", mimeType: "application/json", buffer: Buffer.from(JSON.stringify(labels)) });
await take({ ...exported, model: "0".repeat(64) });
await page.locator("#labels", { hasText: "of another model" }).waitFor();
await take({ ...exported, labels: [{ level: 1, latent: 99999, label: "x" }] });
await page.locator("#labels", { hasText: "no latent 1/99999" }).waitFor();
await take(exported);
await page.locator("#labels", { hasText: "1 label was taken in" }).waitFor();
assert.equal(await page.locator("#labels tbody tr").count(), 1);
await page.evaluate(() => localStorage.clear());
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
await goTo(page, `#/latent/${known.parent}`);
await fits(page, "parent");
await shot(page, "phone-parent");
await goTo(page, "#/labels");
await fits(page, "labels");
await done(page);

// Two runs.
page = await open(pair);
assert.equal(await page.locator("h1").first().innerText(), "Two seeds");
assert.ok(await page.locator("table.pair tbody tr").count() >= 8);
assert.ok(await page.locator("#settings-head ~ table code", { hasText: /^seed$/ }).isVisible());
await allPlots(page);
await page.evaluate(() => scrollTo(0, 0));
await shot(page, "pair");
await page.locator("nav a", { hasText: "Latents of B" }).click();
await page.locator("#map h1", { hasText: "Latents of B" }).waitFor();
await page.locator("#tree .family summary").first().click();
await page.locator("#tree .family a", { hasText: "Page of" }).first().click();
assert.match(page.url(), /#\/b\/latent\/1\/\d+$/);
await page.locator(".histogram").first().waitFor();
await page.locator("nav a", { hasText: "Latents of A" }).click();
await page.locator("#map h1", { hasText: "Latents of A" }).waitFor();
await done(page);
page = await open(pair, { width: 360, height: 740 }, "dark");
await fits(page, "two runs");
await shot(page, "phone-pair");
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

await end();
console.log("the reports open, nothing is loaded, and all that was asked for is there");
