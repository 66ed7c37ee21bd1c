//! Counts in two bytes per pair compared with exact counts, and families compared with the choice from a list of all
//! pairs.

use rayon::ThreadPoolBuilder;
use strata_core::config::{Activation, Config, GateConfig, GateKind};
use strata_core::gate::Families;
use strata_core::kernel::Isa;

use strata_core::train::{Cofire, Counts, Objective, Observed, StepSettings};
use strata_core::{Compute, Par, Philox, ROOT};

/// Returns for each of `n` tokens of a child the parents that fire: parent `i` on a share `1 / (i + 1)` of the tokens.
fn tokens(n: usize, f1: u32) -> Vec<Vec<u32>> {
    let mut rng = Philox::new(3, 3);
    (0..n).map(|_| (0..f1).filter(|i| rng.below(u64::from(*i) + 1) == 0).collect()).collect()
}

fn note(counts: &mut Counts, child: u32, weight: u32, tokens: &[Vec<u32>]) {
    counts.update(Par::Seq, |block| {
        if block.children().contains(&child) {
            tokens.iter().for_each(|parents| block.token(child, weight, parents.iter().copied()));
        }
    });
}

#[test]
fn every_token_counts_while_two_bytes_hold_them() {
    let (f1, child) = (9, 300);
    let mut counts = Counts::new(f1, 301);
    let all = tokens(65_535, f1 as u32);
    assert_eq!(counts.share(child, 0), 0.0, "a child that was never counted");
    for part in all.chunks(1000) {
        note(&mut counts, child as u32, 1, part);
    }
    for i in 0..f1 {
        let exact = all.iter().filter(|parents| parents.contains(&(i as u32))).count() as f64 / all.len() as f64;
        assert_eq!(counts.share(child, i), exact, "parent {i}");
    }
    assert!(counts.shares(child).eq((0..f1).map(|i| counts.share(child, i))));
    assert!(counts.shares(child - 1).all(|s| s == 0.0), "another child");
    counts.forget(child);
    assert_eq!(counts, Counts::new(f1, 301));
}

#[test]
fn shares_hold_however_many_tokens_there_are_and_whatever_they_stand_for() {
    let f1 = 9;
    let all = tokens(700_000, f1 as u32);
    for weight in [1, 16, 100_000] {
        let mut counts = Counts::new(f1, 1);
        note(&mut counts, 0, weight, &all);
        for (i, share) in counts.shares(0).enumerate() {
            let exact = 1.0 / (i + 1) as f64;
            // Four standard deviations of a share of at least 32,768 sampled tokens, plus the rounding by halving.
            let bound = 4.0 * (exact * (1.0 - exact) / 32_768.0).sqrt() + 1e-3;
            assert!((share - exact).abs() <= bound, "weight {weight}, parent {i}: {share}, expected {exact}");
        }
    }
}

#[test]
fn what_is_old_counts_half_with_each_half_life() {
    let always = |n: usize| vec![vec![0]; n];
    let never = |n: usize| vec![Vec::new(); n];
    for n in [1000, 60_000, 500_000] {
        let mut counts = Counts::new(1, 1);
        note(&mut counts, 0, 1, &always(n));
        counts.fade(Par::Seq);
        counts.fade(Par::Seq);
        note(&mut counts, 0, 1, &never(n / 4));
        let share = counts.share(0, 0);
        assert!((share - 0.5).abs() < 5e-3, "{n} tokens that count a quarter beside {}: {share}", n / 4);
    }
    // A count of one token falls to 0.
    let mut counts = Counts::new(1, 1);
    note(&mut counts, 0, 1, &always(1));
    (0..2).for_each(|_| counts.fade(Par::Seq));
    assert_eq!(counts.share(0, 0), 0.0);
}

/// Returns what a step observes of a batch of random rows, including ungated pre-activations.
fn observed(f1: usize, f2: usize) -> Observed {
    let mut config = Config::default();
    (config.level1.latents, config.level2.latents) = (f1, f2);
    (config.level1.k, config.level2.k) = (4.0, 6.0);
    (config.level1.activation, config.level2.activation) = (Activation::Topk, Activation::Topk);
    let d = 24;
    let mut rng = Philox::new(8, 8);
    let mut objective = Objective::new(&config, d, Compute::new(Isa::detect(), Par::Rayon)).expect("valid settings");
    let mut params = objective.arch().zeros();
    for level in &mut params.level {
        for tensor in [&mut level.w_enc, &mut level.w_dec] {
            tensor.iter_mut().for_each(|w| *w = rng.normal_f32());
        }
    }
    let x: Vec<f32> = (0..900 * d).map(|_| rng.normal_f32()).collect();
    let mut grads = params.zeros_like();
    let settings = StepSettings {
        lr: 0.0,
        fixed_level: None,
        k: [4.0, 6.0],
        surplus: [1.0; 2],
        lambda: [0.0; 2],
        w: [1.0; 2],
        gate: GateKind::None,
        source: config.source,
        variance: d as f32,
        tau: [0.0, 8.0],
        observe_ungated: true,
        dead: [Vec::new(), Vec::new()],
    };
    objective.loss_and_gradient(&params, &Families::all_root(f1, f2), &settings, &x, &mut grads).expect("finite rows");
    let mut seen = Observed::default();
    objective.observe(&mut seen);
    seen
}

#[test]
fn families_are_those_of_a_choice_from_the_best_pair_down() {
    let (f1, f2) = (7, 600);
    let batch = observed(f1, f2);
    let mut cofire = Cofire::new(f1, f2);
    cofire.update(Par::Rayon, &batch, 1.0, 1);
    let mut fires = vec![0.0; f1];
    batch.codes[0].index.iter().for_each(|i| fires[*i as usize] += 1.0);
    let mut turned_away = 0;
    for (family_cap, root_below) in [(1.0, 0.3), (1.2, 0.5), (4.0, 0.6), (1.0, 0.05)] {
        let gate = GateConfig { family_cap, root_below, min_count: 5.0, ..GateConfig::default() };
        let cap = (family_cap * f2 as f64 / f1 as f64) as usize;
        let mut seen = vec![0; f2];
        batch.ungated.index.iter().for_each(|j| seen[*j as usize] += 1);
        let mut pairs = Vec::new();
        for j in (0..f2).filter(|j| seen[*j] >= 5) {
            for i in 0..f1 {
                let p = cofire.containment(j, i as u32);
                if p > 0.0 && p >= root_below {
                    pairs.push((p * (p / (fires[i] / batch.n() as f64)).ln(), j, i));
                }
            }
        }
        pairs.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)).then(a.2.cmp(&b.2)));
        let (mut expected, mut size) = (vec![ROOT; f2], vec![0; f1]);
        for (_, j, i) in pairs {
            if expected[j] == ROOT && size[i] < cap {
                expected[j] = i as u32;
                size[i] += 1;
            } else if expected[j] == ROOT {
                turned_away += 1;
            }
        }
        let found = cofire.assign(&gate, &mut Philox::new(0, 0));
        let adopted = found.iter().filter(|p| **p != ROOT).count();
        assert!(adopted > 20, "cap {cap}, root below {root_below}: {adopted} have a parent");
        assert_eq!(found, expected, "cap {cap}, root below {root_below}");
    }
    assert!(turned_away > 20, "{turned_away} had to ask again");
}

#[test]
fn counts_do_not_depend_on_threads() {
    let batch = observed(30, 700);
    let of = |par: Par| {
        let mut cofire = Cofire::new(30, 700);
        (0..5).for_each(|_| cofire.update(par, &batch, 0.6, 2));
        cofire
    };
    let want = of(Par::Seq);
    for threads in 1..=3 {
        let pool = ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
        assert_eq!(pool.install(|| of(Par::Rayon)), want, "{threads} threads");
    }
}
