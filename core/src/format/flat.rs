//! A sparse autoencoder or transcoder of one level, in the terms of the files of other tools. Every reader of such
//! files makes a [`Flat`], and [`Flat::into_model`] converts it to a [`Model`].
//!
//! ```text
//! x~ = row norm of x          (undone on y, before the skip connection)
//! u  = W_enc (x~ - b_dec) + b_enc, or W_enc x~ + b_enc where the encoder reads rows as they are
//! z  = rule(u)                y = z W_dec + b_dec + W_skip x
//! ```

use crate::activation::Activation;
use crate::config::ModelKind;
use crate::decoder::Decoder;
use crate::error::Result;
use crate::gate::GateKind;
use crate::model::{Arch, LevelArch, Model, Tensor, TopkBy, Variant};
use crate::row_norm::RowNorm;
use crate::source::Source;
use alloc::vec;
use alloc::vec::Vec;

/// The rule by which pre-activations `u` become latents.
#[derive(Clone, Debug, PartialEq)]
pub enum FlatRule {
    /// `max(u, 0)`.
    Relu,
    /// `u` at the `k` largest positive `u`.
    Topk(usize),
    /// `u` at the `k` largest `|u|`: latents may be below 0.
    AbsTopk(usize),
    /// `max(u, 0)` at the largest latent of each of `k` groups of consecutive latents.
    GroupMax(usize),
    /// `u 1[u > max(threshold, 0)]`, with one threshold per latent.
    Jumprelu(Tensor),
    /// `1[u > 0] max(e^r (u - b_enc) + b_mag, 0)`: `b_enc` is the bias of the gate alone.
    Gated {
        /// `r`.
        r_mag: Tensor,
        /// `b_mag`.
        b_mag: Tensor,
    },
}

/// A model of one level.
#[derive(Clone, Debug, PartialEq)]
pub struct Flat {
    /// Encoder rows, `(f, d)`.
    pub w_enc: Tensor,
    /// `(f)`; for [`FlatRule::Gated`] the bias of the gate.
    pub b_enc: Tensor,
    /// Decoder rows, `(f, d_out)`.
    pub w_dec: Tensor,
    /// `(d_out)`.
    pub b_dec: Tensor,
    /// The rule by which pre-activations become latents.
    pub rule: FlatRule,
    /// Whether the encoder reads `x - b_dec`.
    pub centred: bool,
    /// Width of the rows that a transcoder reconstructs; none for an autoencoder.
    pub transcodes_to: Option<usize>,
    /// The normalisation of each row.
    pub row_norm: RowNorm,
    /// `(d_out, d)`: adds `W_skip x` to the reconstruction.
    pub w_skip: Option<Tensor>,
    /// `(f)`: factors of the latents in codes and reconstruction; which latents fire is decided without them.
    pub scale: Option<Vec<f32>>,
}

/// Returns the norms of the decoder rows, in f32.
fn norms(w_dec: &[f32], d_out: usize) -> Vec<f32> {
    let square = |v: &f32| f64::from(*v) * f64::from(*v);
    w_dec.chunks_exact(d_out).map(|row| libm::sqrt(row.iter().map(square).sum()) as f32).collect()
}

/// Multiplies row `j` of `w`, of `width` numbers each, by `by[j]`.
fn scale_rows(w: &mut Tensor, width: usize, by: impl Iterator<Item = f32>) {
    for (row, by) in w.chunks_exact_mut(width).zip(by) {
        row.iter_mut().for_each(|v| *v *= by);
    }
}

impl Flat {
    /// Makes an autoencoder without normalisation.
    #[must_use]
    pub fn new(w_enc: Tensor, b_enc: Tensor, w_dec: Tensor, b_dec: Tensor, rule: FlatRule, centred: bool) -> Self {
        let (transcodes_to, row_norm) = (None, RowNorm::None);
        Self { w_enc, b_enc, w_dec, b_dec, rule, centred, transcodes_to, row_norm, w_skip: None, scale: None }
    }

    /// Makes it a transcoder to rows of the width of its decoder rows.
    #[must_use]
    pub fn transcoder(mut self) -> Self {
        self.transcodes_to = Some(self.b_dec.len());
        self.centred = false;
        self
    }

    /// Returns the number of latents.
    #[must_use]
    pub fn latents(&self) -> usize {
        self.b_enc.len()
    }

    /// Returns the width of the rows that it reads.
    #[must_use]
    pub fn d(&self) -> usize {
        self.w_enc.len() / self.latents().max(1)
    }

    /// Returns the norms of the decoder rows, each at least `least`.
    #[must_use]
    pub fn decoder_norms(&self, least: f32) -> Vec<f32> {
        norms(&self.w_dec, self.b_dec.len()).into_iter().map(|n| n.max(least)).collect()
    }

    /// Moves the norms `n_j` of the decoder rows into the encoder: latents become `n_j` times as large, before it is
    /// decided which fire. Rows whose norms are all 1 up to rounding are not changed.
    pub fn fold_decoder_norms(&mut self) {
        let (d, d_out) = (self.d(), self.b_dec.len());
        let by: Vec<f32> =
            self.decoder_norms(1e-8).into_iter().map(|n| if (n - 1.0).abs() < 1e-6 { 1.0 } else { n }).collect();
        if by.iter().all(|n| *n == 1.0) {
            return;
        }
        scale_rows(&mut self.w_enc, d, by.iter().copied());
        scale_rows(&mut self.b_enc, 1, by.iter().copied());
        scale_rows(&mut self.w_dec, d_out, by.iter().map(|n| 1.0 / n));
        match &mut self.rule {
            FlatRule::Jumprelu(threshold) => scale_rows(threshold, 1, by.iter().copied()),
            FlatRule::Gated { b_mag, .. } => scale_rows(b_mag, 1, by.iter().copied()),
            _ => {}
        }
    }

    /// Decides which latents fire by the pre-activation times the norm `n_j` of the decoder row, but leaves the codes
    /// without this factor.
    pub fn compete_by_norms(&mut self) {
        let d = self.d();
        let norms = self.decoder_norms(0.0);
        match &mut self.rule {
            FlatRule::Relu => {}
            // A latent whose norm is 0 passes no threshold.
            FlatRule::Jumprelu(threshold) => {
                threshold.iter_mut().zip(&norms).for_each(|(t, n)| *t = (*t / n).min(f32::MAX));
            }
            _ => {
                scale_rows(&mut self.w_enc, d, norms.iter().copied());
                scale_rows(&mut self.b_enc, 1, norms.iter().copied());
                self.scale = Some(norms.iter().map(|n| if *n > 0.0 { 1.0 / n } else { 0.0 }).collect());
            }
        }
    }

    /// Folds in a scale of the rows, which are multiplied by `input` before the encoder, and of the reconstructions,
    /// which are divided by `output` after the decoder. Latents, encoder biases and thresholds stay in the units of
    /// scaled rows.
    pub fn fold_scale(&mut self, input: f32, output: f32) {
        self.w_enc.iter_mut().for_each(|v| *v *= input);
        self.w_dec.iter_mut().for_each(|v| *v /= output);
        self.b_dec.iter_mut().for_each(|v| *v /= output);
    }

    /// Returns the rule with one threshold for all latents.
    #[must_use]
    pub fn one_threshold(threshold: f32, latents: usize) -> FlatRule {
        FlatRule::Jumprelu(vec![threshold; latents].into())
    }

    /// Returns the number `k` of active latents per row, at most `latents`.
    ///
    /// # Errors
    /// The one that `wrong` makes of a sentence, if `k` is 0 or absent.
    pub fn checked_k(k: Option<u64>, latents: usize, wrong: impl FnOnce(&str) -> crate::Error) -> Result<usize> {
        match k {
            Some(k) if k > 0 => Ok((k as usize).min(latents)),
            Some(_) => Err(wrong("`k`: expected at least 1, found 0")),
            None => Err(wrong("`k`, the number of active latents per row, is missing")),
        }
    }

    /// Converts it to a model. In the gated activation of a model the magnitude is computed from the pre-activation
    /// with the bias of the gate, so that this is subtracted from `b_mag`.
    ///
    /// # Errors
    /// What [`Model::check`] finds.
    pub fn into_model(self) -> Result<Model> {
        let (d, f) = (self.d(), self.latents());
        let (activation, topk_by, k) = match &self.rule {
            FlatRule::Relu => (Activation::Relu, TopkBy::Value, f),
            FlatRule::Topk(k) => (Activation::Topk, TopkBy::Value, *k),
            FlatRule::AbsTopk(k) => (Activation::Topk, TopkBy::Absolute, *k),
            FlatRule::GroupMax(k) => (Activation::Topk, TopkBy::Group, *k),
            FlatRule::Jumprelu(_) => (Activation::Jumprelu, TopkBy::Value, f),
            FlatRule::Gated { .. } => (Activation::Gated, TopkBy::Value, f),
        };
        let variant = Variant {
            row_norm: self.row_norm,
            raw_input: !self.centred,
            target: self.transcodes_to,
            skip: self.w_skip.is_some(),
            scale: self.scale.is_some(),
            topk_by,
            prune: [0.0; 2],
        };
        let arch = Arch {
            model: ModelKind::Tree,
            d,
            // For other rules the files do not tell L0; at most `f` latents fire.
            level: [
                LevelArch { latents: f, activation, k: k as f64 },
                LevelArch { latents: 0, activation: Activation::Relu, k: 1.0 },
            ],
            source: Source::X,
            decoder: Decoder::Cum,
            gate: GateKind::None,
            variant,
        };
        let mut model = Model { arch, params: Default::default(), parents: Vec::new(), tau: [0.0; 2] };
        let p = &mut model.params.level[0];
        match self.rule {
            FlatRule::Jumprelu(mut threshold) => {
                // A relu comes first, so that no latent below 0 fires; and none fires above an infinite threshold.
                if threshold.iter().any(|t| *t < 0.0 || *t == f32::INFINITY) {
                    threshold.iter_mut().filter(|t| !t.is_nan()).for_each(|t| *t = t.clamp(0.0, f32::MAX));
                }
                p.threshold = threshold;
            }
            FlatRule::Gated { r_mag, mut b_mag } => {
                for (b, (r, gate)) in b_mag.iter_mut().zip(r_mag.iter().zip(&self.b_enc)) {
                    *b -= libm::expf(*r) * gate;
                }
                (p.r_mag, p.b_mag) = (r_mag, b_mag);
            }
            _ => {}
        }
        (p.w_enc, p.b_enc, p.w_dec) = (self.w_enc, self.b_enc, self.w_dec);
        if let Some(scale) = self.scale {
            p.scale = scale.into();
        }
        model.params.b_dec = self.b_dec;
        model.params.w_skip = self.w_skip.unwrap_or_default();
        model.check()?;
        Ok(model)
    }
}
