// Pages in headless Chromium, which record everything that they must not do.
import assert from "node:assert/strict";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { chromium } from "playwright-core";

/** Starts the browser; screenshots go to the directory `shots`. */
export const start = async (executablePath, shots) => {
  const profile = fs.mkdtempSync(path.join(os.tmpdir(), "strata-chromium-"));
  const browser = await chromium.launchPersistentContext(profile, {
    executablePath,
    headless: true,
    colorScheme: "light",
    viewport: { width: 1280, height: 860 },
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
      "--disable-component-update", "--disable-sync"],
  });
  return {
    /** Opens a page. */
    async open(file, size, scheme = "light") {
      const page = await browser.newPage();
      page.wrong = [];
      page.on("console", (m) => { if (["error", "warning"].includes(m.type())) page.wrong.push(`console: ${m.text()}`); });
      page.on("pageerror", (e) => page.wrong.push(`exception: ${e.message}`));
      page.on("request", (r) => { if (!/^(file|data|blob):/.test(r.url())) page.wrong.push(`request: ${r.url()}`); });
      await page.emulateMedia({ colorScheme: scheme });
      if (size) await page.setViewportSize(size);
      await page.goto(pathToFileURL(path.resolve(file)).href);
      return page;
    },
    /** Closes a page that has done nothing wrong. */
    async done(page) { assert.deepEqual(page.wrong, []); await page.close(); },
    async shot(page, name, fullPage = false) {
      await page.waitForTimeout(300);
      await page.screenshot({ path: path.join(shots, `${name}.png`), fullPage });
    },
    async end() {
      await browser.close();
      fs.rmSync(profile, { recursive: true, force: true });
    },
  };
};

export const goTo = async (page, hash) => { await page.evaluate((h) => { location.hash = h; }, hash); await page.waitForTimeout(150); };

/** Checks that a page is no wider than its window. */
export const fits = async (page, what) => {
  const [inner, outer] = await page.evaluate(() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]);
  assert.ok(inner <= outer, `${what}: ${inner} px wide in a window of ${outer} px`);
};
