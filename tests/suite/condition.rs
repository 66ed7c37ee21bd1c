//! The reconstruction condition compared with class means in `f64`.

use crate::metrics::{Case, assert_close};
use proptest::prelude::*;
use strata_core::error::At;
use strata_core::metrics::coherence::Draws;
use strata_core::metrics::condition::{Condition, HEADROOM, TOP};
use strata_core::model::CodesView;
use strata_core::rng::Philox;
use strata_core::{Compute, Error, Isa, Par, ROOT};

const NO_DRAWS: Draws = Draws { n: 0, seed: 0 };

struct World {
    n: usize,
    d: usize,
    one: Case,
    two: Case,
    parent: Vec<u32>,
    x: Vec<f32>,
}

impl World {
    fn new(seed: u64, n: usize, d: usize) -> Self {
        let mut rng = Philox::new(seed, 4);
        let (one, two) = (Case::new(seed, n, 5), Case::new(seed + 9, n, 11));
        let parent = (0..11).map(|j| if j % 5 == 4 { ROOT } else { (j + 1) % 4 }).collect();
        let x = (0..n * d).map(|_| rng.normal_f32() * rng.normal_f32().exp()).collect();
        Self { n, d, one, two, parent, x }
    }

    fn run(&self, from: usize, to: usize, block: usize) -> Condition {
        let mut c = Condition::new(5, &self.parent, self.d, &self.x).unwrap();
        for at in (from..to).step_by(block) {
            let end = to.min(at + block);
            let x = &self.x[at * self.d..end * self.d];
            self.one.with(at, end, |one| self.two.with(at, end, |two| c.add(Par::Rayon, one, two, x).unwrap()));
        }
        c
    }

    /// `mean(x | on) - mean(x | off)`, or nothing if either set is empty.
    fn difference(&self, on: &dyn Fn(usize) -> bool, off: &dyn Fn(usize) -> bool) -> Option<Vec<f64>> {
        let mean = |f: &dyn Fn(usize) -> bool| {
            let at: Vec<usize> = (0..self.n).filter(|t| f(*t)).collect();
            let sum = |c: usize| at.iter().map(|t| f64::from(self.x[t * self.d + c])).sum::<f64>() / at.len() as f64;
            (!at.is_empty()).then(|| (0..self.d).map(sum).collect::<Vec<f64>>())
        };
        Some(mean(on)?.into_iter().zip(mean(off)?).map(|(a, b)| a - b).collect())
    }
}

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[track_caller]
fn assert_near(what: &str, got: f64, expected: f64) {
    assert!((got - expected).abs() < 1e-4 || got.is_nan() && expected.is_nan(), "{what}: {got}, expected {expected}");
}

proptest! {
    #[test]
    fn directions_and_scores_equal_their_definitions(seed in 0u64..1000, n in 1usize..120, d in 2usize..20) {
        let w = World::new(seed, n, d);
        let c = w.run(0, n, n);
        let mut got = vec![0.0; d];
        let near = |got: &[f64], want: &Option<Vec<f64>>, there: bool| {
            assert_eq!(there, want.is_some());
            for (got, want) in got.iter().zip(want.iter().flatten()) {
                // Each of the two means has an error of at most half a unit.
                assert!((got - want).abs() <= 1.001 * c.resolution(), "{got}, expected {want}");
            }
        };
        let (mut plain, mut strict) = (vec![], vec![]);
        for j in 0..11 {
            let on = |t: usize| w.two.on(t, j);
            plain.push(w.difference(&on, &|t| !on(t)));
            strict.push(match w.parent[j] {
                ROOT => None,
                p => w.difference(&on, &|t| w.one.on(t, p as usize) && !on(t)),
            });
            let there = c.direction(j, &mut got);
            near(&got, &plain[j], there);
            let there = c.strict_direction(j, &mut got);
            near(&got, &strict[j], there);
        }
        let mut rng = Philox::new(seed, 8);
        let mut decoder = |f: usize| (0..f * d).map(|_| rng.normal_f32()).collect::<Vec<f32>>();
        let (decoder1, mut decoder2) = (decoder(5), decoder(11));
        // A child that nearly meets the condition, and one without a direction.
        if let Some(star) = &plain[2] {
            decoder2[2 * d..3 * d].iter_mut().zip(star).for_each(|(w, s)| *w = *s as f32 * 3.0);
        }
        decoder2[3 * d..4 * d].fill(0.0);
        let rows: Vec<Vec<f64>> = [&decoder1, &decoder2]
            .iter().flat_map(|m| m.chunks(d)).map(|r| r.iter().map(|v| f64::from(*v)).collect()).collect();
        let r = c.report(Compute::new(Isa::default(), Par::Rayon), &decoder1, &decoder2, NO_DRAWS).unwrap();
        let (mut s_res, mut top, mut aligned, mut stricts) = (vec![], [0.0; 3], 0.0, 0.0);
        for e in &r.edge {
            let (j, p) = (e.child as usize, e.parent as usize);
            let of = |star: &Option<Vec<f64>>, row: usize| star.as_ref().map_or(f64::NAN, |s| cosine(s, &rows[row]));
            let (child, parent) = (of(&plain[j], 5 + j), of(&plain[j], p));
            assert_near("child", e.cos_child, child);
            assert_near("parent", e.cos_parent, parent);
            assert_near("S_res", e.s_res, if child.is_nan() || parent.is_nan() { f64::NAN } else { child.min(parent) });
            assert_near("strict child", e.strict_child, of(&strict[j], 5 + j));
            assert_near("strict parent", e.strict_parent, of(&strict[j], p));
            if e.s_res.is_nan() {
                assert!(e.rank_child.is_none() && e.rank_parent.is_none());
            } else {
                s_res.push(e.s_res);
                // Ranks are compared up to directions whose cosines differ by less than the rounding of f32.
                let ahead = |cos: f64, by: f64| {
                    (0..16).filter(|k| cosine(plain[j].as_ref().unwrap(), &rows[*k]) > cos + by).count() as u32
                };
                let ranks = [e.rank_child.unwrap(), e.rank_parent.unwrap()];
                for (rank, cos) in ranks.into_iter().zip([child, parent]) {
                    // For ranks, the row of zeros has a cosine of 0 to every direction.
                    let zero = u32::from(cos < 0.0);
                    assert!((ahead(cos, 1e-5) + zero..=ahead(cos, -1e-5) + 1).contains(&rank), "{rank} of {cos}");
                }
                let inside = ranks.map(|r| r < TOP);
                for (t, holds) in top.iter_mut().zip([inside[0] && inside[1], inside[0], inside[1]]) {
                    *t += f64::from(u8::from(holds));
                }
            }
            if !e.strict_child.is_nan() && !e.strict_parent.is_nan() {
                stricts += 1.0;
                aligned += f64::from(u8::from(e.strict_child > e.strict_parent));
            }
        }
        let k = s_res.len() as f64;
        assert_close("mean S_res", r.s_res.value, s_res.iter().sum::<f64>() / k);
        for (got, top) in [r.both_in_top, r.child_in_top, r.parent_in_top].into_iter().zip(top) {
            assert_close("share in the top", got, top / k);
        }
        assert_close("strict", r.strict, aligned / stricts);
        let alive = (0..11).filter(|j| w.parent[*j] != ROOT && (0..n).filter(|t| w.two.on(*t, *j)).count() >= 10);
        assert_eq!(r.edge.iter().map(|e| e.child as usize).collect::<Vec<_>>(), alive.collect::<Vec<_>>());
        assert_eq!((r.root_children, r.edges_not_alive), (2, 9 - r.edge.len()));
        assert_eq!(r.edges_without_direction, r.edge.len() - s_res.len());
        assert_eq!(r.edges_without_strict_direction, r.edge.len() - stricts as usize);
    }

    #[test]
    fn means_of_parts_have_the_bits_of_the_whole(seed in 0u64..1000, n in 1usize..90, cut in 0usize..90, block in 1usize..99) {
        let w = World::new(seed, n, 6);
        let cut = cut.min(n);
        let mut parts = w.run(cut, n, block);
        parts.merge(&w.run(0, cut, n)).unwrap();
        let mut rng = Philox::new(seed, 8);
        let mut decoder = |f: usize| (0..f * 6).map(|_| rng.normal_f32()).collect::<Vec<f32>>();
        let (one, two) = (decoder(5), decoder(11));
        let show = |c: &Condition, par: Par| format!("{:?}", c.report(Compute::new(Isa::detect(), par), &one, &two, Draws { n: 4, seed }).unwrap());
        prop_assert_eq!(show(&parts, Par::Rayon), show(&w.run(0, n, n), Par::Seq));
    }
}

/// A tree of three parents with two exclusive children each, in orthogonal directions: `d` = 9.
fn planted(children_of: [u32; 6]) -> (Condition, Vec<f32>, Vec<f32>) {
    let (d, n) = (9, 900);
    let mut decoder = vec![0.0f32; 9 * d];
    (0..9).for_each(|k| decoder[k * d + k] = 1.0);
    let (decoder1, decoder2) = decoder.split_at(3 * d);
    let (mut x, mut o1, mut i1, mut o2, mut i2) = (vec![0.0f32; n * d], vec![0], vec![], vec![0], vec![]);
    for t in 0..n {
        let row = &mut x[t * d..(t + 1) * d];
        // Every parent fires on a third of the tokens; each of its two children fires on a third of those.
        for p in (0..3).filter(|p| (t / [1, 3, 9][*p]).is_multiple_of(3)) {
            row[p] = 1.0;
            i1.push(p as u32);
            let which = t / [27, 81, 243][p] % 3;
            if which < 2 {
                row[3 + 2 * p + which] = 0.5;
                i2.push((2 * p + which) as u32);
            }
        }
        o1.push(i1.len());
        o2.push(i2.len());
    }
    let (v1, v2) = (vec![1.0; i1.len()], vec![1.0; i2.len()]);
    let mut c = Condition::new(3, &children_of, d, &x).unwrap();
    let one = CodesView::new(&o1, &i1, &v1, 3).unwrap();
    c.add(Par::Seq, &one, &CodesView::new(&o2, &i2, &v2, 6).unwrap(), &x).unwrap();
    (c, decoder1.to_vec(), decoder2.to_vec())
}

#[test]
fn a_planted_tree_meets_the_condition_and_a_wrong_one_does_not() {
    let report = |parents| {
        let (c, one, two) = planted(parents);
        c.report(Compute::new(Isa::default(), Par::Seq), &one, &two, Draws::default()).unwrap()
    };
    let right = report([0, 0, 1, 1, 2, 2]);
    let wrong = report([1, 2, 2, 0, 0, 1]);
    assert_eq!((right.both_in_top, right.strict), (1.0, 1.0));
    assert!(right.s_res.value > 0.4 && right.s_res.excess > 0.2, "{:?}", right.s_res);
    // What a child adds to the rows of its parent is its own direction, minus that of the sibling that it excludes.
    assert!(right.strict_child > 0.8 && right.strict_parent.abs() < 0.2, "{right:?}");
    assert!(wrong.s_res.value < 0.2 && wrong.s_res.value < right.s_res.value / 2.0, "{:?}", wrong.s_res);
}

#[test]
fn means_of_four_tokens_by_hand() {
    // The parent fires on tokens 0, 1 and 2; child 0 on 0 and 3, so once without its parent; child 1 never; child 2
    // always.
    let x = [1.0, 0.0, 0.0, 1.0, 3.0, 1.0, -1.0, 2.0];
    let one = CodesView::new(&[0, 1, 2, 3, 3], &[0, 0, 0], &[1.0; 3], 1).unwrap();
    let two = CodesView::new(&[0, 2, 3, 4, 6], &[0, 2, 2, 2, 0, 2], &[1.0; 6], 3).unwrap();
    let mut c = Condition::new(1, &[0, 0, 0], 2, &x).unwrap();
    // 3 is under 2^2, so HEADROOM of it is under 2^8, and a unit is 2^(8 - 31).
    assert_eq!((c.resolution(), HEADROOM), (2f64.powi(-23), 64.0));
    c.add(Par::Seq, &one, &two, &x).unwrap();
    let mut out = [0.0; 2];
    assert!(c.direction(0, &mut out));
    assert_eq!(out, [0.0 - 1.5, 1.0 - 1.0]);
    assert!(c.strict_direction(0, &mut out));
    assert_eq!(out, [0.0 - 1.5, 1.0 - 1.0]);
    assert!(!c.direction(1, &mut out) && !c.direction(2, &mut out) && !c.strict_direction(1, &mut out));
    // Child 2 is always on, so that the parent has no token without it.
    assert!(!c.strict_direction(2, &mut out));
    let r = c.report(Compute::new(Isa::default(), Par::Seq), &[1.0, 0.0], &[1.0; 6], NO_DRAWS).unwrap();
    assert_eq!((r.edges_not_alive, r.edge.len()), (3, 0));
    assert!(r.s_res.value.is_nan() && r.both_in_top.is_nan() && r.strict.is_nan());
}

#[test]
fn values_over_the_headroom_are_left_out_and_those_below_it_are_exact() {
    let codes = CodesView::new(&[0, 1], &[0], &[1.0], 1).unwrap();
    let none = CodesView::new(&[0, 0], &[], &[], 1).unwrap();
    let mut c = Condition::new(1, &[0], 1, &[0.75, -0.5]).unwrap();
    let most = 64f32.next_down();
    // 0.75 is under 1, so values are under 64, in units of 2^-25.
    c.add(Par::Seq, &codes, &codes, &[64.0]).unwrap();
    let r = c.report(Compute::new(Isa::default(), Par::Seq), &[1.0], &[1.0], NO_DRAWS).unwrap();
    assert_eq!((r.tokens, r.tokens_left_out), (0, 1));
    assert!(matches!(c.add(Par::Seq, &codes, &codes, &[f32::NAN]), Err(Error::NotFinite { at: At::Token(1), .. })));
    assert!(matches!(
        c.add(Par::Seq, &codes, &codes, &[f32::NEG_INFINITY]),
        Err(Error::NotFinite { at: At::Token(1), .. })
    ));
    assert!(matches!(c.add(Par::Seq, &codes, &codes, &[]), Err(Error::Shape { .. })));
    let mut out = [0.0];
    assert!(!c.direction(0, &mut out));
    c.add(Par::Seq, &codes, &codes, &[-most]).unwrap();
    c.add(Par::Seq, &codes, &none, &[2f32.powi(-25)]).unwrap();
    assert!(c.direction(0, &mut out));
    assert_eq!(out, [-f64::from(most) - 2f64.powi(-25)]);
    // Merge the sums with themselves up to the largest number of tokens, all with values at the limit: no sum
    // overflows.
    let mut full = Condition::new(1, &[0], 1, &[0.75]).unwrap();
    full.add(Par::Seq, &codes, &codes, &[most]).unwrap();
    let mut part = full.clone();
    for _ in 0..31 {
        let copy = part.clone();
        part.merge(&copy).unwrap();
        full.merge(&part).unwrap();
    }
    let one_more = part.clone();
    assert!(matches!(full.merge(&one_more), Err(Error::Capacity { .. })));
    assert!(!full.direction(0, &mut out));
    assert!(matches!(Condition::new(1, &[1], 1, &[1.0]), Err(Error::Index { index: 1, len: 1, .. })));
    assert_eq!(Condition::new(1, &[0], 1, &[0.0]).unwrap().resolution(), 2f64.powi(-24));
    assert!(matches!(Condition::new(1, &[0], 0, &[1.0]), Err(Error::Shape { .. })));
    assert!(matches!(Condition::new(1, &[0], 1, &[1.0, f32::NAN]), Err(Error::NotFinite { at: At::Row(1), .. })));
}
