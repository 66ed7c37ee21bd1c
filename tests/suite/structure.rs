//! The structure of decoders, compared with brute force and with planted structure.

use proptest::prelude::*;
use strata_core::error::At;
use strata_core::metrics::coherence::Draws;
use strata_core::metrics::structure::{ATOMS, Decoders, composed, explained, nearest, structure};
use strata_core::{Compute, Error, Isa, Par, Philox, ROOT};

const NONE: Draws = Draws { n: 0, seed: 0 };

fn normal(seed: u64, n: usize) -> Vec<f32> {
    let mut rng = Philox::new(seed, 2);
    (0..n).map(|_| rng.normal_f32()).collect()
}

fn unit(row: &[f32]) -> Vec<f64> {
    let norm = row.iter().map(|w| f64::from(*w).powi(2)).sum::<f64>().sqrt();
    row.iter().map(|w| f64::from(*w) / norm).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Solves `a x = b` by elimination with pivots.
fn solve(mut a: Vec<Vec<f64>>, mut b: Vec<f64>) -> Vec<f64> {
    let n = b.len();
    for k in 0..n {
        let p = (k..n).max_by(|i, j| a[*i][k].abs().total_cmp(&a[*j][k].abs())).unwrap();
        a.swap(k, p);
        b.swap(k, p);
        for i in (0..n).filter(|&i| i != k) {
            let f = a[i][k] / a[k][k];
            let pivot = a[k].clone();
            a[i].iter_mut().zip(&pivot).for_each(|(x, y)| *x -= f * y);
            b[i] -= f * b[k];
        }
    }
    (0..n).map(|i| b[i] / a[i][i]).collect()
}

/// Orthogonal matching pursuit by least squares on the chosen atoms anew each time. Second, the least by which a chosen
/// atom was ahead of the next one: where two are level, roundings choose, and what the pursuit explains jumps.
fn pursuit(v: &[f64], atoms: &[Vec<f64>]) -> ([f64; ATOMS], f64) {
    let (mut chosen, mut left, mut r2) = (Vec::<usize>::new(), v.to_vec(), [0.0; ATOMS]);
    let mut lead = f64::INFINITY;
    for r2 in &mut r2 {
        let mut order: Vec<_> =
            (0..atoms.len()).filter(|j| !chosen.contains(j)).map(|j| (dot(&left, &atoms[j]).abs(), j)).collect();
        order.sort_by(|a, b| b.0.total_cmp(&a.0));
        lead = order.get(1).map_or(lead, |next| lead.min(order[0].0 - next.0));
        chosen.push(order[0].1);
        let gram = chosen.iter().map(|a| chosen.iter().map(|b| dot(&atoms[*a], &atoms[*b])).collect()).collect();
        let weight = solve(gram, chosen.iter().map(|a| dot(v, &atoms[*a])).collect());
        left = v.to_vec();
        for (w, j) in weight.iter().zip(&chosen) {
            left.iter_mut().zip(&atoms[*j]).for_each(|(l, a)| *l -= w * a);
        }
        *r2 = 1.0 - dot(&left, &left);
    }
    (r2, lead)
}

proptest! {
    #[test]
    fn compositions_and_nearest_directions_equal_brute_force(
        seed in 0u64..10_000, d in 5usize..20, m in 4usize..40, n in 2usize..100
    ) {
        let (rows, atoms) = (normal(seed, n * d), normal(seed + 1, m * d));
        let of = |x: &[f32]| x.chunks(d).map(unit).collect::<Vec<_>>();
        let (units, columns) = (of(&rows), of(&atoms));
        let pursued: Vec<_> = units.iter().map(|v| pursuit(v, &columns)).collect();
        // Skip cases in which f32 cannot distinguish the two best atoms.
        prop_assume!(pursued.iter().all(|(_, lead)| *lead > 1e-5));
        let got = composed(Compute::new(Isa::detect(), Par::Rayon), &rows, &atoms, d, NONE).unwrap();
        for s in 0..ATOMS {
            let want = pursued.iter().map(|(r2, _)| r2[s]).sum::<f64>() / n as f64;
            prop_assert!((got.r2[s].value - want).abs() < 1e-5, "{s}: {} {want}", got.r2[s].value);
        }
        let close = nearest(Compute::new(Isa::detect(), Par::Rayon), &rows, d).unwrap();
        let mut want: Vec<f64> = (0..n)
            .map(|i| (0..n).filter(|j| *j != i).map(|j| dot(&units[i], &units[j])).fold(-2.0, f64::max))
            .collect();
        want.sort_by(f64::total_cmp);
        let at = |q: f64| want[((q * n as f64).ceil() as usize).clamp(1, n) - 1];
        prop_assert!((close.mean - want.iter().sum::<f64>() / n as f64).abs() < 1e-5);
        for (got, want) in [(close.q10, at(0.1)), (close.q50, at(0.5)), (close.q90, at(0.9)), (close.max, at(1.0))] {
            prop_assert!((got - want).abs() < 1e-5, "{got} {want}");
        }
    }
}

#[test]
fn more_atoms_than_have_a_table_of_products_equal_brute_force() {
    let (d, m, n) = (8, 4_100, 6);
    let (rows, atoms) = (normal(31, n * d), normal(32, m * d));
    let of = |x: &[f32]| x.chunks(d).map(unit).collect::<Vec<_>>();
    let columns = of(&atoms);
    let pursued: Vec<_> = of(&rows).iter().map(|v| pursuit(v, &columns)).collect();
    assert!(pursued.iter().all(|(_, lead)| *lead > 1e-5));
    let got = composed(Compute::new(Isa::detect(), Par::Rayon), &rows, &atoms, d, NONE).unwrap();
    for s in 0..ATOMS {
        let want = pursued.iter().map(|(r2, _)| r2[s]).sum::<f64>() / n as f64;
        assert!((got.r2[s].value - want).abs() < 1e-5, "{s}: {} {want}", got.r2[s].value);
    }
}

#[test]
fn planted_compositions_are_found_and_random_directions_are_the_null() {
    let (d, m, n) = (40, 30, 200);
    let atoms = normal(1, m * d);
    let mut rng = Philox::new(2, 0);
    // Each direction is a sum of two atoms with random signs.
    let mut rows = vec![];
    for _ in 0..n {
        let (a, b) = (rng.below(m as u64) as usize, rng.below(m as u64 - 1) as usize);
        let b = if b >= a { b + 1 } else { b };
        rows.extend((0..d).map(|c| atoms[a * d + c] - 0.7 * atoms[b * d + c]));
    }
    let draws = Draws { n: 10, seed: 3 };
    let found = composed(Compute::new(Isa::detect(), Par::Rayon), &rows, &atoms, d, draws).unwrap();
    // The first atom of a greedy pursuit may be neither of the two.
    assert!(found.r2[1].value > 0.97 && found.r2[2].value > 0.98, "{found:?}");
    assert!(found.r2.iter().all(|s| s.z > 50.0 && s.null_mean < 0.5 && s.draws == 10), "{found:?}");
    assert_eq!(found, composed(Compute::new(Isa::detect(), Par::Seq), &rows, &atoms, d, draws).unwrap());
    let random = composed(Compute::new(Isa::detect(), Par::Rayon), &normal(9, n * d), &atoms, d, draws).unwrap();
    assert!(random.r2.iter().chain(&random.r2_mixed).all(|s| s.z.abs() < 4.0), "{random:?}");
    // Directions of few dimensions, the same as the atoms': better than isotropic ones, no better than mixtures.
    let flat: Vec<f32> = normal(10, n * d).iter().enumerate().map(|(i, w)| if i % d < 12 { *w } else { 0.0 }).collect();
    let narrow: Vec<f32> = atoms.iter().enumerate().map(|(i, w)| if i % d < 12 { *w } else { 0.1 * w }).collect();
    let flat = composed(Compute::new(Isa::detect(), Par::Rayon), &flat, &narrow, d, draws).unwrap();
    assert!(flat.r2[2].z > 20.0 && flat.r2_mixed[2].z.abs() < 4.0, "{flat:?}");
    assert!(found.r2_mixed.iter().all(|s| s.z > 50.0), "{found:?}");
}

#[test]
fn the_null_of_bare_and_of_effective_children_is_the_one_of_each_alone() {
    let (d, f1, f2) = (9, 7, 50);
    let (one, two, effective) = (normal(1, f1 * d), normal(2, f2 * d), normal(3, f2 * d));
    let mut fewer = effective.clone();
    fewer[..d].fill(0.0);
    let draws = Draws { n: 4, seed: 5 };
    for effective in [&effective, &fewer] {
        for isa in Isa::all_available() {
            let parent = [ROOT; 50];
            let of = Decoders { d, level1: &one, level2: &two, parent: &parent, effective: Some(effective) };
            let found = structure(Compute::new(isa, Par::Rayon), &of, draws).unwrap().level2.unwrap();
            let alone = |rows: &[f32]| composed(Compute::new(Isa::SCALAR, Par::Seq), rows, &one, d, draws).unwrap();
            assert_eq!((&found.composed, found.effective.as_ref()), (&alone(&two), Some(&alone(effective))));
            assert_ne!(found.composed.r2_mixed, found.composed.r2);
        }
    }
}

#[test]
fn span_and_parent_explain_what_was_planted() {
    let d = 12;
    // Level 1 has four of the axes, one of them twice. Level 2 lies half on its parent's axis and half outside of level
    // 1.
    let axis = |a: usize, b: usize, wa: f32, wb: f32| -> Vec<f32> {
        (0..d)
            .map(|c| {
                if c == a {
                    wa
                } else if c == b {
                    wb
                } else {
                    0.0
                }
            })
            .collect()
    };
    let one =
        [axis(0, 1, 1.0, 0.0), axis(1, 0, 2.0, 0.0), axis(2, 0, 1.0, 0.0), axis(3, 0, 1.0, 0.0), axis(3, 0, 1.0, 0.0)];
    let two: Vec<f32> = (0..4).flat_map(|p| axis(p, 6 + p, 1.0, 1.0)).collect();
    let draws = Draws { n: 200, seed: 1 };
    let found = explained(Isa::detect(), &one.concat(), &two, d, &[0, 1, 2, ROOT], draws).unwrap();
    assert!((found.span - 0.5).abs() < 1e-6 && (found.span_chance - 4.0 / 12.0).abs() < 1e-12, "{found:?}");
    assert!((found.by_parent.value - 0.5).abs() < 1e-6 && found.edges == 3, "{found:?}");
    // A random permutation of three leaves one in place on average.
    assert!((found.by_parent.null_mean - 0.5 / 3.0).abs() < 0.03, "{found:?}");
    let all = explained(Isa::detect(), &normal(4, 20 * d), &two, d, &[ROOT; 4], draws).unwrap();
    assert!((all.span - 1.0).abs() < 1e-6 && all.span_chance == 1.0 && all.by_parent.value.is_nan(), "{all:?}");
}

#[test]
fn structure_does_not_depend_on_the_order_of_latents() {
    let (d, f1, f2) = (10, 6, 30);
    let (one, two) = (normal(5, f1 * d), normal(6, f2 * d));
    let parent: Vec<u32> = (0..f2).map(|j| if j % 7 == 0 { ROOT } else { (j % f1) as u32 }).collect();
    let mut order: Vec<usize> = (0..f2).collect();
    Philox::new(1, 0).shuffle(&mut order);
    let moved: Vec<f32> = order.iter().flat_map(|&j| two[j * d..(j + 1) * d].to_vec()).collect();
    let moved_parent: Vec<u32> = order.iter().map(|&j| parent[j]).collect();
    let run = |two: &[f32], parent: &[u32]| {
        let of = Decoders { d, level1: &one, level2: two, parent, effective: None };
        structure(Compute::new(Isa::detect(), Par::Rayon), &of, NONE).unwrap().level2.unwrap()
    };
    let (a, b) = (run(&two, &parent), run(&moved, &moved_parent));
    for (x, y) in [
        (a.nearest.mean, b.nearest.mean),
        (a.nearest.q50, b.nearest.q50),
        (a.dictionary.c_dec, b.dictionary.c_dec),
        (a.levels.hedging, b.levels.hedging),
        (a.explained.by_parent.value, b.explained.by_parent.value),
        (a.composed.r2[2].value, b.composed.r2[2].value),
    ] {
        assert!((x - y).abs() < 1e-9, "{x} {y}");
    }
}

#[test]
fn rows_without_direction_and_flat_models_have_their_rules() {
    let d = 4;
    let mut rows = normal(3, 5 * d);
    rows[d..2 * d].fill(0.0);
    let without: Vec<f32> = [&rows[..d], &rows[2 * d..]].concat();
    let run = |rows: &[f32]| nearest(Compute::new(Isa::detect(), Par::Seq), rows, d).unwrap();
    assert_eq!(run(&rows), run(&without));
    assert!(run(&rows[..2 * d]).mean.is_nan() && run(&[]).max.is_nan());
    let of = Decoders { d, level1: &rows, level2: &[], parent: &[], effective: None };
    let flat = structure(Compute::new(Isa::detect(), Par::Seq), &of, Draws::default()).unwrap();
    assert!(flat.level2.is_none() && flat.level1.without_direction == 1);
    // A model without families has no edges.
    let of = Decoders { level2: &without, effective: Some(&without), ..of };
    let two = structure(Compute::new(Isa::detect(), Par::Seq), &of, Draws { n: 3, seed: 0 }).unwrap().level2.unwrap();
    assert!(two.explained.by_parent.value.is_nan() && two.explained.edges == 0);
    assert_eq!(two.effective.as_ref(), Some(&two.composed));
    assert!((two.composed.r2[0].value - 1.0).abs() < 1e-6, "level 2 is in level 1: {two:?}");
    // With more steps than atoms the fit does not change any more.
    let one = composed(Compute::new(Isa::detect(), Par::Seq), &without, &rows[..d], d, NONE).unwrap();
    assert_eq!(one.r2[0].value, one.r2[2].value);
    assert!(composed(Compute::new(Isa::detect(), Par::Seq), &[0.0; 4], &rows, d, NONE).unwrap().r2[0].value.is_nan());

    let err = nearest(Compute::new(Isa::detect(), Par::Seq), &rows[1..], d).unwrap_err();
    assert!(matches!(err, Error::Shape { expected: 4, got: 19, .. }), "{err}");
    let err = explained(Isa::detect(), &rows, &without, d, &[0; 3], NONE).unwrap_err();
    assert!(matches!(err, Error::Shape { expected: 4, got: 3, .. }), "{err}");
    let err = explained(Isa::detect(), &rows, &without, d, &[0, 1, 5, 0], NONE).unwrap_err();
    assert!(matches!(err, Error::Index { index: 5, len: 5, .. }), "{err}");
    rows[3] = f32::NAN;
    let err = composed(Compute::new(Isa::detect(), Par::Seq), &without, &rows, d, NONE).unwrap_err();
    assert!(matches!(err, Error::NotFinite { at: At::Row(0), .. }), "{err}");
}
