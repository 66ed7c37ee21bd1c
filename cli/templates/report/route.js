// The addresses of the page: #/, #/training, #/map, #/map/12, #/map/root, #/latent/2/975, #/labels, #/live; of a second run #/b/map etc.
const title = document.title;
const overview = $("overview");
let arrived = false;
const go = () => {
  let parts = location.hash.replace(/^#\/?/, "").split("/");
  const A = parts[0] === "b" && atlases[1] ? atlases[1] : atlases[0];
  if (parts[0] === "b") parts = parts.slice(1);
  const [place, ...rest] = parts;
  const view = place === "live" && $("live") ? "live" : A && ["map", "latent", "labels"].includes(place) ? place : "overview";
  for (const id of ["overview", "map", "latent", "labels", "live"]) if ($(id)) $(id).hidden = id !== view;
  const at = view === "overview" ? `#/${place}` : view === "labels" || view === "live" ? `#/${view}` : A.to("map");
  document.querySelectorAll(".top nav a").forEach((a) => {
    if (a.getAttribute("href") === at) a.setAttribute("aria-current", "page"); else a.removeAttribute("aria-current");
  });
  document.title = title;
  let head = null;
  if (view === "map") head = mapView(A, rest[0]);
  else if (view === "latent") head = latentPage(A, Number(rest[0]), Number(rest[1]));
  else if (view === "labels") head = labelsView(A);
  else if (view === "live") head = liveView();
  else head = place && $(place) && overview.contains($(place)) ? $(place) : null;
  if (head && view === "overview") head.scrollIntoView();
  else if (arrived) {
    const up = () => scrollTo({ top: 0, behavior: "instant" });
    up();
    // Scroll once more after the page has its new height, since the browser restores the old position.
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
