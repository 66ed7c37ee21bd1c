// The page of a latent: its label, its activations, its contexts and its family.

/** The histogram of the activations. */
const histogramOf = (r, two) => {
  const n = r.bars.length;
  if (!n) return "";
  const [wide, high, foot] = [320, 96, 18];
  const top = Math.max(...r.bars);
  const box = svg("svg", { viewBox: `0 0 ${wide} ${high + foot}`, class: two ? "histogram two" : "histogram", role: "img" });
  const total = r.bars.reduce((s, b) => s + b, 0);
  const step = wide / n;
  r.bars.forEach((count, i) => {
    const h = count ? Math.max((count / top) * (high - 4), 1.5) : 0;
    box.append(svg("rect", { x: i * step + 0.5, y: high - h, width: Math.max(step - 1, 0.5), height: h, class: "histogram-bar" }),
      svg("rect", { x: i * step, y: 0, width: step, height: high, fill: "transparent" },
        svg("title", {}, `${number(i * r.width, 3)} to ${number((i + 1) * r.width, 3)}: ${number(count)} tokens`)));
  });
  box.append(svg("line", { x1: 0, x2: wide, y1: high, y2: high, class: "histogram-axis" }));
  for (const [share, anchor] of [[0, "start"], [0.5, "middle"], [1, "end"]]) {
    box.append(svg("text", { x: share * wide, y: high + foot - 4, "text-anchor": anchor, class: "histogram-text" }, share ? number(share * n * r.width, 2) : "0"));
  }
  const peak = r.bars.indexOf(top);
  box.setAttribute("aria-label", `Histogram of ${number(total)} activations from 0 to ${number(n * r.width, 3)}; most are from ${number(peak * r.width, 3)} to ${number((peak + 1) * r.width, 3)}.`);
  return el("figure", { class: "strengths" }, el("figcaption", {}, "Its activations, where it fires"), box);
};

/** The fields for the label and the note of a latent. */
const labelForm = (A, a, changed) => {
  const { label, note } = A.labels.get(a);
  const name = el("input", { type: "text", id: "label-text", maxlength: 200, placeholder: "What it stands for", autocomplete: "off", value: label });
  const text = el("textarea", { id: "label-note", rows: 2, maxlength: 10000, placeholder: "Anything to remember" }, note);
  const state = el("span", { role: "status", class: "soft" });
  // Store every change at once, since the window may be closed at any time.
  const save = () => {
    const now = { label: name.value.trim(), note: text.value.trim() };
    const old = A.labels.get(a);
    if (now.label === old.label && now.note === old.note) return;
    A.labels.set(a, now);
    state.replaceChildren(A.labels.isKept() ? "Kept in this browser. " : "Kept until this window is closed. ", el("a", { href: A.to("labels") }, "Export"));
    changed();
  };
  for (const field of [name, text]) field.addEventListener("input", save);
  const form = el("form", { class: "label-form" }, el("label", {}, el("span", {}, "Label"), name), el("label", {}, el("span", {}, "Notes"), text), state);
  form.addEventListener("submit", (event) => { event.preventDefault(); save(); });
  return form;
};

/** The children that are marked in the contexts of a parent, in descending order of activation: their colours and letters. */
const marksOf = (r) => {
  const mass = new Map();
  for (const c of [...r.contexts, ...r.sampled]) for (const [, child, v] of c.kids || []) mass.set(child, (mass.get(child) || 0) + v);
  const order = [...mass].sort((x, y) => y[1] - x[1] || x[0] - y[0]).slice(0, MARKS.length);
  return new Map(order.map(([child], i) => [child, { mark: MARKS[i], colour: i % COLOURS }]));
};

/** The legend of the children that fire in the contexts; a button shows one of them alone. */
const legendOf = (A, marks, section) => {
  const list = el("ul", { class: "kids" });
  let alone = null;
  const show = () => {
    section.classList.toggle("is-alone", alone != null);
    section.querySelectorAll("[data-kids]").forEach((t) => t.classList.toggle("is-it", alone != null && t.dataset.kids.split(" ").includes(String(alone))));
    list.querySelectorAll("button").forEach((b) => b.setAttribute("aria-pressed", String(Number(b.dataset.child) === alone)));
  };
  for (const [child, { mark, colour: k }] of marks) {
    const a = A.at(2, child);
    const button = el("button", { type: "button", class: "kid-key", "data-child": child, "aria-pressed": "false", title: "Show this child alone" },
      el("span", { class: "kid-mark", style: `--k:var(--k${k})` }, mark), A.said(a) || `2/${child}`);
    button.addEventListener("click", () => { alone = alone === child ? null : child; show(); });
    list.append(el("li", {}, button, el("a", { href: A.link(a), "aria-label": A.name(a) }, `2/${child}`)));
  }
  // Contexts that are opened later are marked too.
  new MutationObserver(() => { if (alone != null) show(); }).observe(section, { childList: true, subtree: true });
  return list;
};

const QUARTERS = ["Weakest quarter of its activations", "Second quarter", "Third quarter", "Strongest quarter, drawn at random"];

const contextsOf = (A, r, marks) => {
  const section = el("section", { class: "latent-section contexts-section" }, el("h2", {}, "Where it fires"));
  if (!r.contexts.length) { section.append(el("p", {}, "It fires nowhere on the rows that were evaluated.")); return section; }
  const max = r.max || 1;
  const hasText = A.tokens(r.contexts[0]) != null;
  if (hasText) section.append(el("p", { class: "aside" }, "The number is its activation on the framed token; the stronger the shade, the stronger it fires."));
  if (marks.size && hasText) {
    section.append(el("p", { class: "aside" }, "Lines below the text show which of its children fire, in their colours; a letter stands where the strongest begins, + for one that is not listed."), legendOf(A, marks, section));
  }
  const kids = marks.size ? marks : null;
  section.append(el("h3", {}, "Strongest ", el("small", {}, "at most one place a sequence")), contextList(A, r.contexts, max, kids));
  for (let q = 3; q >= 0; q--) {
    // Contexts with the same text refer to each other by their index in the list.
    const own = r.sampled.map((c, i) => [c, i]).filter(([c]) => Math.min(Math.floor(4 * c.q), 3) === q);
    if (!own.length) continue;
    const places = new Map(own.map(([, i], k) => [i, k]));
    const list = own.map(([c]) => ({ ...c, like: c.like == null ? undefined : places.get(c.like) }));
    section.append(el("h3", {}, QUARTERS[q]), contextList(A, list, max, kids));
  }
  return section;
};

const latentPage = (A, l, j) => {
  const holder = $("latent");
  const { index, f1, f2 } = A;
  const a = A.at(l, j);
  if (!(l === 1 || l === 2) || !(j >= 0 && j < (l === 1 ? f1 : f2)) || !Number.isInteger(j)) {
    holder.replaceChildren(el("h1", { tabindex: "-1" }, "No such latent"), el("p", {}, el("a", { href: A.to("map") }, "All latents")));
    return holder.querySelector("h1");
  }
  const r = A.record(a);
  const p = index.parent[a];
  const kids = l === 1 ? A.children[j] : [];
  const siblings = p >= 0 ? A.children[p].filter((s) => s !== a) : [];
  const crumbs = el("nav", { class: "crumbs", "aria-label": "Where this latent is" }, el("a", { href: A.to("map") }, A.letter ? `Latents of ${A.letter}` : "Latents"), "›",
    ...(l === 2 && p >= 0 ? [el("a", { href: A.link(p) }, "Parent 1/" + p), "›"] : l === 2 && f2 ? [el("a", { href: A.to("map/root") }, "ROOT"), "›"] : []),
    el("span", { "aria-current": "page" }, `${l}/${j}`),
    l === 1 && kids.length ? el("a", { href: A.to(`map/${j}`) }, "Map of its family") : "",
    el("span", { class: "turn" }, ...(j > 0 ? [el("a", { href: A.link(a - 1), rel: "prev" }, `‹ ${l}/${j - 1}`), " "] : []),
      ...(j + 1 < (l === 1 ? f1 : f2) ? [el("a", { href: A.link(a + 1), rel: "next" }, `${l}/${j + 1} ›`)] : [])));
  const fact = (dt, dd, small) => el("div", {}, el("dt", {}, dt), el("dd", {}, dd, small ? el("small", {}, small) : ""));
  const facts = el("dl", { class: "facts" },
    fact("Fires on", percent(index.density[a]), `${number(index.fires[a])} tokens`),
    r.mean != null && fact("Activation", number(r.mean, 3), `mean where it fires; largest ${number(r.max, 3)}`),
    index.gain[a] != null && fact("Gain", percent(index.gain[a]), A.gain(a) < 0 ? "it harms: the error would shrink without it" : "of the error of level 2, if it alone were gone; higher is better"),
    index.containment[a] != null && fact("P(parent | child), without the gate", percent(index.containment[a]), p >= 0 ? `chance ${percent(index.density[p])}; higher is better` : ""),
    index.lift[a] != null && fact("Lift, without the gate", `${number(index.lift[a], 3)}×`, "chance is 1×; higher is better"),
    r.divergence != null && fact("More specific by", `${number(r.divergence, 3)} bits`, "KL of its tokens from its parent’s"),
    l === 1 && f2 && fact("Children", number(kids.length), kids.length ? `together a gain of ${percent(A.sum(kids, A.gain))}` : ""),
    index.coverage[a] != null && fact("P(some child | parent)", percent(index.coverage[a])),
    index.exclusivity[a] != null && fact("P(one child | some child), without the gate", percent(index.exclusivity[a]), "1: siblings exclude each other"));
  const rows = (list, two, make) => {
    const top = Math.max(...list.map((x) => Math.abs(x.at(-1))), 1e-12);
    return list.map((x) => el("tr", {}, el("th", { scope: "row" }, make(x)), el("td", {}, bar(Math.abs(x.at(-1)) / top, two, number(x.at(-1), 3)))));
  };
  const table = (heading, note, heads, body) => body.length
    ? el("section", {}, el("h2", {}, heading), note ? el("p", { class: "aside" }, note) : "",
      el("table", {}, el("thead", {}, el("tr", {}, heads.map((h) => el("th", { scope: "col" }, h)))), el("tbody", {}, body)))
    : "";
  const words = (x) => chip(A, x[0]);
  const columns = el("div", { class: "columns" },
    table("Tokens it fires on", "Shares of its whole activation.", ["token", "share"], rows(r.tokens, l === 2, words)),
    table("Logits it raises", "By its direction alone, for an activation of 1.", ["token", "logit"], rows(r.promotes, l === 2, words)),
    table("Logits it lowers", "By its direction alone, for an activation of 1.", ["token", "logit"], rows(r.suppresses, l === 2, words)),
    table("Nearest directions", "Cosine of the decoder rows; 1 is the same direction.", ["latent", "cosine"], rows(r.neighbours, l === 2, (n) => {
      const b = A.at(n[0], n[1]);
      const kin = b === p ? " its parent" : kids.includes(b) ? " its child" : siblings.includes(b) ? " a sibling" : "";
      return [el("a", { href: A.link(b) }, `${n[0]}/${n[1]}`), " ", said(A, b), kin ? el("small", {}, kin) : ""];
    })));
  const marks = l === 1 ? marksOf(r) : new Map();
  const mark = (b) => (marks.has(A.local(b)) && A.level(b) === 2 ? [el("span", { class: "kid-mark", style: `--k:var(--k${marks.get(A.local(b)).colour})` }, marks.get(A.local(b)).mark), " "] : "");
  const kin = [];
  if (kids.length) kin.push(el("section", { class: "latent-section" }, el("h2", {}, `Its children, ${number(kids.length)}`), tiles(A, kids, mark)));
  if (siblings.length) kin.push(el("section", { class: "latent-section" }, el("h2", {}, `Its siblings, ${number(siblings.length)}`), tiles(A, siblings)));
  const head = el("h1", { tabindex: "-1" }, A.name(a));
  const called = el("span", { class: "called" }, said(A, a));
  const lede = l === 2 && f2 ? el("p", { class: "lede" }, p >= 0 ? ["child of ", el("a", { href: A.link(p) }, `parent 1/${p}`), " ", said(A, p)] : ["under ROOT: no parent contains it"]) : "";
  holder.replaceChildren(crumbs, el("div", { class: "latent-head" }, head, called), lede,
    el("div", { class: "latent-top" }, el("div", {}, facts), el("div", { class: "side-column" }, histogramOf(r, l === 2), labelForm(A, a, () => called.replaceChildren(said(A, a))))),
    contextsOf(A, r, marks), columns, ...kin);
  return head;
};
