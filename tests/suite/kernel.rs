//! Every kernel, on every instruction set of the machine, has the bits of plain loops.

use proptest::prelude::*;
use strata_core::Isa;
use strata_core::kernel::adam::{AdamStep, adam, normalise, project_out};
use strata_core::kernel::dense::{Matrix, Pair, Pick, affine, pairs, product, transposed};
use strata_core::kernel::{reduce, scalar, select, sparse, wide};

/// Sizes around the number of lanes, 16, its multiples, and the block of 64 lanes.
const SIZES: [usize; 15] = [0, 1, 15, 16, 17, 31, 32, 33, 35, 63, 64, 65, 131, 256, 300];
/// Numbers of rows around those of the tiles (1, 2, 3) and of the blocks.
const ROWS: [usize; 14] = [0, 1, 2, 3, 5, 6, 7, 11, 12, 13, 15, 23, 27, 64];

/// A small generator (splitmix64), so that inputs are the same everywhere.
struct Source(u64);

impl Source {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// Returns a log-normal value of random sign, or sometimes an exact zero, a subnormal or a large value.
    fn value(&mut self) -> f32 {
        let sign = if self.next() & 1 == 0 { 1.0 } else { -1.0 };
        let normal: f32 = (0..12).map(|_| (self.next() >> 40) as f32 / (1u64 << 24) as f32).sum::<f32>() - 6.0;
        sign * match self.below(32) {
            0 | 1 => 0.0,
            2 => f32::from_bits((self.next() & 0x7f_ffff) as u32),
            3 => normal.exp() * 1e12,
            4 => normal.exp() * 1e-22,
            _ => (2.0 * normal).exp(),
        }
    }

    fn values(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.value()).collect()
    }
}

/// Asserts that both have the same bits; the message has the index, both values and their bits of the first difference.
#[track_caller]
fn assert_bits(got: &[f32], want: &[f32], what: std::fmt::Arguments<'_>) {
    assert_eq!(got.len(), want.len(), "{what}: lengths");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let same = g.to_bits() == w.to_bits() || (g.is_nan() && w.is_nan());
        assert!(same, "{what}: [{i}] is {g:e} ({:08x}), expected {w:e} ({:08x})", g.to_bits(), w.to_bits());
    }
}

#[test]
fn isa_is_named_found_and_listed() {
    for isa in Isa::all_available() {
        assert_eq!(Isa::named(isa.name()), Ok(isa));
    }
    assert_eq!(Isa::all_available()[0], Isa::detect());
    assert_eq!(Isa::all_available().last(), Some(&Isa::SCALAR));
    assert!(Isa::all_available().contains(&Isa::baseline()));
    assert_eq!(
        Isa::named("sse9").unwrap_err().to_string(),
        "setting `isa`: expected scalar, avx2, avx512 or neon, found `sse9`"
    );
    let absent = if cfg!(target_arch = "aarch64") { "avx2" } else { "neon" };
    assert_eq!(
        Isa::named(absent).unwrap_err().to_string(),
        format!("setting `isa`: this machine does not have `{absent}`")
    );
}

#[test]
fn scalar_fma_rounds_once() {
    let mut s = Source(1);
    for _ in 0..200_000 {
        let (a, b) = (s.value(), s.value());
        // In half of the cases the sum nearly cancels.
        let c = if s.next() & 1 == 0 { s.value() } else { -(a * b) * (1.0 + (s.below(9) as f32 - 4.0) * f32::EPSILON) };
        assert_bits(&[scalar::fma(a, b, c)], &[a.mul_add(b, c)], format_args!("fma({a:e}, {b:e}, {c:e})"));
    }
    // Cases in which a computation in f64, rounded to f32, would be wrong: ties, and sums in the subnormal range.
    for (a, b, c) in [
        (1.0 + f32::EPSILON, 1.0 + f32::EPSILON, f32::MIN_POSITIVE),
        (1.0, 1.0 + f32::EPSILON, 0.5 * f32::EPSILON),
        (-1.9369631e13, 2.1513551e-7, -1.7354427e-24),
        (f32::MIN_POSITIVE, 0.75, f32::from_bits(1)),
        (f32::from_bits(1), 0.5, 0.0),
        (f32::from_bits(1), 0.5, f32::from_bits(1)),
        (-1.0, 1.0, 1.0),
        (f32::MAX, 2.0, -f32::MAX),
        (f32::MAX, 2.0, f32::MAX),
        (f32::INFINITY, 0.0, 1.0),
        (f32::INFINITY, 1.0, f32::NEG_INFINITY),
    ] {
        assert_bits(&[scalar::fma(a, b, c)], &[a.mul_add(b, c)], format_args!("fma({a:e}, {b:e}, {c:e})"));
    }
}

fn check_affine(isa: Isa, n: usize, d: usize, f: usize, with_bias: bool, seed: u64) {
    let mut s = Source(seed);
    let (x, w, b) = (s.values(n * d), s.values(f * d), s.values(f));
    let bias = with_bias.then_some(&b[..]);
    let mut want = vec![0.0; n * f];
    scalar::affine(&x, &w, bias, f, d, &mut want);
    let what = format!("{isa:?} n={n} d={d} f={f}");

    let mut got = vec![f32::NAN; n * f];
    affine(isa, &x, &w, d, bias, &mut got);
    assert_bits(&got, &want, format_args!("{what}"));
    // Some rows of both in any order, with repetitions.
    let rows: Vec<u32> = (0..n.min(7)).map(|_| s.below(n) as u32).collect();
    let latents: Vec<u32> = (0..f.min(19)).map(|_| s.below(f) as u32).collect();
    let (part, middle) = (n / 3..n, f / 2);
    for (rows, latents) in [
        (Pick::List(&rows), Pick::List(&latents)),
        (Pick::Range(part.start, part.end), Pick::Range(middle, f)),
        (Pick::List(&rows), Pick::Range(middle, middle)),
    ] {
        let mut got = vec![f32::NAN; rows.len() * latents.len()];
        product(isa, Matrix::all(&x, d).only(rows), Matrix::all(&w, d).only(latents), bias, &mut got);
        let want: Vec<f32> = (0..rows.len())
            .flat_map(|i| (0..latents.len()).map(move |j| (rows.row(i), latents.row(j))))
            .map(|(i, j)| want[i * f + j])
            .collect();
        assert_bits(&got, &want, format_args!("{what}, rows {rows:?}, latents {latents:?}"));
    }

    if with_bias && n > 0 && f > 0 {
        let some: Vec<Pair> =
            (0..21).map(|_| Pair { row: s.below(n) as u32, latent: s.below(f) as u32 }).take(n * f).collect();
        let mut got = vec![f32::NAN; some.len()];
        pairs(isa, &x, Matrix::all(&w, d), &b, &some, &mut got);
        let want: Vec<f32> = some.iter().map(|p| want[p.row as usize * f + p.latent as usize]).collect();
        assert_bits(&got, &want, format_args!("{what}, pairs"));
    }
}

#[test]
fn the_transpose_of_the_transpose_is_the_matrix() {
    let a = Source(9).values(35 * 18);
    let t = transposed(&a, 35, 18);
    assert_eq!(t[17 * 35 + 34], a[34 * 18 + 17]);
    assert_bits(&transposed(&t, 18, 35), &a, format_args!("35 by 18"));
}

#[test]
fn affine_has_the_bits_of_the_plain_loops_at_every_size() {
    for isa in Isa::all_available() {
        for n in ROWS {
            for (d, f) in [(1, 1), (7, 31), (16, 32), (17, 33), (33, 65), (64, 0), (65, 100), (130, 35)] {
                check_affine(isa, n, d, f, (n + d) % 2 == 0, (n * 1000 + d) as u64);
            }
        }
        for d in SIZES {
            check_affine(isa, 5, d.max(1), 35, true, d as u64);
            check_affine(isa, 13, 19, d, false, d as u64);
        }
    }
}

#[test]
fn affine_of_a_batch_equals_affine_of_its_rows() {
    let mut s = Source(5);
    let (n, d, f) = (25, 48, 70);
    let (x, w, b) = (s.values(n * d), s.values(f * d), s.values(f));
    for isa in Isa::all_available() {
        let mut all = vec![0.0; n * f];
        affine(isa, &x, &w, d, Some(&b), &mut all);
        for i in 0..n {
            let mut one = vec![0.0; f];
            affine(isa, &x[i * d..(i + 1) * d], &w, d, Some(&b), &mut one);
            assert_bits(&one, &all[i * f..(i + 1) * f], format_args!("{isa:?} row {i}"));
        }
    }
}

#[test]
fn a_row_that_is_not_finite_leaves_the_others_alone() {
    let (n, d, f) = (14, 20, 40);
    let mut s = Source(6);
    let (mut x, w) = (s.values(n * d), s.values(f * d));
    x[3 * d + 4] = f32::NAN;
    x[9 * d + 1] = f32::INFINITY;
    let mut want = vec![0.0; n * f];
    scalar::affine(&x, &w, None, f, d, &mut want);
    for isa in Isa::all_available() {
        let mut got = vec![0.0; n * f];
        affine(isa, &x, &w, d, None, &mut got);
        assert_bits(&got, &want, format_args!("{isa:?}"));
    }
}

#[test]
fn sums_have_the_bits_of_the_plain_loops_at_every_size() {
    for len in (0..200).chain([255, 256, 257, 768, 1000]) {
        let mut s = Source(len as u64);
        let (a, b) = (s.values(len), s.values(len));
        let difference: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a - b).collect();
        let ones = vec![1.0; len];
        for isa in Isa::all_available() {
            let got = [
                reduce::dot(isa, &a, &b),
                reduce::sum_squares(isa, &a),
                reduce::sum_squares_diff(isa, &a, &b),
                reduce::sum(isa, &a),
            ];
            let want = [
                scalar::dot(&a, &b),
                scalar::dot(&a, &a),
                scalar::dot(&difference, &difference),
                scalar::dot(&a, &ones),
            ];
            assert_bits(&got, &want, format_args!("{isa:?} len={len}"));
        }
    }
}

#[test]
fn element_wise_kernels_have_the_bits_of_the_plain_loops() {
    for len in SIZES {
        let mut s = Source(len as u64);
        let (a, b, alpha) = (s.values(len), s.values(len), s.value());
        for isa in Isa::all_available() {
            let mut got = b.clone();
            reduce::axpy(isa, alpha, &a, &mut got);
            let want: Vec<f32> = a.iter().zip(&b).map(|(&x, &y)| scalar::fma(alpha, x, y)).collect();
            assert_bits(&got, &want, format_args!("axpy {isa:?} len={len}"));

            reduce::sub_into(isa, &a, &b, &mut got);
            let want: Vec<f32> = a.iter().zip(&b).map(|(x, y)| x - y).collect();
            assert_bits(&got, &want, format_args!("sub_into {isa:?} len={len}"));

            got.copy_from_slice(&a);
            reduce::scale(isa, alpha, &mut got);
            let want: Vec<f32> = a.iter().map(|x| x * alpha).collect();
            assert_bits(&got, &want, format_args!("scale {isa:?} len={len}"));
        }
    }
}

#[test]
fn all_finite_finds_each_bad_element() {
    for isa in Isa::all_available() {
        for len in SIZES {
            let mut a = Source(len as u64).values(len);
            assert!(reduce::all_finite(isa, &a));
            for i in 0..len {
                for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    let good = std::mem::replace(&mut a[i], bad);
                    assert!(!reduce::all_finite(isa, &a), "{isa:?} len={len} [{i}] = {bad}");
                    a[i] = good;
                }
            }
        }
    }
}

#[test]
fn accumulate_rows_and_dot_rows_have_the_bits_of_the_plain_loops() {
    for isa in Isa::all_available() {
        for d in SIZES {
            for n in [0, 1, 2, 3, 4, 5, 7, 8, 9, 33] {
                let mut s = Source((d * 100 + n) as u64);
                let rows = s.values(11 * d);
                let index: Vec<u32> = (0..n).map(|_| s.below(11) as u32).collect();
                let (coef, out) = (s.values(n), s.values(d));
                let mut got = out.clone();
                sparse::accumulate_rows(isa, &index, &coef, &rows, d, &mut got);
                let mut want = out.clone();
                scalar::accumulate_rows(&index, &coef, &rows, d, &mut want);
                assert_bits(&got, &want, format_args!("accumulate_rows {isa:?} d={d} n={n}"));

                let mut got = vec![f32::NAN; n];
                sparse::dot_rows(isa, &index, &rows, d, &out, &mut got);
                let want: Vec<f32> = index.iter().map(|&i| scalar::dot(&rows[i as usize * d..][..d], &out)).collect();
                assert_bits(&got, &want, format_args!("dot_rows {isa:?} d={d} n={n}"));
            }
        }
    }
}

#[test]
#[should_panic]
fn accumulate_rows_refuses_an_index_outside_of_the_rows() {
    sparse::accumulate_rows(Isa::detect(), &[3], &[1.0], &[0.0; 48], 16, &mut [0.0; 16]);
}

/// All positive entries, sorted by falling value and rising index, cut at `k`, in the order of the index.
fn topk_by_sorting(scores: &[f32], k: usize) -> (Vec<u32>, Vec<f32>) {
    let mut order: Vec<usize> = (0..scores.len()).filter(|&i| scores[i] > 0.0).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    order.truncate(k);
    order.sort_unstable();
    (order.iter().map(|&i| i as u32).collect(), order.iter().map(|&i| scores[i]).collect())
}

fn check_topk(isa: Isa, scores: &[f32], k: usize) {
    let (mut index, mut value) = (vec![7, 7], vec![-1.0, -2.0]);
    select::topk_row(isa, scores, k, &mut index, &mut value);
    let (want_index, want_value) = topk_by_sorting(scores, k);
    assert_eq!(index[..2], [7, 7], "entries that were there before");
    assert_eq!(index[2..], want_index, "{isa:?} f={} k={k}", scores.len());
    assert_bits(&value[2..], &want_value, format_args!("{isa:?} f={} k={k}", scores.len()));
}

#[test]
fn topk_is_exact_at_every_size() {
    for isa in Isa::all_available() {
        for f in SIZES.into_iter().chain([1000, 5000]) {
            let mut s = Source(f as u64);
            let scores = s.values(f);
            let rising: Vec<f32> = (0..f).map(|i| i as f32).collect();
            let falling: Vec<f32> = (0..f).map(|i| (f - i) as f32).collect();
            let tied: Vec<f32> = (0..f).map(|_| s.below(4) as f32 - 1.0).collect();
            let mut bad = scores.clone();
            bad.iter_mut().step_by(5).for_each(|v| *v = f32::NAN);
            bad.iter_mut().skip(3).step_by(50).for_each(|v| *v = f32::INFINITY);
            for k in [0, 1, 2, 31, 32, 33, 64, 65, f / 2, f, f + 1] {
                for scores in [&scores, &rising, &falling, &tied, &bad] {
                    check_topk(isa, scores, k);
                }
            }
        }
    }
}

#[test]
fn topk_breaks_ties_by_lower_index() {
    for isa in Isa::all_available() {
        let (mut index, mut value) = (Vec::new(), Vec::new());
        let mut scores = vec![1.0; 500];
        scores[400] = 2.0;
        select::topk_row(isa, &scores, 3, &mut index, &mut value);
        assert_eq!((index, value), (vec![0, 1, 400], vec![1.0, 1.0, 2.0]), "{isa:?}");
    }
}

#[test]
fn above_is_strict_and_ascending() {
    for isa in Isa::all_available() {
        for f in SIZES {
            let mut s = Source(f as u64);
            let mut scores = s.values(f);
            let mut thresholds = s.values(f);
            for i in (0..f).step_by(3) {
                thresholds[i] = scores[i];
            }
            scores.iter_mut().skip(1).step_by(7).for_each(|v| *v = f32::NAN);
            for threshold in [-1e30, -1.0, 0.0, 0.5, scores.first().map_or(0.0, |v| *v)] {
                let (mut index, mut value) = (vec![9], vec![9.0]);
                select::above(isa, &scores, threshold, &mut index, &mut value);
                let want: Vec<u32> = (0..f).filter(|&i| scores[i] > threshold).map(|i| i as u32).collect();
                assert_eq!(index[1..], want, "{isa:?} f={f} threshold={threshold}");
                assert!(index[1..].iter().zip(&value[1..]).all(|(&i, v)| scores[i as usize] == *v));
            }
            let (mut index, mut value) = (Vec::new(), Vec::new());
            select::above_each(isa, &scores, &thresholds, &mut index, &mut value);
            let want: Vec<u32> = (0..f).filter(|&i| scores[i] > thresholds[i]).map(|i| i as u32).collect();
            assert_eq!(index, want, "{isa:?} f={f}");
            assert!(index.iter().zip(&value).all(|(&i, v)| scores[i as usize] == *v));
        }
    }
}

#[test]
fn kth_largest_is_that_of_the_sorted_list() {
    for len in [1, 2, 3, 16, 17, 100, 1001] {
        let values = Source(len as u64).values(len);
        let mut sorted = values.clone();
        sorted.sort_by(|a, b| b.total_cmp(a));
        for k in [1, 2, len / 2, len - 1, len] {
            if (1..=len).contains(&k) {
                assert_bits(
                    &[select::kth_largest(&mut values.clone(), k)],
                    &[sorted[k - 1]],
                    format_args!("{len} {k}"),
                );
            }
        }
    }
}

#[test]
fn adam_has_the_bits_of_the_formula() {
    let step = AdamStep { lr: 1.2e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, correction2: 31.7, grad_scale: 0.37 };
    for len in SIZES {
        let mut s = Source(len as u64);
        let (grad, p, m) = (s.values(len), s.values(len), s.values(len));
        let v: Vec<f32> = s.values(len).iter().map(|v| v.abs()).collect();
        let (mut want_p, mut want_m, mut want_v) = (p.clone(), m.clone(), v.clone());
        for i in 0..len {
            let g = grad[i] * step.grad_scale;
            want_m[i] = scalar::fma(step.beta1, m[i], (1.0 - step.beta1) * g);
            want_v[i] = scalar::fma(step.beta2, v[i], ((1.0 - step.beta2) * g) * g);
            want_p[i] = p[i] - (step.lr * want_m[i]) / ((want_v[i] * step.correction2).sqrt() + step.eps);
        }
        for isa in Isa::all_available() {
            let (mut p, mut m, mut v) = (p.clone(), m.clone(), v.clone());
            adam(isa, &step, &grad, &mut p, &mut m, &mut v);
            assert_bits(&m, &want_m, format_args!("m {isa:?} len={len}"));
            assert_bits(&v, &want_v, format_args!("v {isa:?} len={len}"));
            assert_bits(&p, &want_p, format_args!("p {isa:?} len={len}"));
        }
    }
}

#[test]
fn normalise_and_project_out_have_the_bits_of_the_plain_loops() {
    for len in SIZES {
        let mut s = Source(len as u64);
        let (row, grad) = (s.values(len), s.values(len));
        let norm = scalar::dot(&row, &row).sqrt();
        let unit: Vec<f32> = row.iter().map(|x| if norm == 0.0 { *x } else { x / norm }).collect();
        let along = scalar::dot(&grad, &unit);
        let want: Vec<f32> = unit.iter().zip(&grad).map(|(&u, &g)| scalar::fma(-along, u, g)).collect();
        for isa in Isa::all_available() {
            let (mut got_row, mut got_grad) = (row.clone(), grad.clone());
            normalise(isa, &mut got_row);
            assert_bits(&got_row, &unit, format_args!("normalise {isa:?} len={len}"));
            project_out(isa, &got_row, &mut got_grad);
            assert_bits(&got_grad, &want, format_args!("project_out {isa:?} len={len}"));
        }
    }
    let mut zero = [0.0; 20];
    normalise(Isa::detect(), &mut zero);
    assert_eq!(zero, [0.0; 20]);
}

/// `sum_c term(c)` as the documentation of the module says: sixteen chains, and the tree over them.
fn in_chains(n: usize, term: impl Fn(usize) -> f64) -> f64 {
    let mut sums = [0.0f64; 16];
    (0..n).for_each(|c| sums[c % 16] += term(c));
    for half in [8, 4, 2, 1] {
        (0..half).for_each(|l| sums[l] += sums[l + half]);
    }
    sums[0]
}

#[test]
fn wide_sums_have_the_bits_of_the_plain_loops() {
    let mut s = Source(6);
    for n in SIZES {
        let [a, b] = [0, 1].map(|_| s.values(n));
        let [v, m] = [0, 1].map(|_| s.values(n).iter().map(|x| f64::from(*x) * 1.1).collect::<Vec<f64>>());
        let w = f64::from(s.value());
        let wide_of = |x: &[f32], c: usize| f64::from(x[c]);
        for isa in Isa::all_available() {
            let bits =
                |what: &str, got: f64, want: f64| assert_eq!(got.to_bits(), want.to_bits(), "{what} {n} {isa:?}");
            bits("dot", wide::dot(isa, &a, &b), in_chains(n, |c| wide_of(&a, c) * wide_of(&b, c)));
            bits("dot_wide", wide::dot_wide(isa, &a, &v), in_chains(n, |c| wide_of(&a, c) * v[c]));
            bits("dot64", wide::dot64(isa, &v, &m), in_chains(n, |c| v[c] * m[c]));
            bits("squares", wide::sum_squares(isa, &a), in_chains(n, |c| wide_of(&a, c).powi(2)));
            let each = |what: &str, f: &dyn Fn(&mut [f64]), want: &dyn Fn(usize) -> f64| {
                let mut got = v.clone();
                f(&mut got);
                (0..n).for_each(|c| bits(what, got[c], want(c)));
            };
            each("add", &|t| wide::add(isa, &a, t), &|c| v[c] + wide_of(&a, c));
            each("add_scaled", &|t| wide::add_scaled(isa, w, &a, t), &|c| v[c] + w * wide_of(&a, c));
            let square = |c: usize| (wide_of(&a, c) - m[c]) * (wide_of(&a, c) - m[c]);
            each("add_squares", &|t| wide::add_squares(isa, w, &a, &m, t), &|c| v[c] + w * square(c));
            each("subtract64", &|t| wide::subtract64(isa, w, &m, t), &|c| v[c] - w * m[c]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn affine_has_the_bits_of_the_plain_loops(n in 0usize..40, d in 1usize..90, f in 0usize..140, bias: bool, seed: u64) {
        for isa in Isa::all_available() {
            check_affine(isa, n, d, f, bias, seed);
        }
    }

    #[test]
    fn topk_equals_sorting(
        scores in prop::collection::vec(prop_oneof![Just(0.0f32), (-3i8..9).prop_map(f32::from), any::<f32>()], 0..700),
        k in 0usize..200,
    ) {
        for isa in Isa::all_available() {
            check_topk(isa, &scores, k);
        }
    }

    #[test]
    fn permuting_the_latents_permutes_the_top_k(seed: u64, f in 1usize..400, k in 1usize..50) {
        let mut s = Source(seed);
        // Distinct scores: a permutation of 1..=f.
        let mut scores: Vec<f32> = (1..=f).map(|v| v as f32).collect();
        (1..f).for_each(|i| scores.swap(i, s.below(i + 1)));
        let (mut index, mut value) = (Vec::new(), Vec::new());
        select::topk_row(Isa::detect(), &scores, k, &mut index, &mut value);
        value.sort_by(f32::total_cmp);
        let want: Vec<f32> = (f - k.min(f) + 1..=f).map(|v| v as f32).collect();
        prop_assert_eq!(value, want);
    }
}
