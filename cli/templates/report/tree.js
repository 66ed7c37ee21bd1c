// The list of all families in pages, sorted and filtered as the reader chooses.
const FAMILIES = 40;

/** A family, whose children are read when it is opened. */
const family = (A, { p, c }) => {
  const isRoot = p < 0;
  const widest = (A.widest ??= Math.max(...A.index.density.slice(0, A.f1), 1e-12));
  const box = el("details", { class: "family", "data-family": isRoot ? "root" : p },
    el("summary", {}, el("span", { class: "who" }, isRoot ? "ROOT" : `1/${p}`),
      el("span", { class: "words" }, isRoot ? "children without a parent" : [said(A, p), " ", A.labels.get(p).label ? "" : el("span", { class: "soft-chips" }, chips(A, p, 4))]),
      isRoot ? el("span", { class: "bar-cell" }) : bar(A.index.density[p] / widest, false, percent(A.index.density[p])),
      el("span", { class: "count" }, A.f2 ? `${number(c.length)} ${c.length === 1 ? "child" : "children"}` : "")));
  box.addEventListener("toggle", () => {
    if (!box.open || box.childElementCount > 1) return;
    const told = [];
    if (!isRoot) told.push(el("a", { href: A.link(p) }, `Page of ${A.name(p)}`));
    if (c.length) told.push(el("a", { href: A.to(`map/${isRoot ? "root" : p}`) }, "Map of this family"));
    if (!isRoot && A.index.coverage[p] != null) told.push(`some child fires on ${percent(A.index.coverage[p])} of its tokens`);
    if (c.length) told.push(`gain of its children ${percent(A.sum(c, A.gain))}`);
    box.append(el("div", { class: "kin" }, el("p", {}, told.flatMap((t, i) => (i ? [" · ", t] : [t]))),
      c.length ? tiles(A, c) : A.f2 ? el("p", {}, "It has no children.") : ""));
  });
  return box;
};

const tree = (() => {
  let A = null;
  const orders = {
    children: (a, b) => b.c.length - a.c.length || a.p - b.p,
    fires: (a, b) => (A.index.fires[b.p] ?? -1) - (A.index.fires[a.p] ?? -1) || a.p - b.p,
    gain: (a, b) => A.sum(b.c, A.gain) - A.sum(a.c, A.gain) || a.p - b.p,
    number: (a, b) => a.p - b.p,
  };
  const show = () => {
    if (!A) return;
    const wanted = $("tree-filter").value.trim().toLowerCase();
    const text = (a) => `${A.number(a)} ${A.labels.get(a).label} ${A.words(a).join(" ")} ${A.index.top[a].slice(0, 4).map((s) => A.strings[s]).join(" ")}`.toLowerCase();
    const holds = ({ p, c }) => !wanted || (p < 0 ? "root".includes(wanted) : text(p).includes(wanted)) || c.some((a) => A.labels.get(a).label.toLowerCase().includes(wanted));
    const list = (A.f2 ? A.families() : Array.from({ length: A.f1 }, (_, p) => ({ p, c: [] }))).filter(holds);
    // ROOT is not a parent and comes last.
    list.sort((a, b) => (a.p < 0) - (b.p < 0) || orders[$("sort").value](a, b));
    turned($("tree"), list, (f) => family(A, f), FAMILIES, A.f2 ? "families" : "latents");
  };
  if ($("tree")) {
    $("sort").addEventListener("change", show);
    $("tree-filter").addEventListener("input", show);
  }
  return { show(atlas) { A = atlas; show(); } };
})();
