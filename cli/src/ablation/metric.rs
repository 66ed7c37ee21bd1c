//! The metrics that an ablation compares: one table, from which the printed tables, `ablation.csv` and the report are
//! made.

/// A metric of a run.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Name in `ablation.json` and `ablation.csv`.
    pub key: &'static str,
    /// JSON pointer to it in `eval.json`.
    pub at: &'static str,
    /// Heading of its printed column, if it has one.
    pub short: Option<&'static str>,
    /// Title in the report.
    pub name: &'static str,
    /// Which way is better.
    pub better: &'static str,
    /// Decimals.
    pub digits: usize,
}

const fn metric(
    key: &'static str,
    at: &'static str,
    short: Option<&'static str>,
    name: &'static str,
    better: &'static str,
    digits: usize,
) -> Metric {
    Metric { key, at, short, name, better, digits }
}

/// All metrics, in the order of the columns.
pub const METRICS: [Metric; 33] = [
    metric("fvu1", "/fidelity/level1/fvu", Some("FVU1"), "FVU1", "lower", 4),
    metric("fvu2", "/fidelity/level2/fvu", Some("FVU2"), "FVU2", "lower", 4),
    metric("l0_1", "/level1/l0_mean", Some("L0_1"), "L0 of level 1", "budget", 2),
    metric("l0_2", "/level2/l0_mean", Some("L0_2"), "L0 of level 2", "budget", 2),
    metric("dead1", "/level1/dead", None, "dead, level 1", "lower", 4),
    metric("dead2", "/level2/dead", None, "dead, level 2", "lower", 4),
    metric("attachment", "/composition/attachment", Some("attach"), "attachment, without the gate", "higher", 4),
    metric(
        "attachment_control",
        "/control/edges/attachment/value",
        Some("control"),
        "attachment of the control",
        "neither",
        4,
    ),
    metric("fvu2_control", "/control/fvu2/value", Some("FVU2 c."), "FVU2 of the control", "neither", 4),
    metric(
        "parents_again",
        "/stability/parents/agreement/value",
        Some("seeds"),
        "parents that another seed has",
        "higher",
        4,
    ),
    metric("phi", "/composition/phi", None, "phi of an edge, without the gate", "higher", 4),
    metric("median_lift", "/composition/median_lift", None, "median lift, without the gate", "neither", 2),
    metric("coverage", "/gated/coverage", None, "P(child | parent)", "neither", 4),
    metric("root_children", "/composition/root_children", Some("ROOT"), "children under ROOT", "neither", 0),
    metric("exclusivity", "/composition/exclusivity", None, "P(one child | some child), without the gate", "higher", 4),
    metric("harmful", "/gated/harmful", None, "children that harm", "lower", 4),
    metric("leak", "/leak/leak", None, "leak", "lower", 4),
    metric("s_res", "/condition/s_res/value", None, "S_res", "higher", 4),
    metric("children_share", "/attribution/children", None, "share of the children", "neither", 4),
    metric("silhouette_z", "/coherence/decoder/silhouette/z", None, "silhouette of decoders, z", "neither", 2),
    metric("npmi_z", "/coherence/topics/npmi/z", None, "NPMI of families, z", "higher", 2),
    metric("token_auc", "/similarity/token_corrected/auc", Some("AUC"), "AUC of tokens", "higher", 4),
    metric("c_dec1", "/structure/level1/c_dec", None, "decoder coherence, level 1", "lower", 4),
    metric("c_dec2", "/structure/level2/dictionary/c_dec", None, "decoder coherence, level 2", "lower", 4),
    metric("mcc", "/recovery/mcc", Some("MCC"), "MCC", "higher", 4),
    metric("f1", "/recovery/f1", Some("F1"), "firing F1", "higher", 4),
    metric("edge_recall", "/recovery/edge_recall", Some("edges"), "true edges found", "higher", 4),
    metric("edge_precision", "/recovery/edge_precision", None, "edges that are true", "higher", 4),
    metric("family_ari", "/recovery/family_ari", None, "ARI of families", "higher", 4),
    metric("root_in_level1", "/recovery/root_in_level1", None, "roots in level 1", "higher", 4),
    metric("leaf_in_level2", "/recovery/leaf_in_level2", None, "leaves in level 2", "higher", 4),
    metric("absorption", "/recovery/absorption", None, "absorption", "lower", 4),
    metric("uniqueness", "/recovery/uniqueness", None, "uniqueness", "higher", 4),
];
