//! What depends on the step alone.

use crate::config::{Balance, LevelConfig, LossConfig, TrainConfig};

/// `lr * min((t + 1) / (warmup T), 1) * min((T - t) / (decay T), 1)` at step `t` of `T`: warm-up, constant, decay to 0.
pub fn learning_rate(train: &TrainConfig, step: u64) -> f64 {
    let steps = train.steps as f64;
    let t = step as f64;
    let up = if train.warmup > 0.0 { ((t + 1.0) / (train.warmup * steps).max(1.0)).min(1.0) } else { 1.0 };
    let down = if train.decay > 0.0 { ((steps - t) / (train.decay * steps).max(1.0)).clamp(0.0, 1.0) } else { 1.0 };
    train.lr * up * down
}

/// `k + (k0 - k) max(1 - t / T_a, 0)` with `k0 = k_start k`, never more than there are latents: dynamic sparsity. `k` in a
/// training that is not long.
pub fn annealed_k(level: &LevelConfig, train: &TrainConfig, step: u64) -> f64 {
    let over = level.anneal * train.steps as f64;
    if over <= 0.0 || level.k_start <= 1.0 || !is_long(train) {
        return level.k;
    }
    let left = (1.0 - step as f64 / over).max(0.0);
    (level.k + level.k * (level.k_start - 1.0) * left).min(level.latents as f64)
}

/// Whether `lr T (1 - warmup / 2 - decay / 2)`, the sum of the learning rates, is at least `train.long`.
pub fn is_long(train: &TrainConfig) -> bool {
    train.lr * train.steps as f64 * (1.0 - 0.5 * (train.warmup + train.decay)) >= train.long
}

/// `w1 + (w1_end - w1) max(t / T - s, 0) / (1 - s)` with `s = w1_start`: the weight of level 1's reconstruction when a
/// share `done = t / T` of the steps is behind, and a hard gate acts. None where the weights are learned ([`Balance::Norm`],
/// [`Balance::Uncert`]) or where it does not move.
pub fn annealed_w1(loss: &LossConfig, balance: Balance, done: f64) -> Option<f64> {
    let learned = balance.is_learned();
    if learned || loss.w1_start >= 1.0 {
        return None;
    }
    let over = ((done - loss.w1_start) / (1.0 - loss.w1_start)).clamp(0.0, 1.0);
    Some(loss.w1 + (loss.w1_end - loss.w1) * over)
}
