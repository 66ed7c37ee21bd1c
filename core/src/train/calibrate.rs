//! What decides how often the levels fire, set anew at the end of a training.

use super::inference::Inference;
use super::l0;
use super::shard::Shard;
use crate::compute::Compute;
use crate::config::{Budget, Config};
use crate::error::Result;
use crate::model::Model;
use alloc::vec::Vec;

/// Rows whose codes are held at a time.
const ROWS: usize = 2048;

/// Sets the levels of `model` so that each fires `round(k n)` times on `x`, `(n, d)` normalised rows: the threshold of
/// batch-top-k up to ties and to what is positive at all; the thresholds of `jumprelu` and the biases of `relu` and `gated`,
/// where L0 is held, and all thresholds of pruned levels, to within a hundredth. Those that `model` has are where the search starts.
///
/// Level 1 comes first, since level 2 depends on it; levels that share a budget are set together. Time: each level once
/// over `x`, dense, or a few times where thresholds or biases have to move.
///
/// # Errors
/// What [`Encoder::encode`](crate::Encoder::encode) and the exchange with other shards find.
pub(super) fn levels(config: &Config, shard: &Shard, model: &mut Model, x: &[f32], compute: Compute) -> Result<()> {
    let d = model.arch.d;
    let n = x.len() / d;
    let shared = config.budget == Budget::Shared;
    let k = [config.level1.k, config.level2.k];
    for level in 0..model.arch.n_levels() {
        if n > 0 && model.arch.level[level].activation.is_penalised() && config.level(level).control {
            l0::set_limits(shard, model, level, x, compute)?;
        }
        let tracked = model.tau;
        if n == 0 || !model.arch.level[level].activation.has_tau() || tracked[level] <= 0.0 {
            continue;
        }
        let levels = if shared { 0..2 } else { level..level + 1 };
        let wanted = libm::round(k[levels.clone()].iter().sum::<f64>() * n as f64) as usize;
        // Every positive pre-activation is too many to keep: far below the threshold nothing is looked for at first.
        let mut above = Vec::new();
        for share in [0.8, 0.5, 0.0] {
            model.tau[levels.clone()].fill(share * tracked[level]);
            let mut whole = model.clone();
            whole.arch.variant.prune[levels.clone()].fill(0.0);
            above.clear();
            let inference = Inference::new(shard, whole, levels.clone(), compute)?;
            for x in x.chunks(ROWS * d) {
                let codes = inference.encode(x)?;
                codes[levels.clone()].iter().for_each(|codes| above.extend_from_slice(&codes.value));
            }
            if above.len() > wanted {
                break;
            }
        }
        // The threshold is strict: it is the largest value that must not pass.
        let tau = if above.len() > wanted {
            *above.select_nth_unstable_by(wanted, |a, b| b.total_cmp(a)).1
        } else {
            f32::MIN_POSITIVE
        };
        model.tau[levels.clone()].fill(tau);
        // That is where the search for the threshold of a pruned level starts: it lies lower.
        if model.arch.variant.prune[levels.clone()].iter().any(|share| *share > 0.0) {
            l0::set_thresholds(shard, model, levels, wanted as f64, x, compute)?;
        }
        if shared {
            break;
        }
    }
    Ok(())
}
