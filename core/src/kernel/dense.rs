//! The dense product of rows with packed weights.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use fearless_simd::prelude::*;

use super::isa::Inner;
use super::{Isa, LANES, Vector, fma, load};
use crate::Par;

/// The rows of weights in one panel of [`Packed`].
pub const PANEL: usize = 2 * LANES;

/// The values of one column of the weights for the rows of a panel; a whole number of cache lines.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Line([[f32; LANES]; 2]);

/// Weights `[f, d]` in the order in which [`affine`] reads them.
///
/// Panel `p` holds the rows `32 p .. 32 p + 32`: for each column the 32 values side by side; the rows from `f` on are
/// zero.
#[derive(Clone, Debug)]
pub struct Packed {
    f: usize,
    d: usize,
    lines: Vec<Line>,
}

impl Packed {
    /// Room for weights `[f, d]`, all zero.
    pub fn new(f: usize, d: usize) -> Self {
        Self { f, d, lines: vec![Line([[0.0; LANES]; 2]); f.div_ceil(PANEL) * d] }
    }

    /// The rows of the weights (outputs).
    pub fn f(&self) -> usize {
        self.f
    }

    /// The columns of the weights (inputs).
    pub fn d(&self) -> usize {
        self.d
    }

    /// The number of panels: `f / 32`, rounded up.
    pub fn n_panels(&self) -> usize {
        self.f.div_ceil(PANEL)
    }

    /// Takes over the weights `w`, row-major `[f, d]`. Allocates nothing.
    ///
    /// # Panics
    /// If the length of `w` does not fit.
    pub fn pack(&mut self, isa: Isa, par: Par, w: &[f32]) {
        assert_eq!(w.len(), self.f * self.d, "pack: the weights are not [f, d]");
        if w.is_empty() {
            return;
        }
        let d = self.d;
        par.for_chunks(&mut self.lines, d, |p, panel| {
            let w = &w[p * PANEL * d..];
            let w = &w[..w.len().min(PANEL * d)];
            dispatch!(isa, _simd => pack_panel(w, d, panel))
        });
    }

    /// Takes over the weights whose transpose is `w`, row-major `[d, f]`. Allocates nothing.
    ///
    /// # Panics
    /// If the length of `w` does not fit.
    pub fn pack_transposed(&mut self, isa: Isa, par: Par, w: &[f32]) {
        assert_eq!(w.len(), self.f * self.d, "pack_transposed: the weights are not [d, f]");
        if w.is_empty() {
            return;
        }
        let (f, d) = (self.f, self.d);
        par.for_chunks(&mut self.lines, d, |p, panel| {
            let width = PANEL.min(f - p * PANEL);
            dispatch!(isa, _simd => for (c, line) in panel.iter_mut().enumerate() {
                let row = &w[c * f + p * PANEL..][..width];
                line.0.as_flattened_mut()[..width].copy_from_slice(row);
            })
        });
    }
}

/// Transposes up to 32 rows of `d` values, eight rows at a time: few enough streams for the prefetcher.
#[inline(always)]
fn pack_panel(w: &[f32], d: usize, panel: &mut [Line]) {
    for (block, rows) in w.chunks(8 * d).enumerate() {
        let at = block * 8 % PANEL;
        if rows.len() == 8 * d {
            let mut row = [&[][..]; 8];
            for r in 0..8 {
                row[r] = &rows[r * d..][..panel.len()];
            }
            for (c, line) in panel.iter_mut().enumerate() {
                let mut values = [0.0; 8];
                for r in 0..8 {
                    values[r] = row[r][c];
                }
                line.0.as_flattened_mut()[at..at + 8].copy_from_slice(&values);
            }
        } else {
            for (r, row) in rows.chunks_exact(d).enumerate() {
                for (line, &value) in panel.iter_mut().zip(row) {
                    line.0.as_flattened_mut()[at + r] = value;
                }
            }
        }
    }
}

/// `out[i, j] = bias[j] + sum_c x[i, c] * w[j, c]`.
///
/// | argument | shape | layout |
/// |---|---|---|
/// | `x` | `[n, d]` | row-major |
/// | `w` | `[f, d]` | packed |
/// | `bias` | `[f]` | zero if `None` |
/// | `out` | `[n, f]` | row-major; written, never read |
///
/// Each element is one chain of fused multiply-adds that starts at its bias, in the order of `c`: the same bits on every
/// [`Isa`], for every `n` and every split of the rows.
/// Cost: `2 n d f` operations in the caller's thread; compute-bound from `n` = 16 or so.
///
/// # Panics
/// If the lengths do not fit.
pub fn affine(isa: Isa, x: &[f32], w: &Packed, bias: Option<&[f32]>, out: &mut [f32]) {
    run(isa, x, w, bias, 0..w.n_panels(), w.f, out);
}

/// [`affine`] for the panels `panels` of `w` only: `out[i, j] = bias[s + j] + sum_c x[i, c] * w[s + j, c]` with
/// `s = 32 * panels.start`.
///
/// | argument | shape | layout |
/// |---|---|---|
/// | `x` | `[n, d]` | row-major |
/// | `w` | `[f, d]` | packed |
/// | `bias` | `[f]` | zero if `None` |
/// | `out` | `[n, 32 * panels.len()]` | row-major; written, never read; zero where `s + j >= f` |
///
/// The bits are those of [`affine`].
///
/// # Panics
/// If the lengths do not fit, or there are not so many panels.
pub fn affine_panels(isa: Isa, x: &[f32], w: &Packed, bias: Option<&[f32]>, panels: Range<usize>, out: &mut [f32]) {
    assert!(panels.start <= panels.end && panels.end <= w.n_panels(), "affine_panels: no such panels");
    let stride = PANEL * panels.len();
    let valid = stride.min(w.f - w.f.min(PANEL * panels.start));
    run(isa, x, w, bias, panels, stride, out);
    if valid < stride {
        out.chunks_exact_mut(stride).for_each(|row| row[valid..].fill(0.0));
    }
}

fn run(isa: Isa, x: &[f32], w: &Packed, bias: Option<&[f32]>, panels: Range<usize>, stride: usize, out: &mut [f32]) {
    if stride == 0 {
        return;
    }
    let n = out.len() / stride;
    assert_eq!(out.len(), n * stride, "affine: out is not a whole number of rows");
    assert_eq!(x.len(), n * w.d, "affine: x is not [n, d]");
    assert!(bias.is_none_or(|b| b.len() == w.f), "affine: the bias is not [f]");
    // Weights in groups that stay in the last level of cache while all rows go over them, rows in groups that stay in
    // the second one while all panels of a group do.
    let n_rows = (X_GROUP / w.d.max(1)).next_multiple_of(12);
    let n_panels = (W_GROUP / (PANEL * w.d.max(1))).max(1);
    let first = panels.start;
    for group in panels.clone().step_by(n_panels) {
        let group = group..panels.end.min(group + n_panels);
        for (i, out) in out.chunks_mut(n_rows * stride).enumerate() {
            let x = &x[i * n_rows * w.d..][..out.len() / stride * w.d];
            for p in group.clone() {
                run_panel(isa, x, w, bias, p, (p - first) * PANEL, stride, out);
            }
        }
    }
}

/// The values of `x` that stay in a cache of the second level: 256 KiB.
const X_GROUP: usize = 1 << 16;
/// The weights that stay in a cache of the last level: 2 MiB.
const W_GROUP: usize = 1 << 19;

fn run_panel(
    isa: Isa,
    x: &[f32],
    w: &Packed,
    bias: Option<&[f32]>,
    p: usize,
    column: usize,
    stride: usize,
    out: &mut [f32],
) {
    let lines = &w.lines[p * w.d..(p + 1) * w.d];
    let width = PANEL.min(w.f - p * PANEL);
    let mut start = [[0.0; LANES]; 2];
    if let Some(bias) = bias {
        start.as_flattened_mut()[..width].copy_from_slice(&bias[p * PANEL..][..width]);
    }
    let panel = Panel { lines, start, column, width, stride };
    match isa.0 {
        Inner::Scalar(s) => panel_scalar(s, &panel, x, out),
        #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
        Inner::Avx2(s) => panel_avx2(s, &panel, x, out),
        #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
        Inner::Avx512(s) => panel_avx512(s, &panel, x, out),
        #[cfg(target_arch = "aarch64")]
        Inner::Neon(s) => panel_neon(s, &panel, x, out),
    }
}

/// One panel of the weights and where its products go.
struct Panel<'a> {
    /// The weights, one line a column of `x`.
    lines: &'a [Line],
    /// The bias.
    start: [[f32; LANES]; 2],
    /// The column of `out` of the panel's first row.
    column: usize,
    /// The rows of the panel that exist.
    width: usize,
    /// The columns of `out`.
    stride: usize,
}

/// Defines the loop over the rows for one instruction set: tiles of up to `$max` rows, each row count with the vectors of
/// latents that the registers hold beside it. The rows are split evenly, so that no tile is much smaller than the others.
macro_rules! panel_loop {
    ($name:ident, $token:ty, $max:literal: $($rows:literal x $vectors:literal)*) => {
        fn $name(simd: $token, panel: &Panel<'_>, x: &[f32], out: &mut [f32]) {
            let (n, d) = (out.len() / panel.stride, panel.lines.len());
            let tiles = n.div_ceil($max);
            let mut i = 0;
            for t in 0..tiles {
                let end = (t + 1) * n / tiles;
                let x = &x[i * d..end * d];
                let out = &mut out[i * panel.stride..end * panel.stride];
                match end - i {
                    $($rows => simd.vectorize(#[inline(always)] || {
                        for v in (0..2).step_by($vectors) {
                            tile::<_, $rows, $vectors>(simd, panel, v, x, out);
                        }
                    }),)*
                    _ => unreachable!("a tile of more than the most rows"),
                }
                i = end;
            }
        }
    };
}

panel_loop!(panel_scalar, fearless_simd::Fallback, 2: 1 x 1 2 x 1);
#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
panel_loop!(panel_avx2, fearless_simd::x86::Avx2, 6: 1 x 2 2 x 2 3 x 1 4 x 1 5 x 1 6 x 1);
#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
panel_loop!(panel_avx512, fearless_simd::x86::Avx512, 12: 1 x 2 2 x 2 3 x 2 4 x 2 5 x 2 6 x 2 7 x 2 8 x 2 9 x 2 10 x 2 11 x 2 12 x 2);
#[cfg(target_arch = "aarch64")]
panel_loop!(panel_neon, fearless_simd::aarch64::Neon, 6: 1 x 2 2 x 2 3 x 1 4 x 1 5 x 1 6 x 1);

/// `R` rows of `x` by `V` vectors of latents from vector `v` of the panel on, all sums in registers.
#[inline(always)]
fn tile<S: Simd, const R: usize, const V: usize>(simd: S, panel: &Panel<'_>, v: usize, x: &[f32], out: &mut [f32]) {
    let lines = panel.lines;
    let d = lines.len();
    let mut rows = [&[][..]; R];
    for r in 0..R {
        rows[r] = &x[r * d..][..d];
    }
    let mut acc = [[Vector::splat(simd, 0.0); V]; R];
    for r in 0..R {
        for k in 0..V {
            acc[r][k] = load(simd, &panel.start[v + k]);
        }
    }
    for c in 0..d {
        let line = &lines[c].0;
        let mut w = [Vector::splat(simd, 0.0); V];
        for k in 0..V {
            w[k] = load(simd, &line[v + k]);
        }
        for r in 0..R {
            let x = Vector::splat(simd, rows[r][c]);
            for k in 0..V {
                acc[r][k] = fma(x, w[k], acc[r][k]);
            }
        }
    }
    // Through memory: an array of vectors that the general loop below indexes would live there during the sums, too.
    let mut sums = [[[0.0; LANES]; V]; R];
    for r in 0..R {
        for k in 0..V {
            acc[r][k].store_array(&mut sums[r][k]);
        }
    }
    let at = v * LANES;
    let width = panel.width.clamp(at, at + V * LANES) - at;
    for r in 0..R {
        let out = &mut out[r * panel.stride + panel.column + at.min(panel.width)..][..width];
        if width == V * LANES {
            out.copy_from_slice(sums[r].as_flattened());
        } else {
            out.copy_from_slice(&sums[r].as_flattened()[..width]);
        }
    }
}
