//! Probes compared with scikit-learn, TPP and SCR compared with SAEBench's formulas token by token, and their
//! invariants.

use proptest::prelude::*;
use safetensors::SafeTensors;
use strata_core::error::At;
use strata_core::metrics::probe::erase::{Examples, ScrTasks, scr, tpp};
use strata_core::metrics::probe::logistic::{Settings, fit};
use strata_core::metrics::probe::mdl::{Mdl, STEPS, step_for};
use strata_core::metrics::probe::protocol::{self, Candidates, Setting};
use strata_core::metrics::probe::sparse::{dense_probe, on_latents, ranked, sparse_probes};
use strata_core::metrics::probe::{Answers, Binary, Labelled, joined, mean_difference, pool, split};
use strata_core::model::Codes;
use strata_core::{Error, Par, Philox};

struct Golden(SafeTensors<'static>);

impl Golden {
    fn open() -> Self {
        Self(SafeTensors::deserialize(include_bytes!("../golden/probe.safetensors")).unwrap())
    }
    fn shape(&self, key: &str) -> Vec<usize> {
        self.0.tensor(key).unwrap().shape().to_vec()
    }
    fn f32(&self, key: &str) -> Vec<f32> {
        self.0.tensor(key).unwrap().data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    }
    fn f64(&self, key: &str) -> Vec<f64> {
        self.0.tensor(key).unwrap().data().as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect()
    }
    fn u8(&self, key: &str) -> Vec<u8> {
        self.0.tensor(key).unwrap().data().to_vec()
    }
}

fn all(label: impl IntoIterator<Item = bool>) -> Labelled {
    let label: Vec<bool> = label.into_iter().collect();
    Labelled { row: (0..label.len() as u32).collect(), label }
}

/// Dense rows of latents as codes.
fn codes_of(z: &[f32], latents: usize) -> Codes {
    let mut codes = Codes::new();
    for row in z.chunks_exact(latents) {
        for (j, v) in row.iter().enumerate().filter(|(_, v)| **v > 0.0) {
            codes.index.push(j as u32);
            codes.value.push(*v);
        }
        codes.end_row();
    }
    codes
}

#[test]
fn logistic_regression_equals_scikit_learn() {
    let g = Golden::open();
    for name in ["plain", "weighted", "scaled", "separable"] {
        let key = |k: &str| format!("{name}.{k}");
        let (x, width) = (g.f32(&key("x")), g.shape(&key("x"))[1]);
        let on = all(g.u8(&key("y")).into_iter().map(|y| y == 1));
        let settings = Settings { c: g.f64(&key("c"))[0], balanced: name == "weighted", ..Settings::default() };
        let probe = fit(&x, width, &on, &settings).unwrap();
        assert!(probe.converged && probe.steps < 30, "{name}: {} steps", probe.steps);
        let (coef, intercept) = (g.f64(&key("coef")), g.f64(&key("intercept"))[0]);
        // The scaled columns have means of up to 5,000 standard deviations, which costs the reference some digits.
        let bound = if name == "scaled" { 1e-5 } else { 1e-7 };
        for (got, want) in probe.weight.iter().zip(&coef).chain([(&probe.bias, &intercept)]) {
            assert!((got - want).abs() <= bound * want.abs().max(1.0), "{name}: {probe:?}, {coef:?} {intercept}");
        }
    }
}

#[test]
fn a_fit_is_a_stationary_point_and_does_not_depend_on_the_order_of_the_rows() {
    let mut rng = Philox::new(3, 0);
    let (n, d) = (150, 7);
    let x: Vec<f32> = (0..n * d).map(|i| rng.normal_f32() * [1.0, 30.0, 0.01][i % d % 3] + 5.0).collect();
    let mut on = all((0..n).map(|i| x[i * d] + 0.2 * x[i * d + 1] + rng.normal_f32() > 6.0));
    let settings = Settings { c: 0.7, ..Settings::default() };
    let probe = fit(&x, d, &on, &settings).unwrap();
    assert!(probe.converged);
    let mut gradient: Vec<f64> = probe.weight.clone();
    let mut total = 0.0;
    for (i, &label) in on.label.iter().enumerate() {
        let row = &x[i * d..(i + 1) * d];
        let margin: f64 = row.iter().zip(&probe.weight).map(|(x, w)| f64::from(*x) * w).sum::<f64>() + probe.bias;
        let slope = 0.7 * (1.0 / (1.0 + (-margin).exp()) - f64::from(u8::from(label)));
        gradient.iter_mut().zip(row).for_each(|(g, x)| *g += slope * f64::from(*x));
        total += slope;
    }
    assert!(total.abs() < 1e-6 && gradient.iter().all(|g| g.abs() < 1e-5), "{total} {gradient:?}");
    let mut order: Vec<usize> = (0..n).collect();
    rng.shuffle(&mut order);
    on = Labelled {
        row: order.iter().map(|i| *i as u32).collect(),
        label: order.iter().map(|i| on.label[*i]).collect(),
    };
    let other = fit(&x, d, &on, &settings).unwrap();
    for (a, b) in probe.weight.iter().zip(&other.weight) {
        assert!((a - b).abs() < 1e-7, "{a} {b}");
    }
}

#[test]
fn a_fit_refuses_what_has_no_answer() {
    let x = [1.0, 2.0, 3.0, 4.0];
    let settings = Settings::default();
    let one = all([true; 4]);
    let err = fit(&x, 1, &one, &settings).unwrap_err();
    assert_eq!(err.to_string(), "negative examples of a probe: expected 1, found 0");
    let two = all([true, false, true, false]);
    let err = fit(&x, 3, &two, &settings).unwrap_err();
    assert!(matches!(err, Error::Shape { expected: 3, got: 4, .. }), "{err}");
    let mut far = two.clone();
    far.row[2] = 4;
    assert!(matches!(fit(&x, 1, &far, &settings).unwrap_err(), Error::Index { index: 4, len: 4, .. }));
    let err = fit(&[1.0, f32::NAN, 0.0, 2.0], 1, &two, &settings).unwrap_err();
    assert!(matches!(err, Error::NotFinite { at: At::Row(1), .. }), "{err}");
    for c in [0.0, -1.0, f64::NAN] {
        assert!(matches!(fit(&x, 1, &two, &Settings { c, ..settings }).unwrap_err(), Error::Config { .. }));
    }
    // A constant column has the weight 0, and the bias is the log-odds.
    let odds = all([true, true, true, false]);
    let probe = fit(&[5.0; 4], 1, &odds, &settings).unwrap();
    assert!(probe.converged && probe.weight[0] == 0.0 && (probe.bias - 3f64.ln()).abs() < 1e-9, "{probe:?}");
}

/// The pooled sequences of the stored example: rows, codes, decoder, classes and attributes.
struct Pooled {
    x: Vec<f32>,
    d: usize,
    codes: Codes,
    latents: usize,
    decoder: Vec<f32>,
    train: usize,
}

fn pooled(g: &Golden) -> Pooled {
    let shape = g.shape("seq.f");
    let (sequences, tokens, latents) = (shape[0], shape[1], shape[2]);
    let d = g.shape("seq.x")[2];
    let codes = codes_of(&g.f32("seq.f"), latents);
    let starts: Vec<usize> = (0..sequences).map(|s| s * tokens).collect();
    let (x, codes) = pool(&g.f32("seq.x"), d, &codes.view(latents).unwrap(), &starts).unwrap();
    Pooled { x, d, codes, latents, decoder: g.f32("seq.dec"), train: 160 }
}

impl Pooled {
    fn examples(&self) -> Examples<'_> {
        let codes = self.codes.view(self.latents).unwrap();
        Examples { x: &self.x, d: self.d, codes, decoder: &self.decoder }
    }
    fn task(&self, label: impl Fn(usize) -> bool) -> Binary {
        let side = |rows: std::ops::Range<usize>| Labelled {
            row: rows.clone().map(|i| i as u32).collect(),
            label: rows.map(&label).collect(),
        };
        Binary { train: side(0..self.train), test: side(self.train..self.codes.n()) }
    }
}

#[test]
fn sparse_probes_equal_scikit_learn() {
    let g = Golden::open();
    let p = pooled(&g);
    let class = g.u8("seq.cls");
    let task = p.task(|i| class[i] == 0);
    let codes = p.codes.view(p.latents).unwrap();
    let found = sparse_probes(Par::Seq, &codes, &task, &[1, 2, 5], &Settings::default()).unwrap();
    for probe in &found {
        let want = g.f64(&format!("sparse.{}", probe.k));
        assert!(probe.converged);
        assert!((probe.accuracy - want[0]).abs() < 1e-12 && (probe.f1 - want[1]).abs() < 1e-12, "{probe:?} {want:?}");
        assert_eq!(probe.latents, want[2..].iter().map(|j| *j as u32).collect::<Vec<_>>());
    }
    assert_eq!(found, sparse_probes(Par::Rayon, &codes, &task, &[1, 2, 5], &Settings::default()).unwrap());
}

#[test]
fn tpp_and_scr_equal_the_formulas_a_token_at_a_time() {
    let g = Golden::open();
    let p = pooled(&g);
    let (class, a, b) = (g.u8("seq.cls"), g.u8("seq.a"), g.u8("seq.b"));
    let settings = Settings::default();
    let tasks = [0, 1, 2].map(|c| p.task(|i| class[i] == c));
    let found = tpp(Par::Rayon, &p.examples(), &tasks, &[2, 5, 20], &settings).unwrap();
    assert!(found.converged);
    for (got, want) in found.accuracy.iter().zip(g.f64("tpp.clean")) {
        assert!((got - want).abs() < 1e-12, "{got} {want}");
    }
    for point in &found.points {
        let want = g.f64(&format!("tpp.{}", point.n));
        for (got, want) in [point.tpp, point.intended, point.unintended].into_iter().zip(want) {
            assert!((got - want).abs() < 1e-12, "{point:?} {want}");
        }
    }
    let (ta, tb) = (p.task(|i| a[i] == 1), p.task(|i| b[i] == 1));
    let same: Vec<u32> = (0..p.train as u32).filter(|i| a[*i as usize] == b[*i as usize]).collect();
    let biased = Labelled { label: same.iter().map(|i| a[*i as usize] == 1).collect(), row: same };
    let tasks = ScrTasks { a: ta, b: tb, biased };
    let found = scr(Par::Rayon, &p.examples(), &tasks, &[1, 2, 5], &settings).unwrap();
    let accuracy = [found.clean, found.biased].concat();
    for (got, want) in accuracy.iter().zip(g.f64("scr.accuracy")) {
        assert!((got - want).abs() < 1e-12, "{got} {want}");
    }
    for point in &found.points {
        let want = g.f64(&format!("scr.{}", point.n));
        for (l, got) in [point.a, point.b].into_iter().enumerate() {
            // Undefined only where the bias costs less than two standard errors, which are `1 / sqrt(n)` at most.
            let lost = found.clean[l] - found.biased[l];
            let n = [&tasks.a, &tasks.b][l].test.row.len() as f64;
            let undefined = got.is_nan() && lost <= 2.0 / n.sqrt();
            assert!(undefined || (got - want[1 + l]).abs() < 1e-9, "{point:?} {want:?}");
        }
        assert!(point.scr.is_nan() || (point.scr - want[0]).abs() < 1e-9, "{point:?} {want:?}");
        assert!(!point.a.is_nan(), "{point:?}");
    }
    let err = tpp(Par::Seq, &p.examples(), &[], &[2], &settings).unwrap_err();
    assert_eq!(err.to_string(), "classes of TPP: expected 2, found 0");
    let short = Examples { decoder: &p.decoder[1..], ..p.examples() };
    assert!(matches!(scr(Par::Seq, &short, &tasks, &[2], &settings).unwrap_err(), Error::Shape { .. }));
}

/// Returns rows with two attributes, each an axis with one latent per sign; the codes, the decoder and the attributes.
fn planted(n: usize) -> (Vec<f32>, Codes, Vec<f32>, Vec<bool>, Vec<bool>) {
    let mut rng = Philox::new(5, 0);
    let (mut x, mut z, mut a, mut b) = (vec![], vec![], vec![], vec![]);
    for _ in 0..n {
        let (ia, ib) = (rng.below(2) == 1, rng.below(2) == 1);
        let (za, zb) = (2.0 + rng.uniform_f32(), 4.0 + rng.uniform_f32());
        let sign = |on: bool, z: f32| if on { z } else { -z };
        x.extend([sign(ia, za) + 0.3 * rng.normal_f32(), sign(ib, zb) + 0.3 * rng.normal_f32(), rng.normal_f32()]);
        let either = |on: bool, z: f32| if on { [z, 0.0] } else { [0.0, z] };
        z.extend(either(ia, za));
        z.extend(either(ib, zb));
        a.push(ia);
        b.push(ib);
    }
    let decoder = vec![1.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, -1.0, 0.0];
    (x, codes_of(&z, 4), decoder, a, b)
}

/// The tasks of two attributes of 800 rows: 600 to train on, and 200 to test on. The biased task has the training rows
/// on which the attributes agree.
fn planted_tasks(a: &[bool], b: &[bool]) -> ScrTasks {
    let side = |rows: std::ops::Range<usize>, of: &[bool]| Labelled {
        row: rows.clone().map(|i| i as u32).collect(),
        label: of[rows].to_vec(),
    };
    let task = |of: &[bool]| Binary { train: side(0..600, of), test: side(600..800, of) };
    let rows: Vec<u32> = (0..600).filter(|i| a[*i as usize] == b[*i as usize]).collect();
    let biased = Labelled { label: rows.iter().map(|i| a[*i as usize]).collect(), row: rows };
    ScrTasks { a: task(a), b: task(b), biased }
}

#[test]
fn clean_latents_have_a_perfect_tpp_and_scr() {
    let (x, codes, decoder, a, b) = planted(800);
    let ex = Examples { x: &x, d: 3, codes: codes.view(4).unwrap(), decoder: &decoder };
    let settings = Settings::default();
    let tasks = planted_tasks(&a, &b);
    let found = tpp(Par::Seq, &ex, &[tasks.a.clone(), tasks.b.clone()], &[1], &settings).unwrap();
    let t = &found.points[0];
    // Without its latent a positive row is noise, so that half of the positive rows are classified as negative.
    assert!((t.intended - 0.25).abs() < 0.05 && t.unintended == 0.0 && t.removed == 1.0, "{t:?}");
    let found = scr(Par::Seq, &ex, &tasks, &[2], &settings).unwrap();
    assert!(found.biased[0] < 0.9 && found.biased[1] == 1.0, "the probe follows the larger attribute: {found:?}");
    let s = &found.points[0];
    // In the other direction the bias costs no accuracy, so that the score is undefined.
    assert!(s.scr == s.a && s.a > 0.9 && s.b.is_nan() && s.removed == [2, 2], "{s:?}");
}

/// Random labels and attributes have no bias that could be removed.
#[test]
fn spurious_correlations_that_are_not_there_have_no_score() {
    let (x, codes, decoder, _, _) = planted(800);
    let ex = Examples { x: &x, d: 3, codes: codes.view(4).unwrap(), decoder: &decoder };
    let (mut undefined, cases) = (0, 10);
    for seed in 0..cases {
        let mut rng = Philox::new(seed, 1);
        let [a, b] = [0, 1].map(|_| (0..800).map(|_| rng.below(2) == 1).collect::<Vec<bool>>());
        let tasks = planted_tasks(&a, &b);
        let found = scr(Par::Seq, &ex, &tasks, &[2], &Settings::default()).unwrap();
        undefined += [found.points[0].a, found.points[0].b].iter().filter(|v| v.is_nan()).count();
    }
    // By chance one case in 44 exceeds two standard errors on one side.
    assert!(undefined >= 2 * cases as usize - 3, "{undefined}");
}

/// Sixteen latents of one class, of which each fires on a part of its rows; noise latents fire on any.
fn spread_out(n: usize) -> (Vec<f32>, Codes, Vec<Option<u32>>) {
    let mut rng = Philox::new(8, 0);
    let (mut x, mut z, mut class) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..n {
        let is_in = rng.below(3) == 0;
        let part = rng.below(16) as usize;
        let row: Vec<f32> = (0..64)
            .map(|j| {
                let on = if j < 16 { is_in && j == part } else { rng.below(40) == 0 };
                // Latents have different units: the ranking must not depend on them.
                if on { (1.0 + rng.uniform_f32()) * 10f32.powi(j as i32 % 7 - 3) } else { 0.0 }
            })
            .collect();
        x.extend([if is_in { 1.0 } else { -1.0 } + 0.2 * rng.normal_f32(), rng.normal_f32()]);
        z.extend(row);
        class.push(Some(u32::from(is_in)));
    }
    (x, codes_of(&z, 64), class)
}

#[test]
fn areas_by_the_protocol_of_sae_probes_are_those_of_planted_latents() {
    let n = 4000;
    let (x, codes, class) = spread_out(n);
    let is_test: Vec<bool> = (0..n).map(|i| i % 4 == 3).collect();
    let rows = Candidates::one_against_rest(&class, 1, &is_test, 0);
    let view = codes.view(64).unwrap();
    let empty = Codes { offsets: vec![0; n + 1], index: vec![], value: vec![] };
    let views = [view, empty.view(0).unwrap(), view];
    let points = protocol::points(&x, 2, &views, &rows).unwrap();
    let at = |setting: Setting, k: usize| points.iter().find(|p| p.setting == setting && p.k == k).unwrap();
    // `k` of the sixteen latents find `k / 16` of the class and nothing else: an area of 1/2 + k/32, level 1 being all.
    for k in protocol::KS.into_iter().filter(|k| *k <= 16) {
        let point = at(Setting::Normal, k);
        assert!((point.both - (0.5 + k as f64 / 32.0)).abs() < 0.03, "{point:?}");
        assert!(point.level1 == point.both && point.level2.is_nan() && point.rows > 0.99, "{point:?}");
        assert_eq!((point.train, point.positive), (1024.0, 0.5));
    }
    for point in points.iter().filter(|p| p.setting == Setting::Scarce) {
        assert!(point.rows > 0.9 && point.both >= 0.5 - 0.05 && point.level1.is_nan(), "{point:?}");
    }
    let scarce: Vec<f64> = points.iter().filter(|p| p.setting == Setting::Scarce).map(|p| p.both).collect();
    assert!(scarce[3] > 0.85 && scarce[3] > scarce[0] + 0.1, "few examples find few of the latents: {scarce:?}");
    for point in points.iter().filter(|p| p.setting == Setting::Unbalanced) {
        assert!(point.rows > 0.95 && point.both > 0.7 && point.train > 900.0, "{point:?}");
    }
    // Another unit of the activations changes no bit of the scores.
    let scaled: Vec<f32> = x.iter().map(|v| v * 1024.0).collect();
    let mut same = codes.clone();
    same.value.iter_mut().for_each(|v| *v *= 1024.0);
    let of = same.view(64).unwrap();
    let again = protocol::points(&scaled, 2, &[of, empty.view(0).unwrap(), of], &rows).unwrap();
    assert_eq!(format!("{points:?}"), format!("{again:?}"));
    // Random labels cannot be predicted.
    let mut rng = Philox::new(2, 0);
    let random: Vec<Option<u32>> = (0..n).map(|_| Some(rng.below(2) as u32)).collect();
    let chance = protocol::points(&x, 2, &views, &Candidates::one_against_rest(&random, 1, &is_test, 0)).unwrap();
    for point in chance.iter().filter(|p| p.setting == Setting::Normal) {
        assert!((point.both - 0.5).abs() < 0.08 && (point.rows - 0.5).abs() < 0.08, "{point:?}");
    }
    let mean = protocol::mean(&[points.clone(), chance.clone()]);
    assert_eq!(mean[0].both, (points[0].both + chance[0].both) / 2.0);
    // A class of two rows has too few examples for most settings.
    let rare: Vec<Option<u32>> = (0..n).map(|i| Some(u32::from(i < 2))).collect();
    let few = protocol::points(&x, 2, &views, &Candidates::one_against_rest(&rare, 1, &is_test, 0)).unwrap();
    assert!(few.iter().all(|p| p.both.is_nan()), "no row of it to test on");
}

#[test]
fn examples_have_the_shares_that_were_asked_for() {
    let class: Vec<Option<u32>> = (0..1000).map(|i| Some(u32::from(i % 10 == 0))).collect();
    let is_test: Vec<bool> = (0..1000).map(|i| i >= 800).collect();
    let rows = Candidates::one_against_rest(&class, 1, &is_test, 3);
    assert_eq!([rows.train[1].len(), rows.train[0].len(), rows.test[1].len()], [80, 720, 20]);
    let found = rows.examples(64, 0.5).unwrap();
    assert_eq!((found.train.len(), found.train.positives()), (64, 32));
    assert_eq!((found.test.len(), found.test.positives()), (40, 20));
    let found = rows.examples(100, 0.05).unwrap();
    assert_eq!((found.train.positives(), found.test.len(), found.test.positives()), (5, 189, 10));
    for on in [&found.train, &found.test] {
        assert!(on.row.iter().zip(&on.label).all(|(r, l)| (*r % 10 == 0) == *l));
        let mut drawn = on.row.clone();
        drawn.sort_unstable();
        drawn.dedup();
        assert_eq!(drawn.len(), on.len(), "no row twice");
    }
    assert!(found.train.row.iter().all(|r| *r < 800) && found.test.row.iter().all(|r| *r >= 800));
    assert!(rows.examples(400, 0.5).is_none(), "more rows of the class than there are");
}

#[test]
fn probes_do_not_depend_on_the_order_of_latents() {
    let g = Golden::open();
    let p = pooled(&g);
    let class = g.u8("seq.cls");
    let mut rng = Philox::new(9, 0);
    let mut place: Vec<u32> = (0..p.latents as u32).collect();
    rng.shuffle(&mut place);
    let mut codes = Codes::new();
    for i in 0..p.codes.n() {
        let row = p.codes.row(i);
        let mut moved: Vec<(u32, f32)> =
            row.index.iter().zip(row.value).map(|(j, z)| (place[*j as usize], *z)).collect();
        moved.sort_by_key(|m| m.0);
        codes.index.extend(moved.iter().map(|m| m.0));
        codes.value.extend(moved.iter().map(|m| m.1));
        codes.end_row();
    }
    let mut decoder = vec![0.0; p.decoder.len()];
    for (j, row) in p.decoder.chunks(p.d).enumerate() {
        decoder[place[j] as usize * p.d..][..p.d].copy_from_slice(row);
    }
    let other = Pooled { codes, decoder, x: p.x.clone(), ..p };
    let (tasks, settings) = ([0, 1, 2].map(|c| p.task(|i| class[i] == c)), Settings::default());
    let one = tpp(Par::Seq, &p.examples(), &tasks, &[2, 5], &settings).unwrap();
    let two = tpp(Par::Seq, &other.examples(), &tasks, &[2, 5], &settings).unwrap();
    assert_eq!(one, two);
    let of = |p: &Pooled| sparse_probes(Par::Seq, &p.examples().codes, &tasks[1], &[1, 2, 5], &settings).unwrap();
    for (a, b) in of(&p).iter().zip(of(&other)) {
        assert_eq!((a.accuracy, a.f1), (b.accuracy, b.f1));
        assert_eq!(a.latents.iter().map(|j| place[*j as usize]).collect::<Vec<_>>(), b.latents);
    }
}

#[test]
fn without_a_latent_that_differs_the_more_frequent_answer_is_given() {
    let codes = codes_of(&[1.0, 1.0, 1.0, 1.0], 1);
    let view = codes.view(1).unwrap();
    let task = Binary { train: all([true, false, false, false]), test: all([true, false, true, false]) };
    assert_eq!(mean_difference(&view, &task.train).unwrap(), [0.0]);
    let found = sparse_probes(Par::Seq, &view, &task, &[3], &Settings::default()).unwrap();
    assert_eq!((found[0].latents.len(), found[0].accuracy, found[0].f1), (0, 0.5, 0.0));
    assert_eq!(ranked(&[0.5, -0.5, 0.0, f64::NAN, 2.0]), [4, 0, 1]);
    let err = on_latents(&view, &[1], &task, &Settings::default()).unwrap_err();
    assert!(matches!(err, Error::Index { index: 1, len: 1, .. }));
    let far = Binary { test: Labelled { row: vec![4], label: vec![true] }, ..task };
    assert!(sparse_probes(Par::Seq, &view, &far, &[1], &Settings::default()).is_err());
    assert!(dense_probe(&[0.0, 1.0, 2.0, 3.0], 1, &far, &Settings::default()).is_err());
}

#[test]
fn a_probe_on_latents_is_the_fit_of_their_dense_columns() {
    let (n, latents) = (400usize, 6usize);
    let mut rng = Philox::new(11, 0);
    // On most rows none of the chosen latents fires.
    let z: Vec<f32> =
        (0..n * latents).map(|_| if rng.below(8) == 0 { rng.normal_f32().abs() + 0.1 } else { 0.0 }).collect();
    let codes = codes_of(&z, latents);
    let view = codes.view(latents).unwrap();
    let chosen = [4u32, 1];
    let label: Vec<bool> =
        (0..n).map(|i| z[i * latents + 4] - z[i * latents + 1] + 0.5 * rng.normal_f32() > 0.1).collect();
    let of = |rows: std::ops::Range<usize>| Labelled {
        row: rows.clone().map(|r| r as u32).collect(),
        label: label[rows].to_vec(),
    };
    let task = Binary { train: of(0..300), test: of(300..n) };
    let x: Vec<f32> = (0..n).flat_map(|i| chosen.map(|j| z[i * latents + j as usize])).collect();
    for settings in [Settings::default(), Settings { c: 0.3, balanced: true, ..Settings::default() }] {
        let (answers, converged) = on_latents(&view, &chosen, &task, &settings).unwrap();
        let probe = fit(&x, 2, &task.train, &settings).unwrap();
        let called = task.test.row.iter().map(|&r| probe.margin(&x[r as usize * 2..][..2]) > 0.0);
        let want = Answers::of(task.test.label.iter().copied().zip(called));
        assert!(converged && probe.converged);
        assert_eq!((answers.accuracy(), answers.f1()), (want.accuracy(), want.f1()));
        assert!(want.accuracy() > 0.6 && want.accuracy() < 1.0);
    }
    let short = Binary { train: Labelled { label: vec![true, false], ..task.train.clone() }, ..task.clone() };
    assert!(matches!(on_latents(&view, &chosen, &short, &Settings::default()), Err(Error::Shape { .. })));
    let beyond = Binary { train: Labelled { row: vec![0, n as u32], label: vec![true, false] }, ..task.clone() };
    assert!(matches!(on_latents(&view, &chosen, &beyond, &Settings::default()), Err(Error::Index { .. })));
    let mut infinite = codes.clone();
    let row = (0..n).find(|i| i > &5 && z[i * latents + 4] > 0.0).unwrap();
    let at = infinite.offsets[row] + codes.row(row).index.iter().position(|j| *j == 4).unwrap();
    infinite.value[at] = f32::INFINITY;
    let error = on_latents(&infinite.view(latents).unwrap(), &chosen, &task, &Settings::default()).unwrap_err();
    assert!(matches!(error, Error::NotFinite { at: At::Row(at), .. } if at == row as u64), "{error}");
}

#[test]
fn answers_are_counted() {
    let pairs = [(true, true), (true, false), (false, true), (false, false), (false, false)];
    let a = Answers::of(pairs.into_iter());
    assert_eq!((a.true_positive, a.false_negative, a.false_positive, a.true_negative), (1, 1, 1, 2));
    assert_eq!((a.accuracy(), a.f1(), a.precision(), a.recall()), (0.6, 0.5, 0.5, 0.5));
    let none = Answers::default();
    assert!([none.accuracy(), none.f1(), none.precision(), none.recall()].iter().all(|v| v.is_nan()));
}

#[test]
fn a_split_deals_out_contiguous_blocks() {
    let side = split(1000, 0.2, 4);
    assert_eq!(side.iter().filter(|t| **t).count(), 200);
    let edges = side.windows(2).filter(|w| w[0] != w[1]).count();
    assert!((2..=20).contains(&edges), "ten blocks of twenty: {edges} edges");
    assert_eq!(side, split(1000, 0.2, 4));
    assert_ne!(side, split(1000, 0.2, 5));
    assert_eq!((split(0, 0.2, 0).len(), split(1, 0.2, 0)), (0, vec![false]));
    for n in 2..60 {
        let tested = split(n, 0.2, 1).iter().filter(|t| **t).count();
        assert!(tested > 0 && tested < n, "{tested} of {n}");
    }
}

#[test]
fn a_balanced_task_takes_as_many_of_either_answer_and_no_row_twice() {
    let of: Vec<Option<u32>> = (0..500).map(|i| if i % 7 == 0 { None } else { Some(i % 5) }).collect();
    let is_test = split(500, 0.2, 0);
    let task = Binary::one_against_rest(&of, 3, &is_test, 40, 1);
    for (set, test, most) in [(&task.train, false, 40), (&task.test, true, 10)] {
        assert_eq!((set.positives(), set.len()), (most, 2 * most));
        assert!(set.row.windows(2).all(|w| w[0] < w[1]));
        for (&row, &label) in set.row.iter().zip(&set.label) {
            assert!(is_test[row as usize] == test && of[row as usize].unwrap() == 3 || !label, "row {row}");
            assert_eq!(label, of[row as usize] == Some(3));
        }
    }
    assert!(Binary::one_against_rest(&of, 9, &is_test, 40, 1).train.is_empty());
}

#[test]
fn pooling_refuses_sequences_that_do_not_fit() {
    let codes = codes_of(&[1.0, 0.0, 0.0, 2.0, 3.0, 0.0], 2);
    let view = codes.view(2).unwrap();
    let x = [1.0, 2.0, 6.0];
    let (rows, pooled) = pool(&x, 1, &view, &[0, 2]).unwrap();
    assert_eq!((rows, &pooled.index[..], &pooled.value[..]), (vec![1.5, 6.0], &[0, 1, 0][..], &[0.5, 1.0, 3.0][..]));
    for starts in [&[1][..], &[0, 0], &[0, 3], &[]] {
        assert!(matches!(pool(&x, 1, &view, starts).unwrap_err(), Error::Shape { .. }), "{starts:?}");
    }
    assert!(matches!(pool(&x, 2, &view, &[0]).unwrap_err(), Error::Shape { expected: 6, got: 3, .. }));
    let both = joined(&view, &view).unwrap();
    assert_eq!((both.row(1).index, both.n()), (&[1, 3][..], 3));
    assert!(joined(&view, &codes_of(&[1.0], 1).view(1).unwrap()).is_err());
}

/// `sum_j H(on) + p_on H(bin)`, by counting.
fn bits(z: &[f32], latents: usize, step: f64) -> (f64, f64, f64) {
    let n = z.len() / latents;
    let entropy = |counts: Vec<usize>| -> f64 {
        let total: usize = counts.iter().sum();
        counts.iter().filter(|c| **c > 0).map(|c| *c as f64 / total as f64).map(|p| -p * p.log2()).sum()
    };
    let (mut on_off, mut values, mut error) = (0.0, 0.0, 0.0);
    for j in 0..latents {
        let on: Vec<f64> = (0..n).map(|t| f64::from(z[t * latents + j])).filter(|v| *v > 0.0).collect();
        on_off += entropy(vec![on.len(), n - on.len()]);
        let mut bins = std::collections::HashMap::new();
        for v in &on {
            *bins.entry((v / step).floor() as u64).or_insert(0) += 1;
            error += (v - ((v / step).floor() + 0.5) * step).powi(2);
        }
        values += on.len() as f64 / n as f64 * entropy(bins.into_values().collect());
    }
    (on_off, values, error / n as f64)
}

proptest! {
    #[test]
    fn description_length_equals_its_definition_and_its_parts_merged(
        z in proptest::collection::vec(prop_oneof![Just(0.0f32), 0.001f32..20.0], 5 * 24), cut in 0usize..=24
    ) {
        let (latents, step) = (5, 0.07);
        let of = |z: &[f32]| {
            let mut mdl = Mdl::new(latents, step).unwrap();
            mdl.add(&codes_of(z, latents).view(latents).unwrap()).unwrap();
            mdl
        };
        let report = of(&z).report();
        prop_assert_eq!(report.points.len(), STEPS);
        for (c, point) in report.points.iter().enumerate() {
            let (on_off, values, error) = bits(&z, latents, step * f64::from(1 << c));
            prop_assert!((report.on_off_bits - on_off).abs() < 1e-9);
            prop_assert!((point.value_bits - values).abs() < 1e-9 && (point.bits - on_off - values).abs() < 1e-9);
            prop_assert!((point.squared_error - error).abs() < 1e-9 * error.max(1.0));
        }
        let (left, right) = z.split_at(cut * latents);
        let mut merged = of(right);
        merged.merge(&of(left));
        prop_assert_eq!(format!("{:?}", merged.report()), format!("{report:?}"));
    }

    #[test]
    fn mean_differences_are_those_of_the_dense_codes(
        z in proptest::collection::vec(prop_oneof![Just(0.0f32), 0.1f32..3.0], 4 * 20), seed in 0u64..100
    ) {
        let mut rng = Philox::new(seed, 0);
        let on = all((0..20).map(|_| rng.below(2) == 1));
        let got = mean_difference(&codes_of(&z, 4).view(4).unwrap(), &on).unwrap();
        for (j, got) in got.iter().enumerate() {
            let mean = |label: bool| {
                let rows: Vec<usize> = (0..20).filter(|i| on.label[*i] == label).collect();
                rows.iter().map(|i| f64::from(z[i * 4 + j])).sum::<f64>() / rows.len() as f64
            };
            let want = mean(true) - mean(false);
            prop_assert!((got - want).abs() < 1e-12 || got.is_nan() && want.is_nan());
        }
    }
}

#[test]
fn description_length_has_its_edges() {
    let empty = Mdl::new(3, 1.0).unwrap().report();
    assert!(empty.on_off_bits.is_nan() && empty.points[0].bits.is_nan());
    // A latent that is always on with one value takes no bits.
    let mut mdl = Mdl::new(1, 1.0).unwrap();
    mdl.add(&codes_of(&[2.5, 2.5], 1).view(1).unwrap()).unwrap();
    let report = mdl.report();
    assert_eq!((report.on_off_bits, report.points[0].bits, report.points[0].squared_error), (0.0, 0.0, 0.0));
    let before = format!("{report:?}");
    let err = mdl.add(&codes_of(&[1e9], 1).view(1).unwrap()).unwrap_err();
    assert!(matches!(err, Error::Capacity { .. }), "{err}");
    assert_eq!(format!("{:?}", mdl.report()), before);
    assert!(mdl.add(&codes_of(&[1.0, 1.0], 2).view(2).unwrap()).is_err());
    for step in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(matches!(Mdl::new(1, step).unwrap_err(), Error::Config { .. }));
    }
    // With uniform values the bins add the share of the error that was asked for.
    let step = step_for(0.01, 4.0, 1.0);
    let mut rng = Philox::new(1, 1);
    let z: Vec<f32> = (0..4000).map(|_| 5.0 + 20.0 * rng.uniform_f32()).collect();
    let mut mdl = Mdl::new(1, step).unwrap();
    mdl.add(&codes_of(&z, 1).view(1).unwrap()).unwrap();
    let added = mdl.report().points[0].squared_error / 4.0;
    assert!((added / 0.01 - 1.0).abs() < 0.1, "{added}");
}
