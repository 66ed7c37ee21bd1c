//! The table that `strata eval` prints.

use super::Evaluation;
use crate::escape::escaped;
use std::io::Write;
use strata_core::metrics::bootstrap::Interval;
use strata_core::metrics::composition::EdgeIntervals;
use strata_core::metrics::sparsity::SparsityReport;

/// Selects one of the intervals of the edges.
type Part = fn(&EdgeIntervals) -> Interval;

/// Prints the table.
///
/// # Errors
/// If `out` cannot be written to.
pub fn print(e: &Evaluation, out: &mut dyn Write) -> std::io::Result<()> {
    let f = &e.fidelity;
    let which = if e.held_out { "held-out rows" } else { "rows, those of the training among them," };
    writeln!(out, "{} {which} of {} from row {}", f.tokens, escaped(&e.dump), e.rows[0])?;
    if let Some(passes) = e.passes {
        let which = if e.held_out { "the other rows" } else { "the rows of the training" };
        writeln!(out, "trained on {} passes over {which}", number(passes, 2))?;
    }
    let left = &e.left_out;
    if left.over_limit + left.named > 0 {
        let limit = left.norm_limit.map_or_else(String::new, |l| format!(" with a norm over {}", number(l, 3)));
        let [all1, all2] = left.fvu_of_all.map(|v| number(v, 4));
        let all = if e.level2.is_some() { format!("{all1} and {all2}") } else { all1 };
        writeln!(
            out,
            "left out as in training: {} rows{limit}, {} by position or token; FVU with them {all}",
            left.over_limit, left.named
        )?;
    }
    writeln!(out)?;
    writeln!(out, "{:<34} {:>10} {:>10}", "", "level 1", "level 2")?;
    let two = e.level2.is_some();
    let mut line = |name: &str, a: f64, b: Option<f64>, digits: usize| {
        let b = b.filter(|_| two).map_or_else(|| "-".into(), |b| number(b, digits));
        writeln!(out, "{name:<34} {:>10} {b:>10}", number(a, digits))
    };
    line("fraction of variance unexplained", f.level1.fvu, Some(f.level2.fvu), 4)?;
    line("cosine with the activations", f.level1.cosine, Some(f.level2.cosine), 4)?;
    line("norm of reconstruction / of row", f.level1.norm_ratio, Some(f.level2.norm_ratio), 4)?;
    let second = |get: fn(&SparsityReport) -> f64| e.level2.as_ref().map(get);
    line("latents that fire (L0)", e.level1.l0_mean, second(|s| s.l0_mean), 2)?;
    if let Some([asked1, asked2]) = e.asked_l0 {
        line("  asked for", asked1, Some(asked2), 2)?;
    }
    line("latents", e.level1.latents as f64, second(|s| s.latents as f64), 0)?;
    line("dead, share", e.level1.dead, second(|s| s.dead), 4)?;
    line("density of the median latent", e.level1.median_density, second(|s| s.median_density), 5)?;
    if let Some(s) = &e.splice {
        line("cross-entropy, nats", s.level1, Some(s.level2), 4)?;
        line("cross-entropy recovered", s.recovered1, Some(s.recovered2), 4)?;
        line("KL divergence from the clean model", s.kl1, Some(s.kl2), 4)?;
        let [clean, mean, zero] = [s.clean, s.mean_ablated, s.zero_ablated].map(|v| number(v, 4));
        writeln!(out, "{:<34} {clean:>10} {mean:>10} {zero:>10}", "  nats, clean / mean / zeros")?;
        if s.rows_left_out > 0 {
            let [all1, all2] = s.of_all.map(|v| number(v, 4));
            writeln!(out, "{:<34} {all1:>10} {all2:>10}", "  nats, left-out rows replaced too")?;
        }
    }
    if let (Some(c), Some(gated)) = (&e.composition, &e.gated) {
        writeln!(out)?;
        writeln!(out, "{:<35} {:>9} {:>20} {:>20}", "without the gate", "", "95 % interval", "control")?;
        let own = e.intervals.edges.as_ref();
        let control = e.control.as_ref();
        let lines: [(&str, f64, Part); 6] = [
            ("children keep to parents (0 to 1)", c.attachment, |i| i.attachment),
            ("P(parent | child)", c.containment, |i| i.containment),
            ("median lift of an edge", c.median_lift, |i| i.median_lift),
            ("edges with P > 0.8 and lift > 2", c.real_edges, |i| i.real_edges),
            ("phi of an edge", c.phi, |i| i.phi),
            ("P(one child | some child)", c.exclusivity, |i| i.exclusivity),
        ];
        for (name, value, of) in lines {
            let sure = own.map_or_else(String::new, |i| ends(&of(i)));
            let other = control.map_or_else(String::new, |c| ends(&of(&c.edges)));
            writeln!(out, "{name:<35} {:>9} {sure:>20} {other:>20}", number(value, 3))?;
        }
        if let Some(control) = control {
            let (name, i) = ("variance unexplained, with the gate", &e.intervals.fvu2);
            writeln!(out, "{name:<35} {:>9} {:>20} {:>20}", number(i.value, 4), ends(i), ends(&control.fvu2))?;
        }
        writeln!(out)?;
        for (name, value, digits) in [
            ("children under ROOT", c.root_children as f64, 0),
            ("P(some child | parent)", gated.coverage, 4),
            ("children that harm", gated.harmful, 4),
        ] {
            writeln!(out, "{name:<34} {:>10}", number(value, digits))?;
        }
        let forced = number(gated.containment_by_construction, 4);
        writeln!(out, "{:<34} {forced:>10}  by construction of the gate", "P(parent | child), with the gate")?;
        if let Some(a) = &e.attribution {
            let shares = [a.parents, a.children + a.orphans, a.root, a.error].map(|s| number(100.0 * s, 1));
            let [parents, children, root, error] = shares;
            writeln!(out, "of a row: parents {parents} %, children {children} %, ROOT's {root} %, error {error} %")?;
        }
    }
    if let (Some(null), Some(c), Some(s)) = (&e.composition_null, &e.coherence, &e.similarity) {
        writeln!(out)?;
        writeln!(out, "{:<34} {:>10} {:>10} {:>10}", "families against shuffled ones", "", "shuffled", "z")?;
        let mut scores = vec![
            ("children keep to parents", null.attachment),
            ("median lift of an edge", null.median_lift),
            ("cosine silhouette of directions", c.decoder.silhouette),
            ("agreement with k-means (AMI)", c.agreement.kmeans_ami),
        ];
        scores.extend(e.condition.as_ref().map(|c| ("rows are parent and child (S_res)", c.s_res)));
        scores.extend(c.topics.as_ref().map(|t| ("words of a family (NPMI)", t.npmi)));
        for (name, s) in scores {
            // A null without spread has no z.
            let z = if s.z.is_finite() { number(s.z, 1) } else { String::new() };
            writeln!(out, "{name:<34} {:>10} {:>10} {z:>10}", number(s.value, 3), number(s.null_mean, 3))?;
        }
        writeln!(out, "{:<34} {:>10} {:>10} {:>20}", "edges against random pairs", "", "random", "AUC")?;
        for (name, s) in [
            ("decoder directions (cosine)", &s.decoder),
            ("tokens (1 - JSD)", &s.token_corrected),
            ("effects on logits (cosine)", &s.logit),
            ("the parent's tokens subsume", &s.subsumed),
        ] {
            if s.connected.is_finite() {
                let auc = format!("{:.3} [{:.2}, {:.2}]", s.auc, s.auc_low, s.auc_high);
                writeln!(out, "{name:<34} {:>10} {:>10} {auc:>20}", number(s.connected, 3), number(s.matched, 3))?;
            }
        }
    }
    if let Some(s) = &e.stability {
        writeln!(out)?;
        writeln!(out, "against {}", escaped(e.against.as_deref().unwrap_or("another run")))?;
        let p = &s.parents;
        for (name, value) in [
            ("directions of level 1 in the other run", s.level1.mcc),
            ("directions of level 2 in the other run", s.level2.mcc),
            ("children with a parent, found again", p.found_again),
        ] {
            writeln!(out, "{name:<38} {:>6}", number(value, 3))?;
        }
        let (same, chance) = (number(p.agreement.value, 3), number(p.chance, 3));
        writeln!(out, "{:<38} {same:>6}  {}, chance {chance}", "  of those, with the same parent", ends(&p.agreement))?;
    }
    if let Some(r) = &e.recovery {
        writeln!(out)?;
        for (name, value) in [
            ("true features: cosine (MCC)", r.mcc),
            ("true features: firing F1", r.f1),
            ("latents as detectors: F1", r.detection.f1),
            ("true edges found", r.edge_recall),
            ("edges that are true", r.edge_precision),
            ("edges to an ancestor", r.edges.to_ancestor),
            ("  by chance", r.edges.to_ancestor_chance),
            ("families as they are (ARI)", r.family_ari),
            ("true roots in level 1", r.root_in_level1),
            ("true children in level 2", r.leaf_in_level2),
            ("roots absorbed by their children", r.absorption),
        ] {
            writeln!(out, "{name:<34} {:>10}", number(value, 4))?;
        }
    }
    writeln!(out)?;
    writeln!(out, "Is the hierarchy real? {}", e.verdict.sentence)?;
    writeln!(out, "  {}", e.verdict.rule)?;
    Ok(())
}

/// Formats an interval, without its value.
fn ends(i: &Interval) -> String {
    if i.low.is_finite() { format!("[{:.3}, {:.3}]", i.low, i.high) } else { String::new() }
}

/// Formats a number so that it fits its column of 10.
fn number(value: f64, digits: usize) -> String {
    if !value.is_finite() {
        return "undefined".into();
    }
    let plain = format!("{value:.digits$}");
    if plain.len() <= 10 { plain } else { format!("{value:.3e}") }
}
