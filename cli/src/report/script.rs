//! The scripts of a page, joined: they share one scope, which nothing outside can reach.

/// The parts, in the order in which they need each other.
const PARTS: [&str; 13] = [
    include_str!("../../templates/report/page.js"),
    include_str!("../../templates/report/plots.js"),
    include_str!("../../templates/report/metrics.js"),
    include_str!("../../templates/report/labels.js"),
    include_str!("../../templates/report/atlas.js"),
    include_str!("../../templates/report/parts.js"),
    include_str!("../../templates/report/treemap.js"),
    include_str!("../../templates/report/tree.js"),
    include_str!("../../templates/report/search.js"),
    include_str!("../../templates/report/contexts.js"),
    include_str!("../../templates/report/latent.js"),
    include_str!("../../templates/report/map.js"),
    include_str!("../../templates/report/route.js"),
];

/// Returns the script of a page.
pub fn joined() -> String {
    format!("\"use strict\";\n(() => {{\n{}}})();\n", PARTS.concat())
}
