//! Families as clusters, compared with scikit-learn, with their definitions, and with planted families.

use proptest::prelude::*;
use safetensors::SafeTensors;
use strata_core::error::At;
use strata_core::metrics::coherence::agreement::{adjusted_mutual_information, adjusted_rand, agreement};
use strata_core::metrics::coherence::cofiring::Cofiring;
use strata_core::metrics::coherence::discover::{Graph, spherical_kmeans};
use strata_core::metrics::coherence::geometry::{Directions, Geometry, effective_children, geometry};
use strata_core::metrics::coherence::topics::{TopWords, Windows};
use strata_core::metrics::coherence::{Draws, Partition, Score};
use strata_core::metrics::similarity::{NO_WORD, Profiles};
use strata_core::model::{Codes, CodesView};
use strata_core::{Compute, Error, Isa, Par, Philox, ROOT};

#[track_caller]
fn assert_close(what: &str, got: f64, expected: f64, bound: f64) {
    let close = (got - expected).abs() <= bound * expected.abs().max(1.0);
    assert!(close || got.is_nan() && expected.is_nan(), "{what}: {got}, expected {expected}");
}

fn fields(g: &Geometry) -> [(&'static str, f64); 6] {
    [
        ("silhouette", g.silhouette),
        ("silhouette_of_pairs", g.silhouette_of_pairs),
        ("calinski_harabasz", g.calinski_harabasz),
        ("davies_bouldin", g.davies_bouldin),
        ("intra_cosine", g.intra_cosine),
        ("inter_cosine", g.inter_cosine),
    ]
}

fn score(x: &[f32], d: usize, label: &[u32]) -> Geometry {
    let partition = Partition::of(label);
    let (directions, kept) = Directions::new(x, d, &partition).unwrap();
    assert_eq!(kept, partition, "no label is left out");
    directions.score(Isa::detect(), partition.labels(), partition.clusters())
}

fn normal(seed: u64, n: usize) -> Vec<f32> {
    let mut rng = Philox::new(seed, 1);
    (0..n).map(|_| rng.normal_f32()).collect()
}

/// `x_i = centre of its label + noise`, not of unit length.
fn planted(seed: u64, label: &[u32], d: usize, noise: f32) -> Vec<f32> {
    let clusters = label.iter().max().unwrap() + 1;
    let centre = normal(seed, clusters as usize * d);
    let mut x = normal(seed + 1, label.len() * d);
    for (x, &c) in x.chunks_exact_mut(d).zip(label) {
        x.iter_mut().zip(&centre[c as usize * d..]).for_each(|(x, c)| *x = c + noise * *x);
    }
    x
}

#[test]
fn cluster_scores_equal_scikit_learn() {
    let golden = SafeTensors::deserialize(include_bytes!("../golden/coherence.safetensors")).unwrap();
    for name in ["planted", "random", "singles"] {
        let tensor = |key: &str| golden.tensor(&format!("{name}.{key}")).unwrap();
        let f64_of = |key: &str| f64::from_le_bytes(tensor(key).data().try_into().unwrap());
        let u32_of = |key: &str| -> Vec<u32> {
            tensor(key).data().as_chunks().0.iter().map(|b| u32::from_le_bytes(*b)).collect()
        };
        let x: Vec<f32> = tensor("x").data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        let (label, other) = (u32_of("label"), u32_of("other"));
        let g = score(&x, tensor("x").shape()[1], &label);
        assert_close(name, g.silhouette, f64_of("silhouette"), 1e-6);
        assert_close(name, g.calinski_harabasz, f64_of("calinski_harabasz"), 1e-6);
        assert_close(name, g.davies_bouldin, f64_of("davies_bouldin"), 1e-6);
        assert_close(name, adjusted_rand(&label, &other), f64_of("ari"), 1e-12);
        assert_close(name, adjusted_mutual_information(&label, &other), f64_of("ami"), 1e-10);
    }
}

/// The definitions, in `f64` and by pairs.
fn by_pairs(x: &[f32], d: usize, label: &[u32]) -> Geometry {
    let n = label.len();
    let clusters: Vec<u32> = Partition::of(label).names().to_vec();
    let unit: Vec<Vec<f64>> = x
        .chunks_exact(d)
        .map(|r| {
            let norm = r.iter().map(|w| f64::from(*w).powi(2)).sum::<f64>().sqrt();
            r.iter().map(|w| f64::from(*w) / norm).collect()
        })
        .collect();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let distance = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
    let of = |c: u32| (0..n).filter(move |i| label[*i] == c);
    let mean_of = |items: Vec<usize>| -> Vec<f64> {
        (0..d).map(|k| items.iter().map(|i| unit[*i][k]).sum::<f64>() / items.len() as f64).collect()
    };
    let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
    let mut s = vec![];
    let mut paired = vec![];
    for i in 0..n {
        let far = |c: u32| mean(&of(c).filter(|j| *j != i).map(|j| 1.0 - dot(&unit[i], &unit[j])).collect::<Vec<_>>());
        if of(label[i]).count() == 1 {
            s.push(0.0);
            continue;
        }
        let a = far(label[i]);
        let b = clusters.iter().filter(|c| **c != label[i]).map(|c| far(*c)).fold(f64::INFINITY, f64::min);
        s.push((b - a) / a.max(b));
        paired.push(s[i]);
    }
    let mu: Vec<Vec<f64>> = clusters.iter().map(|c| mean_of(of(*c).collect())).collect();
    let all = mean_of((0..n).collect());
    let k = clusters.len() as f64;
    let between: f64 = clusters.iter().zip(&mu).map(|(c, m)| of(*c).count() as f64 * distance(m, &all).powi(2)).sum();
    let within: f64 = clusters.iter().zip(&mu).flat_map(|(c, m)| of(*c).map(|i| distance(&unit[i], m).powi(2))).sum();
    let spread: Vec<f64> = clusters
        .iter()
        .zip(&mu)
        .map(|(c, m)| mean(&of(*c).map(|i| distance(&unit[i], m)).collect::<Vec<_>>()))
        .collect();
    let worst: Vec<f64> = (0..mu.len())
        .map(|a| {
            let others = (0..mu.len()).filter(|b| *b != a);
            others.map(|b| (spread[a] + spread[b]) / distance(&mu[a], &mu[b])).fold(0.0, f64::max)
        })
        .collect();
    let pairs = |same: bool| -> f64 {
        let cos = |i: usize, j: usize| (label[i] == label[j]) == same && i != j;
        let list: Vec<f64> = (0..n)
            .flat_map(|i| (0..n).map(move |j| (i, j)))
            .filter(|(i, j)| cos(*i, *j))
            .map(|(i, j)| dot(&unit[i], &unit[j]))
            .collect();
        mean(&list)
    };
    Geometry {
        silhouette: mean(&s),
        silhouette_of_pairs: mean(&paired),
        calinski_harabasz: between / (k - 1.0) / (within / (n as f64 - k)),
        davies_bouldin: mean(&worst),
        intra_cosine: pairs(true),
        inter_cosine: pairs(false),
    }
}

fn labelled() -> impl Strategy<Value = (Vec<u32>, usize, u64)> {
    let label = prop::collection::vec(0u32..6, 4..40);
    let proper = label.prop_filter("K = 1 or K = n", |l| {
        let k = Partition::of(l).clusters();
        k > 1 && k < l.len()
    });
    (proper, 2usize..40, any::<u64>())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn cluster_scores_equal_their_definitions_by_pairs((label, d, seed) in labelled()) {
        let x = planted(seed, &label, d, 0.8);
        let (got, expected) = (score(&x, d, &label), by_pairs(&x, d, &label));
        for ((what, got), (_, expected)) in fields(&got).into_iter().zip(fields(&expected)) {
            assert_close(what, got, expected, 1e-5);
        }
    }

    #[test]
    fn cluster_scores_do_not_depend_on_names_order_or_lengths((label, d, seed) in labelled()) {
        let x = planted(seed, &label, d, 0.8);
        let mut order: Vec<usize> = (0..label.len()).collect();
        Philox::new(seed, 9).shuffle(&mut order);
        let turned: Vec<f32> = order.iter().flat_map(|i| x[i * d..(i + 1) * d].iter().map(|w| 3.5 * w)).collect();
        let renamed: Vec<u32> = order.iter().map(|i| 77 - 5 * label[*i]).collect();
        let (a, b) = (score(&x, d, &label), score(&turned, d, &renamed));
        for ((what, a), (_, b)) in fields(&a).into_iter().zip(fields(&b)) {
            assert_close(what, a, b, 1e-5);
        }
        prop_assert_eq!(adjusted_rand(&label, &label), 1.0);
        prop_assert!((adjusted_mutual_information(&label, &label) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn modularity_equals_its_definition(
        (n, edges, label) in (2usize..12).prop_flat_map(|n| {
            let edge = (0..n as u32, 0..n as u32, 0.1f64..2.0).prop_filter("a loop", |e| e.0 != e.1);
            (Just(n), prop::collection::vec(edge, 1..30), prop::collection::vec(0u32..4, n))
        })
    ) {
        let graph = Graph::new(n, &edges);
        let mut a = vec![vec![0.0; n]; n];
        for &(i, j, w) in &edges {
            a[i as usize][j as usize] += w;
            a[j as usize][i as usize] += w;
        }
        let degree: Vec<f64> = a.iter().map(|r| r.iter().sum()).collect();
        let all: f64 = degree.iter().sum();
        let q = |label: &[u32]| -> f64 {
            let of = |i: usize, j: usize| if label[i] == label[j] { a[i][j] - degree[i] * degree[j] / all } else { 0.0 };
            (0..n).flat_map(|i| (0..n).map(move |j| (i, j))).map(|(i, j)| of(i, j)).sum::<f64>() / all
        };
        assert_close("modularity", graph.modularity(&label), q(&label), 1e-9);
        // Louvain never ends below where it starts: everyone alone.
        let found = graph.louvain();
        let alone: Vec<u32> = (0..n as u32).collect();
        prop_assert!(q(&found) >= q(&alone) - 1e-9 && q(&found) >= -1e-9, "{} {}", q(&found), q(&alone));
    }
}

#[test]
fn cluster_scores_of_one_cluster_and_of_singletons_alone_are_nan() {
    let x = normal(1, 5 * 3);
    for label in [[0; 5], [0, 1, 2, 3, 4]] {
        assert!(fields(&score(&x, 3, &label)).iter().all(|(_, v)| v.is_nan()));
    }
    let report = |label: &[u32], fires: &[u64]| {
        let partition = Partition::families(label, fires);
        geometry(Compute::new(Isa::detect(), Par::Seq), &x, 3, &partition, fires, Draws { n: 5, seed: 1 }).unwrap()
    };
    let r = report(&[ROOT, 1, 1, 4, 4], &[90, 90, 90, 90, 3]);
    assert_eq!((r.vectors, r.clusters, r.singletons, r.root, r.not_alive), (3, 2, 1, 1, 1));
    assert!(r.family[1].intra_cosine.is_nan() && r.family[1].silhouette == 0.0 && !r.silhouette.value.is_nan());
    let nothing = report(&[ROOT; 5], &[90; 5]);
    assert_eq!((nothing.vectors, nothing.clusters, nothing.silhouette.draws), (0, 0, 0));
    assert!(nothing.silhouette.value.is_nan() && nothing.family.is_empty());
}

#[test]
fn nulls_are_near_zero_for_random_families_and_far_for_planted_ones() {
    let (n, d) = (240, 16);
    let label: Vec<u32> = (0..n).map(|i| i % 20).collect();
    let mut rng = Philox::new(5, 0);
    let fires: Vec<u64> = (0..n).map(|_| 10 + rng.below(5000)).collect();
    let partition = Partition::families(&label, &fires);
    let (isa, par) = (Isa::detect(), Par::Rayon);
    let draws = Draws::default();
    let good = geometry(Compute { isa, par }, &planted(1, &label, d, 0.6), d, &partition, &fires, draws).unwrap();
    assert!(good.silhouette.z > 20.0 && good.silhouette.excess > 0.2, "{:?}", good.silhouette);
    assert!(good.calinski_harabasz.z > 20.0 && good.davies_bouldin.z < -10.0);
    assert!(good.intra_cosine.z > 20.0 && good.inter_cosine.z < -10.0);
    let found = agreement(Compute { isa, par }, &planted(1, &label, d, 0.4), d, &partition, &fires, draws).unwrap();
    assert!(found.kmeans_ari.value > 0.8 && found.kmeans_ari.z > 20.0, "{found:?}");
    // Twenty neighbours reach beyond families of twelve: Louvain joins some.
    assert!(found.louvain_ari.value > 0.5 && found.louvain_ami.z > 20.0, "{found:?}");
    assert!(found.family_modularity.z > 20.0, "{found:?}");
    // Random vectors: the mean of z over worlds is 0 up to 1 / sqrt(worlds).
    let mut z = [0.0; 9];
    let worlds = 12;
    for w in 0..worlds {
        let x = normal(100 + w, n as usize * d);
        let r = geometry(Compute { isa, par }, &x, d, &partition, &fires, draws).unwrap();
        let a = agreement(Compute { isa, par }, &x, d, &partition, &fires, draws).unwrap();
        let scores = [r.silhouette, r.calinski_harabasz, r.davies_bouldin, r.intra_cosine, r.inter_cosine];
        let more = [a.kmeans_ari, a.kmeans_ami, a.louvain_ari, a.family_modularity];
        for (z, s) in z.iter_mut().zip(scores.iter().chain(&more)) {
            assert!(s.z.abs() < 4.5 && s.draws == 100, "{s:?}");
            *z += s.z / worlds as f64;
        }
    }
    assert!(z.iter().all(|z| z.abs() < 1.2), "{z:?}");
}

#[test]
fn nulls_keep_the_densities_of_each_family() {
    // Families that are the classes of density cannot be shuffled: the null is the score itself.
    let n = 100;
    let label: Vec<u32> = (0..n).map(|i| i / 10).collect();
    let fires: Vec<u64> = (0..u64::from(n)).map(|i| 10 + i).collect();
    let partition = Partition::families(&label, &fires);
    let r = geometry(
        Compute::new(Isa::detect(), Par::Seq),
        &normal(1, 800),
        8,
        &partition,
        &fires,
        Draws { n: 9, seed: 2 },
    )
    .unwrap();
    assert!(r.silhouette.z.is_nan() && r.silhouette.excess.abs() < 1e-12 && r.silhouette.draws == 9);
    // Families across the classes can.
    let across: Vec<u32> = (0..n).map(|i| i % 10).collect();
    let partition = Partition::families(&across, &fires);
    let r = geometry(
        Compute::new(Isa::detect(), Par::Seq),
        &normal(1, 800),
        8,
        &partition,
        &fires,
        Draws { n: 9, seed: 2 },
    )
    .unwrap();
    assert!(r.silhouette.null_sd > 0.0 && r.silhouette.z.abs() < 5.0);
    assert!(serde_json::to_string(&r).unwrap().contains("null_mean"));
}

#[test]
fn reports_are_the_same_on_every_thread_and_instruction_set() {
    let label: Vec<u32> = (0..90).map(|i| i % 7).collect();
    let (x, fires) = (planted(3, &label, 10, 1.0), vec![50; 90]);
    let partition = Partition::families(&label, &fires);
    let run = |compute| {
        let draws = Draws { n: 7, seed: 3 };
        let g = geometry(compute, &x, 10, &partition, &fires, draws).unwrap();
        format!("{g:?} {:?}", agreement(compute, &x, 10, &partition, &fires, draws).unwrap())
    };
    let expected = run(Compute::new(Isa::detect(), Par::Seq));
    for isa in Isa::all_available() {
        assert_eq!(run(Compute::new(isa, Par::Rayon)), expected, "{}", isa.name());
    }
}

#[test]
fn a_score_counts_draws_that_are_undefined() {
    let s = Score::new(5.0, [1.0, f64::NAN, 3.0].into_iter());
    assert_eq!((s.null_mean, s.null_sd, s.excess, s.z), (2.0, 2f64.sqrt(), 3.0, 3.0 / 2f64.sqrt()));
    assert_eq!((s.draws, s.undefined_draws), (2, 1));
    assert!(Score::new(5.0, [1.0, 1.0].into_iter()).z.is_nan());
}

#[test]
fn kmeans_and_louvain_find_what_is_planted() {
    let label: Vec<u32> = (0..60).map(|i| i % 6).collect();
    let x = planted(11, &label, 20, 0.1);
    let (directions, _) = Directions::new(&x, 20, &Partition::of(&label)).unwrap();
    let k = spherical_kmeans(Compute::new(Isa::detect(), Par::Seq), &directions, 6, 10, 1);
    assert_eq!((adjusted_rand(&k.label, &label), k.unconverged), (1.0, 0));
    assert!(k.objective > 0.98, "{}", k.objective);
    let graph = Graph::mutual_neighbours(Compute::new(Isa::detect(), Par::Seq), &directions, 9);
    assert_eq!(adjusted_rand(&graph.louvain(), &label), 1.0);
    // As many clusters as vectors, and more clusters than distinct vectors: none stays empty.
    let same = vec![1.0; 5 * 4];
    let (directions, _) = Directions::new(&same, 4, &Partition::of(&[0; 5])).unwrap();
    let mut each = spherical_kmeans(Compute::new(Isa::detect(), Par::Seq), &directions, 5, 2, 1).label;
    each.sort_unstable();
    assert_eq!(each, [0, 1, 2, 3, 4]);
    // Two triangles and a bridge.
    let edges = [(0, 1, 1.0), (1, 2, 1.0), (0, 2, 1.0), (3, 4, 1.0), (4, 5, 1.0), (3, 5, 1.0), (2, 3, 1.0)];
    let graph = Graph::new(7, &edges);
    assert_eq!(graph.louvain(), [0, 0, 0, 1, 1, 1, 2]);
    assert_close("modularity", graph.modularity(&[0, 0, 0, 1, 1, 1, 2]), 12.0 / 14.0 - 0.5, 1e-12);
    assert!(Graph::new(3, &[]).modularity(&[0, 1, 2]).is_nan() && Graph::new(3, &[]).louvain() == [0, 1, 2]);
}

#[test]
fn directions_leave_out_rows_of_zeros_and_refuse_what_is_not_finite() {
    let partition = Partition::of(&[3, 3, 8]);
    let (directions, kept) = Directions::new(&[1.0, 0.0, 0.0, 0.0, 0.0, 2.0], 2, &partition).unwrap();
    assert_eq!((directions.n(), kept.latents(), kept.names()), (2, &[0, 2][..], &[3, 8][..]));
    let bad = Directions::new(&[1.0, 0.0, 0.0, 0.0, f32::NAN, 2.0], 2, &partition);
    assert!(matches!(bad, Err(Error::NotFinite { at: At::Latent(2), .. })));
    assert!(matches!(Directions::new(&[1.0; 4], 2, &partition), Err(Error::Index { index: 2, len: 2, .. })));
    assert!(matches!(Directions::new(&[1.0; 5], 2, &partition), Err(Error::Shape { .. })));
}

// Co-firing.

/// Dense codes as CSR, blocks of tokens of it, and the tokens on which a latent fires.
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
    // Modularity through the graph.
    let members: Vec<usize> = (0..f2).filter(|j| parent[*j] != ROOT).collect();
    let mut edges = vec![];
    for (a, &j) in members.iter().enumerate() {
        for (b, &k) in members[..a].iter().enumerate() {
            edges.push((a as u32, b as u32, phi(&|_| true, j, k).max(0.0)));
        }
    }
    let label: Vec<u32> = members.iter().map(|j| parent[*j]).collect();
    assert_close("Q", r.modularity.value, Graph::new(members.len(), &edges).modularity(&label), 1e-9);
    // Independent latents: nothing but noise.
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
    // Siblings alone say the same of siblings, without nulls.
    let mut alone = Cofiring::new(f1, &parent).unwrap();
    alone.add(&one.view(), &two.view()).unwrap();
    let (a, b) = (alone.report(Par::Seq, Draws::default()), whole.report(Par::Seq, Draws::default()));
    assert_eq!(a.family, b.family);
    assert_close("phi", a.phi.value, b.phi.value, 1e-12);
    assert!(a.modularity.value.is_nan() && a.phi.draws == 0 && b.phi.draws == 100);
}

/// Four parents with three exclusive children each; the parent's word is drawn from its own ten, the child's from three.
fn tree(tokens: usize, exclusive: bool) -> (Case, Case, Vec<u32>, Vec<u32>) {
    let mut rng = Philox::new(8, 8);
    let (mut one, mut two) = (vec![[0.0f32; 4]; tokens], vec![[0.0f32; 12]; tokens]);
    let mut words = vec![];
    let mut p = 0;
    for t in 0..tokens {
        // Contexts of eight tokens keep to one parent.
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
    // Over twice as many active latents as are counted together.
    let mut rng = Philox::new(4, 0);
    let mut draw = |f: usize, share: u64| {
        let mut codes = Codes::new();
        for _ in 0..tokens {
            // Not in order.
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
    // The first latent of each token once more.
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

#[test]
fn effective_children_add_the_parent_in_proportion() {
    let one = [1.0, 0.0, 0.0, 2.0];
    let two = [0.0, 1.0, 3.0, 0.0, 1.0, 1.0];
    let v = effective_children(2, &one, &two, &[1, ROOT, 0], &[0.5, f64::NAN, f64::NAN]).unwrap();
    assert_eq!(v, [0.0, 2.0, 3.0, 0.0, 0.0, 0.0]);
    let err = effective_children(2, &one, &two, &[2, ROOT, 0], &[0.5; 3]);
    assert!(matches!(err, Err(Error::Index { index: 2, len: 2, .. })));
    assert!(matches!(effective_children(2, &one, &two, &[0], &[0.5]), Err(Error::Shape { .. })));
}

// Topics.

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
    // Families that cut across: the null is right about them.
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
    // The second family knows one word only.
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
