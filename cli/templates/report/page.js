// What every part uses: elements, numbers, light and dark colours. The page never makes a request.
const $ = (id) => document.getElementById(id);
const root = document.documentElement;

/** An element with attributes and children. Strings become text nodes, never HTML. */
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

// Light and dark colours. The choice of the reader is stored where the browser permits it.
const remembered = () => { try { return localStorage.getItem("strata-theme"); } catch { return null; } };
const wantsDark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : wantsDark.matches);
const onTheme = [];
const svg = (tag, attributes = {}, ...children) => {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) if (value != null && value !== false) node.setAttribute(name, value);
  node.append(...children.flat().filter((child) => child != null && child !== false && child !== ""));
  return node;
};
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
/** The present value of a colour of the style sheet. */
const colour = (name) => { probe.style.color = `var(--${name})`; return getComputedStyle(probe).color; };
