// Contexts: the text around rows on which a latent fires, shaded by activation; on the page of a parent with its children.

/** Letters that are shown before and after the row that fires, until the whole window is opened. */
const SHOWN_BEFORE = 64;
const SHOWN_AFTER = 36;
/** The number of colours of children; letters distinguish children with the same colour. */
const COLOURS = 8;
const MARKS = "abcdefghijklmnop";

/** The range of rows of a window that is shown at first, without its end. */
const narrow = (A, tokens, peak) => {
  let [from, to] = [peak, peak + 1];
  let left = SHOWN_BEFORE;
  while (from > 0 && (left -= Math.max(A.strings[tokens[from - 1]].length, 1)) >= 0) from--;
  left = SHOWN_AFTER;
  while (to < tokens.length && (left -= Math.max(A.strings[tokens[to]].length, 1)) >= 0) to++;
  return [from, to];
};

/** The rows of a context as text. `kids` has the mark and colour of the children that are marked, by their number. */
const lineOf = (A, c, max, tokens, [from, to], kids = null) => {
  const values = new Map(c.at.map((at, i) => [at, c.v[i]]));
  const peak = c.row - c.first;
  const fire = new Map();
  if (kids) for (const [at, child, v] of c.kids || []) { if (!fire.has(at)) fire.set(at, []); fire.get(at).push([child, v]); }
  const line = el("span", { class: kids ? "line with-kids" : "line" });
  if (from > 0) line.append(el("span", { class: "cut", "aria-hidden": "true" }, "…"));
  let before = new Set();
  for (let i = from; i < to; i++) {
    const v = values.get(i) || 0;
    const own = (fire.get(i) || []).filter(([child]) => kids.has(child));
    const others = (fire.get(i) || []).length - own.length;
    const marks = own.map(([child]) => kids.get(child));
    // A letter marks the token on which the strongest child begins to fire, not every token on which it continues.
    const begins = [...marks.map((m) => m.mark), ...(others ? ["+"] : [])].slice(0, 1).filter((m) => !before.has(m))[0];
    before = new Set([...marks.map((m) => m.mark), ...(others ? ["+"] : [])]);
    const title = [v > 0 && number(v, 3), ...own.map(([child, w]) => `child ${kids.get(child).mark}, 2/${child}: ${number(w, 3)}`), others && `${others} more ${others === 1 ? "child" : "children"}`].filter(Boolean).join("; ");
    const shadows = marks.slice(0, 3).map((m, k) => `inset 0 -${3 * (k + 1)}px 0 var(--k${m.colour})`);
    if (others && !marks.length) shadows.push("inset 0 -3px 0 var(--soft)");
    line.append(el("span", {
      class: [v > 0 && "on", i === peak && "peak", shadows.length && "kid"].filter(Boolean).join(" ") || null,
      style: `${v > 0 ? `--a:${Math.round(22 + 70 * Math.min(v / max, 1))};` : ""}${shadows.length ? `box-shadow:${shadows.join(",")}` : ""}` || null,
      title: title || null,
      "data-kids": own.length ? own.map(([child]) => child).join(" ") : null,
      "data-mark": begins || null,
    }, token(A.strings[tokens[i]])));
  }
  if (to < tokens.length) line.append(el("span", { class: "cut", "aria-hidden": "true" }, "…"));
  return line;
};

/** A context of a dump without texts: its activations as bars. */
const sparkOf = (c, max) => {
  const values = new Map(c.at.map((at, i) => [at, c.v[i]]));
  const box = svg("svg", { viewBox: `0 0 ${c.n} 10`, preserveAspectRatio: "none", class: "spark", role: "img", "aria-label": `Activations on the ${c.n} rows around row ${c.row}` });
  for (let i = 0; i < c.n; i++) {
    const h = Math.max(((values.get(i) || 0) / max) * 10, 0.25);
    box.append(svg("rect", { x: i + 0.1, y: 10 - h, width: 0.8, height: h, fill: `var(--${i === c.row - c.first ? "one" : values.get(i) ? "glow" : "line"})` }));
  }
  return el("div", {}, box, el("small", {}, `row ${number(c.row)}`));
};

/** A context as a row of a list; a button opens its whole window. Contexts with the same text are folded under it. */
const contextRow = (A, c, max, kids, alike = []) => {
  const strength = c.v[c.at.indexOf(c.row - c.first)] ?? 0;
  const head = el("span", { class: "strength", title: `row ${c.row}` }, number(strength, 3));
  const tokens = A.tokens(c);
  if (!tokens) return el("li", { class: "context" }, head, sparkOf(c, max));
  const peak = c.row - c.first;
  const short = narrow(A, tokens, peak);
  let isOpen = false;
  const body = el("div", { class: "context-text" });
  const more = el("button", { type: "button", class: "small", "aria-expanded": "false" }, "more");
  const folded = el("ol", { class: "contexts folded", hidden: true });
  const fold = el("button", { type: "button", class: "small", "aria-expanded": "false" }, `+ ${alike.length} alike`);
  const show = () => {
    const line = lineOf(A, c, max, tokens, isOpen ? [0, tokens.length] : short, kids);
    const facts = isOpen ? el("small", { class: "context-facts" }, `row ${number(c.row)}; stronger than ${percent(c.q)} of its activations`) : "";
    body.replaceChildren(line, facts);
    more.textContent = isOpen ? "less" : "more";
    more.setAttribute("aria-expanded", String(isOpen));
    more.setAttribute("aria-label", isOpen ? "Less of this context" : "More of this context");
  };
  more.addEventListener("click", () => { isOpen = !isOpen; show(); });
  fold.addEventListener("click", () => {
    folded.hidden = !folded.hidden;
    fold.setAttribute("aria-expanded", String(!folded.hidden));
    if (!folded.childElementCount) folded.append(...alike.map((other) => contextRow(A, other, max, kids)));
  });
  show();
  const tools = el("span", { class: "context-tools" }, alike.length ? fold : "", short[0] > 0 || short[1] < tokens.length ? more : "");
  return el("li", { class: "context" }, head, body, tools, alike.length ? folded : "");
};

/** A list of contexts, with near-duplicates folded under the first of them. */
const contextList = (A, list, max, kids) => {
  const firsts = list.filter((c) => c.like == null);
  return el("ol", { class: "contexts" }, firsts.map((c) => contextRow(A, c, max, kids, list.filter((other) => other.like != null && list[other.like] === c))));
};

/** A context in a list of search results, with the searched text marked. */
const excerpt = (A, c, max, query) => {
  const tokens = A.tokens(c);
  if (!tokens) return "";
  const peak = c.row - c.first;
  const texts = tokens.map((s) => A.strings[s].toLowerCase());
  // Show the occurrence nearest to the row that fires.
  const wanted = query.toLowerCase();
  const whole = texts.join("");
  const ends = [];
  texts.reduce((sum, t) => { ends.push(sum + t.length); return sum + t.length; }, 0);
  let best = null;
  for (let at = whole.indexOf(wanted); at >= 0; at = whole.indexOf(wanted, at + 1)) {
    const [from, to] = [A.last(ends, at) + 1, A.last(ends, at + wanted.length - 1) + 1];
    const far = peak < from ? from - peak : peak > to ? peak - to : 0;
    if (!best || far < best.far) best = { from, to, far };
  }
  let [from, to] = narrow(A, tokens, peak);
  if (best) [from, to] = [Math.min(from, best.from), Math.max(to, best.to + 1)];
  const line = lineOf(A, c, max, tokens, [from, to]);
  const spans = [...line.querySelectorAll(":scope > span:not(.cut)")];
  if (best) for (let i = best.from; i <= best.to; i++) spans[i - from]?.classList.add("hit");
  return line;
};
