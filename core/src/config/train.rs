//! The settings of the optimiser and of dead latents.

use crate::balance::Balance;
use crate::freeze::Freeze;
use crate::setting::settings;

settings! {
    /// Steps and optimiser.
    TrainConfig {
        /// Number of steps.
        steps: u64 = 4000, in 1..=u64::MAX;
        /// Rows per step.
        batch: usize = 1024, in 1..=1 << 24;
        /// Learning rate of Adam.
        lr: f64 = 1e-3, in 0.0..=1e3;
        /// `lr` is the learning rate of 4,096 latents, both levels together, and 1,024 rows per step; that of other sizes is
        /// `lr sqrt(batch / 1024) sqrt(4096 / latents)`, which is what other settings then call `lr`. Without it `lr` is the
        /// learning rate of any size.
        scale_lr: bool = false;
        /// Share of the steps over which the learning rate rises linearly from 0.
        warmup: f64 = 0.02, in 0.0..=1.0;
        /// Share of the steps, at the end, over which the learning rate falls linearly to 0.
        decay: f64 = 0.2, in 0.0..=1.0;
        /// A training is long if the sum of its learning rates, `lr steps (1 - warmup / 2 - decay / 2)`, is at least
        /// this; the sum is about as far as Adam can move a weight. A short training has no time to start at a larger k
        /// and ignores `k_start`. 0: every training is long.
        long: f64 = 15.0, in 0.0..=1e12;
        /// Decay of the first moment of Adam.
        beta1: f64 = 0.9, in 0.0..=0.999_999;
        /// Decay of the second moment of Adam.
        beta2: f64 = 0.999, in 0.0..=0.999_999_9;
        /// Number that Adam adds to the root of the second moment.
        eps: f64 = 1e-8, in 1e-30..=1.0;
        /// Largest global norm of the gradient, after the projection; 0: no limit.
        clip: f64 = 1.0, in 0.0..=1e9;
        /// Decoder rows have norm 1. With a value above 0, Adam steps as if they were unconstrained and had this norm
        /// at the start: their learning rate is `lr / n`, with `n` the norm that an unconstrained row would have by
        /// now. A small value moves the rows fast at the beginning and slows down by itself. 0: their learning rate is
        /// `lr`.
        row_norm: f64 = 0.0, in 0.0..=1e3;
        /// Initial norm of the encoder rows.
        encoder_norm: f64 = 1.0, in 1e-6..=1e3;
        /// `batchtopk`: leave-one-out pruning in every step, as `level1.prune` at inference. A step selects more latents than
        /// `k` and removes those whose value by least squares, given all others of the row, is at most this share of the
        /// smallest selected pre-activation; as many are selected as leave `k`. For models that are pruned at inference. 0: no.
        prune: f64 = 0.0, in 0.0..=10.0;
        /// Which weights of the dictionary keep their random initial values.
        freeze: Freeze = Freeze::None;
        /// How the gradients of the two reconstructions are mixed.
        balance: Balance = Balance::Sum;
        /// `norm`: the target ratio of the gradient norm of level 1 to that of level 2.
        balance_ratio: f64 = 1.0, in 1e-6..=1e6;
        /// Steps between lines of `metrics.jsonl`.
        log_every: u64 = 100, in 1..=u64::MAX;
        /// Steps between checkpoints; 0: only one, at the last step.
        checkpoint_every: u64 = 1000;
    }
}

settings! {
    /// Dead latents.
    ReviveConfig {
        /// A latent that has not fired for this many rows is dead.
        dead_after: u64 = 200_000;
        /// AuxK uses the `k_aux` largest dead latents of each row; 0: half of the width of the rows, as TopK SAEs had
        /// it (arXiv 2406.04093). With a small number, a dead latent learns one missing feature rather than a share of
        /// all of them.
        k_aux: usize = 4;
        /// Hard gates: move dead children to the parent with the largest error per child, and set them to a residual.
        reseed: bool = true;
    }
}
