// The view that computes: core as WebAssembly encodes what is typed; with the embedded language model it also writes, steered and
// as it is. Nothing leaves the page.
const LENGTH = 160;
const EDITS = 6;

/** The module with the models, as functions of JavaScript. Functions throw an Error with a sentence. */
const startEngine = async (info) => {
  const decoded = async (id) => new Uint8Array(await inflate($(id)).arrayBuffer());
  const { instance } = await WebAssembly.instantiate(await decoded("live-module"), {});
  const e = instance.exports;
  const memory = (type, at, n) => new type(e.memory.buffer, at, n);
  const check = (status) => {
    if (status) throw new Error(new TextDecoder().decode(memory(Uint8Array, e.text(), e.text_len())));
  };
  const give = (parts, bytes) => {
    const at = e.reserve(bytes);
    let end = at;
    for (const part of parts) { memory(part.constructor, end, part.length).set(part); end += part.byteLength; }
  };
  const [cfg, weights] = [await decoded("live-cfg"), await decoded("live-weights")];
  give([cfg, weights], cfg.length + weights.length);
  check(e.load(cfg.length, weights.length));
  if (info.language) {
    const model = await decoded("live-language");
    give([model], model.length);
    check(e.load_language(model.length, info.language.heads, info.language.epsilon, info.language.layer));
  }
  const lists = () => {
    const n = e.n_rows();
    const missed = Array.from(memory(Float32Array, e.list(0, 3), n));
    const levels = [0, 1].map((level) => {
      const ends = memory(Uint32Array, e.list(level, 0), n);
      const total = n ? ends[n - 1] : 0;
      const [index, value] = [memory(Uint32Array, e.list(level, 1), total), memory(Float32Array, e.list(level, 2), total)];
      return Array.from(ends, (end, i) => {
        const list = [];
        for (let k = i ? ends[i - 1] : 0; k < end; k++) list.push([index[k], value[k]]);
        return list;
      });
    });
    return missed.map((share, i) => ({ missed: share, codes: [levels[0][i], levels[1][i]] }));
  };
  return {
    /** Reads tokens and returns for each row its codes at both levels, `[latent, activation]`, and the share that is missed. */
    read(tokens) { const part = Uint32Array.from(tokens); give([part], part.byteLength); check(e.read(tokens.length)); return lists(); },
    rows(numbers) { const part = Float32Array.from(numbers); give([part], part.byteLength); check(e.rows(part.length)); return lists(); },
    begin(which, tokens, edits, heat, seed) {
      const strengths = new Uint32Array(Float32Array.from(edits, (edit) => edit.strength).buffer);
      const words = Uint32Array.from([...tokens, ...edits.flatMap((edit, i) => [edit.level, edit.latent, strengths[i]])]);
      give([words], words.byteLength);
      check(e.begin(which, tokens.length, edits.length, heat, seed));
    },
    next(which) { check(e.next(which)); return memory(Uint32Array, e.input(), 1)[0]; },
  };
};

const liveView = $("live") && (() => {
  const info = JSON.parse($("live-info").textContent);
  const A = atlases[0] || null;
  const { language } = info;
  const numbers = language && new Map(language.tokens.map((text, i) => [text, i]));
  /** The latent of a level as a number of the atlas, and a link to it. */
  const at = (level, j) => (level === 1 ? j : info.f1 + j);
  const nameOf = (level, j) => `${info.f2 ? (level === 1 ? "Parent" : "Child") : "Latent"} ${level}/${j}`;
  const link = (level, j) => (A ? el("a", { href: A.link(at(level, j)) }, nameOf(level, j)) : el("b", {}, nameOf(level, j)));
  const words = (level, j) => (A ? said(A, at(level, j)) : "");
  const most = new Map();
  /** The largest activation of a latent: that of `strata eval`, or of what was read. */
  const largest = (level, j) => {
    const key = at(level, j);
    if (!most.has(key)) most.set(key, (A && A.record(key).max) || 0);
    return most.get(key) || seen.get(key) || 1;
  };
  const seen = new Map();
  const parentOf = (j) => info.parents[j] ?? -1;

  let engine = null;
  let rows = [];
  let texts = [];
  let chosen = -1;
  /** The latent whose activations colour the line; null for the share that is explained. */
  let shown = null;
  const edits = [];

  const trouble = (error) => { $("live-trouble").textContent = error.message; $("live-trouble").hidden = false; };
  const guarded = (f) => { try { $("live-trouble").hidden = true; return f(); } catch (error) { trouble(error); return null; } };

  const activation = (row, level, j) => row.codes[level - 1].find(([k]) => k === j)?.[1] ?? 0;
  const paintLine = () => {
    const glow = (row) => (shown ? activation(row, ...shown) / largest(...shown) : 0);
    [...$("live-line").children].forEach((node, i) => {
      const a = Math.max(0, Math.min(1, glow(rows[i]))) * 100;
      node.className = `${a > 0 ? "on" : ""}${i === chosen ? " peak" : ""}`;
      node.style.setProperty("--a", String(Math.round(a)));
      node.setAttribute("aria-selected", String(i === chosen));
    });
    $("live-hint").replaceChildren(...(shown ? ["Coloured by ", link(...shown), ". ", el("button", { type: "button", class: "small", "data-clear": true }, "No colour")]
      : [language ? "Choose a character to see what fires on it; choose a latent there to see where else it fires." : "Choose a row to see what fires on it."]));
  };
  const showLatent = (level, j) => { shown = [level, j]; paintLine(); paintAt(); };
  /** One latent with its activation, as a bar against its largest. */
  const entry = (level, [j, value]) => el("li", { class: level === 1 ? "" : "live-child", "data-level": level, "data-latent": j },
    el("span", { class: "who" }, link(level, j)), el("span", { class: "what" }, words(level, j)),
    bar(value / largest(level, j), level === 2, number(value, 3)),
    el("span", { class: "context-tools" },
      el("button", { type: "button", class: "small", "data-do": "show", "aria-pressed": String(shown != null && shown[0] === level && shown[1] === j) }, "show"),
      language && el("button", { type: "button", class: "small", "data-do": "steer" }, "steer")));
  const paintAt = () => {
    const row = rows[chosen];
    if (!row) { $("live-at").replaceChildren(el("p", { class: "soft" }, "Nothing was read yet.")); return; }
    const strongest = (list) => [...list].sort((x, y) => y[1] - x[1]);
    const [parents, children] = row.codes.map(strongest);
    const kids = (parent) => children.filter(([j]) => parentOf(j) === parent).map((c) => entry(2, c));
    const orphans = kids(-1);
    $("live-at").replaceChildren(
      el("p", { class: "aside" }, language ? ["On ", el("span", { class: "tok" }, token(texts[chosen])), `, character ${chosen + 1} of ${rows.length}: `] : `Row ${chosen + 1} of ${rows.length}: `,
        `${parents.length} ${parents.length === 1 ? "parent" : "parents"}${info.f2 ? ` and ${children.length} ${children.length === 1 ? "child" : "children"}` : ""}`,
        Number.isFinite(row.missed) ? `; they explain ${percent(1 - row.missed)} of the row.` : "."),
      el("ul", { class: "live-list" }, parents.flatMap((p) => [entry(1, p), ...kids(p[0])])),
      ...(orphans.length ? [el("h3", {}, "Children under ROOT"), el("ul", { class: "live-list" }, orphans)] : []));
  };
  const choose = (i) => {
    chosen = Math.max(-1, Math.min(rows.length - 1, i));
    paintLine();
    paintAt();
  };

  let took = "";
  const paintRead = (read) => {
    const start = performance.now();
    const found = guarded(read);
    if (!found) return;
    const ms = performance.now() - start;
    took = `Read and encoded in ${number(ms, 3)} ms.`;
    rows = found;
    for (const row of rows) row.codes.forEach((list, l) => list.forEach(([j, v]) => { const key = at(l + 1, j); seen.set(key, Math.max(seen.get(key) || 0, v)); }));
    // At the end unless the reader has chosen another one.
    const wasLast = chosen < 0 || chosen >= $("live-line").children.length - 1;
    $("live-line").replaceChildren(...texts.map((text, i) => el("span", { role: "option", "data-at": i }, language ? token(text) : text, text === "\n" ? "\n" : "")));
    choose(wasLast ? rows.length - 1 : chosen);
  };

  // The text, its rows, and the continuations.
  let left = [];
  const tokens = () => {
    const all = [...$("live-text").value.replace(/\r\n?/g, "\n")];
    texts = all.filter((c) => numbers.has(c));
    left = [...new Set(all.filter((c) => !numbers.has(c)))];
    return texts.map((c) => numbers.get(c));
  };
  const status = () => {
    const unknown = left.length ? ` The model does not know ${left.slice(0, 8).map((c) => `“${c}”`).join(", ")}: left out.` : "";
    $("live-status").textContent = took + unknown;
  };
  let writing = 0;
  /** Writes both continuations, a few characters at a time, until something changes. */
  const write = () => {
    if (!language || !engine) return;
    const mine = ++writing;
    const prompt = tokens();
    const [heat, seed] = [Number($("live-heat").value), Math.max(0, Math.trunc(Number($("live-seed").value) || 0))];
    const written = ["", ""];
    const begun = guarded(() => {
      engine.begin(0, prompt, [], heat, seed);
      engine.begin(1, prompt, edits.filter((edit) => edit.strength !== 0), heat, seed);
      return true;
    });
    if (!begun) return;
    const show = () => {
      const same = [...written[0]].findIndex((c, i) => c !== written[1][i]);
      const from = same < 0 ? Math.min(written[0].length, written[1].length) : same;
      $("live-plain").textContent = written[0];
      $("live-steered").replaceChildren(written[1].slice(0, from), el("mark", {}, written[1].slice(from)));
      $("live-steer").dataset.written = String(written[1].length);
    };
    const some = () => {
      if (mine !== writing) return;
      guarded(() => {
        const end = performance.now() + 20;
        do for (const which of [0, 1]) written[which] += language.tokens[engine.next(which)];
        while (written[0].length < LENGTH && performance.now() < end);
        show();
        if (written[0].length < LENGTH) setTimeout(some);
        return true;
      });
    };
    show();
    setTimeout(some);
  };
  const paintEdits = () => {
    $("live-edits").replaceChildren(...edits.map((edit, i) => {
      const reach = 4 * largest(edit.level, edit.latent);
      const value = el("output", {}, number(edit.strength, 3));
      const slider = el("input", { type: "range", min: -reach, max: reach, step: reach / 100, value: edit.strength, "aria-label": `Strength of ${nameOf(edit.level, edit.latent)}` });
      slider.addEventListener("input", () => {
        // The middle catches: 0 is no steering.
        edit.strength = Math.abs(Number(slider.value)) < reach / 50 ? 0 : Number(slider.value);
        value.textContent = number(edit.strength, 3);
        write();
      });
      const remove = el("button", { type: "button", class: "small" }, "remove");
      remove.addEventListener("click", () => { edits.splice(i, 1); paintEdits(); write(); });
      return el("div", { class: "live-edit", "data-level": edit.level, "data-latent": edit.latent }, el("span", { class: "who" }, link(edit.level, edit.latent)), el("span", { class: "what" }, words(edit.level, edit.latent)), slider, value, remove);
    }));
    if (!edits.length) $("live-edits").replaceChildren(el("p", { class: "soft" }, "Choose “steer” beside a latent above, or add one by its number."));
  };
  const steer = (level, latent) => {
    if (edits.some((edit) => edit.level === level && edit.latent === latent)) return;
    if (edits.length === EDITS) edits.shift();
    edits.push({ level, latent, strength: 0 });
    paintEdits();
  };
  const readText = () => { paintRead(() => engine.read(tokens())); status(); write(); };

  /** The numbers of a file: an .npy of f32 in rows, or raw f32. */
  const fromFile = (buffer) => {
    const bytes = new Uint8Array(buffer);
    let start = 0;
    if (bytes[0] === 0x93 && String.fromCharCode(...bytes.slice(1, 6)) === "NUMPY") {
      const view = new DataView(buffer);
      const [head, len] = bytes[6] === 1 ? [10, view.getUint16(8, true)] : [12, view.getUint32(8, true)];
      const text = new TextDecoder("latin1").decode(bytes.slice(head, head + len));
      if (!/'descr': *'<f4'/.test(text) || !/'fortran_order': *False/.test(text)) throw new Error("The .npy file: expected float32 in C order.");
      start = head + len;
    }
    return new Float32Array(buffer.slice(start, start + 4 * Math.floor((buffer.byteLength - start) / 4)));
  };
  const readRows = (list) => {
    const n = Math.floor(list.length / info.d);
    const use = Array.from(list).slice(0, 512 * info.d);
    texts = Array.from({ length: Math.min(n, 512) }, (_, i) => `${i + 1} `);
    paintRead(() => engine.rows(use));
    $("live-status").textContent = n > 512 ? `${took} Only the first 512 rows are shown.` : took;
  };

  let started = null;
  const start = async () => {
    $("live-lede").textContent = language
      ? `Type a text: the embedded model ${language.name} reads it, and this run encodes its residual stream after block ${language.layer}, in this page. Nothing is sent anywhere.`
      : `Rows of ${info.d} numbers are encoded in this page. Nothing is sent anywhere.`;
    $("live-status").textContent = "Starting …";
    try {
      const begin = performance.now();
      engine = await startEngine(info);
      took = `Started in ${number(performance.now() - begin, 3)} ms.`;
    } catch (error) { trouble(error); $("live-status").textContent = "It could not be started."; return; }
    $(language ? "live-read" : "live-rows").hidden = false;
    $("live-steer").hidden = !language;
    $("live-status").textContent = took;
    if (language) {
      $("live-text").value = language.text;
      let timer = 0;
      $("live-text").addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(readText, 30); });
      $("live-heat").addEventListener("input", () => { $("live-heat-now").textContent = $("live-heat").value; write(); });
      $("live-seed").addEventListener("input", write);
      $("live-again").addEventListener("click", () => { $("live-seed").value = String((Math.trunc(Number($("live-seed").value)) + 1) % 1000000); write(); });
      $("live-add").addEventListener("change", () => {
        const [, level, latent] = /^\s*([12])\/(\d+)\s*$/.exec($("live-add").value) || [];
        const isOne = level && Number(latent) < (level === "1" ? info.f1 : info.f2);
        if (isOne) { steer(Number(level), Number(latent)); $("live-add").value = ""; }
        $("live-add").setCustomValidity(isOne ? "" : `Expected 1/0 to 1/${info.f1 - 1}${info.f2 ? `, or 2/0 to 2/${info.f2 - 1}` : ""}`);
        if (!isOne) $("live-add").reportValidity();
      });
      paintEdits();
      readText();
      // The strongest parent of the last character, to begin with.
      const first = rows.length ? [...rows.at(-1).codes[0]].sort((x, y) => y[1] - x[1])[0] : null;
      if (first) steer(1, first[0]);
    } else {
      $("live-numbers").placeholder = `${info.d} numbers, and ${info.d} for each further row`;
      $("live-numbers").addEventListener("input", () => readRows($("live-numbers").value.split(/[\s,;[\]]+/).filter(Boolean).map(Number)));
      $("live-file").addEventListener("change", async () => {
        const [file] = $("live-file").files;
        if (file) { const buffer = await file.arrayBuffer(); guarded(() => readRows(fromFile(buffer))); }
      });
      paintAt();
      paintLine();
    }
    $("live-line").addEventListener("click", (event) => { const node = event.target.closest("[data-at]"); if (node) choose(Number(node.dataset.at)); });
    $("live-line").addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -1, ArrowDown: 1, Home: -Infinity, End: Infinity }[event.key];
      if (!step) return;
      event.preventDefault();
      choose(Math.max(0, chosen + step));
    });
    $("live-hint").addEventListener("click", (event) => { if (event.target.dataset.clear != null) { shown = null; paintLine(); paintAt(); } });
    $("live-at").addEventListener("click", (event) => {
      const what = event.target.dataset?.do;
      const item = event.target.closest("[data-latent]");
      if (!what || !item) return;
      const [level, latent] = [Number(item.dataset.level), Number(item.dataset.latent)];
      if (what === "steer") { steer(level, latent); write(); } else if (shown && shown[0] === level && shown[1] === latent) { shown = null; paintLine(); paintAt(); } else showLatent(level, latent);
    });
  };
  return () => { started ??= start(); return $("live").querySelector("h1"); };
})();
