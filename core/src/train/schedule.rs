//! What depends on the step alone.

use crate::config::{LevelConfig, TrainConfig};

/// `lr * min((t + 1) / (warmup T), 1) * min((T - t) / (decay T), 1)` at step `t` of `T`: warm-up, constant, decay to 0.
pub fn learning_rate(train: &TrainConfig, step: u64) -> f64 {
    let steps = train.steps as f64;
    let t = step as f64;
    let up = if train.warmup > 0.0 { ((t + 1.0) / (train.warmup * steps).max(1.0)).min(1.0) } else { 1.0 };
    let down = if train.decay > 0.0 { ((steps - t) / (train.decay * steps).max(1.0)).clamp(0.0, 1.0) } else { 1.0 };
    train.lr * up * down
}

/// `k + (k0 - k) max(1 - t / T_a, 0)` with `k0 = k_start k`, never more than there are latents: dynamic sparsity.
pub fn annealed_k(level: &LevelConfig, train: &TrainConfig, step: u64) -> f64 {
    let over = level.anneal * train.steps as f64;
    if over <= 0.0 || level.k_start <= 1.0 {
        return level.k;
    }
    let left = (1.0 - step as f64 / over).max(0.0);
    (level.k + level.k * (level.k_start - 1.0) * left).min(level.latents as f64)
}
