// The view of all latents, or of one family: the map, the search and the list of families.
const mapView = (() => {
  let shown = null;
  let changes = 0;
  atlases.forEach((A) => A.labels.onChange(() => { changes++; }));
  let A = null;
  const search = () => {
    const query = $("search").value.replace(/^ +(?=\S)| +$/g, "");
    $("found").hidden = !query;
    $("atlas-view").hidden = Boolean(query);
    if (!query) { treemap.paint(); return null; }
    return showFound(A, query);
  };
  if ($("search")) {
    let timer = 0;
    $("search").addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(search, 120); });
    $("search-form").addEventListener("submit", (event) => {
      event.preventDefault();
      const first = search();
      if (first) location.hash = first;
    });
  }
  return (atlas, which) => {
    const isNew = atlas !== A;
    A = atlas;
    if (isNew) $("search").value = "";
    const zoom = which === "root" ? -1 : /^\d+$/.test(which || "") && Number(which) < A.f1 ? Number(which) : null;
    const kids = zoom == null ? [] : zoom < 0 ? A.root : A.children[zoom];
    const many = `${number(kids.length)} ${kids.length === 1 ? "child" : "children"}`;
    $("map-lede").replaceChildren(...(zoom == null
      ? [A.f2 ? `${number(A.f1)} parents and ${number(A.f2)} children; ${number(A.root.length)} children hang under ROOT, without a parent.` : `${number(A.f1)} latents.`]
      : zoom < 0 ? [`${many} without a parent.`] : [said(A, zoom), `; ${many}, fires on ${percent(A.index.density[zoom])} of tokens.`]));
    const silent = A.index.fires.slice(0, A.f1).filter((n) => n === 0).length;
    $("tree-lede").textContent = A.f2
      ? `Each parent with the words in which it fires, and how often. Open it for its children, coloured by their gain.${silent ? ` ${number(silent)} ${silent === 1 ? "parent fires" : "parents fire"} nowhere and ${silent === 1 ? "is" : "are"} not on the map, but here.` : ""}`
      : "Each latent with the words in which it fires, and how often.";
    $("legend").replaceChildren(
      el("span", {}, "Area: how often it fires."),
      ...(A.f2 ? [el("span", {}, "Colour: gain, by how much the error grows without it:", el("span", { class: "ramp" }), `0 to ${percent(A.most)} and more.`),
        el("span", {}, el("span", { class: "swatch harm-swatch" }), "harms: the error would shrink."),
        ...(A.root.length && zoom == null ? [el("span", {}, el("span", { class: "swatch root-swatch" }), "ROOT, drawn at most on a seventh of the map.")] : [])] : []));
    const key = `${A.letter} ${changes}`;
    if (shown !== key) tree.show(A);
    shown = key;
    const head = $("map").querySelector("h1");
    head.replaceChildren(zoom == null ? (A.letter ? `Latents of ${A.letter}` : "Latents") : zoom < 0 ? "Children under ROOT" : `Family of parent 1/${zoom}`);
    $("map").querySelector(".crumbs")?.remove();
    if (zoom != null) {
      head.before(el("nav", { class: "crumbs", "aria-label": "Where this family is" }, el("a", { href: A.to("map") }, "All latents"), ...(zoom >= 0 ? ["›", el("a", { href: A.link(zoom) }, `Page of parent 1/${zoom}`)] : []),
        el("span", { class: "turn" }, ...(zoom > 0 ? [el("a", { href: A.to(`map/${zoom - 1}`), rel: "prev" }, `‹ 1/${zoom - 1}`), " "] : []),
          ...(zoom >= 0 && zoom + 1 < A.f1 ? [el("a", { href: A.to(`map/${zoom + 1}`), rel: "next" }, `1/${zoom + 1} ›`)] : []))));
      $("search").value = "";
    }
    search();
    treemap.show(A, zoom);
    $("tree").querySelector(".chosen")?.remove();
    if (zoom != null) {
      const box = family(A, { p: zoom, c: zoom < 0 ? A.root : A.children[zoom] });
      box.classList.add("chosen");
      $("tree").prepend(box);
      box.open = true;
    }
    return head;
  };
})();
