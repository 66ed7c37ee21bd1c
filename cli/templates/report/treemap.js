// The map: rectangles of families with rectangles of children in them; the area is the density, the colour the gain.

/** The largest share of the area for ROOT, whose children have no parent and are not a family. */
const ROOT_SHARE = 0.14;

/** The squarified layout: a row takes further rectangles as long as that brings their shapes nearer to squares. */
const squarify = (items, x, y, w, h, put) => {
  const total = items.reduce((s, i) => s + i.size, 0);
  if (!(total > 0) || w <= 0 || h <= 0) return;
  const scale = (w * h) / total;
  let i = 0;
  while (i < items.length && w > 0.2 && h > 0.2) {
    const side = Math.min(w, h);
    const worst = (big, small, s) => Math.max((side * side * big) / (s * s), (s * s) / (side * side * small));
    const areas = [items[i].size * scale];
    let s = areas[0];
    let [big, small] = [s, s];
    let j = i + 1;
    while (j < items.length) {
      const next = items[j].size * scale;
      if (areas.length > 60 || worst(Math.max(big, next), Math.min(small, next), s + next) > worst(big, small, s)) break;
      areas.push(next);
      s += next;
      [big, small] = [Math.max(big, next), Math.min(small, next)];
      j++;
    }
    const thick = s / side;
    let along = 0;
    for (let k = i; k < j; k++) {
      const long = areas[k - i] / thick;
      if (w >= h) put(items[k], x, y + along, thick, long); else put(items[k], x + along, y, long, thick);
      along += long;
    }
    if (w >= h) { x += thick; w -= thick; } else { y += thick; h -= thick; }
    i = j;
  }
};

/** The map of an atlas; `zoom` is null for all families, -1 for ROOT, else a parent. */
const treemap = (() => {
  const canvas = $("canvas");
  let A = null;
  let zoom = null;
  let boxes = [];
  let hover = null;

  /** Draws as many of the words as fit, the last one cut to at least `least` letters; returns whether any word fits. */
  const words = (g, list, x, y, w, h, size, weight, least = 4) => {
    g.font = `${weight} ${size}px ${getComputedStyle(root).getPropertyValue("--sans")}`;
    let line = "";
    let drawn = 0;
    const step = size * 1.25;
    const flush = () => { if (line && (drawn + 1) * step <= h + 2) { g.fillText(line, x, y + drawn * step); drawn++; } line = ""; };
    for (const word of list) {
      const longer = line ? `${line} ${word}` : word;
      if (g.measureText(longer).width <= w) { line = longer; continue; }
      flush();
      let cut = word;
      while (cut.length > least && g.measureText(cut === word ? cut : `${cut}…`).width > w) cut = cut.slice(0, -1);
      const whole = cut === word && g.measureText(cut).width <= w;
      if (whole) line = cut;
      else if (cut !== word && g.measureText(`${cut}…`).width <= w) { line = `${cut}…`; flush(); }
    }
    flush();
    return drawn > 0;
  };
  const wordsOf = (a) => {
    const { label } = A.labels.get(a);
    const list = label ? label.split(/\s+/) : A.words(a);
    return list.length ? list : A.index.top[a].slice(0, 3).map((s) => A.strings[s].trim()).filter(Boolean).concat([String(A.local(a))]).slice(0, 3);
  };

  const paint = () => {
    if (!A || $("map").hidden) return;
    const width = canvas.clientWidth || 300;
    const height = Math.round(Math.max(360, Math.min(640, width * 0.58)));
    const ratio = window.devicePixelRatio || 1;
    canvas.style.height = `${height}px`;
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    const g = canvas.getContext("2d");
    g.scale(ratio, ratio);
    const [paper, ink, soft, flat, one] = ["paper", "ink", "soft", "flat", "one"].map(colour);
    const fills = new Map();
    const fill = (value) => {
      const key = Math.sign(value) * Math.round(Math.sqrt(Math.min(Math.abs(value) / A.most, 1)) * 24);
      if (!fills.has(key)) { probe.style.color = shade(A, (key < 0 ? -1 : 1) * (key / 24) ** 2 * A.most); fills.set(key, getComputedStyle(probe).color); }
      return fills.get(key);
    };
    boxes = [];
    g.fillStyle = paper;
    g.fillRect(0, 0, width, height);
    g.textBaseline = "top";
    const leaf = (a, x, y, w, h) => {
      boxes.push({ a, x, y, w, h });
      g.fillStyle = A.level(a) === 1 ? flat : fill(A.gain(a));
      g.fillRect(x + 0.5, y + 0.5, Math.max(w - 1, 0.3), Math.max(h - 1, 0.3));
      if (A.gain(a) < 0 && w > 4 && h > 4) {
        g.save();
        g.beginPath();
        g.rect(x + 0.5, y + 0.5, w - 1, h - 1);
        g.clip();
        g.strokeStyle = paper;
        g.lineWidth = 1.2;
        g.beginPath();
        for (let s = -h; s < w; s += 6) { g.moveTo(x + s, y + h); g.lineTo(x + s + h, y); }
        g.stroke();
        g.restore();
      }
      if (w > 30 && h > 16) { g.fillStyle = ink; words(g, wordsOf(a), x + 4, y + 3, w - 8, h - 6, 11, 400); }
    };
    const family = (f, x, y, w, h) => {
      boxes.push({ p: f.p, x, y, w, h });
      const kids = f.c.filter((a) => A.index.fires[a] > 0).map((a) => ({ a, size: A.index.fires[a] }));
      if (!kids.length) {
        if (f.p >= 0) leaf(f.p, x + 1, y + 1, w - 2, h - 2);
        return;
      }
      const head = w > 44 && h > 40 ? 17 : 0;
      g.fillStyle = f.p < 0 ? soft : one;
      if (head) words(g, f.p < 0 ? (w > 130 ? ["ROOT:", "no", "parent"] : ["ROOT"]) : wordsOf(f.p), x + 4, y + 3, w - 8, 13, 11.5, 700, 2);
      squarify(kids, x + 2, y + 2 + head, w - 4, h - 4 - head, (kid, ...place) => leaf(kid.a, ...place));
      g.strokeStyle = f.p < 0 ? soft : one;
      g.lineWidth = 1;
      g.setLineDash(f.p < 0 ? [3, 3] : []);
      g.strokeRect(x + 1.5, y + 1.5, Math.max(w - 3, 0), Math.max(h - 3, 0));
      g.setLineDash([]);
    };
    const { fires } = A.index;
    const items = A.families().filter((f) => (zoom == null ? true : f.p === zoom))
      .map((f) => ({ ...f, size: Math.max(f.p < 0 ? A.sum(f.c, (a) => fires[a]) : fires[f.p], 0) }))
      .filter((f) => f.size > 0).sort((a, b) => b.size - a.size);
    const rest = items.filter((f) => f.p >= 0);
    const stray = items.find((f) => f.p < 0);
    if (stray && rest.length) {
      const share = Math.min(stray.size / items.reduce((s, f) => s + f.size, 0), ROOT_SHARE);
      const wide = width > height;
      const main = wide ? width * (1 - share) : height * (1 - share);
      squarify(rest, 0, 0, wide ? main : width, wide ? height : main, family);
      if (wide) family(stray, main + 4, 0, width - main - 4, height); else family(stray, 0, main + 4, width, height - main - 4);
    } else squarify(items, 0, 0, width, height, family);
    if (hover) { g.strokeStyle = ink; g.lineWidth = 2; g.strokeRect(hover.x + 1, hover.y + 1, Math.max(hover.w - 2, 1), Math.max(hover.h - 2, 1)); }
  };

  const describe = (b) => {
    if (!b) return [zoom == null ? "Point at a rectangle; a click opens its family." : "A click on a child opens its page."];
    if (b.a == null) {
      return b.p < 0 ? [`ROOT: ${number(A.root.length)} children without a parent`]
        : [`${A.name(b.p)} `, said(A, b.p), ` ${number(A.children[b.p].length)} ${A.children[b.p].length === 1 ? "child" : "children"}, fires on ${percent(A.index.density[b.p])}`];
    }
    const p = A.index.parent[b.a];
    return [`${A.name(b.a)} `, said(A, b.a), ` fires on ${percent(A.index.density[b.a])} of tokens`,
      A.index.gain[b.a] == null ? "" : `; gain ${percent(A.index.gain[b.a])}`,
      ...(p >= 0 ? [`; of parent 1/${p} `, said(A, p)] : [])];
  };
  const point = (b) => {
    if (b === hover) return;
    hover = b;
    $("tip").replaceChildren(...describe(b));
    requestAnimationFrame(paint);
  };
  const open = (b) => {
    if (!b) return;
    const p = b.a == null ? b.p : A.level(b.a) === 1 ? b.a : A.index.parent[b.a];
    if (zoom == null && (b.a == null || A.level(b.a) === 2)) location.hash = A.to(p < 0 ? "map/root" : `map/${p}`);
    else if (b.a != null) location.hash = A.link(b.a);
    else if (b.p >= 0) location.hash = A.link(b.p);
  };
  if (canvas) {
    const under = (event) => {
      const r = canvas.getBoundingClientRect();
      const [x, y] = [event.clientX - r.left, event.clientY - r.top];
      return boxes.findLast((b) => x >= b.x && x < b.x + b.w && y >= b.y && y < b.y + b.h) || null;
    };
    canvas.addEventListener("pointermove", (event) => point(under(event)));
    canvas.addEventListener("pointerleave", () => point(null));
    canvas.addEventListener("click", (event) => open(under(event)));
    canvas.addEventListener("keydown", (event) => {
      const way = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key];
      if (event.key === "Enter") { open(hover); return; }
      if (!way) return;
      event.preventDefault();
      // A click opens a family where all families are shown, else a child.
      const stops = boxes.filter((b) => (zoom == null ? b.a == null : b.a != null) && b.w > 0);
      const middle = (b) => [b.x + b.w / 2, b.y + b.h / 2];
      if (!hover || !stops.includes(hover)) { point(stops[0] || null); return; }
      const from = middle(hover);
      let [best, least] = [null, Infinity];
      for (const b of stops) {
        const to = middle(b);
        const ahead = (to[0] - from[0]) * way[0] + (to[1] - from[1]) * way[1];
        const aside = Math.abs((to[0] - from[0]) * way[1]) + Math.abs((to[1] - from[1]) * way[0]);
        if (b !== hover && ahead > 1 && ahead + 2 * aside < least) [best, least] = [b, ahead + 2 * aside];
      }
      if (best) point(best);
    });
    let settled = 0;
    addEventListener("resize", () => { clearTimeout(settled); settled = setTimeout(paint, 120); });
    onTheme.push(paint);
  }
  return {
    paint,
    show(atlas, to) { A = atlas; zoom = to; hover = null; $("tip").replaceChildren(...describe(null)); paint(); },
  };
})();
