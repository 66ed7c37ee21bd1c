// The data of the latents of a run: their names, families and records. Records are parsed when they are first needed.

/** The latents whose data are in the elements with this suffix; `letter` is `A` or `B` on a page of two runs. */
const makeAtlas = (suffix, letter) => {
  const index = JSON.parse($(`index${suffix}`).textContent);
  const { f1, f2, strings } = index;
  const all = f1 + f2;
  const prefix = suffix ? "#/b/" : "#/";
  const level = (a) => (a < f1 ? 1 : 2);
  const local = (a) => (a < f1 ? a : a - f1);
  const at = (l, j) => (l === 1 ? j : f1 + j);
  const labels = labelStore(index, at, (a) => [level(a), local(a)]);

  const children = Array.from({ length: f1 }, () => []);
  const root = [];
  for (let a = f1; a < all; a++) (index.parent[a] < 0 ? root : children[index.parent[a]]).push(a);
  const byFiring = (a, b) => index.fires[b] - index.fires[a] || a - b;
  children.forEach((c) => c.sort(byFiring));
  root.sort(byFiring);

  // One line per latent, and the text of the rows; both are parsed at the first use.
  let lines = null;
  const record = (a) => JSON.parse((lines ??= $(`records${suffix}`).textContent.split("\n"))[a]);
  let rows = null;
  const stream = () => (rows ??= JSON.parse($(`stream${suffix}`).textContent));
  /** The index in a sorted list of the last entry that is at most `x`; -1 if there is none. */
  const last = (list, x) => {
    let [low, high] = [0, list.length];
    while (low < high) { const mid = (low + high) >> 1; if (list[mid] <= x) low = mid + 1; else high = mid; }
    return low - 1;
  };
  /** The texts of a context's rows, as indices into `strings`; null where the dump has no tokens. */
  const tokens = (c) => {
    const { first, tokens: lists } = stream();
    const i = last(first, c.first);
    return i < 0 ? null : lists[i].slice(c.first - first[i], c.first - first[i] + c.n);
  };

  const gain = (a) => index.gain[a] ?? 0;
  const sizes = index.gain.filter((g) => g != null).map(Math.abs).sort((a, b) => a - b);
  const words = (a) => index.words[a].map((s) => strings[s]);
  return {
    index, f1, f2, all, strings, children, root, level, local, at, labels, letter, record, stream, last, tokens, gain, words, byFiring,
    /** The gain from which on the colour is full: the 98 % quantile. */
    most: Math.max(sizes[Math.floor(sizes.length * 0.98)] || 0, 1e-12),
    sum: (list, f) => list.reduce((s, a) => s + f(a), 0),
    number: (a) => `${level(a)}/${local(a)}`,
    name: (a) => `${f2 ? (level(a) === 1 ? "Parent" : "Child") : "Latent"} ${level(a)}/${local(a)}`,
    /** The label of a latent, or the words in which it fires; empty for a latent without either. */
    said: (a) => labels.get(a).label || words(a).join(", "),
    to: (place) => prefix + place,
    link: (a) => `${prefix}latent/${level(a)}/${local(a)}`,
    families: () => children.map((c, p) => ({ p, c })).concat(root.length ? [{ p: -1, c: root }] : []),
  };
};
const atlases = $("index") ? [makeAtlas("", $("index-2") ? "A" : null), ...($("index-2") ? [makeAtlas("-2", "B")] : [])] : [];
