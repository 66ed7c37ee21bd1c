//! Schedules: what depends on nothing but the settings and the number of the step.

use crate::config::{Activation, Balance, Config, LossConfig};

/// Latents and rows per step at which `train.lr` holds where it is scaled.
const SCALED_AT: [f64; 2] = [4096.0, 1024.0];

/// Returns the highest learning rate of a training, `lr`; with `train.scale_lr`, `lr sqrt(batch / 1024) sqrt(4096 / latents)` with the
/// latents of both levels together.
///
/// More rows per step make a gradient less noisy by the root of their number, by which Adam's steps may grow (Malladi et al. 2022, arXiv
/// 2205.10287). The best rate of a dictionary falls with the root of its latents (Gao et al. 2024, arXiv 2406.04093).
pub fn highest_rate(config: &Config) -> f64 {
    let train = &config.train;
    if !train.scale_lr {
        return train.lr;
    }
    let latents = (config.level1.latents + config.level2.latents) as f64;
    train.lr * libm::sqrt(train.batch as f64 / SCALED_AT[1] * SCALED_AT[0] / latents)
}

/// Returns the learning rate of step `t` of `T`, `lr min((t + 1) / (warmup T), 1) min((T - t) / (decay T), 1)` with `lr` of
/// [`highest_rate`]: warm-up, constant, decay to 0.
pub fn learning_rate(config: &Config, step: u64) -> f64 {
    let train = &config.train;
    let steps = train.steps as f64;
    let t = step as f64;
    let up = if train.warmup > 0.0 { ((t + 1.0) / (train.warmup * steps).max(1.0)).min(1.0) } else { 1.0 };
    let down = if train.decay > 0.0 { ((steps - t) / (train.decay * steps).max(1.0)).clamp(0.0, 1.0) } else { 1.0 };
    highest_rate(config) * up * down
}

/// Returns the target number of active latents of level `l` per row at step `t` of `T`: `k + (k_start - 1) k max(1 - t / (anneal T),
/// 0)`, at most the number of latents; `k` in a training that is not long.
pub fn annealed_k(config: &Config, l: usize, step: u64) -> f64 {
    let level = config.level(l);
    let over = level.anneal * config.train.steps as f64;
    if over <= 0.0 || level.k_start <= 1.0 || !is_long(config) {
        return level.k;
    }
    let left = (1.0 - step as f64 / over).max(0.0);
    (level.k + level.k * (level.k_start - 1.0) * left).min(level.latents as f64)
}

/// Returns whether the sum of the learning rates, `lr T (1 - warmup / 2 - decay / 2)`, is at least `train.long`.
pub fn is_long(config: &Config) -> bool {
    let train = &config.train;
    highest_rate(config) * train.steps as f64 * (1.0 - 0.5 * (train.warmup + train.decay)) >= train.long
}

/// Returns the weight of level 1's reconstruction behind a hard gate, once a share `done` of the steps is over: `w1 +
/// (w1_end - w1) max(done - s, 0) / (1 - s)` with `s = w1_start`. None if the weights are learned ([`Balance::Norm`],
/// [`Balance::Uncert`]) or if `w1` is constant.
pub fn annealed_w1(loss: &LossConfig, balance: Balance, done: f64) -> Option<f64> {
    let learned = balance.is_learned();
    if learned || loss.w1_start >= 1.0 {
        return None;
    }
    let over = ((done - loss.w1_start) / (1.0 - loss.w1_start)).clamp(0.0, 1.0);
    Some(loss.w1 + (loss.w1_end - loss.w1) * over)
}

/// Returns whether the first `taken` steps of a training under `a` have the same schedules as those of one under `b`,
/// which differs from `a` in nothing but `train.steps`. If so, a training that took these steps under `a` can continue
/// under `b` with the same bits as if it had always run under `b`.
pub fn agree(a: &Config, b: &Config, taken: u64) -> bool {
    a.train.steps == b.train.steps || (0..taken).all(|step| at(a, step) == at(b, step))
}

/// Returns everything at `step` that depends on `train.steps`: schedules, the weight of level 1, and switches.
fn at(config: &Config, step: u64) -> ([f64; 3], Option<f64>, [bool; 6]) {
    let steps = config.train.steps as f64;
    let (before, done) = (step.saturating_sub(1) as f64 / steps, step as f64 / steps);
    let levels = [&config.level1, &config.level2];
    let uses = |activation: fn(Activation) -> bool| levels.iter().any(|l| activation(l.activation));
    let is_penalised = uses(Activation::is_penalised);
    let is_tracked = uses(Activation::has_tau);
    let gate = &config.gate;
    let moving = [learning_rate(config, step), annealed_k(config, 0, step), annealed_k(config, 1, step)];
    let switches = [
        done < gate.start,
        step > 0 && before < gate.start,
        done < gate.freeze,
        done < config.source_start,
        is_penalised && (done < config.train.warmup || done >= 0.9),
        is_tracked && done < 0.5,
    ];
    (moving, annealed_w1(&config.loss, config.train.balance, done), switches)
}
