//! The table that a person reads.

use super::Evaluation;
use std::io::Write;
use strata_core::metrics::sparsity::SparsityReport;

/// The table that a person reads.
///
/// # Errors
/// If `out` cannot be written to.
pub fn print(e: &Evaluation, out: &mut dyn Write) -> std::io::Result<()> {
    let f = &e.fidelity;
    writeln!(out, "{} rows of {} from row {}", e.rows[1], e.dump, e.rows[0])?;
    writeln!(out)?;
    writeln!(out, "{:<34}{:>10}{:>10}", "", "level 1", "level 2")?;
    let two = e.level2.is_some();
    let mut line = |name: &str, a: f64, b: Option<f64>, digits: usize| {
        let b = b.filter(|_| two).map_or_else(|| "-".into(), |b| number(b, digits));
        writeln!(out, "{name:<34}{:>10}{b:>10}", number(a, digits))
    };
    line("fraction of variance unexplained", f.level1.fvu, Some(f.level2.fvu), 4)?;
    line("cosine with the activations", f.level1.cosine, Some(f.level2.cosine), 4)?;
    line("norm of reconstruction / of row", f.level1.norm_ratio, Some(f.level2.norm_ratio), 4)?;
    let second = |get: fn(&SparsityReport) -> f64| e.level2.as_ref().map(get);
    line("latents that fire (L0)", e.level1.l0_mean, second(|s| s.l0_mean), 2)?;
    line("latents", e.level1.latents as f64, second(|s| s.latents as f64), 0)?;
    line("dead, share", e.level1.dead, second(|s| s.dead), 4)?;
    line("density of the median latent", e.level1.median_density, second(|s| s.median_density), 5)?;
    if let Some(s) = &e.splice {
        line("cross-entropy, nats", s.level1, Some(s.level2), 4)?;
        line("cross-entropy recovered", s.recovered1, Some(s.recovered2), 4)?;
        writeln!(out, "{:<34}{:>10}{:>10}", "  clean / mean-ablated", number(s.clean, 4), number(s.mean_ablated, 4))?;
    }
    if let Some(c) = &e.composition {
        writeln!(out)?;
        for (name, value, digits) in [
            ("P(parent | child)", c.containment, 4),
            ("median lift of an edge", c.median_lift, 1),
            ("edges with P > .8 and lift > 2", c.real_edges, 4),
            ("P(some child | parent)", c.coverage, 4),
            ("P(one child | some child)", c.exclusivity, 4),
            ("children under ROOT", c.root_children as f64, 0),
        ] {
            writeln!(out, "{name:<34}{:>10}", number(value, digits))?;
        }
    }
    if let Some(r) = &e.recovery {
        writeln!(out)?;
        for (name, value) in [
            ("true features: cosine (MCC)", r.mcc),
            ("true features: firing F1", r.f1),
            ("true edges found", r.edge_recall),
            ("edges that are true", r.edge_precision),
            ("true roots in level 1", r.root_in_level1),
            ("true children in level 2", r.leaf_in_level2),
            ("roots absorbed by their children", r.absorption),
        ] {
            writeln!(out, "{name:<34}{:>10}", number(value, 4))?;
        }
    }
    Ok(())
}

fn number(value: f64, digits: usize) -> String {
    if value.is_finite() { format!("{value:.digits$}") } else { "undefined".into() }
}
