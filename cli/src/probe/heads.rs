//! The probes of a run as heads that an engine scores while it computes: a file for `strata_probe_load`.

use crate::eval::sample::Sampled;
use anyhow::Result;
use std::path::Path;
use strata_core::Encoder;
use strata_core::heads::{Head, Heads, Reads, fingerprint};
use strata_core::metrics::probe::Binary;
use strata_core::metrics::probe::logistic::{Logistic, Settings};
use strata_core::metrics::probe::sparse::fit_latents;

/// The heads to save.
#[derive(Clone, Copy, Debug)]
pub struct Save<'a> {
    /// The file to write.
    pub file: &'a Path,
    /// Number of latents of a head, one of [`KS`](strata_core::metrics::probe::sparse::KS).
    pub latents: usize,
}

/// The probes of a class.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fitted<'a> {
    /// The class.
    pub name: &'a str,
    /// What they were fitted on.
    pub task: &'a Binary,
    /// The probe on rows.
    pub on_rows: &'a Logistic,
    /// The latents of the probe on latents, level 1 first; empty if there is none.
    pub latents: &'a [u32],
}

/// Returns two heads for each class, in order: the probe on rows and that on latents of both levels. A transcoder has
/// no heads on rows, since its probes read the rows that it should reconstruct, which an engine does not give it; a class
/// that no latent tells from the others has no head on latents. Also returns the names of heads whose fit did not
/// converge.
pub(super) fn heads(
    encoder: &Encoder,
    sampled: &Sampled,
    fitted: &[Fitted<'_>],
    settings: &Settings,
) -> Result<(Heads, Vec<String>)> {
    let [_, _, both] = sampled.views(encoder)?;
    let arch = &encoder.model().arch;
    let (mut heads, mut loose) = (Vec::new(), Vec::new());
    let mut push = |name: &str, reads: Reads, probe: Logistic| {
        if !probe.converged {
            loose.push(name.to_owned());
        }
        heads.push(Head { name: name.to_owned(), reads, weight: probe.weight, bias: probe.bias });
    };
    for &Fitted { name, task, on_rows, latents } in fitted {
        if arch.variant.target.is_none() {
            push(name, Reads::Row, on_rows.clone());
        }
        if !latents.is_empty() {
            let probe = fit_latents(&both, latents, &task.train, settings)?;
            push(name, Reads::Latents(latents.to_vec()), probe);
        }
    }
    let unit = (1.0 / sampled.scale) as f32;
    let model = fingerprint(encoder.model());
    Ok((Heads { d: arch.d, latents: arch.latents(), model, unit, heads }, loose))
}
