//! The pass over all weights: which latents may reach the limits of their rows.

use fearless_simd::{f32x16, i32x16, mask32x16, prelude::*};

use super::{Line, PANEL, Panel, Rising, Scratch, Screen};
use crate::kernel::dense::Pick;
use crate::kernel::isa::Inner;
use crate::kernel::{Isa, LANES};

impl Screen {
    /// Notes in `t.hits`, panel by panel, what may exceed the bars `t.bar` of the first `n` rows of `t`. `below` is taken from
    /// pre-activations first, and given for all rows of the matrix that `latents` picks from; `rising` raises the bars on
    /// the way, so that some hits lie below them in the end. Returns whether it went through: not if so many are left that
    /// the full product is no dearer.
    pub(in crate::kernel) fn pass(
        &self,
        isa: Isa,
        n: usize,
        latents: Pick<'_>,
        below: Option<&[f32]>,
        rising: Option<Rising>,
        t: &mut Scratch,
    ) -> bool {
        let q = self.d.div_ceil(4);
        let most = self.most(n, rising);
        t.hits.clear();
        if let Some(rising) = rising {
            t.best.resize(n * rising.stride(), 0.0);
            t.n_best.clear();
            t.n_best.resize(n, 0);
        }
        for (p, panel) in self.panels.iter().enumerate() {
            let there = u32::MAX >> (PANEL - PANEL.min(self.f - p * PANEL));
            let (mut bias, mut kappa) = (panel.bias, panel.kappa);
            if let Some(below) = below {
                let here = latents.part(p * PANEL..latents.len().min((p + 1) * PANEL));
                for l in 0..here.len() {
                    let t = below[here.row(l)];
                    bias[l / LANES][l % LANES] -= t;
                    kappa[l / LANES][l % LANES] += t.abs() / 1_048_576.0;
                }
            }
            let lines = &self.lines[p * q..(p + 1) * q];
            let job = Job { lines, panel, bias: &bias, kappa: &kappa, rising, n, there };
            t.hits.begin_panel(n);
            match isa.0 {
                Inner::Scalar(s) => s.vectorize(
                    #[inline(always)]
                    || job.run_one_by_one(s, t),
                ),
                #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
                Inner::Avx2(s) => s.vectorize(
                    #[inline(always)]
                    || job.run_one_by_one(s, t),
                ),
                #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
                Inner::Avx512(s) => s.vectorize(
                    #[inline(always)]
                    || job.run(s, t),
                ),
                #[cfg(target_arch = "aarch64")]
                Inner::Neon(s) => s.vectorize(
                    #[inline(always)]
                    || job.run_one_by_one(s, t),
                ),
            }
            t.hits.end_panel();
            if t.hits.len() > most {
                return false;
            }
        }
        if let Some(rising) = rising {
            (0..n).for_each(|i| t.settle(i, rising));
        }
        true
    }
}

/// The bar of a limit that must be reached: the largest number below it, and at least 0.
fn bar(limit: f32) -> f32 {
    if limit > 0.0 { limit.next_down() } else { 0.0 }
}

impl Scratch {
    /// Raises the bar of a row to its `k`-th largest value, and forgets those below it.
    #[inline(never)]
    fn settle(&mut self, row: usize, rising: Rising) {
        let best = &mut self.best[row * rising.stride()..][..self.n_best[row] as usize];
        if best.len() >= rising.k {
            self.bar[row] = bar(*best.select_nth_unstable_by(rising.k - 1, |a, b| b.total_cmp(a)).1);
            self.n_best[row] = rising.k as u32;
        }
    }
}

/// One panel over all rows.
struct Job<'a> {
    lines: &'a [Line],
    panel: &'a Panel,
    /// With what is taken from the pre-activations.
    bias: &'a [[f32; LANES]; 2],
    kappa: &'a [[f32; LANES]; 2],
    rising: Option<Rising>,
    n: usize,
    /// The lanes that have a latent, a bit each.
    there: u32,
}

impl Job<'_> {
    /// With dot products of bytes: sums of as many rows at a time as the registers hold.
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    #[inline(always)]
    fn run(&self, simd: fearless_simd::x86::Avx512, t: &mut Scratch) {
        let mut i = 0;
        while i < self.n {
            let rows = (self.n - i).min(6);
            match rows {
                1 => self.tile::<_, 1>(simd, i, t, vnni),
                2 => self.tile::<_, 2>(simd, i, t, vnni),
                3 => self.tile::<_, 3>(simd, i, t, vnni),
                4 => self.tile::<_, 4>(simd, i, t, vnni),
                5 => self.tile::<_, 5>(simd, i, t, vnni),
                _ => self.tile::<_, 6>(simd, i, t, vnni),
            }
            i += rows;
        }
    }

    #[inline(always)]
    fn run_one_by_one<S: Simd>(&self, simd: S, t: &mut Scratch) {
        (0..self.n).for_each(|i| self.tile::<S, 1>(simd, i, t, madd));
    }

    #[inline(always)]
    fn tile<S: Simd, const R: usize>(
        &self,
        simd: S,
        first: usize,
        t: &mut Scratch,
        dot: impl Fn(S, i32x16<S>, i32, &[i32; LANES]) -> i32x16<S> + Copy,
    ) {
        let q = self.lines.len();
        let mut words = [&[][..]; R];
        for r in 0..R {
            words[r] = &t.words[(first + r) * q..][..q];
        }
        let mut acc = [[i32x16::splat(simd, 0); 2]; R];
        for r in 0..R {
            for v in 0..2 {
                acc[r][v] = i32x16::load_array_ref(simd, &self.panel.start[v]);
            }
        }
        for c in 0..q {
            let line = &self.lines[c].0;
            for r in 0..R {
                let word = words[r][c];
                for v in 0..2 {
                    acc[r][v] = dot(simd, acc[r][v], word, &line[v]);
                }
            }
        }
        let load = |a: &[f32; LANES]| f32x16::load_array_ref(simd, a);
        let p = self.panel;
        let mut bars = [0.0; R];
        bars.copy_from_slice(&t.bar[first..first + R]);
        let mut rows = [[0.0; 3]; R];
        rows.copy_from_slice(&t.rows[first..first + R]);
        for v in 0..2 {
            let (scale, alpha, beta) = (load(&p.scale[v]), load(&p.alpha[v]), load(&p.beta[v]));
            let (bias, kappa) = (load(&self.bias[v]), load(&self.kappa[v]));
            let there = mask32x16::from_bitmask(simd, u64::from(self.there >> (v * LANES)) & 0xffff);
            let lanes = i32x16::load_array_ref(simd, &LANE) + i32x16::splat(simd, (v * LANES) as i32);
            for r in 0..R {
                let [s, norm, error] = rows[r].map(|x| f32x16::splat(simd, x));
                let sum: f32x16<S> = f32x16::float_from(acc[r][v]);
                let a = (sum * scale).mul_add_precise(s, bias);
                let e = alpha.mul_add_precise(norm, beta.mul_add_precise(error, kappa));
                let (upper, bar) = (a + e, f32x16::splat(simd, bars[r]));
                // Not "greater": NaN must stay.
                let stay = !upper.simd_le(bar) & there;
                let row = first + r;
                t.hits.add(lanes + i32x16::splat(simd, (row * PANEL) as i32), upper, stay);
                if let Some(rising) = self.rising {
                    let likely = e.mul_add_precise(f32x16::splat(simd, -rising.share), a);
                    let above = likely.simd_gt(bar) & there;
                    let n = t.n_best[row] as usize;
                    likely.compress(above).store_slice(&mut t.best[row * rising.stride() + n..][..LANES]);
                    let n = n + above.to_bitmask().count_ones() as usize;
                    t.n_best[row] = n as u32;
                    if n >= rising.room() {
                        t.settle(row, rising);
                        bars[r] = t.bar[row];
                    }
                }
            }
        }
    }
}

/// The number of each lane.
const LANE: [i32; LANES] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

/// `acc_l += sum_b x_b w_lb` of four bytes, unsigned by signed.
#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
#[inline(always)]
fn vnni(
    simd: fearless_simd::x86::Avx512,
    acc: i32x16<fearless_simd::x86::Avx512>,
    x: i32,
    w: &[i32; LANES],
) -> i32x16<fearless_simd::x86::Avx512> {
    #[cfg(target_arch = "x86")]
    use core::arch::x86::{__m512i, _mm512_dpbusd_epi32};
    #[cfg(target_arch = "x86_64")]
    use core::arch::x86_64::{__m512i, _mm512_dpbusd_epi32};
    fearless_simd::kernel!(
        #[inline(always)]
        fn dpbusd(_token: Avx512, acc: __m512i, x: __m512i, w: __m512i) -> __m512i {
            _mm512_dpbusd_epi32(acc, x, w)
        }
    );
    let w = i32x16::load_array_ref(simd, w);
    dpbusd(simd, acc.into(), i32x16::splat(simd, x).into(), w.into()).simd_into(simd)
}

/// [`vnni`] in plain integers.
#[inline(always)]
fn madd<S: Simd>(simd: S, acc: i32x16<S>, x: i32, w: &[i32; LANES]) -> i32x16<S> {
    let x = x.to_ne_bytes().map(i32::from);
    let mut out: [i32; LANES] = acc.into();
    for l in 0..LANES {
        let w = w[l].to_ne_bytes();
        for b in 0..4 {
            out[l] += x[b] * i32::from(w[b] as i8);
        }
    }
    i32x16::load_array_ref(simd, &out)
}
