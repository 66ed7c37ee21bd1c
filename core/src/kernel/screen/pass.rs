//! The pass over the weights: finds the latents that may exceed the bars of their rows.

use core::ops::Range;

use fearless_simd::{f32x16, i32x16, mask32x16, prelude::*};

use super::hits::PANEL;
use super::{Bars, Line, Rising, Scratch, Screen, Strip, Visits};
use crate::kernel::dense::Pick;
use crate::kernel::isa::Inner;
use crate::kernel::{Isa, LANES};

impl Screen {
    /// Notes in `t.hits`, panel by panel, what may exceed the bars `t.bar` of the first `n` rows of `t`. Where bars rise on the
    /// way, some hits lie below them in the end. Adds to `work` the pairs that were looked at. Returns whether it went through:
    /// not if so many are left that the full product costs no more.
    pub(in crate::kernel) fn pass(
        &self,
        isa: Isa,
        n: usize,
        visits: Visits<'_>,
        bars: Bars<'_>,
        t: &mut Scratch,
        work: &mut u64,
    ) -> bool {
        let rising = bars.rising;
        let most = Self::most(n, self.n_pairs(n, visits), rising);
        t.hits.clear();
        if let Some(rising) = rising {
            t.best.resize(n * rising.stride(), 0.0);
            t.n_best.clear();
            t.n_best.resize(n, 0);
        }
        let mut meet = |places: Range<usize>, rows: Pick<'_>, t: &mut Scratch| {
            let end = places.end.div_ceil(LANES);
            (places.start / LANES..end).step_by(2).all(|s| {
                t.hits.begin_panel(rows.len());
                *work += (rows.len() * (end.min(s + 2) - s) * LANES) as u64;
                self.panel(isa, s..end.min(s + 2), &places, rows, bars, t);
                t.hits.end_panel(s * LANES);
                t.hits.len() <= most
            })
        };
        let through = match visits {
            Visits::All => meet(0..self.places.len(), Pick::Range(0, n), t),
            Visits::Groups { rows, groups } => groups.iter().filter(|g| g.places.0 < g.places.1).all(|g| {
                let rows = &rows[g.rows.0 as usize..g.rows.1 as usize];
                meet(g.places.0 as usize..g.places.1 as usize, Pick::List(rows), t)
            }),
        };
        if let Some(rising) = rising.filter(|_| through) {
            (0..n).for_each(|i| t.settle(i, rising));
        }
        through
    }

    /// Processes one or two strips, with those of their places that are in `places`.
    fn panel(
        &self,
        isa: Isa,
        strips: Range<usize>,
        places: &Range<usize>,
        rows: Pick<'_>,
        bars: Bars<'_>,
        t: &mut Scratch,
    ) {
        let Bars { below, rising } = bars;
        let first = strips.start;
        let q = self.d.div_ceil(4);
        let lines = &self.lines[first * q..strips.end * q];
        let strips = &self.strips[strips];
        let (mut bias, mut kappa, mut there) = ([[0.0; LANES]; 2], [[0.0; LANES]; 2], [0; 2]);
        for (v, strip) in strips.iter().enumerate() {
            let from = (first + v) * LANES;
            let below_end = |end: usize| (1u32 << end.saturating_sub(from).min(LANES)) - 1;
            there[v] = strip.there & below_end(places.end) & !below_end(places.start);
            (bias[v], kappa[v]) = (strip.bias, strip.kappa);
            if let Some(below) = below {
                for l in (0..LANES).filter(|l| strip.there >> l & 1 == 1) {
                    let t = below[self.places[(first + v) * LANES + l] as usize];
                    bias[v][l] -= t;
                    kappa[v][l] += t.abs() / 1_048_576.0;
                }
            }
        }
        let job = Job { lines, strips, q, bias: &bias, kappa: &kappa, there, rows, rising };
        match isa.used() {
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
    }
}

/// Returns the bar of a limit that must be reached: the largest number below it, and at least 0.
fn bar(limit: f32) -> f32 {
    if limit > 0.0 { limit.next_down() } else { 0.0 }
}

impl Scratch {
    /// Raises the bar of a row to its `k`-th largest value, and removes those below it.
    #[inline(never)]
    fn settle(&mut self, row: usize, rising: Rising) {
        let best = &mut self.best[row * rising.stride()..][..self.n_best[row] as usize];
        if best.len() >= rising.k {
            self.bar[row] = bar(*best.select_nth_unstable_by(rising.k - 1, |a, b| b.total_cmp(a)).1);
            self.n_best[row] = rising.k as u32;
        }
    }
}

/// One or two strips to multiply with rows.
struct Job<'a> {
    lines: &'a [Line],
    strips: &'a [Strip],
    /// Number of lines of a strip.
    q: usize,
    /// The data of the strips, with the threshold subtracted from the bias.
    bias: &'a [[f32; LANES]; 2],
    kappa: &'a [[f32; LANES]; 2],
    /// The lanes that take part, one bit each.
    there: [u32; 2],
    rows: Pick<'a>,
    rising: Option<Rising>,
}

/// Runs tiles of the listed numbers of rows, the largest that fit: `rows x strips in chains`. The sums of a tile are
/// independent of each other, and about ten are needed to hide the latency of one.
#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
macro_rules! tiles {
    ($job:expr, $simd:expr, $t:expr, $($rows:literal x $strips:literal in $chains:literal),*) => {{
        let mut i = 0;
        while i < $job.rows.len() {
            let left = $job.rows.len() - i;
            i += match left {
                $(left if left >= $rows => {
                    $job.tile::<_, $rows, $strips, $chains>($simd, i, $t, vnni);
                    $rows
                })*
                _ => unreachable!("a tile of no rows"),
            };
        }
    }};
}

impl Job<'_> {
    /// The pass with dot products of bytes.
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    #[inline(always)]
    fn run(&self, simd: fearless_simd::x86::Avx512, t: &mut Scratch) {
        if self.strips.len() == 2 {
            tiles!(self, simd, t, 6 x 2 in 1, 4 x 2 in 1, 3 x 2 in 2, 2 x 2 in 2, 1 x 2 in 4);
        } else {
            tiles!(self, simd, t, 8 x 1 in 1, 4 x 1 in 2, 3 x 1 in 4, 2 x 1 in 4, 1 x 1 in 8);
        }
    }

    #[inline(always)]
    fn run_one_by_one<S: Simd>(&self, simd: S, t: &mut Scratch) {
        for i in 0..self.rows.len() {
            if self.strips.len() == 2 {
                self.tile::<S, 1, 2, 1>(simd, i, t, madd);
            } else {
                self.tile::<S, 1, 1, 1>(simd, i, t, madd);
            }
        }
    }

    /// Multiplies `R` rows by `V` strips, each sum in `C` chains.
    #[inline(always)]
    fn tile<S: Simd, const R: usize, const V: usize, const C: usize>(
        &self,
        simd: S,
        first: usize,
        t: &mut Scratch,
        dot: impl Fn(S, i32x16<S>, i32, &[i32; LANES]) -> i32x16<S> + Copy,
    ) {
        let q = self.q;
        let (mut row, mut words) = ([0; R], [&[][..]; R]);
        for r in 0..R {
            row[r] = self.rows.row(first + r);
            words[r] = &t.words[row[r] * q..][..q];
        }
        let mut lines = [&[][..]; V];
        let mut acc = [[[i32x16::splat(simd, 0); V]; R]; C];
        for v in 0..V {
            lines[v] = &self.lines[v * q..][..q];
            for r in 0..R {
                acc[0][r][v] = i32x16::load_array_ref(simd, &self.strips[v].start);
            }
        }
        let whole = q / C * C;
        for c in (0..whole).step_by(C) {
            for k in 0..C {
                for r in 0..R {
                    for v in 0..V {
                        acc[k][r][v] = dot(simd, acc[k][r][v], words[r][c + k], &lines[v][c + k].0);
                    }
                }
            }
        }
        for c in whole..q {
            for r in 0..R {
                for v in 0..V {
                    acc[0][r][v] = dot(simd, acc[0][r][v], words[r][c], &lines[v][c].0);
                }
            }
        }
        for k in 1..C {
            for r in 0..R {
                for v in 0..V {
                    acc[0][r][v] += acc[k][r][v];
                }
            }
        }
        let load = |a: &[f32; LANES]| f32x16::load_array_ref(simd, a);
        let (mut bars, mut rows) = ([0.0; R], [[0.0; 3]; R]);
        for r in 0..R {
            (bars[r], rows[r]) = (t.bar[row[r]], t.rows[row[r]]);
        }
        for v in 0..V {
            let strip = &self.strips[v];
            let (scale, alpha, beta) = (load(&strip.scale), load(&strip.alpha), load(&strip.beta));
            let (bias, kappa) = (load(&self.bias[v]), load(&self.kappa[v]));
            let there = mask32x16::from_bitmask(simd, u64::from(self.there[v]));
            let lanes = i32x16::load_array_ref(simd, &LANE) + i32x16::splat(simd, (v * LANES) as i32);
            for r in 0..R {
                let [s, norm, error] = rows[r].map(|x| f32x16::splat(simd, x));
                let sum: f32x16<S> = f32x16::float_from(acc[0][r][v]);
                let a = (sum * scale).mul_add_precise(s, bias);
                let e = alpha.mul_add_precise(norm, beta.mul_add_precise(error, kappa));
                let (upper, bar) = (a + e, f32x16::splat(simd, bars[r]));
                // The comparison is not "greater", since NaN must stay.
                let stay = !upper.simd_le(bar) & there;
                // The usual case. A probable value is at most a possible one, so there is nothing for the bar either.
                if !stay.any_true() {
                    continue;
                }
                let row = row[r];
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

/// Computes [`vnni`] in plain integers.
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
