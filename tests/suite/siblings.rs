//! Siblings that fire together and the words of families, compared with their definitions and with planted families.

use crate::coherence::assert_close;
use proptest::prelude::*;
use strata_core::metrics::coherence::cofiring::Cofiring;
use strata_core::metrics::coherence::discover::Graph;
use strata_core::metrics::coherence::topics::{TopWords, Windows};
use strata_core::metrics::coherence::{Draws, Partition};
use strata_core::metrics::similarity::{NO_WORD, Profiles};
use strata_core::model::{Codes, CodesView};
use strata_core::{Error, Par, Philox, ROOT};

/// Codes of all tokens, with access to blocks of tokens and to single activations.
struct Case {
    codes: Codes,
    latents: usize,
}

impl Case {
    fn new(tokens: usize, latents: usize, mut z: impl FnMut(usize, usize) -> f32) -> Self {
        let mut codes = Codes::new();
        for t in 0..tokens {
            for j in 0..latents {
                let z = z(t, j);
                if z > 0.0 {
                    codes.index.push(j as u32);
                    codes.value.push(z);
                }
            }
            codes.end_row();
        }
        Self { codes, latents }
    }
    fn part(&self, from: usize, to: usize) -> Case {
        let mut codes = Codes::new();
        for t in from..to {
            let row = self.codes.row(t);
            codes.index.extend_from_slice(row.index);
            codes.value.extend_from_slice(row.value);
            codes.end_row();
        }
        Case { codes, latents: self.latents }
    }
    fn view(&self) -> CodesView<'_> {
        self.codes.view(self.latents).unwrap()
    }
    fn on(&self, t: usize, j: usize) -> bool {
        self.codes.row(t).index.binary_search(&(j as u32)).is_ok()
    }
    fn value(&self, t: usize, j: usize) -> f64 {
        let row = self.codes.row(t);
        row.index.binary_search(&(j as u32)).map_or(0.0, |k| f64::from(row.value[k]))
    }
}

fn random_codes(seed: u64, tokens: usize, latents: usize) -> Case {
    let mut rng = Philox::new(seed, 4);
    Case::new(tokens, latents, |_, j| {
        let (u, z) = (rng.uniform_f32(), rng.normal_f32().abs() + 0.01);
        if u < 0.6 / (1.0 + j as f32).sqrt() { z } else { 0.0 }
    })
}

#[test]
fn cofiring_equals_its_definitions() {
    let (tokens, f1, f2) = (500, 5, 17);
    let (one, two) = (random_codes(1, tokens, f1), random_codes(2, tokens, f2));
    let parent: Vec<u32> = (0..f2 as u32).map(|j| if j % 6 == 5 { ROOT } else { j % 4 }).collect();
    let mut c = Cofiring::with_all_pairs(f1, &parent).unwrap();
    c.add(&one.view(), &two.view()).unwrap();
    let r = c.report(Par::Seq, Draws { n: 20, seed: 1 });
    let count = |f: &dyn Fn(usize) -> bool| (0..tokens).filter(|t| f(*t)).count() as f64;
    let phi = |given: &dyn Fn(usize) -> bool, j: usize, k: usize| {
        let n = count(given);
        let a = count(&|t| given(t) && two.on(t, j));
        let b = count(&|t| given(t) && two.on(t, k));
        let both = count(&|t| given(t) && two.on(t, j) && two.on(t, k));
        (n * both - a * b) / (a * (n - a) * b * (n - b)).sqrt()
    };
    let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
    let (mut all_phi, mut all_jaccard, mut all_given) = (vec![], vec![], vec![]);
    for family in &r.family {
        let p = family.parent as usize;
        let kids: Vec<usize> = (0..f2).filter(|j| parent[*j] == family.parent).collect();
        assert_eq!(family.children as usize, kids.len());
        let (mut phis, mut jaccards, mut givens) = (vec![], vec![], vec![]);
        for (a, &j) in kids.iter().enumerate() {
            for &k in &kids[..a] {
                let both = count(&|t| two.on(t, j) && two.on(t, k));
                assert_eq!(f64::from(c.together(j, k)), both);
                phis.push(phi(&|_| true, j, k));
                jaccards.push(both / count(&|t| two.on(t, j) || two.on(t, k)));
                givens.push(phi(&|t| one.on(t, p), j, k));
            }
        }
        assert_close("phi", family.phi, mean(&phis), 1e-9);
        assert_close("jaccard", family.jaccard, mean(&jaccards), 1e-9);
        assert_close("given", family.phi_given_parent, mean(&givens), 1e-9);
        all_phi.extend(phis);
        all_jaccard.extend(jaccards);
        all_given.extend(givens);
    }
    assert_eq!((r.family.len(), r.pairs as usize, r.root, r.not_alive), (4, all_phi.len(), 2, 0));
    assert_close("phi", r.phi.value, mean(&all_phi), 1e-9);
    assert_close("jaccard", r.jaccard.value, mean(&all_jaccard), 1e-9);
    assert_close("given", r.phi_given_parent, mean(&all_given), 1e-9);
    // Modularity, computed from the explicit graph.
    let members: Vec<usize> = (0..f2).filter(|j| parent[*j] != ROOT).collect();
    let mut edges = vec![];
    for (a, &j) in members.iter().enumerate() {
        for (b, &k) in members[..a].iter().enumerate() {
            edges.push((a as u32, b as u32, phi(&|_| true, j, k).max(0.0)));
        }
    }
    let label: Vec<u32> = members.iter().map(|j| parent[*j]).collect();
    assert_close("Q", r.modularity.value, Graph::new(members.len(), &edges).modularity(&label), 1e-9);
    // The latents are independent, so every score is within its null.
    for s in [r.phi, r.jaccard, r.modularity] {
        assert!(s.draws == 20 && s.z.abs() < 4.0, "{s:?}");
    }
    for (j, rho) in c.ratios().into_iter().enumerate() {
        let sums = (0..tokens).filter(|t| two.on(*t, j)).fold((0.0, 0.0), |s, t| {
            let z = if parent[j] == ROOT { f64::NAN } else { one.value(t, parent[j] as usize) };
            (s.0 + z, s.1 + two.value(t, j))
        });
        assert_close("rho", rho, sums.0 / sums.1, 1e-9);
    }
}

#[test]
fn cofiring_does_not_depend_on_blocks_or_grouping() {
    let (tokens, f1, f2) = (300, 4, 12);
    let (one, two) = (random_codes(3, tokens, f1), random_codes(4, tokens, f2));
    let parent: Vec<u32> = (0..f2 as u32).map(|j| j % 4).collect();
    let run = |cuts: &[usize]| {
        let mut c = Cofiring::with_all_pairs(f1, &parent).unwrap();
        for w in cuts.windows(2) {
            c.add(&one.part(w[0], w[1]).view(), &two.part(w[0], w[1]).view()).unwrap();
        }
        c
    };
    let text = |c: &Cofiring| format!("{:?} {:?}", c.report(Par::Rayon, Draws { n: 3, seed: 1 }), c.ratios());
    let whole = run(&[0, tokens]);
    let mut merged = run(&[150, 151, 300]);
    merged.merge(&run(&[40, 150])).unwrap();
    merged.merge(&run(&[0, 7, 7, 40])).unwrap();
    assert_eq!(text(&merged), text(&whole));
    // Without counts of all pairs, the scores of siblings are the same and the nulls are missing.
    let mut alone = Cofiring::new(f1, &parent).unwrap();
    alone.add(&one.view(), &two.view()).unwrap();
    let (a, b) = (alone.report(Par::Seq, Draws::default()), whole.report(Par::Seq, Draws::default()));
    assert_eq!(a.family, b.family);
    assert_close("phi", a.phi.value, b.phi.value, 1e-12);
    assert!(a.modularity.value.is_nan() && a.phi.draws == 0 && b.phi.draws == 100);
}

/// A world of four parents with three children each, exclusive ones if `exclusive`. Most words of a token are drawn
/// from three of its child, among nine of its parent. Returns the codes of both levels, the words and the parents.
fn tree(tokens: usize, exclusive: bool) -> (Case, Case, Vec<u32>, Vec<u32>) {
    let mut rng = Philox::new(8, 8);
    let (mut one, mut two) = (vec![[0.0f32; 4]; tokens], vec![[0.0f32; 12]; tokens]);
    let mut words = vec![];
    let mut p = 0;
    for t in 0..tokens {
        // The eight tokens of a context have one parent.
        if t % 8 == 0 {
            p = rng.below(4) as usize;
        }
        let c = rng.below(3) as usize;
        words.push(if rng.below(5) == 0 { rng.below(40) as u32 } else { (p * 9 + c * 3) as u32 + rng.below(3) as u32 });
        one[t][p] = 1.0 + rng.uniform_f32();
        if exclusive {
            two[t][p * 3 + c] = 0.5 + rng.uniform_f32();
        } else {
            (0..3).filter(|_| rng.below(4) > 0).collect::<Vec<_>>().iter().for_each(|c| two[t][p * 3 + c] = 1.0);
        }
    }
    let parent = (0..12).map(|j| j / 3).collect();
    (Case::new(tokens, 4, |t, j| one[t][j]), Case::new(tokens, 12, |t, j| two[t][j]), words, parent)
}

#[test]
fn exclusive_siblings_are_below_zero_given_their_parent_and_loose_ones_fire_together() {
    let run = |exclusive| {
        let (one, two, _, parent) = tree(4000, exclusive);
        let mut c = Cofiring::with_all_pairs(4, &parent).unwrap();
        c.add(&one.view(), &two.view()).unwrap();
        c.report(Par::Seq, Draws::default())
    };
    let r = run(true);
    assert_eq!((r.jaccard.value, r.pairs), (0.0, 12));
    assert!((r.phi_given_parent + 0.5).abs() < 0.05 && r.phi.value < 0.0, "{r:?}");
    let r = run(false);
    assert!(r.phi_given_parent.abs() < 0.05 && r.phi.value > 0.5, "{r:?}");
    assert!(r.phi.z > 5.0 && r.jaccard.z > 5.0 && r.modularity.z > 5.0 && r.modularity.value > 0.6, "{r:?}");
}

#[test]
fn pairs_do_not_depend_on_how_the_tokens_are_cut_nor_on_a_latent_that_is_stored_twice() {
    let (f1, f2, tokens) = (3, 60, 5_000);
    let parent: Vec<u32> = (0..f2).map(|j| if j % 4 == 3 { ROOT } else { j % 4 }).collect();
    // More than twice as many activations as are counted in one block.
    let mut rng = Philox::new(4, 0);
    let mut draw = |f: usize, share: u64| {
        let mut codes = Codes::new();
        for _ in 0..tokens {
            // Stored in descending order.
            for j in (0..f as u32).rev().filter(|_| rng.below(100) < share) {
                codes.index.push(j);
                codes.value.push(1.0 + j as f32);
            }
            codes.end_row();
        }
        codes
    };
    let (one, two) = (draw(f1, 60), draw(f2 as usize, 50));
    let part = |codes: &Codes, rows: std::ops::Range<usize>| {
        let mut part = Codes::new();
        for t in rows {
            part.index.extend(codes.row(t).index);
            part.value.extend(codes.row(t).value);
            part.end_row();
        }
        part
    };
    let run = |cut: usize| {
        let mut c = Cofiring::with_all_pairs(f1, &parent).unwrap();
        for start in (0..tokens).step_by(cut) {
            let rows = start..tokens.min(start + cut);
            c.add(&part(&one, rows.clone()).view(f1).unwrap(), &part(&two, rows).view(f2 as usize).unwrap()).unwrap();
        }
        c
    };
    let whole = run(tokens);
    assert!(two.index.len() > 2 << 16);
    for cut in [1, 700] {
        let other = run(cut);
        assert_eq!(whole.report(Par::Seq, Draws::default()), other.report(Par::Seq, Draws::default()));
    }
    let together = (0..tokens).filter(|t| [4, 8].iter().all(|j| two.row(*t).index.contains(j))).count();
    assert_eq!(whole.together(4, 8) as usize, together);
    // Store the first latent of each token twice.
    let mut twice = Codes::new();
    for t in 0..tokens {
        let row = two.row(t);
        twice.index.extend(row.index.iter().chain(row.index.first()));
        twice.value.extend(row.value.iter().chain(row.value.first()));
        twice.end_row();
    }
    let mut c = Cofiring::with_all_pairs(f1, &parent).unwrap();
    c.add(&one.view(f1).unwrap(), &twice.view(f2 as usize).unwrap()).unwrap();
    assert_eq!(c.together(4, 8), whole.together(4, 8));
}

#[test]
fn cofiring_refuses_sizes_and_parents_that_do_not_fit() {
    assert!(matches!(Cofiring::new(3, &[0, 3]), Err(Error::Index { index: 3, len: 3, .. })));
    let many = vec![0; 1 << 15];
    assert!(matches!(Cofiring::new(1, &many), Err(Error::Config { .. })));
    assert!(matches!(Cofiring::with_all_pairs(1, &vec![ROOT; 1 << 15]), Err(Error::Config { .. })));
    assert!(Cofiring::new(1, &vec![ROOT; 1 << 15]).is_ok());
    let mut c = Cofiring::new(2, &[0, 1, 1]).unwrap();
    let (one, two) = (random_codes(1, 4, 2), random_codes(1, 4, 2));
    assert!(matches!(c.add(&one.view(), &two.view()), Err(Error::Shape { expected: 3, got: 2, .. })));
    let mut infinite = random_codes(1, 4, 3);
    infinite.codes.value.fill(f32::INFINITY);
    assert!(matches!(c.add(&one.view(), &infinite.view()), Err(Error::NotFinite { .. })));
    assert_eq!(c.report(Par::Seq, Draws::default()).tokens, 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn windows_equal_their_definition(
        contexts in prop::collection::vec(prop::collection::vec(0u32..9, 0..20), 0..8), length in prop::option::of(1usize..7)
    ) {
        let word = |w: u32| if w == 8 { NO_WORD } else { w };
        let mut windows = Windows::new(8, length).unwrap();
        let mut parts = [Windows::new(8, length).unwrap(), Windows::new(8, length).unwrap()];
        let mut seen: Vec<Vec<u32>> = vec![];
        for (k, context) in contexts.iter().enumerate() {
            let context: Vec<u32> = context.iter().map(|w| word(*w)).collect();
            windows.add(&context).unwrap();
            parts[k % 2].add(&context).unwrap();
            if !context.is_empty() {
                seen.extend(context.windows(length.unwrap_or(99).min(context.len())).map(<[u32]>::to_vec));
            }
        }
        let [mut merged, other] = parts;
        merged.merge(&other).unwrap();
        prop_assert_eq!(&merged, &windows);
        prop_assert_eq!(windows.windows(), seen.len() as u64);
        let share = |f: &dyn Fn(&[u32]) -> bool| seen.iter().filter(|w| f(w)).count() as f64 / seen.len() as f64;
        for v in 0..8 {
            for w in 0..v {
                let (pv, pw) = (share(&|x| x.contains(&v)), share(&|x| x.contains(&w)));
                let both = share(&|x| x.contains(&v) && x.contains(&w));
                let expected = if !(pv > 0.0 && pw > 0.0) {
                    f64::NAN
                } else if both == 0.0 {
                    -1.0
                } else if both == 1.0 {
                    0.0
                } else {
                    (both / (pv * pw)).ln() / -both.ln()
                };
                assert_close("npmi", windows.npmi(v, w), expected, 1e-9);
                let n = seen.len() as f64;
                let expected = if pw > 0.0 { ((n * both + 1.0) / (n * pw)).ln() } else { f64::NAN };
                assert_close("umass", windows.umass(v, w), expected, 1e-9);
            }
        }
    }
}

#[test]
fn words_of_one_family_belong_together_and_those_of_shuffled_families_do_not() {
    let (_, two, words, parent) = tree(8000, true);
    let mut profiles = Profiles::new(12, 40).unwrap();
    profiles.add(&two.view(), &words).unwrap();
    let mut contexts = Windows::new(40, None).unwrap();
    words.chunks(8).for_each(|c| contexts.add(c).unwrap());
    let partition = Partition::families(&parent, profiles.fires());
    let r = TopWords::new(Par::Seq, &profiles, &partition, Draws::default()).unwrap().report(&contexts).unwrap();
    assert_eq!((r.families, r.without_topic, r.windows), (4, 0, 1000));
    assert!(r.npmi.value > 0.2 && r.npmi.z > 5.0 && r.umass.z > 5.0, "{:?} {:?}", r.npmi, r.umass);
    for topic in &r.topic {
        let own = topic.word.iter().filter(|w| **w / 9 == topic.parent).count();
        assert_eq!((topic.word.len(), own), (10, 9), "{topic:?}");
        let pairs: Vec<f64> = (0..10)
            .flat_map(|a| (0..a).map(move |b| (a, b)))
            .map(|(a, b)| contexts.npmi(topic.word[a], topic.word[b]))
            .collect();
        assert_close("npmi", topic.npmi, pairs.iter().sum::<f64>() / 45.0, 1e-12);
    }
    // Families across the planted ones do not exceed their null.
    let across: Vec<u32> = (0..12).map(|j| j % 4).collect();
    let partition = Partition::families(&across, profiles.fires());
    let r = TopWords::new(Par::Seq, &profiles, &partition, Draws::default()).unwrap().report(&contexts).unwrap();
    assert!(r.npmi.z < 1.0, "{:?}", r.npmi);
}

#[test]
fn topics_of_silent_families_are_nan_and_counted() {
    let mut profiles = Profiles::new(3, 4).unwrap();
    let two = Case::new(30, 3, |t, j| f32::from(u8::from(j == 0 || j == 2 && t % 2 == 0)));
    let words: Vec<u32> = (0..30).map(|t| t % 2).collect();
    profiles.add(&two.view(), &words).unwrap();
    let mut windows = Windows::new(4, Some(10)).unwrap();
    windows.add(&words).unwrap();
    assert_eq!(windows.windows(), 21);
    let partition = Partition::families(&[0, 1, 1], profiles.fires());
    let r = TopWords::new(Par::Seq, &profiles, &partition, Draws { n: 0, seed: 0 }).unwrap().report(&windows).unwrap();
    // The second family has only one word.
    assert_eq!((r.families, r.without_topic, r.npmi.value), (2, 1, 0.0));
    assert!(r.topic[1].npmi.is_nan() && r.topic[1].word == [0]);
    assert!(matches!(Windows::new(4, Some(0)), Err(Error::Config { .. })));
    assert!(matches!(Windows::new(1 << 15, None), Err(Error::Config { .. })));
    assert!(matches!(windows.add(&[0, 4]), Err(Error::Index { index: 4, len: 4, .. })));
    let few = Windows::new(3, None).unwrap();
    let words = TopWords::new(Par::Seq, &profiles, &partition, Draws::default()).unwrap();
    assert!(matches!(words.report(&few), Err(Error::Shape { .. })));
    let other = Partition::families(&[0, 1, 1, 1], &[30; 4]);
    let missing = TopWords::new(Par::Seq, &profiles, &other, Draws::default());
    assert!(matches!(missing, Err(Error::Index { index: 3, len: 3, .. })));
}
