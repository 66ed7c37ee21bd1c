// The search for numbers, labels, tokens and words, and in the text of the contexts, with exact hits first.

/** The text of all contexts: one string per stretch of consecutive rows, and where the rows end in it. */
const makeText = (A) => {
  const { first, tokens } = A.stream();
  const lower = A.strings.map((s) => s.toLowerCase());
  return first.map((row, i) => {
    const ends = new Uint32Array(tokens[i].length);
    let text = "";
    tokens[i].forEach((s, k) => { text += lower[s]; ends[k] = text.length; });
    return { row, text, ends, tokens: tokens[i] };
  });
};
/** Every context of every latent in columns: latent, first row, number of rows, the row that fires, and its index in the record. */
const makePlaces = (A) => {
  const places = [];
  for (let a = 0; a < A.all; a++) {
    const r = A.record(a);
    [...r.contexts, ...r.sampled].forEach((c, i) => places.push([a, c.first, c.n, c.row, i, i < r.contexts.length ? 1 : c.q]));
  }
  return places;
};
const isInner = (c) => c !== undefined && /[\p{L}\p{N}]/u.test(c);

/** Where a text occurs: first row, last row, and how exactly: 0 whole words as typed, 1 as typed, 2 in other upper or lower case. */
const occurrences = (A, query) => {
  A.text ??= makeText(A);
  const wanted = query.toLowerCase();
  const hits = [];
  for (const { row, text, ends, tokens } of A.text) {
    for (let at = text.indexOf(wanted); at >= 0; at = text.indexOf(wanted, at + wanted.length)) {
      const from = A.last(ends, at) + 1;
      const to = A.last(ends, at + wanted.length - 1) + 1;
      const asTyped = tokens.slice(from, to + 1).map((s) => A.strings[s]).join("").includes(query);
      const isWhole = !isInner(text[at - 1]) && !isInner(text[at + wanted.length]);
      hits.push([row + from, row + to, asTyped ? (isWhole ? 0 : 1) : 2]);
      if (hits.length > 200000) return hits;
    }
  }
  return hits;
};

/** Contexts that contain the text, the best one of each latent; those in which the latent fires on it come first, exact ones before others. */
const inContexts = (A, query) => {
  A.places ??= makePlaces(A);
  const hits = occurrences(A, query);
  if (!hits.length) return [];
  const starts = hits.map((h) => h[0]);
  const best = new Map();
  for (const place of A.places) {
    const [a, first, n, row, i, q] = place;
    const k = A.last(starts, first + n - 1);
    if (k < 0 || hits[k][1] < first) continue;
    let score = Infinity;
    const on = A.last(starts, row);
    if (on >= 0 && hits[on][1] >= row) score = hits[on][2];
    else for (let h = k; h >= 0 && h > k - 8 && hits[h][1] >= first; h--) score = Math.min(score, 10 + hits[h][2]);
    const known = best.get(a);
    if (!known || score < known.score || (score === known.score && q > known.q)) best.set(a, { a, score, q, i });
  }
  return [...best.values()].sort((x, y) => x.score - y.score || y.q - x.q || A.byFiring(x.a, y.a));
};

/** Latents by number, by label, and by the tokens and words they fire on. */
const byName = (A, query) => {
  const { index, strings } = A;
  const number_ = query.match(/^#?\s*(?:([12])\s*\/\s*)?(\d+)$/);
  const numbers = [];
  if (number_) {
    for (const l of number_[1] ? [Number(number_[1])] : [1, 2]) {
      const j = Number(number_[2]);
      if (j < (l === 1 ? A.f1 : A.f2)) numbers.push(A.at(l, j));
    }
  }
  const lower = query.toLowerCase();
  const rank = (text) => (text === query ? 0 : text.trim().toLowerCase() === lower ? 1 : query.length > 1 && text.toLowerCase().includes(lower) ? 2 : -1);
  const labelled = A.labels.all().map((l) => [Math.min(...[rank(l.label), rank(l.note) < 0 ? -1 : 3].filter((r) => r >= 0)), l.a])
    .filter(([r]) => r < Infinity).sort((x, y) => x[0] - y[0]).map((l) => l[1]);
  const ranks = strings.map(rank);
  const worded = [];
  for (let a = 0; a < A.all; a++) {
    let best = Infinity;
    for (const list of [index.top[a], index.words[a]]) list.forEach((s, place) => { if (ranks[s] >= 0) best = Math.min(best, place * 3 + ranks[s]); });
    if (best < Infinity) worded.push([best, a]);
  }
  worded.sort((x, y) => x[0] - y[0] || A.byFiring(x[1], y[1]));
  return { numbers, labelled, worded: worded.map((w) => w[1]) };
};

/** Shows the results of a query, and returns the address of the first one, if there is one. */
const showFound = (A, query) => {
  const holder = $("found");
  const { numbers, labelled, worded } = byName(A, query);
  const contexts = query.trim().length > 1 && A.stream().first.length ? inContexts(A, query) : [];
  const line = (a) => el("li", {}, el("a", { href: A.link(a) }, A.name(a)), el("span", {}, said(A, a)), el("span", { class: "soft-chips" }, chips(A, a, 6)),
    el("span", { class: "count" }, `${percent(A.index.density[a])} of tokens`));
  const snippet = ({ a, i, score }) => {
    const r = A.record(a);
    const c = [...r.contexts, ...r.sampled][i];
    return el("li", {}, el("a", { href: A.link(a) }, A.name(a)), el("span", {}, said(A, a)),
      el("span", { class: "count" }, score < 10 ? "fires on it" : "near it"), excerpt(A, c, r.max || 1, query));
  };
  const section = (heading, list, make, size) => {
    if (!list.length) return "";
    const ul = el("ul", { class: "hits" });
    const box = el("section", {}, el("h2", {}, `${heading} `, el("small", {}, number(list.length))), ul);
    paged(ul, list, make, size);
    return box;
  };
  const exact = contexts.filter((c) => c.score % 10 < 2);
  const loose = contexts.filter((c) => c.score % 10 === 2);
  holder.replaceChildren(
    section("By number", numbers, line, 20),
    section("By label or note", labelled, line, 20),
    section("Contexts with exactly this text", exact, snippet, 30),
    section("Contexts with this text in other letters", loose, snippet, 30),
    section("By the tokens and words they fire on", worded, line, 30));
  if (!holder.childElementCount) holder.append(el("p", {}, "Nothing was found: no number, label, token, or text of a context."));
  return [...numbers, ...labelled, ...contexts.map((c) => c.a), ...worded].map(A.link)[0];
};
