//! Dead latents: counters that tell which latents are dead, and the reseeding of dead children.

use super::cofire::Cofire;
use super::engine::{Engine, LatentRows};
use super::observed::SparseRows;
use super::state::{Array, Saved, State};
use crate::error::Result;
use crate::gate::ROOT;
use crate::kernel::{Isa, adam, reduce};
use crate::rng::Philox;
use alloc::vec;
use alloc::vec::Vec;

/// Counts the rows since each latent of a level last fired.
#[derive(Clone, Debug, PartialEq)]
pub struct Silence {
    /// Number of rows since the latent last fired, `(f)`.
    pub since: Vec<u64>,
}

impl Silence {
    /// Returns counters of zero for `f` latents.
    pub fn new(f: usize) -> Self {
        Self { since: vec![0; f] }
    }

    /// Counts the rows of a batch, on which the latents `fires` fire.
    pub fn update(&mut self, fires: &SparseRows) {
        let n = fires.n_rows() as u64;
        self.since.iter_mut().for_each(|s| *s = s.saturating_add(n));
        fires.index.iter().for_each(|j| self.since[*j as usize] = 0);
    }

    /// Writes the latents that have not fired for more than `after` rows to `out`, ascending.
    pub fn dead(&self, after: u64, out: &mut Vec<u32>) {
        out.clear();
        out.extend(self.since.iter().enumerate().filter(|(_, s)| **s > after).map(|(j, _)| j as u32));
    }
}

impl Saved for Silence {
    fn save(&self, name: &str, state: &mut State) {
        let Self { since } = self;
        state.put(name, Array::U64(since.clone()));
    }

    fn load(&mut self, name: &str, state: &mut State) -> Result<()> {
        self.since = state.take_u64(name, self.since.len())?;
        Ok(())
    }
}

/// Reseeds every dead child: gives it to the parent with the most error per child, and sets its encoder and decoder
/// rows to the normalised residual of a token of the last batch on which that parent fires; tokens with much error are
/// likelier to be drawn. The encoder of a transcoder reads other rows than the decoder writes, so there the encoder row
/// becomes the normalised input of that token. Encoder rows get the norm that all began with, `train.encoder_norm`: a longer one would
/// fire everywhere. The child's bias, moments and counts become zero. Returns how many were
/// reseeded.
pub(super) fn reseed(
    engine: &mut Engine,
    isa: Isa,
    cofire: &mut Cofire,
    silence: &mut Silence,
    parents: &mut [u32],
    dead: &[u32],
    rng: &mut Philox,
) -> usize {
    let fires = &engine.observed().codes[0];
    let f1 = cofire.n_parents();
    let mut size = vec![0usize; f1];
    for (j, &p) in parents.iter().enumerate() {
        if p != ROOT && dead.binary_search(&(j as u32)).is_err() {
            size[p as usize] += 1;
        }
    }
    let mut tokens: Vec<Vec<usize>> = vec![Vec::new(); f1];
    for b in 0..fires.n_rows() {
        fires.index[fires.row(b)].iter().for_each(|i| tokens[*i as usize].push(b));
    }
    let mut set = 0;
    for &j in dead {
        let Some(p) = cofire.neediest(&size) else { break };
        size[p] += 1;
        let mut best: Option<(f64, usize)> = None;
        for &b in &tokens[p] {
            let energy: f64 = engine.residual(b).iter().map(|r| f64::from(*r) * f64::from(*r)).sum();
            let draw = energy * rng.uniform_f64();
            if draw > best.map_or(0.0, |x| x.0) {
                best = Some((draw, b));
            }
        }
        let Some((_, b)) = best else { continue };
        let mut direction = engine.residual(b).to_vec();
        adam::normalise(isa, &mut direction);
        let mut encoder = direction.clone();
        if engine.transcodes() {
            encoder = engine.input(b).to_vec();
            adam::normalise(isa, &mut encoder);
        }
        reduce::scale(isa, engine.encoder_norm(), &mut encoder);
        engine.set_latent(1, j as usize, LatentRows { encoder: &encoder, bias: 0.0, decoder: &direction });
        parents[j as usize] = p as u32;
        cofire.forget(j as usize);
        silence.since[j as usize] = 0;
        set += 1;
    }
    set
}
