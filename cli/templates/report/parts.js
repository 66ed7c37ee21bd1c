// Small parts of the pages of latents: tokens, bars, tiles, long lists.
const SHOWN = { " ": "·", "\n": "⏎", "\t": "→", "\r": "␍", "\u00a0": "⍽", "": "∅" };

/** Token text, with its white space shown. */
const token = (text) => {
  const parts = [];
  for (const c of text) {
    // Control characters and white space without a sign of its own are shown by their number.
    const sign = SHOWN[c] ?? (/[\p{C}\p{Zl}\p{Zp}]/u.test(c) ? `\\u{${c.codePointAt(0).toString(16)}}` : null);
    if (sign) parts.push(el("span", { class: "ws" }, sign));
    else if (typeof parts.at(-1) === "string") parts[parts.length - 1] += c;
    else parts.push(c);
  }
  return parts.length ? parts : [el("span", { class: "ws" }, SHOWN[""])];
};
const chip = (A, s) => el("span", { class: "tok" }, token(A.strings[s]));
const chips = (A, a, n = 6) => A.index.top[a].slice(0, n).flatMap((s) => [chip(A, s), " "]);
/** The label of a latent in quotes, or the words in which it fires. */
const said = (A, a) => {
  const { label } = A.labels.get(a);
  if (label) return el("span", { class: "said label" }, `“${label}”`);
  const words = A.words(a);
  return words.length ? el("span", { class: "said" }, words.join(", ")) : el("span", {}, chips(A, a, 4));
};
const bar = (share, two, text) => el("span", { class: "bar-cell" },
  el("span", {}, el("span", { class: two ? "bar two" : "bar", style: `width:${Math.max(0, Math.min(1, share)) * 100}%` })), el("span", {}, text));
const shade = (A, g) => {
  const t = Math.sqrt(Math.min(Math.abs(g) / A.most, 1));
  return `color-mix(in oklab, var(--${g < 0 ? "harm" : "gain"}) ${Math.round(t * 70)}%, var(--flat))`;
};
const tile = (A, a, mark) => el("li", {}, el("a", { class: A.gain(a) < 0 ? "tile harms" : "tile", href: A.link(a),
  style: A.gain(a) < 0 ? "" : `background:${shade(A, A.gain(a))}`,
  title: `fires on ${percent(A.index.density[a])} of tokens; gain ${percent(A.index.gain[a])}` },
  mark, el("b", {}, A.said(a) || A.local(a)), el("br"), el("span", { class: "tile-facts" }, `${A.number(a)} · ${percent(A.index.density[a])}${A.gain(a) < 0 ? " · harms" : ""}`)));

/** A list to which a button adds one page of entries at a time. */
const paged = (holder, list, make, page) => {
  let shown = 0;
  const more = el("button", { type: "button", class: "more" });
  const grow = () => {
    more.remove();
    holder.append(...list.slice(shown, shown + page).map(make));
    shown = Math.min(shown + page, list.length);
    if (shown < list.length) { more.textContent = `Show ${number(Math.min(page, list.length - shown))} more of ${number(list.length - shown)}`; holder.after(more); }
  };
  more.addEventListener("click", grow);
  grow();
};
const tiles = (A, list, mark = () => "") => {
  const ul = el("ul", { class: "tiles" });
  const box = el("div", {}, ul);
  paged(ul, list, (a) => tile(A, a, mark(a)), 150);
  return box;
};

/** A list that shows one page of entries, with buttons for all pages. */
const turned = (holder, list, make, size, what) => {
  const pages = Math.max(1, Math.ceil(list.length / size));
  const body = el("div");
  const where = el("span", { role: "status" });
  const turn = (text, to) => el("button", { type: "button", class: "more", "data-to": to }, text);
  const buttons = [turn("« First", "first"), turn("‹ Previous", "previous"), turn("Next ›", "next"), turn("Last »", "last")];
  const bar = el("nav", { class: "pager", "aria-label": `Pages of ${what}` }, buttons[0], buttons[1], where, buttons[2], buttons[3]);
  let page = 0;
  const show = () => {
    body.replaceChildren(...list.slice(page * size, (page + 1) * size).map(make));
    where.textContent = list.length ? `${number(page * size + 1)} to ${number(Math.min((page + 1) * size, list.length))} of ${number(list.length)} ${what}` : `no ${what}`;
    buttons[0].disabled = buttons[1].disabled = page === 0;
    buttons[2].disabled = buttons[3].disabled = page === pages - 1;
  };
  bar.addEventListener("click", (event) => {
    const to = event.target.dataset?.to;
    if (!to) return;
    page = { first: 0, previous: Math.max(0, page - 1), next: Math.min(pages - 1, page + 1), last: pages - 1 }[to];
    show();
  });
  if (pages === 1) buttons.forEach((b) => { b.hidden = true; });
  show();
  holder.replaceChildren(bar, body);
  return body;
};
