//! Patterns of activity compared with dense matrices, merged parts compared with the whole, and scores of composition
//! compared with scikit-learn and scipy.

use crate::metrics::{Case, assert_close};
use proptest::prelude::*;
use safetensors::SafeTensors;
use std::sync::Arc;
use strata_core::config::{Activation, Config, GateKind, ModelKind};
use strata_core::error::At;
use strata_core::metrics::composition::Composition;
use strata_core::metrics::fixed::{FixedSum, LIMIT};
use strata_core::metrics::leak::Leak;
use strata_core::metrics::patterns::across::Across;
use strata_core::metrics::patterns::{NO_CLASS, Patterns, Preference, position_bucket};
use strata_core::model::{Arch, CodesView, Lanes, Model};
use strata_core::rng::Philox;
use strata_core::{Codes, Compute, Encoder, Error, Isa, Par, ROOT};

const GOLDEN: &[u8] = include_bytes!("../golden/composition.safetensors");

/// Returns the positions and classes of tokens in sequences of `context`; some tokens have no class.
fn tokens(seed: u64, n: usize, context: usize, classes: u32) -> (Vec<u32>, Vec<u32>) {
    let mut rng = Philox::new(seed, 9);
    let position = (0..n).map(|t| (t % context) as u32).collect();
    let class = (0..n)
        .map(|_| match rng.below(u64::from(classes) + 1) as u32 {
            c if c == classes => NO_CLASS,
            c => c,
        })
        .collect();
    (position, class)
}

/// Whole codes of a dense matrix.
fn sparse(dense: &[f32], latents: usize) -> Codes {
    let mut codes = Codes::new();
    for row in dense.chunks(latents) {
        for (j, z) in row.iter().enumerate().filter(|(_, z)| **z > 0.0) {
            codes.index.push(j as u32);
            codes.value.push(*z);
        }
        codes.end_row();
    }
    codes
}

fn check_preference(what: &str, got: &Preference, groups: &[(u32, usize, usize)]) {
    let fires: f64 = groups.iter().map(|g| g.1 as f64).sum();
    let tokens: f64 = groups.iter().map(|g| g.2 as f64).sum();
    if fires == 0.0 {
        assert!(got.top.is_none() && got.share.is_nan() && got.lift.is_nan() && got.bits.is_nan(), "{what}: {got:?}");
        return;
    }
    let most = groups.iter().map(|g| g.1).max().unwrap();
    let top = groups.iter().find(|g| g.1 == most).unwrap();
    assert_eq!(got.top, Some(top.0), "{what}");
    assert_close(what, got.share, most as f64 / fires);
    assert_close(what, got.lift, most as f64 / fires / (top.2 as f64 / tokens));
    let bits = groups.iter().filter(|g| g.1 > 0).map(|g| {
        let q = g.1 as f64 / fires;
        q * (q / (g.2 as f64 / tokens)).log2()
    });
    assert_close(what, got.bits, bits.sum());
}

proptest! {
    #[test]
    fn fixed_sums_do_not_depend_on_grouping_and_are_off_by_a_unit_a_term(
        terms in prop::collection::vec(-1e9f64..1e9, 0..40), big in -LIMIT..LIMIT, cut in 0usize..40,
    ) {
        let sum = |terms: &[f64]| {
            let mut s = FixedSum::default();
            terms.iter().for_each(|x| s.add(*x));
            s
        };
        let mut terms = terms;
        terms.push(big);
        let cut = cut.min(terms.len());
        let mut parts = sum(&terms[cut..]);
        parts.merge(&sum(&terms[..cut]));
        prop_assert_eq!(parts, sum(&terms));
        let small = &terms[..terms.len() - 1];
        let unit = 2f64.powi(-40);
        // Sums of up to 40 terms under 2^30 in halves of a unit, and what f64 rounds in the plain sum.
        let bound = small.len() as f64 * unit + 40.0 * small.iter().map(|x| x.abs()).sum::<f64>() * f64::EPSILON;
        prop_assert!((sum(small).value() - small.iter().sum::<f64>()).abs() <= bound);
        prop_assert!((sum(&[big]).value() - big).abs() <= unit);
        terms.extend(terms.clone().iter().map(|x| -x));
        prop_assert_eq!(sum(&terms).value(), 0.0);
    }

    #[test]
    fn patterns_equal_their_definitions(
        seed in 0u64..1000, n in 1usize..90, m in 2usize..9, context in 1usize..24, classes in 1u32..4,
    ) {
        let case = Case::new(seed, n, m);
        let (position, class) = tokens(seed, n, context, classes);
        let mut p = Patterns::new(m, classes as usize).unwrap();
        p.add(&case.codes(), &position, Some(&class)).unwrap();
        let r = p.report();
        let l0 = |f: &dyn Fn(usize) -> bool| {
            let at: Vec<usize> = (0..n).filter(|t| f(*t)).collect();
            let active: usize = at.iter().map(|t| (0..m).filter(|j| case.on(*t, *j)).count()).sum();
            (at.len() as u64, active as f64 / at.len() as f64)
        };
        for (b, group) in r.l0_by_position.iter().enumerate() {
            let (from, to) = if b == 0 { (0, 0) } else { (1 << (b - 1), (1 << b) - 1) };
            let (count, mean) = l0(&|t| (from..=to).contains(&position[t]));
            assert_eq!((group.of, group.tokens), (from, count));
            assert_close("L0 of a bucket", group.l0, mean);
        }
        assert_eq!(r.l0_by_position.iter().map(|g| g.tokens).sum::<u64>(), n as u64);
        for (c, group) in r.l0_by_class.iter().enumerate() {
            let (count, mean) = l0(&|t| class[t] == c as u32);
            assert_eq!((group.of, group.tokens), (c as u32, count));
            assert_close("L0 of a class", group.l0, mean);
        }
        assert_eq!(r.l0_by_class.iter().map(|g| g.tokens).sum::<u64>() + r.without_class, n as u64);
        assert_eq!((r.pieces, r.cut_pieces), (n.div_ceil(context) as u64, 0));
        let mut kept = vec![];
        for j in 0..m {
            let on: Vec<usize> = (0..n).filter(|t| case.on(*t, j)).collect();
            let (got, count) = (r.latent[j], on.len() as f64);
            assert_eq!(got.fires, on.len() as u64);
            let z: Vec<f64> = on.iter().map(|t| f64::from(case.dense[t * m + j])).collect();
            let mean = z.iter().sum::<f64>() / count;
            let sd = (z.iter().map(|z| (z - mean).powi(2)).sum::<f64>() / count).sqrt();
            assert_close("mean value", got.value_mean, mean);
            // The sums are in units of 2^-40, so the square is off by up to 2^-40 (1 / (2 mean^2) + 1 / mean): 1e-10
            // for a mean of .07. Its square root has half of these digits where it is near 0.
            let (cv, near) = (sd / mean, (got.value_cv - sd / mean).abs() < 2e-5);
            let squares = (got.value_cv.powi(2) - cv.powi(2)).abs() < 4e-10;
            assert!(near || squares || on.is_empty() && got.value_cv.is_nan(), "{} {cv}", got.value_cv);
            let runs = on.iter().filter(|t| **t % context == 0 || !case.on(**t - 1, j)).count();
            let share = count / n as f64;
            let expected = if share > 0.0 && share < 1.0 { 1.0 / (1.0 - share) } else { f64::NAN };
            assert_close("run", got.run_length, count / runs as f64);
            assert_close("expected run", got.run_length_expected, expected);
            assert_close("burstiness", got.burstiness, count / runs as f64 / expected);
            let by = |f: &dyn Fn(usize, u32) -> bool, g: u32| {
                (on.iter().filter(|t| f(**t, g)).count(), (0..n).filter(|t| f(*t, g)).count())
            };
            let buckets: Vec<_> = (0..6u32).map(|b| {
                let (k, all) = by(&|t, b| position_bucket(position[t]) == b as usize, b);
                (if b == 0 { 0 } else { 1 << (b - 1) }, k, all)
            }).collect();
            check_preference("position", &got.position, &buckets);
            let groups: Vec<_> = (0..classes).map(|c| {
                let (k, all) = by(&|t, c| class[t] == c, c);
                (c, k, all)
            }).collect();
            check_preference("class", &got.class, &groups);
            if on.len() >= 10 && on.len() < n {
                kept.push((count, runs as f64, count * (1.0 - share)));
            }
        }
        let sum = |f: fn(&(f64, f64, f64)) -> f64| kept.iter().map(f).sum::<f64>();
        assert_close("runs of the level", r.run_length, sum(|k| k.0) / sum(|k| k.1));
        assert_close("expected runs of the level", r.run_length_expected, sum(|k| k.0) / sum(|k| k.2));
        assert_close("burstiness of the level", r.burstiness, sum(|k| k.2) / sum(|k| k.1));
        assert_eq!(r.not_alive, r.latent.iter().filter(|l| l.fires < 10).count());
        assert_eq!(r.always_on, usize::from(n >= 10));
    }

    #[test]
    fn patterns_of_parts_and_of_blocks_have_the_bits_of_the_whole(
        seed in 0u64..1000, sequences in 1usize..9, context in 1usize..12, cut in 0usize..9, block in 1usize..100,
    ) {
        let (n, m) = (sequences * context, 6);
        let (case, other) = (Case::new(seed, n, m), Case::new(seed + 1, n, 4));
        let (position, class) = tokens(seed, n, context, 3);
        let parent = [0, 0, 2, ROOT, 2, 3];
        let run = |from: usize, to: usize, block: usize| {
            let mut all = (
                Patterns::new(m, 3).unwrap(), Across::new(4, &parent).unwrap(), Leak::new(4, &parent).unwrap(),
            );
            for at in (from..to).step_by(block) {
                let end = to.min(at + block);
                case.with(at, end, |codes| {
                    all.0.add(codes, &position[at..end], Some(&class[at..end])).unwrap();
                    other.with(at, end, |codes1| {
                        all.1.add(codes1, codes).unwrap();
                        all.2.add(codes1, codes).unwrap();
                    });
                });
            }
            all
        };
        let show = |a: &(Patterns, Across, Leak)| format!("{:?} {:?} {:?}", a.0.report(), a.1.report(), a.2.report());
        let whole = run(0, n, n);
        prop_assert_eq!(show(&run(0, n, block)), show(&whole));
        let cut = cut.min(sequences) * context;
        let (mut parts, first) = (run(cut, n, block), run(0, cut, block));
        parts.0.merge(&first.0);
        parts.1.merge(&first.1);
        parts.2.merge(&first.2);
        prop_assert_eq!(show(&parts), show(&whole));
    }

    #[test]
    fn levels_across_equal_their_definitions(seed in 0u64..1000, n in 1usize..60, f1 in 2usize..6, f2 in 2usize..9) {
        let (one, two) = (Case::new(seed, n, f1), Case::new(seed + 7, n, f2));
        let mut rng = Philox::new(seed, 3);
        let parent: Vec<u32> = (0..f2)
            .map(|_| match rng.below(f1 as u64 + 1) as u32 {
                p if p as usize == f1 => ROOT,
                p => p,
            })
            .collect();
        let mut a = Across::new(f1, &parent).unwrap();
        let mut l = Leak::new(f1, &parent).unwrap();
        a.add(&one.codes(), &two.codes()).unwrap();
        l.add(&one.codes(), &two.codes()).unwrap();
        let (r, leak) = (a.report(), l.report());
        let count = |c: &Case, t: usize| (0..c.latents).filter(|j| c.on(t, *j)).count() as f64;
        let x: Vec<f64> = (0..n).map(|t| count(&one, t)).collect();
        let y: Vec<f64> = (0..n).map(|t| count(&two, t)).collect();
        let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
        let (mx, my) = (mean(&x), mean(&y));
        let sum = |f: &dyn Fn(usize) -> f64| (0..n).map(f).sum::<f64>();
        let (xx, yy) = (sum(&|t| (x[t] - mx).powi(2)), sum(&|t| (y[t] - my).powi(2)));
        let varies = |v: &[f64]| v.iter().any(|k| *k != v[0]);
        let expected = sum(&|t| (x[t] - mx) * (y[t] - my)) / (xx * yy).sqrt();
        assert_close("correlation", r.l0_correlation, if varies(&x) && varies(&y) { expected } else { f64::NAN });
        let met: Vec<usize> = (0..=f1).filter(|k| x.contains(&(*k as f64))).collect();
        assert_eq!(r.l0_2_given_l0_1.iter().map(|g| g.l0_1).collect::<Vec<_>>(), met);
        for g in &r.l0_2_given_l0_1 {
            let at: Vec<f64> = (0..n).filter(|t| x[*t] == g.l0_1 as f64).map(|t| y[t]).collect();
            assert_eq!(g.tokens, at.len() as u64);
            assert_close("L0 given L0", g.l0_2, mean(&at));
        }
        let mut histogram = [0; 4];
        for (t, i) in (0..n).flat_map(|t| (0..f1).map(move |i| (t, i))).filter(|(t, i)| one.on(*t, *i)) {
            let kids: Vec<usize> = (0..f2).filter(|j| parent[*j] == i as u32).collect();
            if !kids.is_empty() {
                histogram[kids.iter().filter(|j| two.on(t, **j)).count().min(3)] += 1;
            }
        }
        assert_eq!(r.children_per_active_parent, histogram);
        let (mut leaked, mut all, mut alive) = (0, 0, vec![]);
        for j in 0..f2 {
            let fires = (0..n).filter(|t| two.on(*t, j)).count();
            let outside = (0..n).filter(|t| two.on(*t, j) && parent[j] != ROOT && !one.on(*t, parent[j] as usize)).count();
            assert_eq!(leak.child[j].fires, fires as u64);
            let expected = if parent[j] == ROOT { f64::NAN } else { outside as f64 / fires as f64 };
            assert_close("leak", leak.child[j].leak, expected);
            if parent[j] != ROOT {
                (leaked, all) = (leaked + outside, all + fires);
                if fires >= 10 {
                    alive.push(expected);
                }
            }
        }
        assert_close("mean leak", leak.leak, mean(&alive));
        assert_close("leaked firings", leak.leaked_firings, f64::from(leaked as u32) / all as f64);
        assert_eq!(leak.root_children, parent.iter().filter(|p| **p == ROOT).count());
        assert_eq!(leak.edges_not_alive + alive.len() + leak.root_children, f2);
    }
}

#[test]
fn runs_end_with_their_sequence() {
    // Two sequences of 4 tokens and one of 2; latent 0 fires on tokens 1..=5, latent 1 on token 9.
    let position = [0, 1, 2, 3, 0, 1, 2, 3, 0, 1];
    let offsets = [0, 0, 1, 2, 3, 4, 5, 5, 5, 5, 6];
    let (index, value) = ([0, 0, 0, 0, 0, 1], [1.0, 3.0, 1.0, 3.0, 2.0, 5.0]);
    let codes = CodesView::new(&offsets, &index, &value, 3).unwrap();
    let mut p = Patterns::new(3, 0).unwrap();
    p.add(&codes, &position, None).unwrap();
    let r = p.report();
    let zero = r.latent[0];
    // Runs of 3 and 2 tokens; 5 of 10 tokens, so 2 expected; values of mean 2 and variance 4 / 5.
    assert_eq!((zero.run_length, zero.run_length_expected, zero.burstiness), (2.5, 2.0, 1.25));
    assert_eq!(zero.value_mean, 2.0);
    assert_close("cv", zero.value_cv, 0.8f64.sqrt() / 2.0);
    // Tokens 1, 2 3, 4, 5 are in the buckets 1, 2-3, 0, 1: two in the bucket of 1 and two in 2-3, ties to the lower.
    assert_eq!((zero.position.top, zero.position.share), (Some(1), 0.4));
    assert_close("lift", zero.position.lift, 0.4 / 0.3);
    assert_eq!((r.pieces, r.cut_pieces, r.without_class), (3, 0, 10));
    assert_eq!(
        r.l0_by_position.iter().map(|g| (g.of, g.tokens, g.l0)).collect::<Vec<_>>(),
        [(0, 3, 1.0 / 3.0), (1, 3, 1.0), (2, 4, 0.5)]
    );
    assert_eq!((r.latent[1].run_length, r.latent[1].value_cv), (1.0, 0.0));
    let never = r.latent[2];
    assert!(never.run_length.is_nan() && never.value_cv.is_nan() && never.position.top.is_none());
    // If the first sequence is cut, the run of tokens 1..=3 becomes two runs, and the report counts the cut.
    let part = |offsets: &[usize], entries: core::ops::Range<usize>, position: &[u32]| {
        let mut p = Patterns::new(3, 0).unwrap();
        let codes = CodesView::new(offsets, &index[entries.clone()], &value[entries], 3).unwrap();
        p.add(&codes, position, None).unwrap();
        p
    };
    let mut cut = part(&[0, 0, 1, 2], 0..2, &[0, 1, 2]);
    cut.merge(&part(&[0, 1], 2..3, &[3]));
    let cut = cut.report();
    assert_eq!((cut.latent[0].run_length, cut.pieces, cut.cut_pieces), (1.5, 2, 1));
    // Without tokens.
    let none = Patterns::new(3, 2).unwrap().report();
    assert!(none.run_length.is_nan() && none.value_cv.is_nan() && none.l0_by_class[0].l0.is_nan());
    assert!(none.l0_by_position.is_empty() && none.not_alive == 3 && none.always_on == 0);
}

#[test]
fn buckets_of_positions_are_powers_of_two() {
    let buckets: Vec<usize> = [0, 1, 2, 3, 4, 7, 8, 15, 16, u32::MAX].map(position_bucket).to_vec();
    assert_eq!(buckets, [0, 1, 2, 2, 3, 3, 4, 4, 5, 32]);
}

#[test]
fn patterns_refuse_what_does_not_fit_and_then_add_nothing() {
    let mut p = Patterns::new(3, 2).unwrap();
    let codes = |value: &'static [f32]| CodesView::new(&[0, 1], &[2], value, 3).unwrap();
    assert!(matches!(p.add(&codes(&[1.0]), &[], None), Err(Error::Shape { expected: 1, got: 0, .. })));
    assert!(matches!(p.add(&codes(&[1.0]), &[0], Some(&[])), Err(Error::Shape { .. })));
    assert!(matches!(p.add(&codes(&[1.0]), &[0], Some(&[2])), Err(Error::Index { index: 2, len: 2, .. })));
    assert!(matches!(p.add(&codes(&[f32::INFINITY]), &[0], None), Err(Error::NotFinite { at: At::Token(0), .. })));
    assert!(matches!(p.add(&codes(&[1e7]), &[0], None), Err(Error::Range { .. })));
    assert_eq!(p.report().tokens, 0);
    assert!(matches!(Patterns::new(1 << 22, 0), Err(Error::Config { .. })));
    assert!(matches!(Across::new(2, &[0, 2]), Err(Error::Index { index: 2, len: 2, .. })));
    assert!(matches!(Leak::new(2, &[0, 2]), Err(Error::Index { index: 2, len: 2, .. })));
    let mut a = Across::new(3, &[0, ROOT]).unwrap();
    assert!(matches!(a.add(&codes(&[1.0]), &codes(&[1.0])), Err(Error::Shape { expected: 2, got: 3, .. })));
    let mut l = Leak::new(3, &[0, ROOT]).unwrap();
    assert!(matches!(l.add(&codes(&[1.0]), &codes(&[1.0])), Err(Error::Shape { expected: 2, got: 3, .. })));
    assert!(a.report().l0_correlation.is_nan() && l.report().leak.is_nan() && l.report().leaked_firings.is_nan());
}

#[test]
fn associations_and_entropies_equal_those_of_scikit_learn_and_scipy() {
    let file = SafeTensors::deserialize(GOLDEN).expect("the goldens");
    let bytes = |name: &str| file.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}")).data().to_vec();
    let words =
        |name: &str| -> Vec<u32> { bytes(name).as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect() };
    let f64s =
        |name: &str| -> Vec<f64> { bytes(name).as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b)).collect() };
    let dense = |name: &str| -> Vec<f32> { words(name).into_iter().map(f32::from_bits).collect() };
    let (parent, group) = (words("parent"), words("group"));
    let (f1, f2) = (5, parent.len());
    let (codes1, codes2) = (sparse(&dense("z1"), f1), sparse(&dense("z2"), f2));
    let (one, two) = (codes1.view(f1).unwrap(), codes2.view(f2).unwrap());
    let mut c = Composition::new(f1, &parent).unwrap();
    c.add(&one, &two, None).unwrap();
    let r = c.report();
    let edges: Vec<_> = r.child.iter().filter(|c| c.parent != ROOT).collect();
    let all = |what: &str, got: Vec<f64>| {
        let want = f64s(what);
        assert_eq!(got.len(), want.len(), "{what}");
        got.into_iter().zip(want).for_each(|(got, want)| assert_close(what, got, want));
    };
    all("phi", edges.iter().map(|c| c.phi).collect());
    all("jaccard", edges.iter().map(|c| c.jaccard).collect());
    all("npmi", edges.iter().map(|c| c.npmi).collect());
    all("bits", r.parent.iter().map(|p| p.child_entropy_bits).collect());
    all("hamming", r.parent.iter().map(|p| p.or_hamming).collect());
    let mut across = Across::new(f1, &parent).unwrap();
    across.add(&one, &two).unwrap();
    all("l0_correlation", vec![across.report().l0_correlation]);
    let mut p = Patterns::new(f2, 4).unwrap();
    p.add(&two, &vec![0; group.len()], Some(&group)).unwrap();
    let r = p.report();
    all("cv", r.latent.iter().map(|l| l.value_cv).collect());
    all("class_bits", r.latent.iter().map(|l| l.class.bits).collect());
}

/// A model with random weights and parents, of which one child in five has none.
fn model(gate: GateKind, activation: Activation) -> Model {
    let mut config = Config::default();
    (config.level1.activation, config.level2.activation) = (activation, activation);
    (config.level1.latents, config.level2.latents) = (12, 40);
    (config.level1.k, config.level2.k, config.gate.kind) = (4.0, 6.0, gate);
    let arch = Arch::new(&config, 9);
    let mut rng = Philox::new(5, 0);
    let mut params = arch.zeros();
    for level in &mut params.level {
        for tensor in [&mut level.w_enc, &mut level.w_dec] {
            tensor.iter_mut().for_each(|w| *w = 0.4 * rng.normal_f32());
        }
        level.threshold.fill(0.3);
    }
    params.b_dec.iter_mut().for_each(|w| *w = 0.4 * rng.normal_f32());
    params.gate.w.iter_mut().for_each(|w| *w = rng.normal_f32());
    let parents = (0..40).map(|j| if j % 5 == 4 { ROOT } else { j % 12 }).collect();
    Model { arch, params, parents: if arch.gate.has_families() { parents } else { vec![] }, tau: [0.4, 0.5] }
}

#[test]
fn codes_without_the_gate_are_those_of_the_same_model_without_one() {
    let mut rng = Philox::new(6, 0);
    let n = 1031;
    let x: Vec<f32> = (0..n * 9).map(|_| rng.normal_f32()).collect();
    for activation in [Activation::Batchtopk, Activation::Topk, Activation::Jumprelu] {
        for gate in [GateKind::Hard, GateKind::GroupTop1, GateKind::Mul, GateKind::None] {
            let model = model(gate, activation);
            let mut free = model.clone();
            free.arch.gate = GateKind::None;
            free.parents.clear();
            free.params.gate.w = Default::default();
            free.params.gate.b = Default::default();
            let encoder =
                |model: &Model| Encoder::new(Arc::new(model.clone()), Compute::new(Isa::default(), Par::Seq)).unwrap();
            let (gated, free) = (encoder(&model), encoder(&free));
            let mut codes = [(); 5].map(|()| Codes::new());
            let [one, two, want1, want2, want_open] = &mut codes;
            gated.encode_par(Par::Seq, &x, want1, want2).unwrap();
            let mut of_free = Codes::new();
            free.encode_par(Par::Seq, &x, &mut of_free, want_open).unwrap();
            let mut open = Codes::new();
            gated.encode_open_par(Par::Rayon, &x, &mut Lanes::default(), one, two, &mut open).unwrap();
            assert_eq!((&*one, &*two, &open), (&*want1, &*want2, &*want_open), "{activation:?}, {gate:?}");
            assert!(two.index.len() > n && open.n() == n, "the case says something: {activation:?}, {gate:?}");
            if gate != GateKind::Hard || activation == Activation::Topk {
                continue;
            }
            // The gate keeps what fires without it under an active parent; the rest is the leak.
            let kept: usize = (0..n)
                .flat_map(|t| open.row(t).index.iter().map(move |j| (t, *j)))
                .filter(|(t, j)| {
                    let p = model.parents[*j as usize];
                    p == ROOT || one.row(*t).index.contains(&p)
                })
                .count();
            assert_eq!(kept, two.index.len());
            let mut leak = Leak::new(12, &model.parents).unwrap();
            leak.add(&one.view(12).unwrap(), &open.view(40).unwrap()).unwrap();
            let root = open.index.iter().filter(|j| model.parents[**j as usize] == ROOT).count();
            let expected = (open.index.len() - kept) as f64 / (open.index.len() - root) as f64;
            assert_close("leak", leak.report().leaked_firings, expected);
            assert!(expected > 0.0);
            let mut inside = Leak::new(12, &model.parents).unwrap();
            inside.add(&one.view(12).unwrap(), &two.view(40).unwrap()).unwrap();
            assert_eq!(inside.report().leaked_firings, 0.0);
        }
    }
    let err = {
        let mut config = Config { model: ModelKind::Seed, ..Config::default() };
        (config.level1.latents, config.level2.latents) = (4, 4);
        let arch = Arch::new(&config, 9);
        let parents = if arch.gate.has_families() { vec![ROOT; 4] } else { vec![] };
        let seed = Model { params: arch.zeros(), arch, parents, tau: [0.0; 2] };
        let encoder = Encoder::new(Arc::new(seed), Compute::new(Isa::default(), Par::Seq)).unwrap();
        let (mut a, mut b, mut c) = (Codes::new(), Codes::new(), Codes::new());
        encoder.encode_open_par(Par::Seq, &x, &mut Lanes::default(), &mut a, &mut b, &mut c).unwrap_err()
    };
    assert!(matches!(&err, Error::Config { why, .. } if why.contains("seed")), "{err}");
}
