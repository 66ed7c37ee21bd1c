//! Dictionaries compared with their definitions, runs compared with permuted and random ones, and the bootstrap.

use proptest::prelude::*;
use strata_core::error::At;
use strata_core::metrics::bootstrap::{BLOCKS, BlockSums, Resamples, fvu, interval, ratio};
use strata_core::metrics::stability::{Run, dictionary, levels, matched, pairwise_mcc, stability};
use strata_core::{Compute, Error, Isa, Par, Philox, ROOT};

#[track_caller]
fn assert_close(what: &str, got: f64, expected: f64, bound: f64) {
    let close = (got - expected).abs() <= bound * expected.abs().max(1.0);
    assert!(close || got.is_nan() && expected.is_nan(), "{what}: {got}, expected {expected}");
}

fn normal(seed: u64, n: usize) -> Vec<f32> {
    let mut rng = Philox::new(seed, 1);
    (0..n).map(|_| rng.normal_f32()).collect()
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

fn isa() -> Isa {
    Isa::detect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn dictionaries_equal_their_definitions((f1, f2, d, seed) in (2usize..30, 1usize..80, 1usize..20, any::<u64>())) {
        let (one, two) = (normal(seed, f1 * d), normal(seed ^ 1, f2 * d));
        let row = |rows: &[f32], j: usize| rows[j * d..(j + 1) * d].to_vec();
        let r = dictionary(Compute::new(isa(), Par::Seq), &one, d).unwrap();
        let (mut sum, mut top) = (0.0, vec![-1.0f64; f1]);
        for i in 0..f1 {
            for j in (0..f1).filter(|j| *j != i) {
                let c = cosine(&row(&one, i), &row(&one, j));
                top[i] = top[i].max(c);
                sum += c.abs() / 2.0;
            }
        }
        assert_close("c_dec", r.c_dec, sum / (f1 * (f1 - 1) / 2) as f64, 1e-5);
        assert_close("max", r.max_cosine, top.iter().sum::<f64>() / f1 as f64, 1e-5);
        let parent: Vec<u32> = (0..f2).map(|j| if j % 5 == 4 { ROOT } else { (j % f1) as u32 }).collect();
        let r = levels(Compute::new(isa(), Par::Seq), &one, &two, d, &parent).unwrap();
        let closest: Vec<f64> = (0..f2)
            .map(|j| (0..f1).map(|i| cosine(&row(&one, i), &row(&two, j))).fold(-1.0, f64::max))
            .collect();
        assert_close("closest", r.max_cosine, closest.iter().sum::<f64>() / f2 as f64, 1e-5);
        // A cosine that equals .8 up to rounding may count or not.
        let near = closest.iter().filter(|c| (**c - 0.8).abs() < 1e-5).count() as f64;
        let duplicates = closest.iter().filter(|c| **c > 0.8).count() as f64;
        prop_assert!((r.duplicates * f2 as f64 - duplicates).abs() <= near + 1e-9);
        let edges: Vec<usize> = (0..f2).filter(|j| parent[*j] != ROOT).collect();
        let hedging: f64 = edges.iter().map(|j| cosine(&row(&one, parent[*j] as usize), &row(&two, *j))).sum();
        prop_assert_eq!(r.edges, edges.len());
        assert_close("hedging", r.hedging, hedging / edges.len() as f64, 1e-5);
    }

    #[test]
    fn a_permuted_and_flipped_run_matches_itself((f, d, seed) in (1usize..40, 8usize..20, any::<u64>())) {
        let one = normal(seed, f * d);
        let mut order: Vec<usize> = (0..f).collect();
        Philox::new(seed, 3).shuffle(&mut order);
        let other: Vec<f32> = order.iter().flat_map(|i| one[i * d..(i + 1) * d].iter().map(|w| -2.0 * w)).collect();
        for max_exact in [4096, 0] {
            let m = matched(Compute::new(isa(), Par::Rayon), &one, &other, d, max_exact).unwrap();
            prop_assert_eq!(m.exact, max_exact > 0);
            prop_assert!((m.mcc - 1.0).abs() < 1e-6);
            for (i, j) in m.partner.iter().enumerate() {
                prop_assert_eq!(order[j.unwrap() as usize], i);
            }
        }
    }

    #[test]
    fn a_greedy_matching_is_complete_and_no_better_than_the_best((n, m, seed) in (1usize..150, 1usize..150, any::<u64>())) {
        let (a, b) = (normal(seed, n * 6), normal(seed ^ 5, m * 6));
        let best = matched(Compute::new(isa(), Par::Seq), &a, &b, 6, 4096).unwrap();
        let greedy = matched(Compute::new(isa(), Par::Seq), &a, &b, 6, 0).unwrap();
        let mut used: Vec<u32> = greedy.partner.iter().flatten().copied().collect();
        used.sort_unstable();
        used.dedup();
        prop_assert_eq!(used.len(), n.min(m));
        prop_assert!(greedy.mcc <= best.mcc + 1e-6 && greedy.mcc > 0.7 * best.mcc);
    }
}

#[test]
fn orthonormal_duplicate_and_hedged_dictionaries() {
    let one: Vec<f32> = (0..36).map(|k| f32::from(u8::from(k / 6 == k % 6))).collect();
    let r = dictionary(Compute::new(isa(), Par::Seq), &one, 6).unwrap();
    assert_eq!((r.latents, r.c_dec, r.max_cosine, r.without_direction), (6, 0.0, 0.0, 0));
    // The children are a copy of parent 0, one orthogonal to parent 1, the negative of parent 2, a row of zeros, and
    // one under
    // ROOT.
    let mut two = vec![0.0; 30];
    two[..6].copy_from_slice(&one[..6]);
    two[6 + 3] = 2.0;
    two[12 + 2] = -1.0;
    two[24] = 0.6;
    two[25] = 0.8;
    let r = levels(Compute::new(isa(), Par::Seq), &one, &two, 6, &[0, 1, 2, 2, ROOT]).unwrap();
    assert_eq!((r.edges, r.hedging, r.hedging_of_mean, r.parents_without_mean), (3, 0.0, 0.0, 0));
    // The largest cosines are 1, 1, 0 (the negative of one, orthogonal to the rest) and .8, which counts only by
    // rounding.
    assert!((r.max_cosine - 2.8 / 4.0).abs() < 1e-6 && r.duplicates >= 0.5, "{r:?}");
    let r = levels(
        Compute::new(isa(), Par::Seq),
        &one,
        &[1.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        6,
        &[1, 1],
    );
    let r = r.unwrap();
    assert_eq!((r.parents_without_mean, r.hedging), (1, 0.0));
    assert!(r.hedging_of_mean.is_nan());
    let r = dictionary(Compute::new(isa(), Par::Seq), &[0.0, 0.0, 3.0, 0.0], 2).unwrap();
    assert_eq!((r.latents, r.without_direction), (1, 1));
    assert!(r.c_dec.is_nan() && r.max_cosine.is_nan());
    // Children whose directions have a common negative part along their parent give the hedging of that part.
    let r = levels(Compute::new(isa(), Par::Seq), &[1.0, 0.0], &[-0.6, 0.8, -0.6, -0.8], 2, &[0, 0]).unwrap();
    assert!((r.hedging + 0.6).abs() < 1e-6 && (r.hedging_of_mean + 1.0).abs() < 1e-6, "{r:?}");
}

#[test]
fn a_run_agrees_with_its_permutation_and_a_random_one_by_chance() {
    let (f1, f2, d) = (20, 300, 48);
    let (one, two) = (normal(1, f1 * d), normal(2, f2 * d));
    let parent: Vec<u32> = (0..f2).map(|j| if j % 10 == 9 { ROOT } else { (j % f1) as u32 }).collect();
    let this = Run { decoder1: &one, decoder2: &two, parent: &parent };
    let mut rng = Philox::new(3, 3);
    let (mut sigma1, mut sigma2): (Vec<usize>, Vec<usize>) = ((0..f1).collect(), (0..f2).collect());
    rng.shuffle(&mut sigma1);
    rng.shuffle(&mut sigma2);
    let pick = |rows: &[f32], sigma: &[usize]| -> Vec<f32> {
        sigma.iter().flat_map(|i| rows[i * d..(i + 1) * d].to_vec()).collect()
    };
    let (other1, other2) = (pick(&one, &sigma1), pick(&two, &sigma2));
    let place = |p: usize| sigma1.iter().position(|s| *s == p).unwrap() as u32;
    let image: Vec<u32> =
        sigma2.iter().map(|j| if parent[*j] == ROOT { ROOT } else { place(parent[*j] as usize) }).collect();
    let other = Run { decoder1: &other1, decoder2: &other2, parent: &image };
    let r = stability(Compute::new(isa(), Par::Rayon), &this, &other, d).unwrap();
    assert_eq!((r.edge_agreement, r.edges, r.edges_unmatched), (1.0, 270, 0));
    assert!((r.level1.mcc - 1.0).abs() < 1e-6 && (r.level2.mcc - 1.0).abs() < 1e-6 && r.level1.exact);
    assert!((r.edge_chance - 0.05).abs() < 1e-9, "{}", r.edge_chance);
    let p = r.parents;
    assert_eq!(
        (p.pairs, p.found_again, p.agreement.value, p.agreement.low, p.agreement.blocks),
        (270, 1.0, 1.0, 1.0, 18)
    );
    let sizes: Vec<f64> = (0..f1).map(|p| parent.iter().filter(|q| **q == p as u32).count() as f64).collect();
    let chance = sizes.iter().map(|n| n * n).sum::<f64>() / (270.0 * 270.0);
    assert!((p.chance - chance).abs() < 1e-12, "{} {chance}", p.chance);
    // Half of the children have other directions in the other run: they are not found again and do not count.
    let mut turned = other2.clone();
    let away = |j: usize| j.is_multiple_of(2);
    let fresh = normal(9, f2 * d);
    (0..f2).filter(|j| away(*j)).for_each(|j| turned[j * d..(j + 1) * d].copy_from_slice(&fresh[j * d..(j + 1) * d]));
    let half = Run { decoder2: &turned, ..other };
    let p = stability(Compute::new(isa(), Par::Rayon), &this, &half, d).unwrap().parents;
    assert!(p.pairs < 150 && p.pairs > 120 && p.agreement.value == 1.0, "{p:?}");
    // A third of the children have another parent and one is under ROOT: all of these disagree.
    let mut wrong = image.clone();
    wrong
        .iter_mut()
        .enumerate()
        .filter(|(j, p)| j % 3 == 0 && **p != ROOT)
        .for_each(|(_, p)| *p = (*p + 1) % f1 as u32);
    let changed = wrong.iter().zip(&image).filter(|(a, b)| a != b).count();
    *wrong.iter_mut().zip(&image).find(|(a, b)| **a == **b && **a != ROOT).unwrap().0 = ROOT;
    let p = stability(Compute::new(isa(), Par::Rayon), &this, &Run { parent: &wrong, ..other }, d).unwrap().parents;
    let expected = 1.0 - (changed + 1) as f64 / 270.0;
    assert!((p.agreement.value - expected).abs() < 1e-12, "{p:?} {expected}");
    assert!(p.agreement.low < expected && p.agreement.high > expected && p.agreement.low > 0.5, "{p:?}");
    // The same dictionary with random parents, averaged over a few draws.
    let mut agreement = 0.0;
    for _ in 0..20 {
        let random: Vec<u32> = (0..f2).map(|_| rng.below(f1 as u64) as u32).collect();
        let other = Run { parent: &random, ..other };
        let r = stability(Compute::new(isa(), Par::Rayon), &this, &other, d).unwrap();
        assert!((r.edge_chance - 0.05).abs() < 1e-9);
        agreement += r.edge_agreement / 20.0;
    }
    assert!((agreement - 0.05).abs() < 0.012, "{agreement}");
    // The other run has fewer latents, so that some edges have no counterpart.
    let few = Run { decoder1: &other1, decoder2: &other2[..100 * d], parent: &image[..100] };
    let r = stability(Compute::new(isa(), Par::Seq), &this, &few, d).unwrap();
    assert!(r.edges_unmatched >= 170 && r.edge_agreement < 0.4, "{r:?}");
    assert_eq!(r.level2.partner.iter().flatten().count(), 100);
}

#[test]
fn random_directions_have_the_matched_cosine_of_chance() {
    // .354 for 200 against 160 rows in 64 dimensions in the numpy reference, which matches with a world's directions.
    let m = pairwise_mcc(Compute::new(isa(), Par::Seq), &normal(1, 200 * 64), &normal(2, 160 * 64), 64).unwrap();
    assert!((m.mcc - 0.354).abs() < 0.02 && m.exact, "{}", m.mcc);
    let r = dictionary(Compute::new(isa(), Par::Seq), &normal(1, 200 * 64), 64).unwrap();
    assert!((r.c_dec - (2.0 / std::f64::consts::PI / 64.0).sqrt()).abs() < 0.003, "{}", r.c_dec);
}

#[test]
fn stability_refuses_sizes_and_parents_that_do_not_fit() {
    let x = normal(1, 12);
    assert!(matches!(dictionary(Compute::new(isa(), Par::Seq), &x, 5), Err(Error::Shape { .. })));
    assert!(matches!(dictionary(Compute::new(isa(), Par::Seq), &x, 0), Err(Error::Shape { .. })));
    assert!(matches!(
        dictionary(Compute::new(isa(), Par::Seq), &[0.0, f32::NAN], 1),
        Err(Error::NotFinite { at: At::Row(1), .. })
    ));
    assert!(matches!(
        levels(Compute::new(isa(), Par::Seq), &x, &x, 3, &[0; 3]),
        Err(Error::Shape { expected: 4, got: 3, .. })
    ));
    assert!(matches!(
        levels(Compute::new(isa(), Par::Seq), &x, &x, 3, &[4; 4]),
        Err(Error::Index { index: 4, len: 4, .. })
    ));
    let run = |parent| Run { decoder1: &x, decoder2: &x, parent };
    let (good, bad) = ([0, 1, 2, ROOT], [0, 1, 2, 9]);
    assert!(matches!(stability(Compute::new(isa(), Par::Seq), &run(&good), &run(&bad), 3), Err(Error::Index { .. })));
    assert!(matches!(
        stability(Compute::new(isa(), Par::Seq), &run(&good[..3]), &run(&good), 3),
        Err(Error::Shape { .. })
    ));
    let empty = pairwise_mcc(Compute::new(isa(), Par::Seq), &[], &x, 3).unwrap();
    assert!(empty.mcc.is_nan() && empty.partner.is_empty());
}

#[test]
fn greedy_matching_of_more_latents_than_candidates_is_close_to_the_best() {
    let (a, b) = (normal(7, 400 * 32), normal(8, 380 * 32));
    let best = matched(Compute::new(isa(), Par::Seq), &a, &b, 32, 4096).unwrap();
    let greedy = matched(Compute::new(isa(), Par::Seq), &a, &b, 32, 100).unwrap();
    assert!(greedy.mcc <= best.mcc && greedy.mcc > best.mcc - 0.05, "{} {}", greedy.mcc, best.mcc);
    let again = matched(Compute::new(isa(), Par::Rayon), &a, &b, 32, 100).unwrap();
    assert_eq!(again, greedy);
}

// The bootstrap.

#[test]
fn block_sums_do_not_depend_on_order_or_grouping() {
    let contexts = 101;
    let values: Vec<[f64; 2]> = {
        let mut rng = Philox::new(1, 0);
        (0..contexts).map(|_| [rng.normal_f64() * 1e10, rng.normal_f64()]).collect()
    };
    let run = |which: &mut dyn Iterator<Item = u64>| {
        let mut s = BlockSums::new(2, contexts);
        which.for_each(|c| s.add(c, &values[c as usize]).unwrap());
        s
    };
    let whole = run(&mut (0..contexts));
    let mut merged = run(&mut (0..50).rev().map(|c| 2 * c + 1));
    merged.merge(&run(&mut (0..51).map(|c| 2 * c)));
    assert_eq!(whole.blocks(), BLOCKS);
    let bits = |s: &BlockSums| s.values().into_iter().map(f64::to_bits).collect::<Vec<_>>();
    assert_eq!(bits(&merged), bits(&whole));
    // Blocks are contiguous, cover all contexts, and differ by one context at most.
    let blocks: Vec<usize> = (0..contexts).map(|c| whole.block_of(c)).collect();
    let count = |b: usize| blocks.iter().filter(|x| **x == b).count();
    assert!(blocks.is_sorted() && (0..BLOCKS).all(|b| (3..=4).contains(&count(b))));
    assert_eq!(BlockSums::new(1, 5).blocks(), 5);
    let mut s = BlockSums::new(2, 5);
    assert!(matches!(s.add(0, &[1.0]), Err(Error::Shape { .. })));
    assert!(matches!(s.add(3, &[1.0, f64::NAN]), Err(Error::NotFinite { at: At::Context(3), .. })));
    assert_eq!(s.values(), [0.0; 10]);
}

#[test]
fn intervals_of_equal_blocks_have_no_width_and_those_of_nothing_are_nan() {
    let r = ratio(&[3.0, 4.0].repeat(32), Resamples::default()).unwrap();
    assert_eq!((r.value, r.low, r.high, r.standard_error, r.blocks, r.undefined), (0.75, 0.75, 0.75, 0.0, 32, 0));
    let r = ratio(&[0.0; 64], Resamples::default()).unwrap();
    assert!(r.value.is_nan() && r.low.is_nan() && r.undefined == 1000);
    // One block in four has a denominator above 0, so that some resamples have none.
    let r = ratio(&[0.0, 0.0, 1.0, 2.0, 0.0, 0.0, 0.0, 0.0], Resamples::default()).unwrap();
    assert!(r.value == 0.5 && r.undefined > 200 && r.undefined < 450, "{r:?}");
    assert!(matches!(ratio(&[1.0; 3], Resamples::default()), Err(Error::Shape { .. })));
    assert!(matches!(ratio(&[], Resamples::default()), Err(Error::Shape { .. })));
}

#[test]
fn fvu_of_block_sums_is_that_of_all_tokens() {
    let (d, tokens) = (3, 640);
    let (x, e) = (normal(1, tokens * d), normal(2, tokens * d));
    let mut sums = BlockSums::new(3 + d, 64);
    let square = |v: &[f32]| v.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
    for t in 0..tokens {
        let (x, e) = (&x[t * d..(t + 1) * d], &e[t * d..(t + 1) * d]);
        let terms = [&[1.0, 0.25 * square(e), square(x)][..], &x.iter().map(|x| f64::from(*x)).collect::<Vec<_>>()];
        sums.add(t as u64 / 10, &terms.concat()).unwrap();
    }
    let mean: Vec<f64> =
        (0..d).map(|k| x.iter().skip(k).step_by(d).map(|x| f64::from(*x)).sum::<f64>() / tokens as f64).collect();
    let variance: f64 = x.iter().enumerate().map(|(k, x)| (f64::from(*x) - mean[k % d]).powi(2)).sum();
    let r = fvu(&sums.values(), d, Resamples::default()).unwrap();
    assert_close("FVU", r.value, 0.25 * square(&e) / variance, 1e-12);
    assert!(r.low < r.value && r.value < r.high && r.undefined == 0, "{r:?}");
    let again = fvu(&sums.values(), d, Resamples::default()).unwrap();
    assert_eq!(again, r);
    assert_ne!(fvu(&sums.values(), d, Resamples { seed: 1, ..Resamples::default() }).unwrap(), r);
    // Equal tokens have no variance.
    assert!(fvu(&[2.0, 1.0, 2.0, 2.0], 1, Resamples::default()).unwrap().value.is_nan());
}

#[test]
fn intervals_cover_the_truth_as_often_as_they_say_also_where_contexts_depend() {
    // Ratios of sums over 320 contexts of 20 tokens. The tokens of a context share a random level, so that they are not
    // independent.
    let (worlds, contexts) = (300, 320u64);
    let (mut inside, mut error, mut spread) = (0, 0.0, 0.0);
    for w in 0..worlds {
        let mut rng = Philox::new(w, 7);
        let mut sums = BlockSums::new(2, contexts);
        for c in 0..contexts {
            let level = 0.5 + 0.4 * rng.normal_f64();
            let total: f64 = (0..20).map(|_| level + 0.1 * rng.normal_f64()).sum();
            sums.add(c, &[total, 20.0]).unwrap();
        }
        let r = ratio(&sums.values(), Resamples { n: 400, ..Resamples::default() }).unwrap();
        inside += usize::from(r.low <= 0.5 && 0.5 <= r.high);
        error += r.standard_error / worlds as f64;
        spread += (r.value - 0.5).powi(2) / worlds as f64;
    }
    assert!((0.90..=0.98).contains(&(inside as f64 / worlds as f64)), "{inside} of {worlds}");
    assert!((error / spread.sqrt() - 1.0).abs() < 0.15, "{error} {}", spread.sqrt());
}

#[test]
fn intervals_of_any_statistic_are_quantiles_of_its_resamples() {
    let sums: Vec<f64> = (0..8).map(f64::from).collect();
    let r = interval(&sums, 1, Resamples { n: 4001, seed: 5, coverage: 0.5 }, |s| s[0] * s[0]).unwrap();
    let mean = interval(&sums, 1, Resamples { n: 4001, seed: 5, coverage: 0.5 }, |s| s[0]).unwrap();
    assert_eq!((r.value, mean.value), (784.0, 28.0));
    // A monotone function maps quantiles to quantiles where they are single values: the index q * 4000 is a whole
    // number.
    assert_eq!((r.low, r.high), (mean.low * mean.low, mean.high * mean.high));
    let sd = (8.0f64 * 5.25).sqrt();
    assert!((mean.standard_error / sd - 1.0).abs() < 0.05, "{mean:?}");
    assert!((mean.high - mean.low - 2.0 * 0.6745 * sd).abs() < 1.0, "{mean:?}");
}
