// Plots are drawn when they are about to become visible, so that the page appears at once.
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
  // Related lines share a colour: the target and the measured value, training and held-out rows.
  const colours = { "level 1": "one", "level 2": "two", "k, level 1": "one", "k, level 2": "two",
    "level 1, held out": "one", "level 2, held out": "two", rows: "two", base: "one", reference: "soft", seeds: "soft", edges: "two", share: "two" };
  const data = plot.data.map((trace) => {
    // On a page of two runs the letter before the name tells which; lines of the second are dashed, bars have another colour.
    const [, letter, own] = trace.name?.match(/^(?:([AB]): )?(.*)$/) || [];
    const name = letter === "B" && trace.type === "bar" ? "one" : colours[own];
    if (!name) return trace;
    const c = colour(name);
    const line = trace.mode?.startsWith("lines") ? { line: { ...trace.line, color: c } } : {};
    return { ...trace, ...line, marker: { ...trace.marker, color: c } };
  });
  plotly().react(box, data, themed(plot.layout), { responsive: true, displayModeBar: false, displaylogo: false });
};
const nearing = new IntersectionObserver((seen) => {
  for (const s of seen) if (s.isIntersecting) { nearing.unobserve(s.target); draw(s.target); }
}, { rootMargin: "300px" });
document.querySelectorAll(".plot").forEach((box) => nearing.observe(box));
onTheme.push(() => drawn.forEach(draw));
