//! The factors of the backward pass: the weights of the loss terms, in units of the fraction of variance unexplained.

use super::auxk;
use super::derived::Derived;
use super::entries::Kept;
use super::inputs::Inputs;
use crate::activation::Rule;
use crate::loss::seed_cos::SeedCos;
use crate::loss::{self, Term};
use crate::model::Params;

/// The factors of one step, in the symbols of the loss in [`step`](super). Of the forward pass only the fractions of
/// variance unexplained enter, in the factors of AuxK.
pub(super) struct Terms<'a> {
    /// `2 w_l / (n nu)`.
    pub recon: [f32; 2],
    /// `2 alpha_l / (n nu)`, where AuxK acts.
    pub aux: [f32; 2],
    /// `2 wg / (n nu)`.
    pub gated: f32,
    /// `lambda_l / n`.
    pub penalty: [f32; 2],
    /// The activations of the levels.
    pub rules: [Rule<'a>; 2],
    /// Widths of the straight-through kernels.
    pub bandwidth: [f32; 2],
    /// Which gradients of the entries later stages read.
    pub kept: [Kept; 2],
    /// The consistency loss.
    pub consistency: Term<'a>,
    /// `(f2, d)`: decoder directions of level 2.
    pub decoder2: &'a [f32],
    /// Norms of the decoder rows, where a penalty needs them.
    pub norms: [&'a [f32]; 2],
}

impl<'a> Terms<'a> {
    /// Computes the factors of a step, from the fractions of variance unexplained that the forward pass has found.
    pub fn new(inputs: &Inputs<'a>, derived: &'a Derived, seed_cos: &'a SeedCos, fvu: [f64; 2]) -> Self {
        let Inputs { arch, whole, config, settings, params, .. } = *inputs;
        let (n, unit) = (inputs.n() as f64, inputs.unit());
        let alpha = [0, 1].map(|l| auxk::aux_weight(config, whole, settings, fvu[l], l));
        let kept = [0, 1].map(|l| Kept {
            through: l == 0 && inputs.two(),
            ungated: l == 1,
            gate: l == 1 && arch.gate.has_weights(),
            own: arch.level[l].activation.parameters().len(),
            aux: alpha[l] > 0.0,
        });
        Self {
            recon: [0, 1].map(|l| (2.0 * f64::from(settings.w[l]) * unit) as f32),
            aux: alpha.map(|a| (2.0 * a * unit) as f32),
            gated: (2.0 * config.loss.gated_aux * unit) as f32,
            penalty: [0, 1].map(|l| (f64::from(settings.lambda[l]) / n) as f32),
            rules: [0, 1].map(|l| inputs.rule(l)),
            bandwidth: [0, 1].map(|l| config.level(l).bandwidth as f32),
            kept,
            consistency: consistency(inputs, seed_cos),
            decoder2: derived.decoder2(params),
            norms: [&derived.norms[0], &derived.norms[1]],
        }
    }
}

/// Returns the consistency loss with the numbers of the step.
fn consistency<'a>(inputs: &Inputs<'a>, seed_cos: &'a SeedCos) -> Term<'a> {
    let Inputs { compute, config, settings, params, all_families: families, .. } = *inputs;
    let loss = &config.loss;
    let weights = loss::Weights {
        weight: loss.consistency_weight,
        down: loss.contain_down as f32,
        up: loss.contain_up as f32,
        margin: loss.contain_margin as f32,
    };
    let Params { b_dec, level: [one, two], .. } = params;
    let of_step = loss::Inputs {
        isa: compute.isa,
        n: inputs.n(),
        variance: settings.variance,
        d: b_dec.len(),
        d1: &one.w_dec,
        d2: &two.w_dec,
        families,
        seed_cos,
    };
    loss.consistency.term(&weights, of_step)
}
