// The page: where the address leads, the plots, the map of latents, their pages. No request is ever made.
"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const root = document.documentElement;

  /** An element with attributes and children; text is only ever text. */
  const el = (tag, attributes = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name === "style") node.style.cssText = value;
      else if (value !== false && value != null) node.setAttribute(name, value === true ? "" : value);
    }
    node.append(...children.flat().filter((child) => child != null && child !== false && child !== ""));
    return node;
  };
  const MINUS = "\u2212";
  const number = (v, digits = 4) => {
    if (v == null || !Number.isFinite(v)) return "undefined";
    const size = Math.abs(v);
    let text;
    if (Number.isInteger(v)) text = size.toLocaleString("en-US");
    else if (size < 1e-4) text = size.toExponential(2);
    else text = size >= 1000 ? Math.round(size).toLocaleString("en-US") : size.toPrecision(digits);
    return (v < 0 ? MINUS : "") + text;
  };
  const percent = (v) => (v == null ? "undefined" : `${number(v * 100, 3)} %`);

  // ---- Light and dark. What the reader chose outlives the page where the browser lets it.
  const remembered = () => { try { return localStorage.getItem("strata-theme"); } catch { return null; } };
  const wantsDark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : wantsDark.matches);
  const onTheme = [];
  const themeChanged = () => {
    $("theme").textContent = isDark() ? "Light" : "Dark";
    $("theme").setAttribute("aria-label", isDark() ? "Light colours" : "Dark colours");
    $("theme").setAttribute("aria-pressed", String(isDark()));
    onTheme.forEach((f) => f());
  };
  if (remembered()) root.dataset.theme = remembered();
  $("theme").addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try { localStorage.setItem("strata-theme", root.dataset.theme); } catch { /* only for this page, then */ }
    themeChanged();
  });
  wantsDark.addEventListener("change", themeChanged);
  const probe = el("span", { hidden: true });
  document.body.append(probe);
  /** A colour of the style sheet as it is now. */
  const colour = (name) => { probe.style.color = `var(--${name})`; return getComputedStyle(probe).color; };

  // ---- Plots: drawn when they come near, so that the page is there at once.
  const plots = JSON.parse($("plots").textContent);
  const drawn = new Set();
  const plotly = () => {
    if (!window.Plotly) document.head.append(Object.assign(el("script"), { textContent: $("plotly").textContent }));
    return window.Plotly;
  };
  const themed = (layout) => {
    const [ink, line, soft] = [colour("ink"), colour("line"), colour("soft")];
    const font = { family: getComputedStyle(root).getPropertyValue("--sans"), size: 12, color: soft };
    const axis = (a = {}) => ({ ...a, gridcolor: line, linecolor: line, zerolinecolor: line, automargin: true, tickfont: font,
      title: { ...(typeof a.title === "string" ? { text: a.title } : a.title), font, standoff: 8 },
      ...(a.type === "log" ? { dtick: "D2", tickformat: "~g" } : {}) });
    return { ...layout, font, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      colorway: ["one", "two", "three", "four", "poor", "good", "fair", "soft"].map(colour),
      margin: { l: 48, r: 12, t: 8, b: 40, ...(layout.margin || {}) },
      legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, font: { ...font, color: ink } },
      hoverlabel: { bgcolor: colour("raised"), bordercolor: line, font: { ...font, color: ink } },
      xaxis: axis(layout.xaxis), yaxis: axis(layout.yaxis) };
  };
  const draw = (box) => {
    const plot = plots[Number(box.dataset.plot)];
    drawn.add(box);
    // Twins share a colour: what is asked for and what is, training and held out.
    const colours = { "level 1": "one", "level 2": "two", "k, level 1": "one", "k, level 2": "two",
      "level 1, held out": "one", "level 2, held out": "two", rows: "two", base: "one", reference: "soft", seeds: "soft", edges: "two", share: "two" };
    const data = plot.data.map((trace) => {
      const name = colours[trace.name];
      if (!name) return trace;
      const c = colour(name);
      const line = trace.mode === "lines" ? { line: { ...trace.line, color: c } } : {};
      return { ...trace, ...line, marker: { ...trace.marker, color: c } };
    });
    plotly().react(box, data, themed(plot.layout), { responsive: true, displayModeBar: false, displaylogo: false });
  };
  const nearing = new IntersectionObserver((seen) => {
    for (const s of seen) if (s.isIntersecting) { nearing.unobserve(s.target); draw(s.target); }
  }, { rootMargin: "300px" });
  document.querySelectorAll(".plot").forEach((box) => nearing.observe(box));
  onTheme.push(() => drawn.forEach(draw));

  // ---- Every metric: rows that hold all the words.
  const filter = $("filter");
  if (filter) {
    const groups = [...document.querySelectorAll(".group")];
    const wasOpen = groups.map((g) => g.open);
    filter.addEventListener("input", () => {
      const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
      groups.forEach((group, i) => {
        let shown = 0;
        for (const row of group.querySelectorAll("tbody tr")) {
          const key = row.firstElementChild.firstElementChild.textContent;
          row.hidden = !words.every((w) => key.includes(w));
          shown += !row.hidden;
        }
        group.hidden = shown === 0;
        group.open = words.length ? shown > 0 : wasOpen[i];
      });
    });
  }

  // ---- Latents.
  const index = $("index") && JSON.parse($("index").textContent);
  const atlas = index && latents(index);

  // ---- Where the address leads: #/, #/training, #/map, #/map/12, #/map/root, #/latent/2/975.
  const title = document.title;
  const overview = $("overview");
  let arrived = false;
  const go = () => {
    const [place, ...rest] = location.hash.replace(/^#\/?/, "").split("/");
    const view = atlas && (place === "map" || place === "latent") ? place : "overview";
    for (const id of ["overview", "map", "latent"]) if ($(id)) $(id).hidden = id !== view;
    document.querySelectorAll(".top nav a").forEach((a) => {
      const here = a.getAttribute("href") === (view === "latent" ? "#/map" : view === "map" ? "#/map" : `#/${place}`);
      if (here) a.setAttribute("aria-current", "page"); else a.removeAttribute("aria-current");
    });
    document.title = title;
    let head = null;
    if (view === "map") head = atlas.map(rest[0]);
    else if (view === "latent") head = atlas.page(Number(rest[0]), Number(rest[1]));
    else head = place && $(place) && overview.contains($(place)) ? $(place) : null;
    if (head && view === "overview") head.scrollIntoView();
    else if (arrived) {
      const up = () => scrollTo({ top: 0, behavior: "instant" });
      up();
      // Once more when the page has its new height: the browser keeps the old place where it can.
      requestAnimationFrame(up);
    }
    if (head && view !== "overview") {
      document.title = `${head.textContent} – ${title}`;
      if (arrived) head.focus({ preventScroll: true });
    }
    arrived = true;
  };
  addEventListener("hashchange", go);
  themeChanged();
  go();

  /** The map, the search and the pages of latents. */
  function latents(index) {
    const { f1, f2, strings } = index;
    const all = f1 + f2;
    const records = $("records").textContent.split("\n");
    const level = (at) => (at < f1 ? 1 : 2);
    const local = (at) => (at < f1 ? at : at - f1);
    const at = (l, j) => (l === 1 ? j : f1 + j);
    const name = (a) => `${f2 ? (level(a) === 1 ? "Parent" : "Child") : "Latent"} ${level(a)}/${local(a)}`;
    const link = (a) => `#/latent/${level(a)}/${local(a)}`;
    const gain = (a) => index.gain[a] ?? 0;

    const children = Array.from({ length: f1 }, () => []);
    const root = [];
    for (let a = f1; a < all; a++) (index.parent[a] < 0 ? root : children[index.parent[a]]).push(a);
    const byFiring = (a, b) => index.fires[b] - index.fires[a] || a - b;
    children.forEach((c) => c.sort(byFiring));
    root.sort(byFiring);
    const sum = (list, f) => list.reduce((s, a) => s + f(a), 0);
    const families = () => children.map((c, p) => ({ p, c })).concat(root.length ? [{ p: -1, c: root }] : []);
    const sorted = index.gain.filter((g) => g != null).map(Math.abs).sort((a, b) => a - b);
    const most = Math.max(sorted[Math.floor(sorted.length * 0.98)] || 0, 1e-12);

    // Token text, with its white space shown.
    const SHOWN = { " ": "·", "\n": "⏎", "\t": "→", "\r": "␍", "\u00a0": "⍽", "": "∅" };
    const token = (text) => {
      const parts = [];
      for (const c of text) {
        // What is neither a letter nor white space that has a sign of its own is shown by its number.
        const sign = SHOWN[c] ?? (/[\p{C}\p{Zl}\p{Zp}]/u.test(c) ? `\\u{${c.codePointAt(0).toString(16)}}` : null);
        if (sign) parts.push(el("span", { class: "ws" }, sign));
        else if (typeof parts.at(-1) === "string") parts[parts.length - 1] += c;
        else parts.push(c);
      }
      return parts.length ? parts : [el("span", { class: "ws" }, SHOWN[""])];
    };
    const plain = (text) => [...text].map((c) => SHOWN[c] ?? c).join("") || SHOWN[""];
    const chip = (s) => el("span", { class: "tok" }, token(strings[s]));
    const chips = (a, n = 6) => index.top[a].slice(0, n).flatMap((s) => [chip(s), " "]);
    const bar = (share, two, text) => el("span", { class: "bar-cell" },
      el("span", {}, el("span", { class: two ? "bar two" : "bar", style: `width:${Math.max(0, Math.min(1, share)) * 100}%` })), el("span", {}, text));

    const shade = (g) => {
      const t = Math.sqrt(Math.min(Math.abs(g) / most, 1));
      return `color-mix(in oklab, var(--${g < 0 ? "harm" : "gain"}) ${Math.round(t * 70)}%, var(--flat))`;
    };
    const tile = (a) => el("li", {}, el("a", { class: gain(a) < 0 ? "tile harms" : "tile", href: link(a),
      style: gain(a) < 0 ? "" : `background:${shade(gain(a))}`,
      title: `fires on ${percent(index.density[a])} of tokens; gain ${percent(index.gain[a])}` },
      el("b", {}, String(local(a))), " ", chips(a, 3), gain(a) < 0 ? " harms" : "", el("br"), percent(index.density[a])));
    /** A list that grows by pages. */
    const paged = (holder, list, make, page) => {
      let shown = 0;
      const more = el("button", { type: "button", class: "more" });
      const grow = () => {
        more.remove();
        holder.append(...list.slice(shown, shown + page).map(make));
        shown = Math.min(shown + page, list.length);
        if (shown < list.length) { more.textContent = `Show ${Math.min(page, list.length - shown)} more of ${list.length - shown}`; holder.after(more); }
      };
      more.addEventListener("click", grow);
      grow();
    };
    const tiles = (list) => { const ul = el("ul", { class: "tiles" }); const box = el("div", {}, ul); paged(ul, list, tile, 150); return box; };

    // -- The tree.
    const widest = Math.max(...index.density.slice(0, f1), 1e-12);
    const family = ({ p, c }) => {
      const isRoot = p < 0;
      const box = el("details", { class: "family", "data-family": isRoot ? "root" : p },
        el("summary", {}, el("span", { class: "who" }, isRoot ? "ROOT" : `1/${p}`),
          el("span", { class: "words" }, isRoot ? "children without a parent" : chips(p)),
          isRoot ? el("span", { class: "bar-cell" }) : bar(index.density[p] / widest, false, percent(index.density[p])),
          el("span", { class: "count" }, `${number(c.length)} ${c.length === 1 ? "child" : "children"}`)));
      box.addEventListener("toggle", () => {
        if (!box.open || box.childElementCount > 1) return;
        const told = [];
        if (!isRoot) told.push(el("a", { href: link(p) }, `Page of parent 1/${p}`));
        if (!isRoot && index.coverage[p] != null) told.push(`some child fires on ${percent(index.coverage[p])} of its tokens`);
        if (c.length) told.push(`gain of its children ${percent(sum(c, gain))}`);
        box.append(el("div", { class: "kin" }, el("p", {}, told.flatMap((t, i) => (i ? [" · ", t] : [t]))),
          c.length ? tiles(c) : el("p", {}, "It has no children.")));
      });
      return box;
    };
    const orders = {
      children: (a, b) => b.c.length - a.c.length || a.p - b.p,
      fires: (a, b) => (index.fires[b.p] ?? -1) - (index.fires[a.p] ?? -1),
      gain: (a, b) => sum(b.c, gain) - sum(a.c, gain) || a.p - b.p,
      number: (a, b) => a.p - b.p,
    };
    const tree = () => {
      $("tree").replaceChildren();
      const holder = el("div");
      $("tree").append(holder);
      const list = f2 ? families() : Array.from({ length: f1 }, (_, p) => ({ p, c: [] }));
      // ROOT is no parent: it stands last.
      list.sort((a, b) => (a.p < 0) - (b.p < 0) || orders[$("sort").value](a, b));
      paged(holder, list, family, 60);
    };
    $("sort").addEventListener("change", tree);

    // -- The map: rectangles of families, in them rectangles of children; area is firing, colour is gain.
    const canvas = $("canvas");
    let boxes = [];
    let zoom = null;
    let hover = null;
    /** Squarified: rows are filled as long as that makes their rectangles squarer. */
    const squarify = (items, x, y, w, h, put) => {
      const total = items.reduce((s, i) => s + i.size, 0);
      if (!(total > 0) || w <= 0 || h <= 0) return;
      const scale = (w * h) / total;
      let i = 0;
      while (i < items.length && w > 0.2 && h > 0.2) {
        const side = Math.min(w, h);
        const worst = (areas, s) => Math.max((side * side * Math.max(...areas)) / (s * s), (s * s) / (side * side * Math.min(...areas)));
        const areas = [items[i].size * scale];
        let s = areas[0];
        let j = i + 1;
        while (j < items.length) {
          const next = items[j].size * scale;
          if (areas.length > 60 || worst([...areas, next], s + next) > worst(areas, s)) break;
          areas.push(next);
          s += next;
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
    const paint = () => {
      if ($("map").hidden) return;
      const width = canvas.clientWidth || 300;
      const height = Math.round(Math.max(320, Math.min(620, width * 0.6)));
      const ratio = window.devicePixelRatio || 1;
      canvas.style.height = `${height}px`;
      canvas.width = width * ratio;
      canvas.height = height * ratio;
      const g = canvas.getContext("2d");
      g.scale(ratio, ratio);
      const [paper, ink, flat, one] = ["paper", "ink", "flat", "one"].map(colour);
      const fills = new Map();
      const fill = (value) => {
        const key = Math.sign(value) * Math.round(Math.sqrt(Math.min(Math.abs(value) / most, 1)) * 24);
        if (!fills.has(key)) { probe.style.color = shade((key < 0 ? -1 : 1) * (key / 24) ** 2 * most); fills.set(key, getComputedStyle(probe).color); }
        return fills.get(key);
      };
      const sans = getComputedStyle(document.documentElement).getPropertyValue("--sans");
      boxes = [];
      g.fillStyle = paper;
      g.fillRect(0, 0, width, height);
      g.textBaseline = "top";
      const text = (words, x, y, w, size, weight = 400) => {
        g.font = `${weight} ${size}px ${sans}`;
        // Words may be cut; a number that is cut is another number.
        const whole = words.match(/^\d*/)[0].length;
        while (words.length && g.measureText(words).width > w) words = words.slice(0, -1).trimEnd();
        if (words.length && words.length >= whole) g.fillText(words, x, y);
      };
      const leaf = (a, x, y, w, h) => {
        boxes.push({ a, x, y, w, h });
        g.fillStyle = level(a) === 1 ? flat : fill(gain(a));
        g.fillRect(x + 0.5, y + 0.5, Math.max(w - 1, 0.3), Math.max(h - 1, 0.3));
        if (gain(a) < 0 && w > 4 && h > 4) {
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
        if (w > 26 && h > 15) {
          g.fillStyle = ink;
          const words = index.top[a].slice(0, 4).map((s) => plain(strings[s])).join(" ");
          text(h > 30 || !words ? String(local(a)) : `${local(a)} ${words}`, x + 4, y + 3, w - 8, 11, 600);
          if (h > 30) text(words, x + 4, y + 17, w - 8, 11);
        }
      };
      const wanted = families().filter((f) => zoom == null || f.p === zoom);
      const items = wanted.map((f) => ({ ...f, size: Math.max(f.p < 0 ? sum(f.c, (a) => index.fires[a]) : index.fires[f.p], 0) }))
        .filter((f) => f.size > 0).sort((a, b) => b.size - a.size);
      squarify(items, 0, 0, width, height, (f, x, y, w, h) => {
        boxes.push({ p: f.p, x, y, w, h });
        const bar = w > 34 && h > 34 ? 16 : 0;
        const kids = f.c.filter((a) => index.fires[a] > 0).map((a) => ({ a, size: index.fires[a] }));
        if (!kids.length) {
          if (f.p >= 0) leaf(f.p, x + 1, y + 1, w - 2, h - 2);
          return;
        }
        if (bar) {
          g.fillStyle = one;
          const words = f.p < 0 ? "" : index.top[f.p].slice(0, 3).map((s) => plain(strings[s])).join(" ");
          text(f.p < 0 ? "ROOT: children without a parent" : `${f.p} ${words}`, x + 4, y + 3, w - 8, 11, 700);
        }
        squarify(kids, x + 2, y + 2 + bar, w - 4, h - 4 - bar, (kid, ...place) => leaf(kid.a, ...place));
        g.strokeStyle = one;
        g.lineWidth = 1;
        g.strokeRect(x + 1.5, y + 1.5, Math.max(w - 3, 0), Math.max(h - 3, 0));
      });
      if (hover) { g.strokeStyle = ink; g.lineWidth = 2; g.strokeRect(hover.x + 1, hover.y + 1, hover.w - 2, hover.h - 2); }
    };
    const under = (event) => {
      const r = canvas.getBoundingClientRect();
      const [x, y] = [event.clientX - r.left, event.clientY - r.top];
      return boxes.findLast((b) => x >= b.x && x < b.x + b.w && y >= b.y && y < b.y + b.h) || null;
    };
    const describe = (b) => {
      if (!b) return [zoom == null ? "Point at a rectangle; a click opens it." : "A click on a child opens its page."];
      if (b.a == null) return [b.p < 0 ? `ROOT: ${number(root.length)} children without a parent` : `${name(b.p)}: ${number(children[b.p].length)} children, fires on ${percent(index.density[b.p])}`];
      return [`${name(b.a)} `, ...chips(b.a, 5), ` fires on ${percent(index.density[b.a])} of tokens`,
        ...(index.gain[b.a] == null ? [] : [`; gain ${percent(index.gain[b.a])}`])];
    };
    canvas.addEventListener("pointermove", (event) => {
      const b = under(event);
      if (b === hover) return;
      hover = b;
      $("tip").replaceChildren(...describe(b));
      requestAnimationFrame(paint);
    });
    canvas.addEventListener("pointerleave", () => { hover = null; $("tip").replaceChildren(...describe(null)); paint(); });
    canvas.addEventListener("click", (event) => {
      const b = under(event);
      if (!b) return;
      const p = b.a == null ? b.p : level(b.a) === 1 ? b.a : index.parent[b.a];
      if (zoom == null && (b.a == null || level(b.a) === 2)) location.hash = p < 0 ? "#/map/root" : `#/map/${p}`;
      else if (b.a != null) location.hash = link(b.a);
      else if (b.p >= 0) location.hash = link(b.p);
    });
    let settled = 0;
    addEventListener("resize", () => { clearTimeout(settled); settled = setTimeout(paint, 120); });
    onTheme.push(paint);

    // -- The search: numbers, level/number, or text of the tokens that a latent fires on most.
    const found = (query) => {
      const at_ = query.match(/^#?\s*(?:([12])\s*\/\s*)?(\d+)$/);
      const hits = [];
      if (at_) {
        for (const l of at_[1] ? [Number(at_[1])] : [1, 2]) {
          const j = Number(at_[2]);
          if (j < (l === 1 ? f1 : f2)) hits.push(at(l, j));
        }
      }
      const seen = new Set(hits);
      const lower = query.toLowerCase();
      const ranks = strings.map((s) => (s === query ? 0 : s.trim().toLowerCase() === lower ? 1 : query.length > 1 && s.toLowerCase().includes(lower) ? 2 : -1));
      const byText = [];
      for (let a = 0; a < all; a++) {
        if (seen.has(a)) continue;
        let best = Infinity;
        index.top[a].forEach((s, place) => { if (ranks[s] >= 0) best = Math.min(best, place * 3 + ranks[s]); });
        if (best < Infinity) byText.push([best, a]);
      }
      byText.sort((x, y) => x[0] - y[0] || byFiring(x[1], y[1]));
      return hits.concat(byText.map((b) => b[1]));
    };
    const search = () => {
      const query = $("search").value.replace(/^ +(?=\S)| +$/g, "");
      $("found").hidden = !query;
      $("atlas-view").hidden = Boolean(query);
      if (!query) { paint(); return; }
      const hits = found(query);
      const list = el("ul", { class: "hits" });
      $("found").replaceChildren(el("p", {}, hits.length ? `${number(hits.length)} ${hits.length === 1 ? "latent" : "latents"}` : "No latent has that number, or that token among those it fires on most."), list);
      paged(list, hits, (a) => el("li", {}, el("a", { href: link(a) }, name(a)), el("span", {}, chips(a, 8)),
        el("span", { class: "count" }, `${percent(index.density[a])} of tokens`)), 100);
    };
    $("search").addEventListener("input", search);
    $("search-form").addEventListener("submit", (event) => {
      event.preventDefault();
      const query = $("search").value.trim();
      const hits = query ? found(query) : [];
      if (hits.length) location.hash = link(hits[0]);
    });

    let isMade = false;
    const map = (which) => {
      if (!isMade) {
        isMade = true;
        $("map-lede").textContent = f2
          ? `${number(f1)} parents and ${number(f2)} children; ${number(root.length)} children hang under ROOT, without a parent.`
          : `${number(f1)} latents.`;
        $("legend").replaceChildren(
          el("span", {}, "Area: how often it fires."),
          ...(f2 ? [el("span", {}, "Colour: gain, by how much the error grows without it:", el("span", { class: "ramp" }), `0 to ${percent(most)} and more.`),
            el("span", {}, el("span", { class: "swatch harm-swatch" }), "harms: the error would shrink.")] : []));
        tree();
      }
      zoom = which === "root" ? -1 : /^\d+$/.test(which || "") && Number(which) < f1 ? Number(which) : null;
      const head = $("map").querySelector("h1");
      head.replaceChildren(zoom == null ? "Latents" : zoom < 0 ? "Children under ROOT" : `Family of parent 1/${zoom}`);
      let back = $("map").querySelector(".crumbs");
      back?.remove();
      if (zoom != null) {
        back = el("p", { class: "crumbs" }, el("a", { href: "#/map" }, "All latents"), ...(zoom >= 0 ? ["›", el("a", { href: link(zoom) }, `Page of parent 1/${zoom}`)] : []));
        head.before(back);
        $("search").value = "";
      }
      hover = null;
      $("tip").replaceChildren(...describe(null));
      search();
      if (zoom != null) {
        const which_ = zoom < 0 ? "root" : String(zoom);
        let box = $("tree").querySelector(`[data-family="${which_}"]`);
        if (!box) { box = family({ p: zoom, c: zoom < 0 ? root : children[zoom] }); $("tree").firstElementChild.prepend(box); }
        else $("tree").firstElementChild.prepend(box);
        box.open = true;
      }
      return head;
    };

    // -- The page of a latent.
    const rows = (list, two, make) => {
      const top = Math.max(...list.map((l) => Math.abs(l.at(-1))), 1e-12);
      return list.map((l) => el("tr", {}, el("th", { scope: "row" }, make(l)), el("td", {}, bar(Math.abs(l.at(-1)) / top, two, number(l.at(-1), 3)))));
    };
    const table = (heading, note, heads, body) => body.length
      ? el("section", {}, el("h2", {}, heading), note ? el("p", { class: "aside" }, note) : "",
        el("table", {}, el("thead", {}, el("tr", {}, heads.map((h) => el("th", { scope: "col" }, h)))), el("tbody", {}, body)))
      : "";
    const fact = (dt, dd, small) => el("div", {}, el("dt", {}, dt), el("dd", {}, dd, small ? el("small", {}, small) : ""));
    const context = (c, max) => {
      const values = new Map(c.at);
      const line = el("span", { class: "line" });
      if (!c.tokens.length) {
        const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
        svg.setAttribute("viewBox", `0 0 ${c.n} 10`);
        svg.setAttribute("preserveAspectRatio", "none");
        svg.setAttribute("class", "spark");
        svg.setAttribute("role", "img");
        svg.setAttribute("aria-label", `Activations on the ${c.n} rows around row ${c.row}`);
        for (let i = 0; i < c.n; i++) {
          const h = Math.max(((values.get(i) || 0) / max) * 10, 0.25);
          const r = document.createElementNS("http://www.w3.org/2000/svg", "rect");
          for (const [k, v] of [["x", i + 0.1], ["y", 10 - h], ["width", 0.8], ["height", h]]) r.setAttribute(k, v);
          r.setAttribute("fill", `var(--${i === c.peak ? "one" : values.get(i) ? "glow" : "line"})`);
          svg.append(r);
        }
        return el("li", {}, el("span", { class: "strength" }, number(values.get(c.peak), 3)), el("div", {}, svg, el("small", {}, `row ${number(c.row)}`)));
      }
      c.tokens.forEach((s, i) => {
        const v = values.get(i) || 0;
        const on = v > 0;
        line.append(el("span", { class: [on && "on", i === c.peak && "peak"].filter(Boolean).join(" ") || null,
          style: on ? `--a:${Math.round(25 + 75 * Math.min(v / max, 1))}` : null, title: on ? number(v, 3) : null }, token(strings[s])));
      });
      return el("li", {}, el("span", { class: "strength", title: `row ${c.row}` }, number(values.get(c.peak), 3)), line);
    };
    const page = (l, j) => {
      const holder = $("latent");
      const a = at(l, j);
      if (!(l === 1 || l === 2) || !(j >= 0 && j < (l === 1 ? f1 : f2)) || !Number.isInteger(j)) {
        holder.replaceChildren(el("h1", { tabindex: "-1" }, "No such latent"), el("p", {}, el("a", { href: "#/map" }, "All latents")));
        return holder.querySelector("h1");
      }
      const r = JSON.parse(records[a]);
      const p = index.parent[a];
      const kids = l === 1 ? children[j] : [];
      const siblings = p >= 0 ? children[p].filter((s) => s !== a) : [];
      const crumbs = el("p", { class: "crumbs" }, el("a", { href: "#/map" }, "Latents"), "›",
        ...(l === 2 && p >= 0 ? [el("a", { href: link(p) }, "Parent 1/" + p), "›"] : l === 2 && f2 ? [el("a", { href: "#/map/root" }, "ROOT"), "›"] : []),
        el("span", { "aria-current": "page" }, `${l}/${j}`),
        el("span", { class: "turn" }, ...(j > 0 ? [el("a", { href: link(a - 1), rel: "prev" }, `‹ ${l}/${j - 1}`), " "] : []),
          ...(j + 1 < (l === 1 ? f1 : f2) ? [el("a", { href: link(a + 1), rel: "next" }, `${l}/${j + 1} ›`)] : [])));
      const facts = el("dl", { class: "facts" },
        fact("Fires on", percent(index.density[a]), `${number(index.fires[a])} tokens`),
        r.mean != null && fact("Activation", number(r.mean, 3), `mean where it fires; largest ${number(r.max, 3)}`),
        index.gain[a] != null && fact("Gain", percent(index.gain[a]), gain(a) < 0 ? "it harms: the error would shrink without it" : "of the error of level 2, if it alone were gone; higher is better"),
        index.containment[a] != null && fact("P(parent | child), without the gate", percent(index.containment[a]), p >= 0 ? `chance ${percent(index.density[p])}; higher is better` : ""),
        index.lift[a] != null && fact("Lift, without the gate", `${number(index.lift[a], 3)}×`, "chance is 1×; higher is better"),
        r.divergence != null && fact("More specific by", `${number(r.divergence, 3)} bits`, "KL of its tokens from its parent’s"),
        l === 1 && f2 && fact("Children", number(kids.length), kids.length ? `together a gain of ${percent(sum(kids, gain))}` : ""),
        index.coverage[a] != null && fact("P(some child | parent)", percent(index.coverage[a])),
        index.exclusivity[a] != null && fact("P(one child | some child), without the gate", percent(index.exclusivity[a]), "1: siblings exclude each other"));
      const contexts = el("section", { class: "latent-section" }, el("h2", {}, "Where it fires most strongly"),
        r.contexts.length
          ? el("ol", { class: "contexts" }, r.contexts.map((c) => context(c, r.max || 1)))
          : el("p", {}, "It fires nowhere on the rows that were evaluated."));
      if (r.contexts.some((c) => c.tokens.length)) {
        contexts.insertBefore(el("p", { class: "aside" }, "The number is its activation on the underlined token; the stronger the shade, the stronger it fires. At most one place a sequence."), contexts.children[1]);
      }
      const words = (l_) => chip(l_[0]);
      const columns = el("div", { class: "columns" },
        table("Tokens it fires on", "Shares of its whole activation.", ["token", "share"], rows(r.tokens, l === 2, words)),
        table("Logits it raises", "By its direction alone, for an activation of 1.", ["token", "logit"], rows(r.promotes, l === 2, words)),
        table("Logits it lowers", "", ["token", "logit"], rows(r.suppresses, l === 2, words)),
        table("Nearest directions", "Cosine of the decoder rows; 1 is the same direction.", ["latent", "cosine"], rows(r.neighbours, l === 2, (n) => {
          const b = at(n[0], n[1]);
          const kin = b === p ? " its parent" : kids.includes(b) ? " its child" : siblings.includes(b) ? " a sibling" : "";
          return [el("a", { href: link(b) }, `${n[0]}/${n[1]}`), " ", ...chips(b, 3), kin ? el("small", {}, kin) : ""];
        })));
      const kin = [];
      if (kids.length) kin.push(el("section", { class: "latent-section" }, el("h2", {}, `Its children, ${number(kids.length)}`), tiles(kids)));
      if (siblings.length) kin.push(el("section", { class: "latent-section" }, el("h2", {}, `Its siblings, ${number(siblings.length)}`), tiles(siblings)));
      const head = el("h1", { tabindex: "-1" }, name(a));
      holder.replaceChildren(crumbs, el("div", { class: "latent-head" }, head, el("span", {}, chips(a, 5))),
        ...(l === 2 && f2 ? [el("p", { class: "lede" }, p >= 0 ? ["child of ", el("a", { href: link(p) }, `parent 1/${p}`), " ", ...chips(p, 4)] : ["under ROOT: no parent contains it"])] : []),
        facts, contexts, columns, ...kin);
      return head;
    };
    return { map, page };
  }
})();
