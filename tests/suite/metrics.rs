//! The streaming metrics compared with their definitions on dense matrices, and merged parts compared with the whole.

use proptest::prelude::*;
use strata_core::error::At;
use strata_core::metrics::bootstrap::{Interval, Resamples};
use strata_core::metrics::coherence::Draws;
use strata_core::metrics::composition::{Child, Composition, CompositionReport, EdgeBlocks, Errors, Parent};
use strata_core::metrics::exact::ExactSum;
use strata_core::metrics::fidelity::{Fidelity, FidelityReport, LevelFidelity};
use strata_core::metrics::sparsity::Sparsity;
use strata_core::model::CodesView;
use strata_core::rng::Philox;
use strata_core::{Error, Par, ROOT};

#[track_caller]
pub fn assert_close(what: &str, got: f64, expected: f64) {
    let close = (got - expected).abs() <= 1e-9 * expected.abs().max(1.0);
    assert!(close || got.is_nan() && expected.is_nan(), "{what}: {got}, expected {expected}");
}

/// Codes of `tokens` x `latents` as CSR and dense; latents fire with very different probabilities, some never.
pub struct Case {
    offsets: Vec<usize>,
    index: Vec<u32>,
    value: Vec<f32>,
    pub dense: Vec<f32>,
    pub latents: usize,
}

impl Case {
    pub fn new(seed: u64, tokens: usize, latents: usize) -> Self {
        let mut rng = Philox::new(seed, 0);
        let mut case =
            Self { offsets: vec![0], index: vec![], value: vec![], dense: vec![0.0; tokens * latents], latents };
        for t in 0..tokens {
            for j in 0..latents {
                // Latent 0 is always on, the last one never.
                let p = 1.0 / (1.0 + 2.0 * j as f32) * f32::from(u8::from(j + 1 < latents));
                if rng.uniform_f32() < p {
                    let z = rng.normal_f32().exp();
                    case.index.push(j as u32);
                    case.value.push(z);
                    case.dense[t * latents + j] = z;
                } else if rng.below(50) == 0 {
                    // A stored entry with the value 0, which does not fire.
                    case.index.push(j as u32);
                    case.value.push(0.0);
                }
            }
            case.offsets.push(case.index.len());
        }
        case
    }

    pub fn codes(&self) -> CodesView<'_> {
        CodesView::new(&self.offsets, &self.index, &self.value, self.latents).unwrap()
    }

    pub fn with<R>(&self, from: usize, to: usize, f: impl FnOnce(&CodesView<'_>) -> R) -> R {
        let (a, b) = (self.offsets[from], self.offsets[to]);
        let offsets: Vec<usize> = self.offsets[from..=to].iter().map(|o| o - a).collect();
        f(&CodesView::new(&offsets, &self.index[a..b], &self.value[a..b], self.latents).unwrap())
    }

    pub fn on(&self, t: usize, j: usize) -> bool {
        self.dense[t * self.latents + j] > 0.0
    }
}

proptest! {
    #[test]
    fn exact_sums_do_not_depend_on_order_or_grouping(
        mut terms in prop::collection::vec(prop::num::f64::NORMAL | prop::num::f64::SUBNORMAL | prop::num::f64::ZERO, 0..40),
        cut in 0usize..40,
    ) {
        let sum = |terms: &[f64]| {
            let mut s = ExactSum::default();
            terms.iter().for_each(|x| s.add(*x));
            s
        };
        let cut = cut.min(terms.len());
        let whole = sum(&terms).value();
        let mut parts = sum(&terms[cut..]);
        parts.merge(&sum(&terms[..cut]));
        prop_assert_eq!(parts.value().to_bits(), whole.to_bits());
        // Every term cancels with its negative, and the sum is exactly 0.
        terms.extend(terms.clone().iter().rev().map(|x| -x));
        prop_assert_eq!(sum(&terms).value().to_bits(), 0);
    }

    #[test]
    fn exact_sums_equal_integer_sums(terms in prop::collection::vec(-1i64 << 52..1 << 52, 0..60), scale in -900i32..900) {
        let mut s = ExactSum::default();
        terms.iter().for_each(|x| s.add(*x as f64 * 2f64.powi(scale)));
        let expected = terms.iter().map(|x| i128::from(*x)).sum::<i128>() as f64 * 2f64.powi(scale);
        prop_assert_eq!(s.value(), expected);
    }
}

#[test]
fn an_exact_sum_is_rounded_once_and_to_even() {
    let sum = |terms: &[f64]| {
        let mut s = ExactSum::default();
        terms.iter().for_each(|x| s.add(*x));
        s.value()
    };
    let half = 2f64.powi(-53);
    assert_eq!(sum(&[1.0, half]), 1.0);
    assert_eq!(sum(&[1.0, half, 5e-324]), 1.0 + 2.0 * half);
    assert_eq!(sum(&[-1.0, -half, -5e-324]), -1.0 - 2.0 * half);
    assert_eq!(sum(&[1e308, 1.0, -1e308]), 1.0);
    assert_eq!(sum(&[f64::MAX, f64::MAX]), f64::INFINITY);
    assert_eq!(sum(&[5e-324, 5e-324]), 1e-323);
    assert_eq!(sum(&[f64::MAX; 3].map(|x| x / 4.0)), f64::MAX / 4.0 * 3.0);
}

/// `x`, and two reconstructions with a bias and shrinkage; token 3 is 0, and `x_hat1` is 0 on token 5.
fn reconstruction(tokens: usize, d: usize) -> [Vec<f32>; 3] {
    let mut rng = Philox::new(9, 1);
    let mut x: Vec<f32> = (0..tokens * d).map(|e| 3.0 + (e % d) as f32 + rng.normal_f32()).collect();
    x[3 * d..4 * d].fill(0.0);
    let mut hat = |shrink: f32, noise: f32| -> Vec<f32> {
        x.iter().map(|x| 0.2 + shrink * x + noise * rng.normal_f32()).collect()
    };
    let (mut one, two) = (hat(0.8, 0.5), hat(0.95, 0.1));
    one[5 * d..6 * d].fill(0.0);
    [x, one, two]
}

fn scores(l: &LevelFidelity) -> [f64; 9] {
    [l.fvu, l.ev, l.fvu_batch, l.fve_var, l.ev_legacy, l.mse, l.nmse, l.cosine, l.norm_ratio]
}

#[test]
fn fidelity_equals_its_definitions() {
    let (d, sizes) = (7, [20usize, 1, 13]);
    let tokens: usize = sizes.iter().sum();
    let [x, one, two] = reconstruction(tokens, d);
    let mut fidelity = Fidelity::new(d);
    let mut at = 0;
    for n in sizes {
        let range = at * d..(at + n) * d;
        fidelity.add(&x[range.clone()], &one[range.clone()], &two[range]).unwrap();
        at += n;
    }
    let report = fidelity.report();
    let square = |v: &[f64]| v.iter().map(|v| v * v).sum::<f64>();
    let row = |m: &[f32], t: usize| -> Vec<f64> { m[t * d..(t + 1) * d].iter().map(|v| f64::from(*v)).collect() };
    let minus = |a: &[f64], b: &[f64]| -> Vec<f64> { a.iter().zip(b).map(|(a, b)| a - b).collect() };
    let mean_of = |rows: &[Vec<f64>]| -> Vec<f64> {
        (0..d).map(|c| rows.iter().map(|r| r[c]).sum::<f64>() / rows.len() as f64).collect()
    };
    let spread = |rows: &[Vec<f64>]| {
        let m = mean_of(rows);
        rows.iter().map(|r| square(&minus(r, &m))).sum::<f64>()
    };
    let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
    let mut all_sse = vec![];
    for (name, hat, got) in [("level 1", &one, &report.level1), ("level 2", &two, &report.level2)] {
        let xs: Vec<_> = (0..tokens).map(|t| row(&x, t)).collect();
        let hats: Vec<_> = (0..tokens).map(|t| row(hat, t)).collect();
        let errors: Vec<_> = hats.iter().zip(&xs).map(|(h, x)| minus(h, x)).collect();
        let sse: f64 = errors.iter().map(|e| square(e)).sum();
        all_sse.push(sse);
        let (mut batch, mut var, mut legacy, mut at) = (vec![], vec![], vec![], 0);
        for n in sizes {
            let (xs, errors) = (&xs[at..at + n], &errors[at..at + n]);
            at += n;
            if n == 1 {
                continue;
            }
            batch.push(errors.iter().map(|e| square(e)).sum::<f64>() / spread(xs));
            var.push(1.0 - spread(errors) / spread(xs));
            let m = mean_of(xs);
            legacy.extend(xs.iter().zip(errors).map(|(x, e)| 1.0 - square(e) / square(&minus(x, &m))));
        }
        let long: Vec<usize> = (0..tokens).filter(|t| *t != 3).collect();
        let norm = |v: &[f64]| square(v).sqrt();
        let nmse: Vec<f64> = long.iter().map(|&t| square(&errors[t]) / square(&xs[t])).collect();
        let ratio: Vec<f64> = long.iter().map(|&t| norm(&hats[t]) / norm(&xs[t])).collect();
        let with_cosine = long.iter().filter(|&&t| norm(&hats[t]) > 0.0);
        let cosine: Vec<f64> = with_cosine
            .map(|&t| xs[t].iter().zip(&hats[t]).map(|(a, b)| a * b).sum::<f64>() / norm(&xs[t]) / norm(&hats[t]))
            .collect();
        let fvu = sse / spread(&xs);
        let expected = [
            fvu,
            1.0 - fvu,
            mean(&batch),
            mean(&var),
            mean(&legacy),
            sse / tokens as f64,
            mean(&nmse),
            mean(&cosine),
            mean(&ratio),
        ];
        for (k, (got, expected)) in scores(got).into_iter().zip(expected).enumerate() {
            assert_close(&format!("{name}, score {k}"), got, expected);
        }
        assert_eq!((got.constant_blocks, got.tokens_at_mean), (1, 1));
        assert_eq!(got.tokens_without_cosine, (tokens - cosine.len()) as u64);
    }
    assert_eq!((report.tokens, report.short_tokens), (tokens as u64, 1));
    assert_close("gain", report.gain, (all_sse[0] - all_sse[1]) / all_sse[0]);
}

#[test]
fn fidelity_of_blocks_in_any_order_and_grouping_has_the_same_bits() {
    let (d, tokens, size) = (5, 60, 7);
    let data = reconstruction(tokens, d);
    let [x, one, two] = &data;
    let blocks: Vec<_> = (0..tokens).step_by(size).map(|t| t * d..(t + size).min(tokens) * d).collect();
    let run = |which: &[usize]| {
        let mut f = Fidelity::new(d);
        for &b in which {
            let r = &blocks[b];
            f.add(&x[r.clone()], &one[r.clone()], &two[r.clone()]).unwrap();
        }
        f
    };
    let bits = |r: &FidelityReport| [scores(&r.level1), scores(&r.level2)].map(|l| l.map(f64::to_bits));
    let whole = run(&(0..blocks.len()).collect::<Vec<_>>()).report();
    let mut merged = run(&[8, 2, 5]);
    merged.merge(&run(&[0, 7]));
    merged.merge(&run(&[]));
    merged.merge(&run(&[6, 1, 4, 3]));
    assert_eq!(bits(&merged.report()), bits(&whole));
    assert_eq!(merged.report(), whole);
}

#[test]
fn fidelity_of_a_perfect_and_of_a_mean_reconstruction() {
    let d = 4;
    let [x, ..] = reconstruction(40, d);
    let mut mean = vec![0.0f32; d];
    x.chunks_exact(d).for_each(|r| mean.iter_mut().zip(r).for_each(|(m, x)| *m += x / 40.0));
    let mut f = Fidelity::new(d);
    f.add(&x, &mean.repeat(40), &x).unwrap();
    let r = f.report();
    assert!((r.level1.fvu - 1.0).abs() < 1e-6 && r.level1.fve_var.abs() < 1e-6, "{r:?}");
    assert_eq!((r.level2.fvu, r.level2.ev, r.level2.fvu_batch, r.gain), (0.0, 1.0, 0.0, 1.0));
    assert!((r.level2.cosine - 1.0).abs() < 1e-12 && (r.level2.norm_ratio - 1.0).abs() < 1e-12);
    // Equal tokens have no variance, so that FVU is undefined; without tokens everything is.
    let mut f = Fidelity::new(d);
    f.add(&[0.1; 12], &[0.2; 12], &[0.1; 12]).unwrap();
    let r = f.report();
    assert!(r.level1.fvu.is_nan() && r.level1.fvu_batch.is_nan() && r.level1.ev_legacy.is_nan());
    assert!(Fidelity::new(d).report().level2.mse.is_nan());
    assert!(serde_json::to_string(&r).unwrap().contains("\"fvu_batch\":null"));
}

#[test]
fn fidelity_refuses_wrong_sizes_and_numbers_that_are_not_finite() {
    let mut f = Fidelity::new(3);
    assert!(matches!(f.add(&[0.0; 4], &[0.0; 4], &[0.0; 4]), Err(Error::Shape { .. })));
    assert!(matches!(f.add(&[0.0; 6], &[0.0; 6], &[0.0; 3]), Err(Error::Shape { .. })));
    f.add(&[1.0; 6], &[0.0; 6], &[0.0; 6]).unwrap();
    let hat = [0.0, 0.0, 0.0, 0.0, f32::NAN, 0.0];
    assert!(matches!(f.add(&[0.0; 6], &hat, &[0.0; 6]), Err(Error::NotFinite { at: At::Token(3), .. })));
    assert_eq!(f.report().tokens, 2);
}

#[test]
fn sparsity_equals_its_definitions() {
    let (tokens, m) = (300, 90);
    let case = Case::new(4, tokens, m);
    let mut s = Sparsity::new(m);
    s.add(&case.codes()).unwrap();
    let r = s.report();
    let mut l0: Vec<usize> = (0..tokens).map(|t| (0..m).filter(|j| case.on(t, *j)).count()).collect();
    let fires: Vec<usize> = (0..m).map(|j| (0..tokens).filter(|t| case.on(*t, j)).count()).collect();
    let n = tokens as f64;
    let mean = l0.iter().sum::<usize>() as f64 / n;
    assert_close("mean", r.l0_mean, mean);
    assert_close("sd", r.l0_sd, (l0.iter().map(|k| (*k as f64 - mean).powi(2)).sum::<f64>() / n).sqrt());
    l0.sort_unstable();
    assert_eq!(r.l0_quantiles, Some([5, 25, 50, 75, 95, 99].map(|q: usize| l0[(q * tokens).div_ceil(100) - 1])));
    assert_eq!(s.fires(), fires.iter().map(|f| *f as u64).collect::<Vec<_>>());
    let share = |f: &dyn Fn(usize) -> bool| fires.iter().filter(|x| f(**x)).count() as f64 / m as f64;
    assert_eq!(r.dead, share(&|f| f == 0));
    assert_eq!(r.dense, share(&|f| f as f64 / n > 0.1));
    assert_eq!(r.not_alive, share(&|f| f < 10));
    assert_eq!((r.ultra_rare, r.empty_tokens), (0.0, 0.0));
    assert!(r.dead > 0.0 && r.dense > 0.0 && r.not_alive > r.dead && r.not_alive < 0.9);
    let mut alive: Vec<f64> = fires.iter().filter(|f| **f >= 10).map(|f| *f as f64 / n).collect();
    alive.sort_by(f64::total_cmp);
    assert_close("median", r.median_density, (alive[(alive.len() - 1) / 2] + alive[alive.len() / 2]) / 2.0);
    for (b, count) in r.density_histogram.iter().enumerate() {
        let (low, high) = (-10.0 + b as f64 / 4.0, if b == 39 { 1.0 } else { -9.75 + b as f64 / 4.0 });
        let inside = fires.iter().filter(|f| (low..high).contains(&(**f as f64 / n).log10())).count();
        assert_eq!(*count, inside as u64, "bin {b}");
    }
    let hoyer = (0..tokens).map(|t| {
        let z = case.dense[t * m..(t + 1) * m].iter().map(|z| f64::from(*z));
        let root = (m as f64).sqrt();
        (root - z.clone().sum::<f64>() / z.map(|z| z * z).sum::<f64>().sqrt()) / (root - 1.0)
    });
    assert_close("hoyer", r.hoyer, hoyer.sum::<f64>() / n);
    // Gini as the mean absolute difference over twice the mean.
    let pairs = fires.iter().flat_map(|a| fires.iter().map(move |b| a.abs_diff(*b))).sum::<usize>() as f64;
    assert_close("gini", r.gini, pairs / (2.0 * m as f64 * fires.iter().sum::<usize>() as f64));
    let mass: Vec<f64> = (0..m).map(|j| (0..tokens).map(|t| f64::from(case.dense[t * m + j])).sum()).collect();
    let q = mass.iter().map(|a| a / mass.iter().sum::<f64>()).filter(|q| *q > 0.0);
    let effective = (-q.map(|q| q * q.ln()).sum::<f64>()).exp();
    assert_close("effective", r.effective_latents, effective);
    assert_close("utilisation", r.utilisation, effective / m as f64);
}

#[test]
fn sparsity_of_equal_latents_of_one_latent_and_of_silence() {
    let report = |offsets: &[usize], index: &[u32], latents: usize| {
        let value = vec![0.5; index.len()];
        let mut s = Sparsity::new(latents);
        s.add(&CodesView::new(offsets, index, &value, latents).unwrap()).unwrap();
        s.report()
    };
    let equal = report(&[0, 3, 6], &[0, 1, 2, 2, 1, 0], 3);
    assert_eq!((equal.l0_mean, equal.l0_sd, equal.gini, equal.dense), (3.0, 0.0, 0.0, 1.0));
    assert!(equal.hoyer.abs() < 1e-12 && (equal.utilisation - 1.0).abs() < 1e-12);
    assert_eq!(equal.density_histogram[39], 3);
    let one = report(&[0, 1, 2, 2], &[1, 1], 4);
    assert_eq!((one.empty_tokens, one.dead, one.effective_latents, one.gini), (1.0 / 3.0, 0.75, 1.0, 0.75));
    assert!((one.hoyer - 1.0).abs() < 1e-12);
    let silent = report(&[0, 0], &[], 4);
    assert!(silent.hoyer.is_nan() && silent.gini.is_nan() && silent.effective_latents.is_nan());
    assert_eq!((silent.l0_quantiles, silent.empty_tokens), (Some([0; 6]), 1.0));
    assert!(report(&[0, 1], &[0], 1).hoyer.is_nan());
    assert_eq!(Sparsity::new(4).report().l0_quantiles, None);
}

#[test]
fn sparsity_and_composition_do_not_depend_on_blocks_or_grouping() {
    let (tokens, f1, f2, d) = (120, 6, 15, 4);
    let (one, two) = (Case::new(1, tokens, f1), Case::new(2, tokens, f2));
    let mut rng = Philox::new(3, 0);
    let error: Vec<f32> = (0..tokens * d).map(|_| rng.normal_f32()).collect();
    let decoder2: Vec<f32> = (0..f2 * d).map(|_| rng.normal_f32()).collect();
    let parent: Vec<u32> = (0..f2 as u32).map(|j| if j % 5 == 4 { ROOT } else { j % 6 }).collect();
    let run = |cuts: &[usize]| {
        let (mut s, mut c) = (Sparsity::new(f2), Composition::new(f1, &parent).unwrap());
        for w in cuts.windows(2) {
            let errors = Errors { error: &error[w[0] * d..w[1] * d], decoder2: &decoder2, d };
            two.with(w[0], w[1], |b| s.add(b).unwrap());
            one.with(w[0], w[1], |a| two.with(w[0], w[1], |b| c.add(a, b, Some(errors)).unwrap()));
        }
        (s, c)
    };
    let whole = run(&[0, tokens]);
    let (mut s, mut c) = run(&[70, 71, 120]);
    let rest = run(&[0, 13, 13, 70]);
    s.merge(&rest.0);
    c.merge(&rest.1).unwrap();
    assert_eq!(format!("{:?}", s.report()), format!("{:?}", whole.0.report()));
    assert_eq!(format!("{:?}", c.report()), format!("{:?}", whole.1.report()));
    assert_eq!(format!("{:?}", c.gated()), format!("{:?}", whole.1.gated()));
}

#[test]
fn composition_equals_its_definitions() {
    let (tokens, f1, f2, d) = (400, 7, 24, 5);
    let (one, two) = (Case::new(5, tokens, f1), Case::new(6, tokens, f2));
    let mut rng = Philox::new(7, 0);
    let error: Vec<f32> = (0..tokens * d).map(|_| rng.normal_f32()).collect();
    let decoder2: Vec<f32> = (0..f2 * d).map(|_| rng.normal_f32()).collect();
    let parent: Vec<u32> = (0..f2 as u32).map(|j| if j % 6 == 5 { ROOT } else { j % 7 }).collect();
    let mut c = Composition::new(f1, &parent).unwrap();
    c.add(&one.codes(), &two.codes(), Some(Errors { error: &error, decoder2: &decoder2, d })).unwrap();
    let r = c.report();
    let n = |f: &dyn Fn(usize) -> bool| (0..tokens).filter(|t| f(*t)).count() as f64;
    let lift = |i: usize, j: usize| {
        let (ni, nj) = (n(&|t| one.on(t, i)), n(&|t| two.on(t, j)));
        let both = n(&|t| one.on(t, i) && two.on(t, j));
        assert_eq!(f64::from(c.together(i, j)), both);
        let defined = ni > 0.0 && nj > 0.0 && ni < tokens as f64 && nj < tokens as f64;
        if defined { tokens as f64 * both / (ni * nj) } else { f64::NAN }
    };
    for (j, child) in r.child.iter().enumerate() {
        let fires = n(&|t| two.on(t, j));
        assert_eq!(child.fires as f64, fires);
        let given = |i: usize| n(&|t| one.on(t, i) && two.on(t, j)) / fires;
        let w: Vec<f64> = (0..f1).map(|i| if lift(i, j) > 2.0 { given(i) } else { 0.0 }).collect();
        let total: f64 = w.iter().sum();
        assert_close("treeness", child.treeness, w.iter().fold(0.0, |a: f64, b| a.max(*b)) / total);
        let squares: f64 = w.iter().map(|w| w * w).sum();
        assert_close("effective parents", child.effective_parents, total * total / squares);
        let (p, root) = (parent[j] as usize, parent[j] == ROOT);
        assert_close("containment", child.containment, if root { f64::NAN } else { given(p) });
        let chance = |i: usize| n(&|t| one.on(t, i)) / tokens as f64;
        let attachment = if root || chance(p) == 1.0 { f64::NAN } else { (given(p) - chance(p)) / (1.0 - chance(p)) };
        assert_close("attachment", child.attachment, attachment);
        assert_close("lift", child.lift, if root { f64::NAN } else { lift(p, j) });
        if root {
            assert!(child.phi.is_nan() && child.jaccard.is_nan() && child.npmi.is_nan());
        } else {
            let (ni, both) = (n(&|t| one.on(t, p)), n(&|t| one.on(t, p) && two.on(t, j)));
            let (p1, p2) = (ni / tokens as f64, fires / tokens as f64);
            let over = both / tokens as f64 - p1 * p2;
            let defined = !lift(p, j).is_nan();
            let or_nan = |v: f64| if defined { v } else { f64::NAN };
            assert_close("phi", child.phi, or_nan(over / (p1 * (1.0 - p1) * p2 * (1.0 - p2)).sqrt()));
            assert_close("jaccard", child.jaccard, both / n(&|t| one.on(t, p) || two.on(t, j)));
            let npmi = if both == 0.0 { -1.0 } else { lift(p, j).ln() / -(both / tokens as f64).ln() };
            assert_close("npmi", child.npmi, or_nan(npmi));
        }
        // The gain is the growth of the squared error when z_j D_j is taken away.
        let mut gain = 0.0;
        for t in 0..tokens {
            for k in 0..d {
                let e = f64::from(error[t * d + k]);
                let without = e - f64::from(two.dense[t * f2 + j]) * f64::from(decoder2[j * d + k]);
                gain += without * without - e * e;
            }
        }
        let gated = c.gated().child[j];
        assert_eq!(gated.fires as f64, fires);
        assert_close("gain", gated.gain, gain);
    }
    for p in &r.parent {
        let i = p.latent as usize;
        let kids: Vec<usize> = (0..f2).filter(|j| parent[*j] == p.latent).collect();
        let active = |t: usize| kids.iter().filter(|j| two.on(t, **j)).count();
        assert_eq!((p.children, p.fires as f64), (kids.len(), n(&|t| one.on(t, i))));
        assert_close("coverage", p.coverage, n(&|t| one.on(t, i) && active(t) > 0) / n(&|t| one.on(t, i)));
        assert_close("exclusivity", p.exclusivity, n(&|t| active(t) == 1) / n(&|t| active(t) > 0));
        let with: Vec<f64> = kids.iter().map(|&j| n(&|t| one.on(t, i) && two.on(t, j))).collect();
        assert_close("purity", p.purity, with.iter().fold(0.0, |a: f64, b| a.max(*b)) / n(&|t| one.on(t, i)));
        let all: f64 = with.iter().sum();
        let bits = -with.iter().map(|k| k / all).filter(|q| *q > 0.0).map(|q| q * q.log2()).sum::<f64>();
        let bits = if all > 0.0 { bits } else { f64::NAN };
        assert_close("entropy", p.child_entropy_bits, bits);
        assert_close("its share", p.child_entropy, bits / (kids.len() as f64).log2());
        assert_close("effective children", p.effective_children, bits.exp2());
        assert_close("hamming", p.or_hamming, n(&|t| one.on(t, i) != (active(t) > 0)) / tokens as f64);
    }
    let alive = || r.child.iter().filter(|c| c.fires >= 10);
    let edges: Vec<_> = alive().filter(|c| c.parent != ROOT).collect();
    assert_close("containment", r.containment, edges.iter().map(|c| c.containment).sum::<f64>() / edges.len() as f64);
    let mut lifts: Vec<f64> = edges.iter().map(|c| c.lift).filter(|l| !l.is_nan()).collect();
    lifts.sort_by(f64::total_cmp);
    assert_close("lift", r.median_lift, (lifts[(lifts.len() - 1) / 2] + lifts[lifts.len() / 2]) / 2.0);
    assert_eq!((r.root_children, r.edges_not_alive), (4, 20 - edges.len()));
    assert_eq!(r.edges_without_lift, edges.len() - lifts.len());
    assert!(r.edges_not_alive > 0 && r.edges_without_lift > 0);
    let mean = |of: Vec<f64>| {
        let of: Vec<f64> = of.into_iter().filter(|v| !v.is_nan()).collect();
        of.iter().sum::<f64>() / of.len() as f64
    };
    assert_close("attachment", r.attachment, mean(edges.iter().map(|c| c.attachment).collect()));
    assert_close("phi", r.phi, mean(edges.iter().map(|c| c.phi).collect()));
    assert_close("jaccard", r.jaccard, mean(edges.iter().map(|c| c.jaccard).collect()));
    assert_close("npmi", r.npmi, mean(edges.iter().map(|c| c.npmi).collect()));
    let parents: Vec<_> = r.parent.iter().filter(|p| p.fires >= 10).collect();
    let of = |f: &dyn Fn(&Parent) -> f64| mean(parents.iter().map(|p| f(p)).collect());
    assert_close("purity", r.purity, of(&|p| p.purity));
    assert_close(
        "entropy",
        r.child_entropy_bits,
        of(&|p| if p.children > 1 { p.child_entropy_bits } else { f64::NAN }),
    );
    assert_close("its share", r.child_entropy, of(&|p| p.child_entropy));
    assert_close(
        "children",
        r.effective_children,
        of(&|p| if p.children > 1 { p.effective_children } else { f64::NAN }),
    );
    let wrong = |t: usize, i: usize| one.on(t, i) != (0..f2).any(|j| parent[j] == i as u32 && two.on(t, j));
    let hamming: usize = (0..tokens).map(|t| (0..f1).filter(|i| wrong(t, *i)).count()).sum();
    assert_close("hamming", r.or_hamming, hamming as f64 / tokens as f64);
    let given = |c: &Child| (c.containment, c.containment * c.fires as f64 / n(&|t| one.on(t, c.parent as usize)));
    let asymmetric: Vec<_> = edges.iter().map(|c| given(c)).filter(|g| !g.1.is_nan()).collect();
    let inverted = asymmetric.iter().filter(|(up, down)| down > up).count() as f64 / asymmetric.len() as f64;
    assert_close("inverted", r.inverted_edges, inverted);
    assert!(inverted > 0.0 && inverted < 1.0);
    let density = |case: &Case| {
        let mut fires: Vec<f64> = (0..case.latents).map(|j| n(&|t| case.on(t, j))).filter(|k| *k >= 10.0).collect();
        fires.sort_by(f64::total_cmp);
        (fires[(fires.len() - 1) / 2] + fires[fires.len() / 2]) / 2.0
    };
    assert_close("densities", r.density_ratio, density(&two) / density(&one));
    let null = c.null(Par::Rayon, Draws { n: 20, seed: 1 });
    for (score, value) in [
        (null.containment, r.containment),
        (null.attachment, r.attachment),
        (null.median_lift, r.median_lift),
        (null.real_edges, r.real_edges),
        (null.phi, r.phi),
    ] {
        assert_close("value of a null", score.value, value);
        // The edges are random, so that their scores equal those of shuffled ones.
        assert!(score.draws == 20 && (score.z.is_nan() || score.z.abs() < 4.0), "{score:?}");
    }
    let again = c.null(Par::Seq, Draws { n: 20, seed: 1 });
    assert_eq!(format!("{again:?}"), format!("{null:?}"));
    let gated = c.gated();
    let living: Vec<_> = gated.child.iter().filter(|c| c.fires >= 10).collect();
    let harmful = living.iter().filter(|c| c.gain < 0.0).count() as f64 / living.len() as f64;
    assert_close("harmful", gated.harmful, harmful);
    assert_eq!((gated.containment_by_construction, gated.coverage), (r.containment, r.coverage));
    assert_eq!((gated.median_lift_by_construction, gated.phi_by_construction), (r.median_lift, r.phi));
    assert_eq!(r.children_without_treeness, alive().filter(|c| c.treeness.is_nan()).count());
}

/// With two blocks of sequences, a resample has the first block twice, the second twice, or both once.
#[test]
fn intervals_of_edges_are_those_of_their_blocks() {
    let (tokens, cut, f1, f2) = (400, 150, 7, 24);
    let (one, two) = (Case::new(5, tokens, f1), Case::new(6, tokens, f2));
    let parent: Vec<u32> = (0..f2 as u32).map(|j| if j % 6 == 5 { ROOT } else { j % 7 }).collect();
    let counted = |runs: &[(usize, usize)]| {
        let mut c = Composition::new(f1, &parent).unwrap();
        for &(from, to) in runs {
            one.with(from, to, |a| two.with(from, to, |b| c.add(a, b, None).unwrap()));
        }
        c.report()
    };
    let mut blocks = EdgeBlocks::new(f1, &parent, 2).unwrap();
    // The second sequence is added in two parts; the codes of its first part also have the rows of the first sequence.
    one.with(0, 200, |a| two.with(0, 200, |b| blocks.add(0, 0..cut, a, b).unwrap()));
    one.with(0, 200, |a| two.with(0, 200, |b| blocks.add(1, cut..200, a, b).unwrap()));
    one.with(200, tokens, |a| two.with(200, tokens, |b| blocks.add(1, 0..tokens - 200, a, b).unwrap()));
    let found = blocks.report(Par::Rayon, Resamples::default());
    assert_eq!(format!("{found:?}"), format!("{:?}", blocks.report(Par::Seq, Resamples::default())));
    let whole = counted(&[(0, tokens)]);
    type Of = fn(&CompositionReport) -> f64;
    let scores: [(&str, Interval, Of); 7] = [
        ("attachment", found.attachment, |r| r.attachment),
        ("containment", found.containment, |r| r.containment),
        ("lift", found.median_lift, |r| r.median_lift),
        ("real", found.real_edges, |r| r.real_edges),
        ("phi", found.phi, |r| r.phi),
        ("exclusivity", found.exclusivity, |r| r.exclusivity),
        ("purity", found.purity, |r| r.purity),
    ];
    for (name, interval, of) in scores {
        assert_close(name, interval.value, of(&whole));
        assert!(interval.blocks == 2 && interval.low <= interval.value.max(interval.high), "{name}: {interval:?}");
    }
    // Edges are alive by the counts of all tokens. Where each block has the same ones, its score is one of the
    // resamples.
    let ends = [counted(&[(0, cut); 2]), counted(&[(cut, tokens); 2])];
    let alive = |r: &CompositionReport| r.child.iter().map(|c| c.fires >= 10).collect::<Vec<_>>();
    assert!(ends.iter().all(|r| r.attachment.is_finite()) && alive(&whole).iter().any(|a| *a));
    let drawn = [found.purity.low, found.purity.high];
    for r in &ends {
        let parents = |r: &CompositionReport| r.parent.iter().map(|p| p.fires >= 10).collect::<Vec<_>>();
        assert_eq!(parents(r), parents(&whole), "the case is chosen so that every parent is alive in both");
        assert!(drawn.iter().any(|d| (d - r.purity).abs() < 1e-12), "{drawn:?} {}", r.purity);
    }
}

#[test]
fn composition_of_an_exact_tree() {
    // Parents 0 and 1 have two exclusive children each; on one token in four nothing fires.
    let (mut o1, mut i1, mut o2, mut i2) = (vec![0], vec![], vec![0], vec![]);
    for t in 0..160u32 {
        if t % 4 != 3 {
            let p = u32::from(t % 3 == 0);
            i1.push(p);
            i2.push(2 * p + t % 2);
        }
        o1.push(i1.len());
        o2.push(i2.len());
    }
    let one = vec![1.0; i1.len()];
    let codes1 = CodesView::new(&o1, &i1, &one, 2).unwrap();
    let codes2 = CodesView::new(&o2, &i2, &one, 4).unwrap();
    let mut c = Composition::new(2, &[0, 0, 1, 1]).unwrap();
    c.add(&codes1, &codes2, None).unwrap();
    let r = c.report();
    assert_eq!((r.containment, r.coverage, r.exclusivity), (1.0, 1.0, 1.0));
    assert_eq!(r.child[2].treeness, 1.0);
    assert!(c.gated().harmful.is_nan() && c.gated().child[0].gain.is_nan());
    assert_eq!(r.child[2].lift, 160.0 / f64::from(i1.iter().sum::<u32>()));
    assert_eq!((r.or_hamming, r.inverted_edges, r.child[2].containment), (0.0, 0.0, 1.0));
    assert!(r.child[2].npmi > 0.3 && r.child[2].phi > 0.3, "{:?}", r.child[2]);
    let null = c.null(Par::Seq, Draws::default());
    assert_eq!(null.containment.value, 1.0);
    assert!(null.containment.excess > 0.2 && null.phi.excess > 0.2 && null.median_lift.excess > 0.2, "{null:?}");
}

#[test]
fn composition_of_nothing_and_of_an_only_child() {
    let none = Composition::new(2, &[0, ROOT]).unwrap();
    let r = none.report();
    assert!(r.phi.is_nan() && r.inverted_edges.is_nan() && r.density_ratio.is_nan() && r.or_hamming.is_nan());
    assert!(r.parent[0].purity.is_nan() && r.parent[0].child_entropy_bits.is_nan());
    let null = none.null(Par::Seq, Draws { n: 3, seed: 0 });
    assert!(null.phi.value.is_nan() && null.real_edges.z.is_nan());
    // A model without families.
    let r = Composition::new(2, &[ROOT; 3]).unwrap().report();
    assert!(r.parent.is_empty() && r.purity.is_nan() && r.containment.is_nan());
    // The parent fires on 1 token of 4 and its only child on 3: the edge is inverted.
    let one = CodesView::new(&[0, 1, 1, 1, 1], &[0], &[1.0], 1).unwrap();
    let two = CodesView::new(&[0, 1, 2, 3, 3], &[0; 3], &[1.0; 3], 1).unwrap();
    let mut c = Composition::new(1, &[0]).unwrap();
    (0..4).for_each(|_| c.add(&one, &two, None).unwrap());
    let r = c.report();
    assert_eq!((r.inverted_edges, r.or_hamming, r.child[0].jaccard), (1.0, 0.5, 1.0 / 3.0));
    assert_eq!((r.parent[0].purity, r.parent[0].child_entropy_bits, r.parent[0].effective_children), (1.0, 0.0, 1.0));
    assert!(r.parent[0].child_entropy.is_nan() && r.child_entropy.is_nan());
    assert!(r.parent[0].child_entropy_bits.is_sign_positive());
    // Three children of one parent fire on 2, 1 and 1 of its tokens: q = (1/2, 1/4, 1/4) has 1.5 bits.
    let one = CodesView::new(&[0, 1, 2, 3, 4], &[0; 4], &[1.0; 4], 1).unwrap();
    let two = CodesView::new(&[0, 1, 2, 3, 4], &[0, 1, 0, 2], &[1.0; 4], 3).unwrap();
    let mut three = Composition::new(1, &[0; 3]).unwrap();
    three.add(&one, &two, None).unwrap();
    let p = &three.report().parent[0];
    assert_eq!((p.purity, p.child_entropy_bits, p.or_hamming), (0.5, 1.5, 0.0));
    assert_close("effective children", p.effective_children, 8f64.sqrt());
    assert_close("of log2 3", p.child_entropy, 1.5 / 3f64.log2());
    // phi of (4 * 1 - 1 * 3) / sqrt(1 * 3 * 3 * 1).
    assert_close("phi", r.child[0].phi, 1.0 / 3.0);
    assert_close("npmi", r.child[0].npmi, (4.0f64 / 3.0).ln() / 4f64.ln());
}

#[test]
fn composition_refuses_tables_that_are_too_large_and_parents_that_are_not_there() {
    let parent = vec![ROOT; 1 << 14];
    let err = Composition::new((1 << 13) + 1, &parent).unwrap_err();
    assert!(matches!(&err, Error::Config { why, .. } if why.contains("pairs")), "{err}");
    assert!(matches!(Composition::new(3, &[0, 3]), Err(Error::Index { index: 3, len: 3, .. })));
    let mut c = Composition::new(3, &[0, 1]).unwrap();
    let codes = CodesView::new(&[0, 1], &[0], &[1.0], 2).unwrap();
    assert!(matches!(c.add(&codes, &codes, None), Err(Error::Shape { expected: 3, got: 2, .. })));
    assert!(matches!(Sparsity::new(3).add(&codes), Err(Error::Shape { expected: 3, got: 2, .. })));
    let infinite = CodesView::new(&[0, 0, 1], &[0], &[f32::INFINITY], 2).unwrap();
    assert!(matches!(Sparsity::new(2).add(&infinite), Err(Error::NotFinite { at: At::Token(1), .. })));
    let huge = CodesView::new(&[0, 1], &[0], &[1e15], 2).unwrap();
    assert!(matches!(Sparsity::new(2).add(&huge), Err(Error::Range { .. })));
    let errors = Errors { error: &[0.0], decoder2: &[1.0, 1.0], d: 1 };
    let one = CodesView::new(&[0, 0], &[], &[], 3).unwrap();
    assert!(matches!(c.add(&one, &huge, Some(errors)), Err(Error::Range { .. })));
    assert_eq!(c.report().tokens, 0);
}
