//! The scores compared with the numpy reference, and on models whose scores are known.

use safetensors::SafeTensors;
use strata_core::ROOT;
use strata_core::metrics::recovery::{Recovery, Truth, parents_by_lift, recovery};
use strata_core::model::CodesView;
use strata_core::rng::Philox;
use strata_core::synth::{World, WorldConfig};
use strata_core::{Error, Result};

struct Golden<'a>(SafeTensors<'a>, &'static str);

impl Golden<'_> {
    fn words<const N: usize, T>(&self, key: &str, read: impl Fn([u8; N]) -> T) -> Vec<T> {
        let tensor = self.0.tensor(&format!("{}.{key}", self.1)).unwrap();
        tensor.data().as_chunks().0.iter().map(|b| read(*b)).collect()
    }
    fn f32(&self, key: &str) -> Vec<f32> {
        self.words(key, f32::from_le_bytes)
    }
    fn u32(&self, key: &str) -> Vec<u32> {
        self.words(key, u32::from_le_bytes)
    }
    fn f64(&self, key: &str) -> f64 {
        self.words(key, f64::from_le_bytes)[0]
    }
    fn codes(&self, level: usize) -> OwnedCodes {
        OwnedCodes {
            offsets: self.u32(&format!("offsets{level}")).into_iter().map(|o| o as usize).collect(),
            index: self.words(&format!("index{level}"), |b| u32::from(u16::from_le_bytes(b))),
            value: self.words(&format!("value{level}"), |b| half_to_f32(u16::from_le_bytes(b))),
        }
    }
}

/// Normal half-precision numbers and zero: all that the golden has.
fn half_to_f32(h: u16) -> f32 {
    let magnitude = f32::from_bits(u32::from(h & 0x7fff) << 13) * 2f32.powi(112);
    if h >> 15 == 1 { -magnitude } else { magnitude }
}

#[derive(Clone)]
struct OwnedCodes {
    offsets: Vec<usize>,
    index: Vec<u32>,
    value: Vec<f32>,
}

impl OwnedCodes {
    fn dense(z: &[f32], latents: usize) -> Self {
        let mut codes = Self { offsets: vec![0], index: vec![], value: vec![] };
        for row in z.chunks_exact(latents) {
            for (j, v) in row.iter().enumerate().filter(|(_, v)| **v != 0.0) {
                codes.index.push(j as u32);
                codes.value.push(*v);
            }
            codes.offsets.push(codes.index.len());
        }
        codes
    }
    fn view(&self, latents: usize) -> CodesView<'_> {
        CodesView::new(&self.offsets, &self.index, &self.value, latents).unwrap()
    }
}

fn fields(r: &Recovery) -> [(&'static str, f64); 28] {
    [
        ("mcc", r.mcc),
        ("mcc_firing", r.mcc_firing),
        ("n_firing", r.n_firing as f64),
        ("dead", r.dead as f64),
        ("n_unmatched", r.n_unmatched as f64),
        ("cos_root", r.cos_root),
        ("cos_leaf", r.cos_leaf),
        ("f1", r.f1),
        ("f1_root", r.f1_root),
        ("f1_leaf", r.f1_leaf),
        ("root_in_level1", r.root_in_level1),
        ("leaf_in_level2", r.leaf_in_level2),
        ("edge_recall", r.edge_recall),
        ("edge_precision", r.edge_precision),
        ("absorption", r.absorption),
        ("containment", r.containment),
        ("median_lift", r.median_lift),
        ("uniqueness", r.uniqueness),
        ("false_parent_rate", r.false_parent_rate),
        ("detection.precision", r.detection.precision),
        ("detection.recall", r.detection.recall),
        ("detection.f1", r.detection.f1),
        ("detection.uniqueness", r.detection.uniqueness),
        ("edges.edges", r.edges.edges as f64),
        ("edges.to_parent", r.edges.to_parent),
        ("edges.to_ancestor", r.edges.to_ancestor),
        ("edges.to_ancestor_chance", r.edges.to_ancestor_chance),
        ("edges.to_itself", r.edges.to_itself),
    ]
}

#[test]
fn recovery_equals_the_numpy_reference() {
    let bytes = include_bytes!("../golden/recovery.safetensors");
    for name in ["full", "few"] {
        let golden = Golden(SafeTensors::deserialize(bytes).unwrap(), name);
        let (d1, d2) = (golden.f32("decoder1"), golden.f32("decoder2"));
        let (parent, true_parent) = (golden.u32("parent"), golden.u32("true_parent"));
        let directions = golden.f32("directions");
        let magnitude = golden.words("on", |[b]| f32::from(b));
        let truth = Truth { directions: &directions, parent: &true_parent, magnitude: &magnitude };
        let d = directions.len() / true_parent.len();
        let (codes1, codes2) = (golden.codes(1), golden.codes(2));
        let (codes1, codes2) = (codes1.view(d1.len() / d), codes2.view(d2.len() / d));
        assert_eq!(parents_by_lift(&codes1, &codes2).unwrap(), golden.u32("post"), "{name}");
        for (kind, parent) in [("learned", Some(&parent[..])), ("posthoc", None)] {
            let scores = recovery(d, &d1, &d2, &codes1, &codes2, &truth, parent).unwrap();
            for (field, got) in fields(&scores) {
                let expected = golden.f64(&format!("{kind}.{field}"));
                assert!((got - expected).abs() <= 1e-5, "{name} {kind} {field}: {got}, expected {expected}");
            }
        }
    }
}

/// A world whose features are the latents: roots in level 1, the rest in level 2.
struct Oracle {
    world: World,
    magnitude: Vec<f32>,
    tokens: usize,
    roots: usize,
    parent: Vec<u32>,
}

impl Oracle {
    fn new(tokens: usize) -> Self {
        let config = WorldConfig { d: 32, roots: 5, children: 3, flat: 4, p_min: 0.1, ..WorldConfig::a() };
        let world = World::new(&config).unwrap();
        let n = world.n_features();
        let (mut x, mut magnitude) = (vec![0.0; tokens * config.d], vec![0.0; tokens * n]);
        world.sample(0, tokens, &mut x, Some(&mut magnitude));
        let parent = world.parents()[config.roots..].to_vec();
        Self { world, magnitude, tokens, roots: config.roots, parent }
    }

    fn truth(&self) -> Truth<'_> {
        Truth { directions: self.world.directions(), parent: self.world.parents(), magnitude: &self.magnitude }
    }

    /// The dense codes of both levels, each value passed through `f(token, feature, magnitude)`.
    fn codes(&self, f: impl Fn(usize, usize, f32) -> f32) -> (OwnedCodes, OwnedCodes) {
        let n = self.world.n_features();
        let (mut z1, mut z2) = (vec![], vec![]);
        for t in 0..self.tokens {
            for j in 0..n {
                let v = f(t, j, self.magnitude[t * n + j]);
                if j < self.roots { z1.push(v) } else { z2.push(v) }
            }
        }
        (OwnedCodes::dense(&z1, self.roots), OwnedCodes::dense(&z2, n - self.roots))
    }

    fn score(&self, codes: &(OwnedCodes, OwnedCodes), parent: Option<&[u32]>) -> Result<Recovery> {
        let (d, n) = (self.world.config().d, self.world.n_features());
        let (d1, d2) = self.world.directions().split_at(self.roots * d);
        recovery(d, d1, d2, &codes.0.view(self.roots), &codes.1.view(n - self.roots), &self.truth(), parent)
    }
}

#[test]
fn the_oracle_scores_perfectly() {
    let oracle = Oracle::new(4000);
    let codes = oracle.codes(|_, _, a| a);
    let r = oracle.score(&codes, Some(&oracle.parent)).unwrap();
    for (field, got) in fields(&r) {
        let expected = match field {
            "n_firing" => 24.0,
            "dead" | "n_unmatched" | "absorption" | "false_parent_rate" | "edges.to_itself" => 0.0,
            "edges.edges" => 15.0,
            // Five parents with as many children each.
            "edges.to_ancestor_chance" => 0.2,
            "median_lift" => continue,
            _ => 1.0,
        };
        assert!((got - expected).abs() < 1e-6, "{field}: {got}");
    }
    assert!(r.median_lift > 3.0, "{}", r.median_lift);
    // Parents assigned from the codes give the same tree, and a parent for each flat feature besides.
    let posthoc = oracle.score(&codes, None).unwrap();
    assert_eq!((posthoc.edge_recall, posthoc.false_parent_rate), (1.0, 1.0));
    assert_eq!(posthoc.edge_precision, 15.0 / 19.0);
}

#[test]
fn absorption_is_the_share_of_tokens_with_a_child_whose_root_latent_is_off() {
    let oracle = Oracle::new(4000);
    let n = oracle.world.n_features();
    // Root 0 is silent on every token with its first child on.
    let first = oracle.roots;
    let codes = oracle.codes(|t, j, a| if j == 0 && oracle.magnitude[t * n + first] > 0.0 { 0.0 } else { a });
    let r = oracle.score(&codes, Some(&oracle.parent)).unwrap();
    let on = |f: usize| (0..oracle.tokens).filter(|t| oracle.magnitude[t * n + f] > 0.0).count() as f64;
    let share = on(first) / (on(first) + on(first + 1) + on(first + 2));
    assert!((r.absorption - share / 5.0).abs() < 1e-12, "{} {share}", r.absorption);
    assert!((r.containment - 14.0 / 15.0).abs() < 1e-12, "{}", r.containment);
}

#[test]
fn families_are_scored_by_pairs_of_leaves() {
    let oracle = Oracle::new(4000);
    let codes = oracle.codes(|_, _, a| a);
    let ari = |parent: &[u32]| oracle.score(&codes, Some(parent)).unwrap().family_ari;
    assert!((ari(&oracle.parent) - 1.0).abs() < 1e-12);
    // One leaf in another family, and one under ROOT.
    let mut parent = oracle.parent.clone();
    (parent[0], parent[4]) = (3, ROOT);
    let leaves = 15;
    let (mut both, mut of_truth, mut of_learned) = (0.0, 0.0, 0.0);
    for a in 0..leaves {
        for b in 0..a {
            let one = oracle.parent[a] == oracle.parent[b];
            let other = parent[a] == parent[b] && parent[a] != ROOT;
            both += f64::from(u8::from(one && other));
            of_truth += f64::from(u8::from(one));
            of_learned += f64::from(u8::from(other));
        }
    }
    let chance = of_truth * of_learned / (leaves * (leaves - 1) / 2) as f64;
    let expected = (both - chance) / ((of_truth + of_learned) / 2.0 - chance);
    assert!((ari(&parent) - expected).abs() < 1e-12 && expected < 0.8, "{} {expected}", ari(&parent));
}

#[test]
fn swapped_levels_lose_the_levels_and_the_edges_but_not_the_matching() {
    let oracle = Oracle::new(2000);
    let (d, n) = (oracle.world.config().d, oracle.world.n_features());
    let (codes1, codes2) = oracle.codes(|_, _, a| a);
    let (d1, d2) = oracle.world.directions().split_at(oracle.roots * d);
    let r = recovery(d, d2, d1, &codes2.view(n - oracle.roots), &codes1.view(oracle.roots), &oracle.truth(), None);
    let r = r.unwrap();
    assert!(r.mcc > 1.0 - 1e-6 && r.f1 == 1.0);
    assert_eq!((r.root_in_level1, r.leaf_in_level2, r.edge_recall), (0.0, 0.0, 0.0));
}

#[test]
fn a_near_dead_duplicate_does_not_win_a_match() {
    let oracle = Oracle::new(4000);
    let (d, n) = (oracle.world.config().d, oracle.world.n_features());
    let (codes1, codes2) = oracle.codes(|_, _, a| a);
    // One more latent of level 2 has exactly the direction of root 0 and fires on three of 4000 tokens; the direction
    // of the
    // latent that represents root 0 differs slightly.
    let (d1, d2) = oracle.world.directions().split_at(oracle.roots * d);
    let (mut d1, mut d2) = (d1.to_vec(), d2.to_vec());
    d2.extend_from_slice(&oracle.world.directions()[..d]);
    d1[0] += 0.1;
    let latents2 = n - oracle.roots + 1;
    let mut with = OwnedCodes { offsets: vec![0], index: vec![], value: vec![] };
    for t in 0..oracle.tokens {
        with.index.extend_from_slice(&codes2.index[codes2.offsets[t]..codes2.offsets[t + 1]]);
        if t < 3 {
            with.index.push(latents2 as u32 - 1);
        }
        with.offsets.push(with.index.len());
    }
    with.value = vec![1.0; with.index.len()];
    let mut parent = oracle.parent.clone();
    parent.push(0);
    let r = recovery(d, &d1, &d2, &codes1.view(oracle.roots), &with.view(latents2), &oracle.truth(), Some(&parent));
    let r = r.unwrap();
    assert_eq!((r.root_in_level1, r.edge_recall, r.edge_precision, r.n_firing, r.dead), (1.0, 1.0, 1.0, n, 0));
    assert!(r.mcc > r.mcc_firing && r.mcc > 1.0 - 1e-6);
}

#[test]
fn values_of_zero_do_not_fire() {
    let oracle = Oracle::new(500);
    let mut codes = oracle.codes(|_, _, a| a);
    codes.0.value.fill(0.0);
    codes.1.value.fill(-1.0);
    let r = oracle.score(&codes, Some(&oracle.parent)).unwrap();
    assert_eq!((r.n_firing, r.dead, r.n_unmatched), (0, 24, 24));
    assert_eq!((r.f1, r.absorption, r.root_in_level1, r.edge_recall), (0.0, 1.0, 0.0, 0.0));
    assert!(r.containment.is_nan() && r.median_lift.is_nan() && r.edge_precision.is_nan() && r.uniqueness.is_nan());
}

#[test]
fn recovery_refuses_sizes_and_parents_that_do_not_fit() {
    let oracle = Oracle::new(50);
    let codes = oracle.codes(|_, _, a| a);
    let err = oracle.score(&codes, Some(&oracle.parent[1..])).unwrap_err();
    assert!(matches!(err, Error::Shape { expected: 19, got: 18, .. }), "{err}");
    let mut parent = oracle.parent.clone();
    parent[3] = 5;
    let err = oracle.score(&codes, Some(&parent)).unwrap_err();
    assert!(matches!(err, Error::Index { index: 5, len: 5, .. }), "{err}");
    parent[3] = ROOT;
    assert!(oracle.score(&codes, Some(&parent)).is_ok());
}

#[test]
fn codes_refuse_bad_offsets_and_indices() {
    let shape = |r: Result<CodesView<'_>>| matches!(r.unwrap_err(), Error::Shape { .. });
    assert!(shape(CodesView::new(&[], &[], &[], 3)));
    assert!(shape(CodesView::new(&[1, 1], &[0], &[1.0], 3)));
    assert!(shape(CodesView::new(&[0, 2], &[0], &[1.0], 3)));
    assert!(shape(CodesView::new(&[0, 2, 1, 2], &[0, 1], &[1.0, 1.0], 3)));
    assert!(shape(CodesView::new(&[0, 1], &[0], &[], 3)));
    assert!(matches!(CodesView::new(&[0, 1], &[3], &[1.0], 3).unwrap_err(), Error::Index { index: 3, len: 3, .. }));
    assert_eq!(CodesView::new(&[0], &[], &[], 0).unwrap().tokens(), 0);
}

#[test]
fn random_directions_have_the_mcc_measured_on_world_a() {
    // .354 for 200 latents, 160 features, 64 dimensions in the numpy reference.
    let world = World::new(&WorldConfig::a()).unwrap();
    let mut rng = Philox::new(1, 0);
    let decoder: Vec<f32> = (0..200 * 64).map(|_| rng.normal_f32()).collect();
    let (d1, d2) = decoder.split_at(40 * 64);
    let (codes1, codes2) = (CodesView::new(&[0], &[], &[], 40).unwrap(), CodesView::new(&[0], &[], &[], 160).unwrap());
    let truth = Truth { directions: world.directions(), parent: world.parents(), magnitude: &[] };
    let r = recovery(64, d1, d2, &codes1, &codes2, &truth, None).unwrap();
    assert!((r.mcc - 0.354).abs() < 0.01, "{}", r.mcc);
}
