//! Adam over unit-norm decoder rows: project, clip, update, renormalise.
//!
//! There are two passes over memory, because the clip needs the norm of the whole gradient before the first number
//! moves. The first projects the gradients and sums their squares, block by block while they are in the cache: it reads
//! gradients and, of decoders, rows (8 bytes per number) and writes 4. The second does all the rest, block by block
//! too: it reads 16 and writes 12. Without a limit (`train.clip = 0`) the first pass still checks that all gradients
//! are finite, and computes the norm for the log.
//!
//! The squares of a tensor are summed in f64: rows of a block, blocks of a group of [`GROUP`] rows, then the groups,
//! each in index order. No chain is long, and a dictionary that is split at multiples of the group has the same sums.

use crate::compute::Compute;
use crate::config::TrainConfig;
use crate::error::{At, Error, Result};
use crate::freeze::{Freeze, SOFT_COSINE};
use crate::kernel::{adam, reduce};
use crate::model::{Arch, ParamSpec, Params};
use crate::train::comm::Comm;
pub(in crate::train) use crate::train::comm::GROUP;
use crate::train::state::{Array, Saved, State};
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

/// Numbers per block; a block is processed by one thread while it is in the cache.
const BLOCK: usize = 1 << 14;

/// Returns the number of rows of a block of width `width`: a power of two of at most [`GROUP`], so that a group of rows
/// is a whole number of blocks.
pub(in crate::train) fn rows_of_block(width: usize) -> usize {
    let rows = (BLOCK / width).clamp(1, GROUP);
    1 << rows.ilog2()
}

/// Sums of squares of one gradient.
#[derive(Clone, Debug, Default, PartialEq)]
struct Squares {
    /// Of each block of rows.
    blocks: Vec<f64>,
    /// Of each group of [`GROUP`] rows.
    groups: Vec<f64>,
}

/// Adam: its moments and the number of updates.
#[derive(Clone, Debug, PartialEq)]
pub struct Adam {
    specs: Params<ParamSpec>,
    train: TrainConfig,
    /// First moments.
    pub m: Params,
    /// Second moments.
    pub v: Params,
    /// Number of updates so far.
    pub t: u64,
    /// Norms that the decoder rows of each level would have if they were unconstrained: see `train.row_norm`. Empty
    /// where it is 0.
    pub norms: [Vec<f32>; 2],
    /// Scratch.
    squares: Squares,
}

impl Adam {
    /// Returns moments of zero, for parameters of this architecture.
    pub fn new(arch: &Arch, train: &TrainConfig, params: &Params) -> Self {
        Self::of_shapes(arch.specs(), train, params)
    }

    /// Returns moments of zero, for parameters of these shapes: those of a shard.
    pub(in crate::train) fn of_shapes(specs: Params<ParamSpec>, train: &TrainConfig, params: &Params) -> Self {
        let norms = specs.level.each_ref().map(|level| {
            let is_free = level.w_dec.unit_rows && train.row_norm > 0.0;
            vec![train.row_norm as f32; if is_free { level.w_dec.rows } else { 0 }]
        });
        Self {
            specs,
            train: train.clone(),
            m: params.zeros_like(),
            v: params.zeros_like(),
            t: 0,
            norms,
            squares: Squares::default(),
        }
    }

    /// Updates the parameters, and returns the norm of the gradient before clipping.
    ///
    /// Unit rows are projected first, `dD -= (dD . D) D`, then the global norm is clipped, and after the update they
    /// are renormalised, `D /= |D|`. With `train.row_norm` the learning rate of such a row is `lr / n`, and `n <- n
    /// |D|` follows before `D` is renormalised: `n D` moves as an unconstrained row would. Thresholds are kept at 0 or
    /// above. The tensors of the level `fixed` (0 or 1) and those of `train.freeze` keep their values and moments, and
    /// their gradients are left out of the norm.
    ///
    /// # Errors
    /// [`Error::NotFinite`] naming the tensor whose gradient is not finite, and what `Comm::all_gather` finds;
    /// nothing is updated then.
    pub fn update(
        &mut self,
        compute: Compute,
        comm: &dyn Comm,
        lr: f64,
        fixed: Option<usize>,
        params: &mut Params,
        grads: &mut Params,
    ) -> Result<f64> {
        let tensors = self.specs.tensors();
        // A shard may have no rows of a tensor that others have.
        let exists = |spec: &ParamSpec| spec.width > 0;
        let mut learns = tensors.map(|(_, spec)| exists(spec) && (fixed.is_none() || spec.level != fixed));
        learns.iter_mut().zip(frozen(self.train.freeze).tensors()).for_each(|(learns, (_, frozen))| *learns &= !frozen);
        let norm = self.project(compute, comm, &learns, params, grads)?;
        let step = self.next_step(lr, norm);
        self.apply(compute, &step, &learns, params, grads);
        Ok(norm)
    }

    /// Advances the clock, and returns the numbers of an update at learning rate `lr` with a gradient of this norm.
    pub(in crate::train) fn next_step(&mut self, lr: f64, norm: f64) -> adam::AdamStep {
        self.t += 1;
        let (train, t) = (&self.train, self.t as f64);
        adam::AdamStep {
            lr: (lr / (1.0 - libm::pow(train.beta1, t))) as f32,
            beta1: train.beta1 as f32,
            beta2: train.beta2 as f32,
            eps: train.eps as f32,
            correction2: (1.0 / (1.0 - libm::pow(train.beta2, t))) as f32,
            grad_scale: if train.clip > 0.0 && norm > train.clip { (train.clip / norm) as f32 } else { 1.0 },
        }
    }

    /// Projects the gradients of unit rows, and returns the norm of the whole gradient.
    fn project(
        &mut self,
        compute: Compute,
        comm: &dyn Comm,
        learns: &[bool],
        params: &Params,
        grads: &mut Params,
    ) -> Result<f64> {
        let Compute { isa, par } = compute;
        let Squares { blocks, groups } = &mut self.squares;
        let tensors = self.specs.tensors().into_iter().zip(grads.tensors_mut()).zip(params.tensors());
        let mut squares = 0.0f64;
        comm.stage("norms");
        for (((_, spec), (name, g)), (_, p)) in tensors.zip(learns).filter(|(_, learns)| **learns).map(|(t, _)| t) {
            let width = spec.width;
            let block = rows_of_block(width);
            let unit = spec.unit_rows;
            blocks.clear();
            blocks.resize(g.len().div_ceil(block * width), 0.0);
            // `for_items` runs on as many threads as there are lanes; the blocks themselves need no scratch.
            let mut lanes = [(); 64];
            let lanes = &mut lanes[..par.threads().min(64)];
            par.for_items(lanes, blocks, g, block * width, |(), i, sum, part| {
                if unit {
                    let rows = &p[i * block * width..];
                    for (g, p) in part.chunks_mut(width).zip(rows.chunks(width)) {
                        adam::project_out(isa, p, g);
                    }
                }
                *sum = part.chunks(width.max(64)).map(|c| f64::from(reduce::sum_squares(isa, c))).sum::<f64>();
            });
            groups.clear();
            groups.extend(blocks.chunks(GROUP / block).map(|group| group.iter().sum::<f64>()));
            // Tensors that do not belong to latents are whole on every shard: there is nothing to gather.
            if spec.per_latent {
                comm.all_gather(groups)?;
            }
            let sum: f64 = groups.iter().sum();
            if !sum.is_finite() {
                return Err(Error::NotFinite { what: format!("the gradient of {name}"), at: At::Step(self.t) });
            }
            squares += sum;
        }
        Ok(libm::sqrt(squares))
    }

    /// Updates the parameters that learn, and restores unit rows and lower bounds.
    fn apply(&mut self, compute: Compute, step: &adam::AdamStep, learns: &[bool], params: &mut Params, grads: &Params) {
        let Compute { isa, par } = compute;
        let Self { specs, m, v, norms, .. } = self;
        let moments = m.tensors_mut().into_iter().zip(v.tensors_mut());
        let tensors = params.tensors_mut().into_iter().zip(grads.tensors()).zip(moments);
        let specs = specs.tensors().into_iter().zip(learns);
        for (((_, spec), learns), (((_, p), (_, g)), ((_, m), (_, v)))) in specs.zip(tensors) {
            if !learns {
                continue;
            }
            let &ParamSpec { rows, width, unit_rows, nonnegative, .. } = spec;
            let norms = match spec.level {
                Some(l) if unit_rows => &mut norms[l][..],
                _ => &mut [],
            };
            let free = usize::from(!norms.is_empty());
            let block = BLOCK.div_ceil(width);
            par.for_rows(rows, block, [p, m, v, norms], [width, width, width, free], |first, [p, m, v, norms]| {
                let g = &g[first * width..first * width + p.len()];
                if norms.is_empty() {
                    adam::adam(isa, step, g, p, m, v);
                }
                for (i, n) in norms.iter_mut().enumerate() {
                    let row = i * width..(i + 1) * width;
                    let p = &mut p[row.clone()];
                    let step = adam::AdamStep { lr: step.lr / *n, ..*step };
                    adam::adam(isa, &step, &g[row.clone()], p, &mut m[row.clone()], &mut v[row]);
                    *n *= libm::sqrtf(reduce::sum_squares(isa, p));
                }
                if unit_rows {
                    p.chunks_mut(width).for_each(|row| adam::normalise(isa, row));
                }
                if nonnegative {
                    p.iter_mut().for_each(|v| *v = v.max(0.0));
                }
            });
        }
    }

    /// Sets the moments of the encoder row, the bias and the decoder row of latent `j` of a level (0 or 1) to zero, and
    /// its unconstrained norm to where it started.
    pub fn reset_latent(&mut self, level: usize, j: usize) {
        if let Some(n) = self.norms[level].get_mut(j) {
            *n = self.train.row_norm as f32;
        }
        let specs = &self.specs.level[level];
        for moments in [&mut self.m, &mut self.v] {
            let moments = &mut moments.level[level];
            for (tensor, spec) in [
                (&mut moments.w_enc, &specs.w_enc),
                (&mut moments.b_enc, &specs.b_enc),
                (&mut moments.w_dec, &specs.w_dec),
            ] {
                tensor[j * spec.width..(j + 1) * spec.width].fill(0.0);
            }
        }
    }
}

impl Saved for Adam {
    fn save(&self, name: &str, state: &mut State) {
        // Shapes and learning rates follow from the settings; the sums of squares are scratch.
        let Self { specs: _, train: _, m, v, t, norms, squares: _ } = self;
        m.save(&format!("{name}.m"), state);
        v.save(&format!("{name}.v"), state);
        for (l, norms) in norms.iter().enumerate().filter(|(_, norms)| !norms.is_empty()) {
            state.put(format!("{name}.norm.{}", l + 1), Array::F32(norms.clone().into()));
        }
        state.push_u64("clock", &[*t]);
    }

    fn load(&mut self, name: &str, state: &mut State) -> Result<()> {
        self.m.load(&format!("{name}.m"), state)?;
        self.v.load(&format!("{name}.v"), state)?;
        for (l, norms) in self.norms.iter_mut().enumerate().filter(|(_, norms)| !norms.is_empty()) {
            *norms = state.take_f32(&format!("{name}.norm.{}", l + 1), norms.len())?.to_vec();
        }
        self.t = state.next_u64("clock", 1)?[0];
        Ok(())
    }
}

/// Returns for each tensor whether `train.freeze` keeps it as it is.
fn frozen(freeze: Freeze) -> Params<bool> {
    let mut frozen = Params::default();
    for level in &mut frozen.level {
        (level.w_enc, level.w_dec) = (freeze.fixes_encoders(), freeze.fixes_decoders());
    }
    frozen
}

/// Projects unit rows back into a cone around the rows of `start`, `(n, width)`, also unit rows. A row `w` with `w . s
/// < c` becomes `c s + sqrt(1 - c^2) v`, with `v` the unit vector along `w - (w . s) s`, or `s` where that is 0; `c` is
/// [`SOFT_COSINE`].
pub(in crate::train) fn keep_near(compute: Compute, start: &[f32], width: usize, rows: &mut [f32]) {
    // Rows per block; a block is processed by one thread.
    const ROWS: usize = 64;
    let Compute { isa, par } = compute;
    par.for_chunks(rows, ROWS * width, |c, rows| {
        for (i, row) in rows.chunks_mut(width).enumerate() {
            let s = &start[(c * ROWS + i) * width..][..width];
            let along = reduce::dot(isa, row, s);
            if along >= SOFT_COSINE {
                continue;
            }
            reduce::axpy(isa, -along, s, row);
            let rest = libm::sqrtf(reduce::sum_squares(isa, row));
            let scale = if rest > 0.0 { libm::sqrtf(1.0 - SOFT_COSINE * SOFT_COSINE) / rest } else { 0.0 };
            reduce::scale(isa, scale, row);
            reduce::axpy(isa, SOFT_COSINE, s, row);
            adam::normalise(isa, row);
        }
    });
}
