//! Shares of subtrees, compared with a reconstruction that is decomposed in `f64`.

use crate::metrics::{Case, assert_close};
use proptest::prelude::*;
use strata_core::error::At;
use strata_core::metrics::attribution::{Attribution, AttributionReport, Block, Decoders, paths};
use strata_core::model::CodesView;
use strata_core::rng::Philox;
use strata_core::{Compute, Error, Isa, Par, ROOT};

const COMPUTE: Compute = Compute::new(Isa::SCALAR, Par::Rayon);

/// Asserts that two numbers agree up to the rounding of dot products in `f32`.
#[track_caller]
fn assert_near(what: &str, got: f64, expected: f64) {
    let near = (got - expected).abs() <= 2e-4 * expected.abs().max(1.0);
    assert!(near || got.is_nan() && expected.is_nan(), "{what}: {got}, expected {expected}");
}

/// A tree, its decoders and codes of both levels, and rows that the codes reconstruct up to noise.
struct World {
    d: usize,
    one: Case,
    two: Case,
    parent: Vec<u32>,
    decoder1: Vec<f32>,
    decoder2: Vec<f32>,
    b_dec: Vec<f32>,
    x: Vec<f32>,
    error: Vec<f32>,
    cumulative: bool,
}

impl World {
    fn new(seed: u64, n: usize, d: usize, cumulative: bool) -> Self {
        let (f1, f2) = (5, 12);
        let mut rng = Philox::new(seed, 1);
        let (one, two) = (Case::new(seed, n, f1), Case::new(seed + 50, n, f2));
        let parent = (0..f2 as u32).map(|j| if j % 4 == 3 { ROOT } else { j % 5 }).collect();
        let mut normals = |len: usize| (0..len).map(|_| rng.normal_f32()).collect::<Vec<f32>>();
        let (decoder1, decoder2, b_dec, noise) = (normals(f1 * d), normals(f2 * d), normals(d), normals(n * d));
        let mut w = Self { d, one, two, parent, decoder1, decoder2, b_dec, x: noise, error: vec![], cumulative };
        let hat: Vec<f64> = (0..n).flat_map(|t| w.hat(t)).collect();
        w.x.iter_mut().zip(&hat).for_each(|(x, h)| *x = 0.5 * *x + *h as f32);
        w.error = hat.iter().zip(&w.x).map(|(h, x)| (h - f64::from(*x)) as f32).collect();
        w
    }

    fn part(&self, t: usize, level: usize, j: usize) -> Vec<f64> {
        let (case, rows) = if level == 1 { (&self.one, &self.decoder1) } else { (&self.two, &self.decoder2) };
        let z = f64::from(case.dense[t * case.latents + j]);
        rows[j * self.d..(j + 1) * self.d].iter().map(|w| z * f64::from(*w)).collect()
    }

    fn hat(&self, t: usize) -> Vec<f64> {
        let mut hat: Vec<f64> = self.b_dec.iter().map(|b| f64::from(*b)).collect();
        let ones = (0..if self.cumulative { 5 } else { 0 }).map(|i| self.part(t, 1, i));
        for part in ones.chain((0..12).map(|j| self.part(t, 2, j))) {
            hat.iter_mut().zip(part).for_each(|(h, p)| *h += p);
        }
        hat
    }

    fn decoders(&self) -> Decoders<'_> {
        let decoder1 = self.cumulative.then_some(&self.decoder1[..]);
        Decoders { d: self.d, decoder1, decoder2: &self.decoder2, b_dec: &self.b_dec }
    }

    fn run(&self, from: usize, to: usize, block: usize) -> Attribution {
        let mut a = Attribution::new(5, &self.parent).unwrap();
        for at in (from..to).step_by(block) {
            let end = to.min(at + block);
            let rows = at * self.d..end * self.d;
            self.one.with(at, end, |one| {
                self.two.with(at, end, |two| {
                    let (x, error) = (&self.x[rows.clone()], &self.error[rows]);
                    let block = Block { codes1: *one, codes2: *two, x, error };
                    a.add(COMPUTE, &block, self.decoders()).unwrap();
                });
            });
        }
        a
    }

    /// `v . (x - b_dec) / ||x - b_dec||^2`.
    fn share(&self, t: usize, v: &[f64]) -> f64 {
        let xt = |c: usize| f64::from(self.x[t * self.d + c]) - f64::from(self.b_dec[c]);
        let dot: f64 = (0..self.d).map(|c| v[c] * xt(c)).sum();
        dot / (0..self.d).map(|c| xt(c) * xt(c)).sum::<f64>()
    }
}

fn total(r: &AttributionReport) -> f64 {
    r.parents + r.children + r.orphans + r.root + r.error
}

proptest! {
    #[test]
    fn shares_equal_their_definitions_and_sum_to_one(
        seed in 0u64..1000, n in 1usize..150, d in 1usize..40, cumulative: bool,
    ) {
        let w = World::new(seed, n, d, cumulative);
        let r = w.run(0, n, n).report();
        let mean = |f: &dyn Fn(usize) -> f64| (0..n).map(f).sum::<f64>() / n as f64;
        // In one dimension a row may nearly equal b_dec, so that its shares are undefined.
        prop_assume!((0..n).all(|t| (0..d).any(|c| (w.x[t * d + c] - w.b_dec[c]).abs() > 0.3)));
        let ones = |t: usize, i: usize| if cumulative { w.share(t, &w.part(t, 1, i)) } else { 0.0 };
        let of = |keep: &dyn Fn(usize, usize) -> bool| {
            mean(&|t| (0..12).filter(|j| keep(t, *j)).map(|j| w.share(t, &w.part(t, 2, j))).sum())
        };
        let under = |t: usize, j: usize| w.parent[j] != ROOT && w.one.on(t, w.parent[j] as usize);
        assert_near("parents", r.parents, mean(&|t| (0..5).map(|i| ones(t, i)).sum()));
        assert_near("children", r.children, of(&under));
        assert_near("orphans", r.orphans, of(&|t, j| w.parent[j] != ROOT && !under(t, j)));
        assert_near("root", r.root, of(&|_, j| w.parent[j] == ROOT));
        let error = |t: usize| w.error[t * d..(t + 1) * d].iter().map(|e| -f64::from(*e)).collect::<Vec<f64>>();
        assert_near("error", r.error, mean(&|t| w.share(t, &error(t))));
        assert_near("all", total(&r), 1.0);
        let (mut shares, mut alive) = (0.0, 0.0);
        for s in &r.subtree {
            let p = s.latent as usize;
            let at: Vec<usize> = (0..n).filter(|t| w.one.on(*t, p)).collect();
            let kids = |t: usize| -> f64 {
                (0..12).filter(|j| w.parent[*j] == s.latent).map(|j| w.share(t, &w.part(t, 2, j))).sum()
            };
            let children = at.iter().map(|t| kids(*t)).sum::<f64>() / at.len() as f64;
            let own = at.iter().map(|t| ones(*t, p)).sum::<f64>() / at.len() as f64;
            assert_eq!(s.fires, at.len() as u64);
            assert_near("children of a subtree", s.children, children);
            assert_near("a subtree", s.share, own + children);
            if at.is_empty() || s.share == 0.0 {
                assert!(s.composition.is_nan());
            } else {
                assert_close("composition", s.composition, s.children / s.share);
            }
            if at.len() >= 10 {
                (shares, alive) = (shares + s.share, alive + 1.0);
            }
        }
        assert_close("mean share of subtrees", r.subtree_share, shares / alive);
        assert_eq!(r.subtree.len() - r.subtrees_not_alive, alive as usize);
    }

    #[test]
    fn shares_of_parts_have_the_bits_of_the_whole(seed in 0u64..1000, n in 1usize..150, cut in 0usize..150, block in 1usize..99) {
        let w = World::new(seed, n, 7, true);
        let cut = cut.min(n);
        let mut parts = w.run(cut, n, block);
        parts.merge(&w.run(0, cut, n));
        prop_assert_eq!(format!("{:?}", parts.report()), format!("{:?}", w.run(0, n, n).report()));
    }

    #[test]
    fn paths_equal_their_definitions(seed in 0u64..1000, f1 in 1usize..9, d in 1usize..7) {
        let (f2, mut rng) = (6, Philox::new(seed, 2));
        let e2: Vec<f32> = (0..f2 * f1).map(|_| if rng.below(3) == 0 { 0.0 } else { rng.normal_f32() }).collect();
        let decoder1: Vec<f32> = (0..f1 * d).map(|_| rng.normal_f32()).collect();
        let r = paths(Par::Rayon, &e2, &decoder1, f1, d).unwrap();
        let (mut undefined, mut means) = (0, vec![]);
        for (j, path) in r.path.iter().enumerate() {
            let row = |i: usize| (0..d).map(move |c| (i, c));
            let at = |i: usize, c: usize| f64::from(decoder1[i * d + c]);
            let e = |i: usize| f64::from(e2[j * f1 + i]);
            let norm = |i: usize| row(i).map(|(i, c)| at(i, c).powi(2)).sum::<f64>().sqrt();
            let mut order: Vec<usize> = (0..f1).collect();
            let weight = |i: usize| e(i).abs() * norm(i);
            order.sort_by(|a, b| weight(*b).total_cmp(&weight(*a)));
            let square = |of: &[usize]| {
                (0..d).map(|c| of.iter().map(|i| e(*i) * at(*i, c)).sum::<f64>().powi(2)).sum::<f64>()
            };
            let (sum, squares) = (0..f1).map(weight).fold((0.0, 0.0), |(s, q), w| (s + w, q + w * w));
            assert_eq!(path.top, order[0] as u32);
            assert_close("effective parents", path.effective_parents, sum * sum / squares);
            let rest = square(order.get(3..).unwrap_or(&[]));
            assert_close("explained", path.explained_by_three, if sum > 0.0 { 1.0 - rest / square(&order) } else { f64::NAN });
            if sum > 0.0 { means.push(path.effective_parents) } else { undefined += 1 }
        }
        assert_eq!(r.undefined, undefined);
        assert_close("mean", r.effective_parents, means.iter().sum::<f64>() / means.len() as f64);
    }
}

#[test]
fn shares_of_a_row_that_is_taken_apart_by_hand() {
    // x - b_dec = (4, 3): the parent adds 2 (1, 0), its children (1, 0) and (0, 1), a child under ROOT (0, 1);
    // the error is (1, 1). ||(4, 3)||^2 = 25.
    let decoder1 = [1.0, 0.0, 0.0, 1.0];
    let decoder2 = [1.0, 0.0, 0.0, 1.0, 0.0, 1.0];
    let parent = [0, 0, ROOT];
    let mut a = Attribution::new(2, &parent).unwrap();
    let one = CodesView::new(&[0, 1], &[0], &[2.0], 2).unwrap();
    let two = CodesView::new(&[0, 3], &[0, 1, 2], &[1.0, 1.0, 1.0], 3).unwrap();
    let decoders = Decoders { d: 2, decoder1: Some(&decoder1), decoder2: &decoder2, b_dec: &[1.0, -1.0] };
    let block = Block { codes1: one, codes2: two, x: &[5.0, 2.0], error: &[-1.0, -1.0] };
    a.add(COMPUTE, &block, decoders).unwrap();
    let r = a.report();
    for (what, got, expected) in [
        ("parents", r.parents, 8.0 / 25.0),
        ("children", r.children, 7.0 / 25.0),
        ("orphans", r.orphans, 0.0),
        ("root", r.root, 3.0 / 25.0),
        ("error", r.error, 7.0 / 25.0),
        ("subtree", r.subtree[0].share, 15.0 / 25.0),
        ("composition", r.subtree[0].composition, 7.0 / 15.0),
    ] {
        assert!((got - expected).abs() < 1e-6, "{what}: {got}, expected {expected}");
    }
    assert_eq!((r.subtree.len(), r.subtrees_not_alive), (1, 1));
    // If the parent is off, its child is an orphan; a row equal to b_dec has no shares.
    let none = CodesView::new(&[0, 0, 0], &[], &[], 2).unwrap();
    let two = CodesView::new(&[0, 1, 2], &[0, 0], &[1.0, 1.0], 3).unwrap();
    let mut a = Attribution::new(2, &parent).unwrap();
    let block = Block { codes1: none, codes2: two, x: &[2.0, -1.0, 1.0, -1.0], error: &[0.0, 0.0, 1.0, 0.0] };
    a.add(COMPUTE, &block, decoders).unwrap();
    let r = a.report();
    assert_eq!((r.tokens, r.short_tokens, r.orphans, r.children, r.error), (2, 1, 1.0, 0.0, 0.0));
    assert!(r.subtree[0].share.is_nan() && r.composition.is_nan());
    let r = Attribution::new(2, &parent).unwrap().report();
    assert!(r.parents.is_nan() && r.error.is_nan() && r.subtree_share.is_nan());
}

#[test]
fn attribution_refuses_what_does_not_fit_and_then_adds_nothing() {
    assert!(matches!(Attribution::new(2, &[2]), Err(Error::Index { index: 2, len: 2, .. })));
    let mut a = Attribution::new(1, &[0]).unwrap();
    let codes = CodesView::new(&[0, 1], &[0], &[2.0], 1).unwrap();
    let good = Decoders { d: 1, decoder1: Some(&[1.0]), decoder2: &[1.0], b_dec: &[0.0] };
    let mut add = |x: &[f32], error: &[f32], decoders| {
        a.add(COMPUTE, &Block { codes1: codes, codes2: codes, x, error }, decoders)
    };
    assert!(matches!(add(&[], &[0.0], good), Err(Error::Shape { what: "x", .. })));
    assert!(matches!(add(&[1.0], &[0.0; 2], good), Err(Error::Shape { .. })));
    assert!(matches!(add(&[1.0], &[0.0], Decoders { decoder1: Some(&[]), ..good }), Err(Error::Shape { .. })));
    assert!(matches!(add(&[1.0], &[0.0], Decoders { b_dec: &[], ..good }), Err(Error::Shape { what: "b_dec", .. })));
    assert!(matches!(add(&[f32::NAN], &[0.0], good), Err(Error::NotFinite { at: At::Token(0), .. })));
    assert!(matches!(add(&[1.0], &[f32::INFINITY], good), Err(Error::NotFinite { at: At::Token(0), .. })));
    assert!(matches!(add(&[1.0], &[1e20], good), Err(Error::Range { .. })));
    assert_eq!(a.report().tokens, 0);
    assert!(matches!(paths(Par::Seq, &[0.0; 3], &[0.0; 2], 2, 1), Err(Error::Shape { expected: 2, got: 3, .. })));
    assert!(matches!(paths(Par::Seq, &[0.0; 4], &[0.0; 3], 2, 1), Err(Error::Shape { expected: 2, got: 3, .. })));
}
