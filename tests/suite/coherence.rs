//! Families as clusters of directions, compared with scikit-learn, with their definitions, and with planted families.

use proptest::prelude::*;
use safetensors::SafeTensors;
use strata_core::error::At;
use strata_core::metrics::coherence::agreement::{adjusted_mutual_information, adjusted_rand, agreement};
use strata_core::metrics::coherence::discover::{Graph, spherical_kmeans};
use strata_core::metrics::coherence::geometry::{Directions, Geometry, effective_children, geometry};
use strata_core::metrics::coherence::{Draws, Partition, Score};
use strata_core::{Compute, Error, Isa, Par, Philox, ROOT};

#[track_caller]
pub fn assert_close(what: &str, got: f64, expected: f64, bound: f64) {
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
        // Louvain never ends with a modularity below that of its start, where each vertex is a cluster.
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
    // Twenty neighbours include members of other families, which have twelve: Louvain joins some families.
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
    // If the families equal the density classes, a shuffle within the classes changes nothing: the null equals the
    // score.
    let n = 100;
    let label: Vec<u32> = (0..n).map(|i| i / 10).collect();
    let fires: Vec<u64> = (0..u64::from(n)).map(|i| 10 + i).collect();
    let compute = Compute::new(Isa::detect(), Par::Seq);
    let report = |label: &[u32]| {
        let partition = Partition::families(label, &fires);
        geometry(compute, &normal(1, 800), 8, &partition, &fires, Draws { n: 9, seed: 2 }).unwrap()
    };
    let r = report(&label);
    assert!(r.silhouette.z.is_nan() && r.silhouette.excess.abs() < 1e-12 && r.silhouette.draws == 9);
    // Families that are spread over the classes are shuffled.
    let across: Vec<u32> = (0..n).map(|i| i % 10).collect();
    let r = report(&across);
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
    // Two triangles joined by one edge.
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
