//! The scripts of a page, concatenated in one scope, so that they share their names with each other and with nothing
//! else.

/// The scripts, in an order in which each uses only earlier ones while it is loaded.
const PARTS: [&str; 12] = [
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
];
/// Unpacks the data of a page that computes.
const UNPACK: &str = include_str!("../../templates/report/unpack.js");
/// The view that computes.
const LIVE: &str = include_str!("../../templates/report/live.js");
/// The last part, which calls the views.
const ROUTE: &str = include_str!("../../templates/report/route.js");

/// Returns the script of a page; `computes` says whether it has the view that does.
pub fn joined(computes: bool) -> String {
    // What is packed is unpacked asynchronously, which only an async function can wait for.
    let (start, unpack, live) = if computes { ("async ", UNPACK, LIVE) } else { ("", "", "") };
    format!("\"use strict\";\n({start}() => {{\n{unpack}{}{live}{ROUTE}}})();\n", PARTS.concat())
}
