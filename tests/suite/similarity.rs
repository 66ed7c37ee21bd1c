//! Similarity of edges: profiles, divergences and areas compared with their definitions, and a planted tree.

use proptest::prelude::*;
use safetensors::SafeTensors;
use strata_core::error::At;
use strata_core::metrics::coherence::Draws;
use strata_core::metrics::similarity::{
    ALPHA, Inputs, Levels, NO_WORD, Profiles, SimilarityReport, auc, jensen_shannon, similarity,
};
use strata_core::model::Codes;
use strata_core::{Compute, Error, Isa, Par, Philox, ROOT};

#[track_caller]
fn assert_close(what: &str, got: f64, expected: f64, bound: f64) {
    let close = (got - expected).abs() <= bound * expected.abs().max(1.0);
    assert!(close || got.is_nan() && expected.is_nan(), "{what}: {got}, expected {expected}");
}

fn golden(key: &str) -> Vec<f64> {
    let golden = SafeTensors::deserialize(include_bytes!("../golden/coherence.safetensors")).unwrap();
    golden.tensor(key).unwrap().data().as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect()
}

#[test]
fn divergences_equal_scipy() {
    let (p, q, expected) = (golden("jsd.p"), golden("jsd.q"), golden("jsd.jsd"));
    for ((p, q), expected) in p.chunks_exact(40).zip(q.chunks_exact(40)).zip(expected) {
        assert_close("JSD", jensen_shannon(p, q), expected, 1e-12);
        assert_close("JSD", jensen_shannon(q, p), expected, 1e-12);
    }
    assert_eq!(jensen_shannon(&[0.5, 0.5, 0.0, 0.0], &[0.0, 0.0, 0.5, 0.5]), 1.0);
    assert_eq!(jensen_shannon(&[0.25; 4], &[0.25; 4]), 0.0);
}

#[test]
fn areas_under_the_curve_equal_scikit_learn_and_delong() {
    let (positive, negative, expected) = (golden("auc.positive"), golden("auc.negative"), golden("auc.auc"));
    let got = auc(&positive, &negative);
    assert_close("auc", got.auc, expected[0], 1e-12);
    assert_close("low", got.low, expected[0] - 1.959963984540054 * expected[1], 1e-12);
    assert_close("high", got.high, expected[0] + 1.959963984540054 * expected[1], 1e-12);
    assert_eq!((auc(&[1.0, 2.0], &[0.0, 0.5]).auc, auc(&[1.0, 1.0], &[1.0]).auc), (1.0, 0.5));
    assert!(auc(&[], &[1.0]).auc.is_nan() && auc(&[1.0], &[1.0, 2.0]).low.is_nan());
}

proptest! {
    #[test]
    fn areas_equal_their_definition_by_pairs(
        positive in prop::collection::vec((-5i32..5).prop_map(f64::from), 1..20),
        negative in prop::collection::vec((-5i32..5).prop_map(f64::from), 1..20)
    ) {
        let beats = |x: &f64, y: &f64| if x > y { 1.0 } else if x == y { 0.5 } else { 0.0 };
        let sum: f64 = positive.iter().flat_map(|x| negative.iter().map(move |y| beats(x, y))).sum();
        let got = auc(&positive, &negative);
        assert_close("auc", got.auc, sum / (positive.len() * negative.len()) as f64, 1e-12);
        assert_close("turned", auc(&negative, &positive).auc, 1.0 - got.auc, 1e-12);
        prop_assert!(got.low.is_nan() || got.low <= got.auc && got.auc <= got.high);
    }
}

/// Tokens of latents, a dense matrix.
fn codes(dense: &[f32], latents: usize) -> Codes {
    let mut codes = Codes::new();
    for row in dense.chunks_exact(latents) {
        for (j, z) in row.iter().enumerate().filter(|(_, z)| **z > 0.0) {
            codes.index.push(j as u32);
            codes.value.push(*z);
        }
        codes.end_row();
    }
    codes
}

fn random_dense(seed: u64, tokens: usize, latents: usize) -> Vec<f32> {
    let mut rng = Philox::new(seed, 2);
    (0..tokens * latents).map(|_| if rng.below(3) == 0 { rng.normal_f32().exp() } else { 0.0 }).collect()
}

#[test]
fn profiles_equal_their_definition_and_do_not_depend_on_grouping_or_scale() {
    let (tokens, latents, words) = (200, 6, 11);
    let mut dense = random_dense(1, tokens, latents);
    dense.iter_mut().skip(5).step_by(latents).for_each(|z| *z = 0.0);
    let mut rng = Philox::new(2, 0);
    let list: Vec<u32> = (0..tokens).map(|_| if rng.below(9) == 0 { NO_WORD } else { rng.below(11) as u32 }).collect();
    let run = |cuts: &[usize], scale: f32| {
        let mut p = Profiles::new(latents, words).unwrap();
        for w in cuts.windows(2) {
            let part: Vec<f32> = dense[w[0] * latents..w[1] * latents].iter().map(|z| scale * z).collect();
            p.add(&codes(&part, latents).view(latents).unwrap(), &list[w[0]..w[1]]).unwrap();
        }
        p
    };
    let whole = run(&[0, tokens], 1.0);
    let mut merged = run(&[120, 121, 200], 1.0);
    merged.merge(&run(&[0, 30, 30], 1.0)).unwrap();
    merged.merge(&run(&[30, 120], 1.0)).unwrap();
    assert_eq!(merged, whole);
    let (mut q, mut scaled) = (vec![0.0; words], vec![0.0; words]);
    let larger = run(&[0, tokens], 8.0);
    for j in 0..latents {
        whole.profile(j, 2.0, &mut q);
        let with = || (0..tokens).filter(|t| list[*t] != NO_WORD && dense[t * latents + j] > 0.0);
        let z = |t: usize| f64::from(dense[t * latents + j]);
        let (n, a) = (with().count() as f64, with().map(z).sum::<f64>());
        assert_eq!(whole.fires()[j] as f64, n);
        for w in 0..words {
            let of_word: f64 = with().filter(|t| list[*t] == w as u32).map(z).sum();
            assert_close("q", q[w], (n * of_word / a + 2.0 / words as f64) / (n + 2.0), 1e-6);
        }
        assert!(j == 5 || (q.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        larger.profile(j, 2.0, &mut scaled);
        q.iter().zip(&scaled).for_each(|(q, s)| assert_close("scaled", *s, *q, 1e-6));
    }
    let seen = list.iter().filter(|w| **w == 3).count() as u64;
    assert_eq!(whole.seen()[3], seen);
}

#[test]
fn profiles_of_many_words_are_those_of_few() {
    // The same words with a table so large that it is filled latent by latent.
    let (tokens, latents, few, many) = (300, 40, 9, 4_000);
    let dense = random_dense(7, tokens, latents);
    let codes = codes(&dense, latents);
    let mut rng = Philox::new(8, 0);
    let list: Vec<u32> = (0..tokens).map(|_| if rng.below(9) == 0 { NO_WORD } else { rng.below(9) as u32 }).collect();
    let run = |words: usize| {
        let mut p = Profiles::new(latents, words).unwrap();
        p.add(&codes.view(latents).unwrap(), &list).unwrap();
        p
    };
    let (one, two) = (run(few), run(many));
    assert_eq!((one.fires(), one.seen()), (two.fires(), &two.seen()[..few]));
    for j in 0..latents {
        assert_eq!(one.mass(j), &two.mass(j)[..few]);
        assert!(two.mass(j)[few..].iter().all(|m| *m == 0) && one.mass(j).iter().any(|m| *m > 0));
    }
}

#[test]
fn profiles_refuse_what_does_not_fit_and_then_add_nothing() {
    let mut p = Profiles::new(2, 3).unwrap();
    let two = codes(&[1.0, 2.0, 0.0, 1.0], 2);
    let empty = p.clone();
    assert!(matches!(p.add(&two.view(2).unwrap(), &[0]), Err(Error::Shape { expected: 2, got: 1, .. })));
    assert!(matches!(p.add(&two.view(3).unwrap(), &[0, 1]), Err(Error::Shape { expected: 2, got: 3, .. })));
    assert!(matches!(p.add(&two.view(2).unwrap(), &[0, 3]), Err(Error::Index { index: 3, len: 3, .. })));
    let infinite = codes(&[1.0, 0.0, f32::INFINITY, 0.0], 2);
    assert!(matches!(p.add(&infinite.view(2).unwrap(), &[0, 1]), Err(Error::NotFinite { at: At::Row(1), .. })));
    let huge = codes(&[1.0, 0.0, 1e12, 1e12], 2);
    assert!(matches!(p.add(&huge.view(2).unwrap(), &[0, 1]), Err(Error::Capacity { .. })));
    let one = codes(&[1e30, 0.0], 2);
    assert!(matches!(p.add(&one.view(2).unwrap(), &[0]), Err(Error::Capacity { .. })));
    // Activations on tokens without a word do not count.
    p.add(&infinite.view(2).unwrap(), &[NO_WORD, NO_WORD]).unwrap();
    assert_eq!(p, empty);
    assert!(matches!(Profiles::new(1 << 14, (1 << 13) + 1), Err(Error::Config { .. })));
    assert_eq!(Profiles::bucket(77, 100, 100), 77);
    let mut met = vec![0; 64];
    (0..6400).for_each(|t| met[Profiles::bucket(t, 6400, 64) as usize] += 1);
    assert!(met.iter().all(|n| (50..150).contains(n)), "{met:?}");
}

/// A planted tree: each parent fires on eight words and each child on two of them; the directions of children contain
/// part of their parent's.
struct World {
    d: usize,
    decoder1: Vec<f32>,
    decoder2: Vec<f32>,
    parent: Vec<u32>,
    levels: [[Profiles; 2]; 3],
    fires: [Vec<u64>; 2],
    unembedding: Vec<f32>,
}

const PARENTS: usize = 10;
const CHILDREN: usize = 40;
const WORDS: usize = 80;

impl World {
    fn new(tokens: usize) -> Self {
        let d = 24;
        let mut rng = Philox::new(6, 6);
        let decoder1: Vec<f32> = (0..PARENTS * d).map(|_| rng.normal_f32()).collect();
        let decoder2 = (0..CHILDREN * d).map(|k| 0.5 * decoder1[k / d / 4 * d + k % d] + rng.normal_f32()).collect();
        let (mut z1, mut z2) = (vec![0.0; tokens * PARENTS], vec![0.0; tokens * CHILDREN]);
        let mut words = vec![];
        for t in 0..tokens {
            let (c, noise) = (rng.below(CHILDREN as u64) as usize, rng.below(4) == 0);
            words.push(if noise { rng.below(WORDS as u64) as u32 } else { 2 * c as u32 + rng.below(2) as u32 });
            z1[t * PARENTS + c / 4] = 1.0 + rng.uniform_f32();
            z2[t * CHILDREN + c] = 1.0 + rng.uniform_f32();
        }
        let (z1, z2) = (codes(&z1, PARENTS), codes(&z2, CHILDREN));
        let shifted = |by: isize| -> Vec<u32> {
            (0..tokens as isize).map(|t| words.get((t + by) as usize).copied().unwrap_or(NO_WORD)).collect()
        };
        let levels = [shifted(0), shifted(-1), shifted(1)].map(|words| {
            [(&z1, PARENTS), (&z2, CHILDREN)].map(|(z, f)| {
                let mut p = Profiles::new(f, WORDS).unwrap();
                p.add(&z.view(f).unwrap(), &words).unwrap();
                p
            })
        });
        Self {
            d,
            decoder1,
            decoder2,
            parent: (0..CHILDREN as u32).map(|j| j / 4).collect(),
            fires: [z1.view(PARENTS).unwrap().counts(), z2.view(CHILDREN).unwrap().counts()],
            levels,
            unembedding: (0..WORDS * d).map(|_| rng.normal_f32() + 2.0).collect(),
        }
    }

    fn inputs(&self) -> Inputs<'_> {
        let [current, previous, next] = [0, 1, 2].map(|k| {
            let [level1, level2] = &self.levels[k];
            Some(Levels { level1, level2 })
        });
        Inputs {
            d: self.d,
            decoder1: &self.decoder1,
            decoder2: &self.decoder2,
            encoders: Some((&self.decoder1, &self.decoder2)),
            unembedding: Some(&self.unembedding),
            current,
            previous,
            next,
            parent: &self.parent,
            fires: (&self.fires[0], &self.fires[1]),
        }
    }

    fn profile(&self, kind: usize, level: usize, j: usize) -> Vec<f64> {
        let mut q = vec![0.0; WORDS];
        self.levels[kind][level].profile(j, ALPHA, &mut q);
        q
    }
}

fn run(inputs: &Inputs<'_>) -> SimilarityReport {
    similarity(Compute::new(Isa::detect(), Par::Seq), inputs, Draws { n: 20, seed: 1 }).unwrap()
}

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[test]
fn similarities_of_edges_equal_their_definitions() {
    let w = World::new(6000);
    let r = run(&w.inputs());
    assert_eq!((r.edges, r.root, r.not_alive, r.matched_pairs, r.not_found), (40, 0, 0, 800, 0));
    let mean = |f: &dyn Fn(usize, usize) -> f64| {
        (0..CHILDREN).map(|j| f(j, w.parent[j] as usize)).sum::<f64>() / CHILDREN as f64
    };
    let row =
        |rows: &[f32], j: usize| -> Vec<f64> { rows[j * w.d..(j + 1) * w.d].iter().map(|w| f64::from(*w)).collect() };
    let entropy = |q: &[f64]| -q.iter().map(|q| q * q.log2()).sum::<f64>();
    let kl = |p: &[f64], q: &[f64]| p.iter().zip(q).map(|(p, q)| p * (p / q).log2()).sum::<f64>();
    let sim = |kind: usize| mean(&|j, p| 1.0 - jensen_shannon(&w.profile(kind, 0, p), &w.profile(kind, 1, j)));
    assert_close(
        "decoder",
        r.decoder.connected,
        mean(&|j, p| cosine(&row(&w.decoder1, p), &row(&w.decoder2, j))),
        1e-6,
    );
    assert_eq!(r.encoder, r.decoder);
    assert_close("token", r.token.connected, sim(0), 1e-9);
    assert_close("previous", r.previous.connected, sim(1), 1e-9);
    assert_close("next", r.next.connected, sim(2), 1e-9);
    let up = mean(&|j, p| kl(&w.profile(0, 1, j), &w.profile(0, 0, p)));
    let down = mean(&|j, p| kl(&w.profile(0, 0, p), &w.profile(0, 1, j)));
    assert_close("KL up", r.kl_child_parent.connected, up, 1e-9);
    assert_close("KL down", r.kl_parent_child.connected, down, 1e-9);
    let drop = mean(&|j, p| entropy(&w.profile(0, 0, p)) - entropy(&w.profile(0, 1, j)));
    assert_close("entropy", r.entropy_drop.connected, drop, 1e-9);
    let corrected = mean(&|j, p| {
        let (p1, p2) = (&w.levels[0][0], &w.levels[0][1]);
        let met = (0..WORDS).filter(|v| p1.mass(p)[*v] > 0 || p2.mass(j)[*v] > 0).count() as f64;
        let n = 1.0 / p1.fires()[p] as f64 + 1.0 / p2.fires()[j] as f64;
        let jsd = jensen_shannon(&w.profile(0, 0, p), &w.profile(0, 1, j));
        1.0 - (jsd - (met - 1.0) / (8.0 * std::f64::consts::LN_2) * n).max(0.0)
    });
    assert_close("corrected", r.token_corrected.connected, corrected, 1e-9);
    let context = mean(&|j, p| {
        let part = |level: usize, i: usize| -> Vec<f64> {
            let of = |kind: usize| {
                let seen = w.levels[kind][0].seen();
                let all = seen.iter().sum::<u64>() as f64;
                w.profile(kind, level, i).iter().zip(seen).map(|(q, n)| q - *n as f64 / all).collect::<Vec<_>>()
            };
            [of(1), of(2)].concat()
        };
        cosine(&part(0, p), &part(1, j))
    });
    assert_close("context", r.context.connected, context, 1e-9);
    let logit = mean(&|j, p| {
        let effect = |d: Vec<f64>| -> Vec<f64> {
            let dot = |u: &[f32]| u.iter().zip(&d).map(|(u, d)| f64::from(*u) * d).sum::<f64>();
            let e: Vec<f64> = w.unembedding.chunks_exact(w.d).map(dot).collect();
            let mean = e.iter().sum::<f64>() / e.len() as f64;
            e.iter().map(|e| e - mean).collect()
        };
        cosine(&effect(row(&w.decoder1, p)), &effect(row(&w.decoder2, j)))
    });
    assert_close("logit", r.logit.connected, logit, 1e-5);
}

#[test]
fn a_planted_tree_stands_out_and_a_random_one_does_not() {
    let mut w = World::new(6000);
    let r = run(&w.inputs());
    for (what, c) in [("decoder", r.decoder), ("token", r.token), ("corrected", r.token_corrected), ("logit", r.logit)]
    {
        assert!(c.auc > 0.9 && c.auc_low > 0.85 && c.auc_high <= 1.0, "{what} {c:?}");
        assert!(c.connected > c.matched + 0.1 && c.connected > c.shuffled + 0.1, "{what} {c:?}");
    }
    // Neighbouring tokens of this world are independent, and a child's tokens are a quarter of its parent's.
    assert!((r.context.connected - 0.5).abs() < 0.1 && r.context.matched.abs() < 0.1, "{:?}", r.context);
    assert!(r.kl_child_parent.auc < 0.05 && r.entropy_drop.connected > 1.0 && r.subsumed.connected == 1.0, "{r:?}");
    assert!(r.kl_child_parent.connected < r.kl_parent_child.connected);
    // The same latents under random parents.
    Philox::new(3, 0).shuffle(&mut w.parent);
    let r = run(&w.inputs());
    for (what, c) in [("decoder", r.decoder), ("token", r.token), ("logit", r.logit)] {
        assert!((c.auc - 0.5).abs() < 0.15 && c.auc_low < 0.5 && c.auc_high > 0.5, "{what} {c:?}");
    }
}

#[test]
fn two_samples_of_one_distribution_are_equal_up_to_the_floor() {
    // The child equals its parent on every other token: the two are synonyms.
    let (tokens, words) = (4000, 30);
    let mut rng = Philox::new(4, 0);
    let list: Vec<u32> = (0..tokens).map(|_| rng.below(words) as u32).collect();
    let z1 = codes(&vec![1.0; tokens], 1);
    let (mut even, mut odd) = (Profiles::new(1, 30).unwrap(), Profiles::new(1, 30).unwrap());
    for (t, w) in list.iter().enumerate() {
        let row = codes(&z1.value[t..t + 1], 1);
        let into = if t % 2 == 0 { &mut even } else { &mut odd };
        into.add(&row.view(1).unwrap(), &[*w]).unwrap();
    }
    let inputs = Inputs {
        d: 1,
        decoder1: &[1.0],
        decoder2: &[1.0],
        encoders: None,
        unembedding: None,
        current: Some(Levels { level1: &even, level2: &odd }),
        previous: None,
        next: None,
        parent: &[0],
        fires: (&[2000], &[2000]),
    };
    let r = run(&inputs);
    let floor = 29.0 / (8.0 * std::f64::consts::LN_2) * 2.0 / 2000.0;
    let jsd = 1.0 - r.token.connected;
    assert!((jsd / floor - 1.0).abs() < 0.6, "{jsd} {floor}");
    assert!(r.token_corrected.connected > 1.0 - 0.6 * floor);
    // There is no other parent for random pairs; measures without their inputs are NaN and counted.
    assert_eq!((r.edges, r.matched_pairs, r.not_found), (1, 0, 20));
    assert!(r.encoder.connected.is_nan() && r.encoder.undefined == 1 && r.token.auc.is_nan());
    assert!(r.logit.connected.is_nan() && r.context.connected.is_nan() && r.next.connected.is_nan());
}

#[test]
fn similarity_is_the_same_on_every_thread_and_leaves_out_root_and_the_dead() {
    let mut w = World::new(3000);
    w.parent[3] = ROOT;
    w.fires[1][7] = 9;
    w.fires[0][9] = 0;
    let r = run(&w.inputs());
    assert_eq!((r.edges, r.root, r.not_alive), (34, 1, 5));
    for isa in Isa::all_available() {
        let other = similarity(Compute::new(isa, Par::Rayon), &w.inputs(), Draws { n: 20, seed: 1 }).unwrap();
        assert_eq!(format!("{other:?}"), format!("{r:?}"), "{}", isa.name());
    }
    assert!(serde_json::to_string(&r).unwrap().contains("\"kl_child_parent\""));
}

#[test]
fn renaming_parents_changes_no_edge() {
    let w = World::new(3000);
    let r = run(&w.inputs());
    // Reverse the order of the parents in every input.
    let reversed = |rows: &[f32]| -> Vec<f32> { rows.chunks_exact(w.d).rev().flatten().copied().collect() };
    let decoder1 = reversed(&w.decoder1);
    let parent: Vec<u32> = w.parent.iter().map(|p| PARENTS as u32 - 1 - p).collect();
    let fires1: Vec<u64> = w.fires[0].iter().rev().copied().collect();
    let inputs = Inputs {
        decoder1: &decoder1,
        parent: &parent,
        fires: (&fires1, &w.fires[1]),
        encoders: None,
        current: None,
        previous: None,
        next: None,
        ..w.inputs()
    };
    let turned = run(&inputs);
    assert_eq!(turned.decoder.connected, r.decoder.connected);
    assert_eq!(turned.logit.connected, r.logit.connected);
}

#[test]
fn similarity_refuses_sizes_and_parents_that_do_not_fit() {
    let w = World::new(500);
    let fails =
        |inputs: Inputs<'_>| similarity(Compute::new(Isa::detect(), Par::Seq), &inputs, Draws::default()).unwrap_err();
    assert!(matches!(fails(Inputs { d: 23, ..w.inputs() }), Error::Shape { .. }));
    assert!(matches!(fails(Inputs { encoders: Some((&[], &[])), ..w.inputs() }), Error::Shape { .. }));
    assert!(matches!(fails(Inputs { unembedding: Some(&[0.0; 25]), ..w.inputs() }), Error::Shape { .. }));
    let [one, two] = &w.levels[0];
    let swapped = Some(Levels { level1: two, level2: one });
    assert!(matches!(fails(Inputs { next: swapped, ..w.inputs() }), Error::Shape { .. }));
    let parent = vec![PARENTS as u32; CHILDREN];
    assert!(matches!(fails(Inputs { parent: &parent, ..w.inputs() }), Error::Index { index: 10, len: 10, .. }));
}
