//! Holds L0 of the penalised activations at its target: step by step in training, and exactly after the last step.
//!
//! `jumprelu`, `relu` and `gated` have two handles. The **limits** (thresholds, or biases where the limit is 0) move L0 at
//! once and of all latents alike; the **weight of the penalty** says where each latent wants its limit, and moves L0
//! slowly, since Adam carries a limit by at most the learning rate per step. So the limits are steered by what L0 is, and
//! the weight by what the steering costs:
//!
//! ```text
//! by = clip(eta ln(L0 / L0*), +-.05),             limits raised by `by`, eta = .02
//! e <- e + alpha (by unit / lr - e),              ln lambda += kappa clip(e, +-1), alpha = kappa = .02
//! ```
//!
//! `by unit / lr` is the effort: in steady state the steering undoes what the gradient does to the limits together, which
//! is at most the learning rate. Where the penalty is too weak the gradient lowers the limits, the steering raises them
//! again, and `lambda` grows until there is nothing to undo; meanwhile L0 is off by a share of `lr / (eta unit)` at most.
//! No state accumulates an error of L0, so none winds up: whatever `lambda` is, L0 is held. JumpReLU SAEs with a quadratic
//! loss towards a target L0 put the error of L0 into the gradient instead, and there it competes with the reconstruction:
//! the balance of the two lies beside the target.

use super::inference::Inference;
use super::shard::Shard;
use super::state::{Saved, State};
use crate::activation::Limits;
use crate::compute::Compute;
use crate::error::Result;
use crate::gate::GateKind;
use crate::model::{GateParams, LevelParams, Model, Tensor};
use alloc::vec::Vec;
use core::ops::Range;

/// Lowest and highest weight of a penalty.
const LAMBDA: [f64; 2] = [1e-6, 10.0];

/// Rows whose codes are held at a time when limits are set.
const ROWS: usize = 2048;

/// A level whose L0 is off by less than this share needs no more search. The first is for activations whose values move with
/// the limits (`relu`): a correction of what may be the noise of a sample costs them more than it is worth.
const CLOSE: [f64; 2] = [1e-2, 1e-3];

/// Most passes over the rows for one level.
const PASSES: usize = 24;

/// The control of one level's L0: see the module.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct L0Control {
    /// Weight of the penalty.
    pub lambda: f64,
    /// Smoothed effort, in learning rates.
    pub effort: f64,
    /// Mean value of the latents that fire: the unit in which biases are moved.
    pub unit: f64,
}

impl L0Control {
    /// Share of an error of L0 that one step undoes.
    pub const ETA: f64 = 0.02;
    /// Weight of a step in the smoothed effort.
    pub const ALPHA: f64 = 0.02;
    /// Change of `ln lambda` per step at full effort.
    pub const KAPPA: f64 = 0.02;
    /// Most that limits move in a step.
    pub const MOST: f64 = 0.05;

    /// Starts at `lambda`, or at 1e-3 where the settings give none.
    pub fn new(lambda: f64) -> Self {
        Self { lambda: if lambda > 0.0 { lambda } else { 1e-3 }, effort: 0.0, unit: 1.0 }
    }

    /// Takes in the L0 of a step at learning rate `lr`, and returns by how much the limits are to be raised. With `hold`
    /// the weight of the penalty stays: during warm-up, and in the last tenth of the steps.
    pub fn update(&mut self, l0: f64, target: f64, lr: f64, hold: bool) -> f64 {
        let by = (Self::ETA * libm::log((l0 / target).max(1e-2))).clamp(-Self::MOST, Self::MOST);
        if lr > 0.0 {
            self.effort += Self::ALPHA * (by * self.unit / lr - self.effort);
        }
        if !hold {
            let step = Self::KAPPA * self.effort.clamp(-1.0, 1.0);
            self.lambda = (self.lambda * libm::exp(step)).clamp(LAMBDA[0], LAMBDA[1]);
        }
        by
    }

    /// Takes in the values of the latents that fired in a step.
    pub fn see(&mut self, fired: &[f32]) {
        if !fired.is_empty() {
            self.unit = fired.iter().map(|z| f64::from(*z)).sum::<f64>() / fired.len() as f64;
        }
    }
}

impl Saved for L0Control {
    fn save(&self, name: &str, state: &mut State) {
        let Self { lambda, effort, unit } = self;
        state.push_f64(name, &[*lambda, *effort, *unit]);
    }

    fn load(&mut self, name: &str, state: &mut State) -> Result<()> {
        let numbers = state.next_f64(name, 3)?;
        (self.lambda, self.effort, self.unit) = (numbers[0], numbers[1], numbers[2]);
        Ok(())
    }
}

/// Raises the limits of a level so far that its latents fire `round(k n)` times on `x`, `(n, d)` normalised rows, to
/// within [`CLOSE`], where that many can fire at all. Level 1 is to be set before level 2, which depends on it.
///
/// Time: one pass over `x` with the levels up to this one where training has held L0, else some 3 to 8.
///
/// # Errors
/// What [`Inference::encode`] finds.
pub(super) fn set_limits(shard: &Shard, model: &mut Model, level: usize, x: &[f32], compute: Compute) -> Result<()> {
    let (d, activation) = (model.arch.d, model.arch.level[level].activation);
    let wanted = libm::round(model.arch.level[level].k * (x.len() / d) as f64);
    let mut probe = if level == 0 { level_1_alone(model) } else { model.clone() };
    // How often the level fires, and the sum of its values.
    let mut fires = |by: f64, unit: f64| -> Result<(f64, f64)> {
        probe.params.level[level] = model.params.level[level].clone();
        activation.raise(by, unit, limits(&mut probe.params.level[level]));
        count(shard, &probe, level..level + 1, x, compute)
    };
    let (n, sum) = fires(0.0, 1.0)?;
    let unit = if sum > 0.0 { sum / n } else { 1.0 };
    let close = CLOSE[usize::from(!activation.raises_values())];
    let by = search(n, wanted, close, |by| Ok(fires(by, unit)?.0))?;
    activation.raise(by, unit, limits(&mut model.params.level[level]));
    Ok(())
}

/// Sets the thresholds of `batchtopk` levels that are pruned ([`Variant::prune`](crate::model::Variant::prune)): those of
/// `levels`, which are one or share a budget, so that together they fire `wanted` times on `x`, as [`set_limits`] does.
///
/// # Errors
/// What [`Inference::encode`] finds.
pub(super) fn set_thresholds(
    shard: &Shard,
    model: &mut Model,
    levels: Range<usize>,
    wanted: f64,
    x: &[f32],
    compute: Compute,
) -> Result<()> {
    let mut probe = if levels.end == 1 { level_1_alone(model) } else { model.clone() };
    let tau = model.tau;
    let raised = |by: f64| tau.map(|tau| (f64::from(tau) * libm::exp(by)) as f32);
    let mut fires = |by: f64| -> Result<f64> {
        probe.tau[levels.clone()].copy_from_slice(&raised(by)[levels.clone()]);
        Ok(count(shard, &probe, levels.clone(), x, compute)?.0)
    };
    let now = fires(0.0)?;
    let by = search(now, wanted, CLOSE[1], fires)?;
    model.tau[levels.clone()].copy_from_slice(&raised(by)[levels]);
    Ok(())
}

/// Returns how often the latents of `levels` fire on `x`, and the sum of their values.
fn count(shard: &Shard, model: &Model, levels: Range<usize>, x: &[f32], compute: Compute) -> Result<(f64, f64)> {
    let (mut n, mut sum) = (0usize, 0.0);
    let inference = Inference::new(shard, model.clone(), levels.clone(), compute)?;
    for x in x.chunks(ROWS * model.arch.d) {
        for codes in &inference.encode(x)?[levels.clone()] {
            n += codes.value.len();
            sum += codes.value.iter().map(|z| f64::from(*z)).sum::<f64>();
        }
    }
    Ok((n as f64, sum))
}

/// Returns by how much limits have to be raised so that latents fire `wanted` times, `now` being how often they do: `fires`
/// says how often for a raise, and falls with it.
///
/// # Errors
/// What `fires` finds.
fn search(now: f64, wanted: f64, close: f64, mut fires: impl FnMut(f64) -> Result<f64>) -> Result<f64> {
    let error = |n: f64| libm::log(n.max(0.5) / wanted);
    let mut best = (0.0, error(now));
    // `(by, error)` on either side of the target, once they are known.
    let mut bracket = [None, None];
    bracket[usize::from(best.1 < 0.0)] = Some(best);
    let (mut step, mut last) = (best.1.abs().clamp(0.02, 1.0), usize::MAX);
    for _ in 0..PASSES {
        if best.1.abs() <= close {
            break;
        }
        let by = match bracket {
            [Some((over, above)), Some((under, below))] => {
                if under - over < 1e-7 {
                    break;
                }
                over + (under - over) * (above / (above - below)).clamp(0.02, 0.98)
            }
            [Some((over, _)), None] => over + step,
            [None, Some((under, _))] => under - step,
            [None, None] => break,
        };
        step *= 2.0;
        let found = (by, error(fires(by)?));
        if found.1.abs() < best.1.abs() {
            best = found;
        }
        let side = usize::from(found.1 < 0.0);
        bracket[side] = Some(found);
        // Where the same end moves twice the other one stands too far off: its error is halved (the Illinois rule).
        if side == last
            && let Some((_, error)) = &mut bracket[1 - side]
        {
            *error *= 0.5;
        }
        last = side;
    }
    Ok(best.0)
}

/// Returns level 1 of a model as a flat one.
fn level_1_alone(model: &Model) -> Model {
    let mut flat = model.clone();
    flat.arch.level[1].latents = 0;
    flat.arch.variant.prune[1] = 0.0;
    flat.arch.gate = GateKind::None;
    flat.parents = Vec::new();
    flat.params.level[1] = LevelParams::default();
    flat.params.gate = GateParams::default();
    flat
}

/// Returns what decides which latents of a level fire.
pub(super) fn limits(level: &mut LevelParams<Tensor>) -> Limits<'_> {
    let LevelParams { b_enc, threshold, r_mag, b_mag, .. } = level;
    Limits { bias: b_enc, threshold, r_mag, b_mag }
}
