// Names and notes of latents: those of labels.json, replaced by what was changed in this browser.
const FORMAT = "strata-labels";

/** The labels of one run; `at(level, latent)` is the number of a latent, and `name(a)` returns level and latent of a number. */
const labelStore = (index, at, pair) => {
  const key = `strata-labels:${index.model || [index.run, index.f1, index.f2].join("/")}`;
  const empty = { label: "", note: "" };
  const clean = (l) => ({ label: String(l?.label ?? "").trim(), note: String(l?.note ?? "").trim() });
  const same = (a, b) => a.label === b.label && a.note === b.note;
  const base = new Map(index.labels.map((l) => [at(l.level, l.latent), clean(l)]));
  const own = new Map();
  const listeners = [];
  let kept = true;
  const known = (l, j) => Number.isInteger(j) && j >= 0 && ((l === 1 && j < index.f1) || (l === 2 && j < index.f2));
  try {
    for (const [name, l] of Object.entries(JSON.parse(localStorage.getItem(key)) || {})) {
      const [level, latent] = name.split("/").map(Number);
      if (known(level, latent)) own.set(at(level, latent), clean(l));
    }
  } catch { /* nothing is kept, or not by us */ }
  const tidy = () => { for (const [a, l] of own) if (same(l, base.get(a) || empty)) own.delete(a); };
  const keep = () => {
    tidy();
    try {
      if (own.size) localStorage.setItem(key, JSON.stringify(Object.fromEntries([...own].map(([a, l]) => [pair(a).join("/"), l]))));
      else localStorage.removeItem(key);
    } catch { kept = false; }
    listeners.forEach((f) => f());
  };
  tidy();
  const get = (a) => own.get(a) || base.get(a) || empty;
  const all = () => [...new Set([...base.keys(), ...own.keys()])].sort((a, b) => a - b)
    .map((a) => ({ a, ...get(a), changed: own.has(a) })).filter((l) => l.label || l.note);
  return {
    get,
    all,
    /** Changes that have not been exported. */
    changes: () => own.size,
    /** Whether the browser stores changes after the window is closed. */
    isKept: () => kept,
    set(a, label) { own.set(a, clean(label)); keep(); },
    forget() { own.clear(); keep(); },
    onChange: (f) => listeners.push(f),
    /** The text of labels.json. */
    exported() {
      const labels = all().map(({ a, label, note }) => ({ level: pair(a)[0], latent: pair(a)[1], label, note }));
      return `${JSON.stringify({ format: FORMAT, version: 1, run: index.run, model: index.model, labels }, null, 1)}\n`;
    },
    /** Imports the text of a labels.json and returns its number of labels. Throws an Error with a sentence. */
    imported(text) {
      let file;
      try { file = JSON.parse(text); } catch { throw new Error("The file is no JSON."); }
      if (file?.format !== FORMAT || file.version !== 1 || !Array.isArray(file.labels)) throw new Error("The file is no labels.json of Strata.");
      if (file.model && index.model && file.model !== index.model) throw new Error("The labels are of another model.");
      const wrong = file.labels.find((l) => !known(l?.level, l?.latent));
      if (wrong) throw new Error(`The run has no latent ${wrong?.level}/${wrong?.latent}.`);
      for (const l of file.labels) own.set(at(l.level, l.latent), clean(l));
      keep();
      return file.labels.length;
    },
  };
};

/** The view of all labels of a run: a table, export and import. */
const labelsView = (A) => {
  const holder = $("labels");
  const store = A.labels;
  const said = el("p", { role: "status", class: "aside" });
  const rows = () => store.all().map((l) => el("tr", {},
    el("th", { scope: "row" }, el("a", { href: A.link(l.a) }, A.name(l.a))),
    el("td", {}, l.label), el("td", { class: "text" }, l.note),
    el("td", {}, l.changed ? "this browser" : "the report")));
  const body = el("tbody");
  const table = el("table", { class: "metrics" }, el("thead", {}, el("tr", {},
    ["Latent", "Label", "Note", "Kept in"].map((h) => el("th", { scope: "col" }, h)))), body);
  const none = el("p", {}, "No latent has a label yet. The page of a latent has a field for one.");
  const save = el("button", { type: "button", class: "more", id: "labels-export" }, "Export labels.json");
  const choose = el("input", { type: "file", accept: ".json,application/json", id: "labels-import" });
  const forget = el("button", { type: "button", class: "more" });
  let isSure = false;
  const show = () => {
    const list = rows();
    body.replaceChildren(...list);
    table.hidden = !list.length;
    none.hidden = Boolean(list.length);
    save.disabled = !list.length;
    const n = store.changes();
    forget.hidden = !n;
    isSure = false;
    forget.textContent = "Forget what only this browser has";
    said.textContent = n
      ? `${number(n)} ${n === 1 ? "label is" : "labels are"} ${store.isKept() ? "only in this browser" : "only in this window, as the browser keeps nothing"}: export ${n === 1 ? "it" : "them"}.`
      : "Every label is in the report itself.";
  };
  save.addEventListener("click", () => {
    const url = URL.createObjectURL(new Blob([store.exported()], { type: "application/json" }));
    el("a", { href: url, download: "labels.json" }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
  });
  choose.addEventListener("change", async () => {
    const file = choose.files[0];
    if (!file) return;
    try {
      const n = store.imported(await file.text());
      show();
      said.textContent = `${number(n)} ${n === 1 ? "label was" : "labels were"} taken in.`;
    } catch (error) { said.textContent = error.message; }
    choose.value = "";
  });
  forget.addEventListener("click", () => {
    if (isSure) { store.forget(); show(); return; }
    isSure = true;
    forget.textContent = "Forget them? Press again";
  });
  show();
  const head = el("h1", { tabindex: "-1" }, A.letter ? `Labels of ${A.letter}` : "Labels");
  const others = atlases.filter((other) => other !== A).map((other) => el("p", {}, el("a", { href: other.to("labels") }, `Labels of ${other.letter}`)));
  holder.replaceChildren(head, el("p", { class: "lede" }, "What you call a latent, and what you note about it."), ...others, said,
    el("div", { class: "tools" }, save, el("label", {}, "Import ", choose), forget), table, none,
    el("p", { class: "aside" }, "What you type is kept in this browser. To keep it with the run, export it, put the file ",
      el("code", {}, "labels.json"), " into the directory of the run, and make the report again: whoever gets the page has the labels too."));
  return head;
};
