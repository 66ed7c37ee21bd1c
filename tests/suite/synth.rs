//! The tree world has the statistics of its definition, and any range of it can be drawn separately.

use proptest::prelude::*;
use strata_core::Error;
use strata_core::ROOT;
use strata_core::synth::{BenchOptions, World, WorldConfig};

const TOKENS: usize = 40_000;

fn draw(world: &World, start: u64, n: usize) -> (Vec<f32>, Vec<f32>) {
    let (mut x, mut a) = (vec![f32::NAN; n * world.config().d], vec![f32::NAN; n * world.n_features()]);
    world.sample(start, n, &mut x, Some(&mut a));
    (x, a)
}

fn cos(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[test]
fn world_a_has_the_mean_l0_and_the_rates_of_its_definition() {
    let world = World::new(&WorldConfig::a()).unwrap();
    let (n, roots) = (world.n_features(), 24);
    assert_eq!(n, 160);
    let (_, a) = draw(&world, 0, TOKENS);
    let on = |f: usize| (0..TOKENS).filter(|t| a[t * n + f] > 0.0).count() as f64;
    // The bound is five standard errors of a binomial share. About one world in 10^4 would fail; the world is fixed.
    for f in 0..n {
        let (p, share) = (world.probability(f), on(f) / TOKENS as f64);
        assert!((share - p).abs() < 5.0 * (p / TOKENS as f64).sqrt(), "feature {f}: {share}, expected {p}");
    }
    assert!((world.probability(0) - 0.25).abs() < 1e-6 && (world.probability(roots - 1) - 0.03).abs() < 1e-6);
    assert!((world.probability(144) - 0.08).abs() < 1e-6 && (world.probability(159) - 0.02).abs() < 1e-6);
    // A geometric series: the ratio of neighbours is constant.
    let ratio = |f: usize| world.probability(f + 1) / world.probability(f);
    assert!((ratio(3) - ratio(17)).abs() < 1e-5);
    let mean = |of: std::ops::Range<usize>| of.map(on).sum::<f64>() / TOKENS as f64;
    let (r, c, f) = (mean(0..roots), mean(roots..144), mean(144..n));
    assert!((r - 2.5).abs() < 0.05 && (c - 2.0).abs() < 0.05 && (f - 0.7).abs() < 0.03, "{r} {c} {f}");
    assert!((r + c + f - world.expected_l0()).abs() < 0.05, "{}", world.expected_l0());
    assert!((c / r - 0.8).abs() < 0.005, "{}", c / r);
}

#[test]
fn children_are_exclusive_and_never_without_their_root() {
    let world = World::new(&WorldConfig::a()).unwrap();
    let n = world.n_features();
    let (_, a) = draw(&world, 7, 5000);
    for row in a.chunks_exact(n) {
        let mut children = [0; 24];
        for f in (0..n).filter(|&f| row[f] > 0.0) {
            if let Some(p) = world.parent(f) {
                assert!(row[p] > 0.0);
                children[p] += 1;
            }
        }
        assert!(children.iter().all(|c| *c <= 1));
    }
}

#[test]
fn magnitudes_follow_their_definition() {
    let world = World::new(&WorldConfig::a()).unwrap();
    let n = world.n_features();
    let (_, a) = draw(&world, 0, TOKENS);
    let (mut roots, mut quotients) = (vec![], vec![]);
    for row in a.chunks_exact(n) {
        for f in (0..n).filter(|&f| row[f] > 0.0) {
            match world.parent(f) {
                None => roots.push(f64::from(row[f])),
                Some(p) => quotients.push(f64::from(row[f] / row[p])),
            }
        }
    }
    let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
    let sd = |v: &[f64]| {
        let m = mean(v);
        (v.iter().map(|x| (x - m).powi(2)).sum::<f64>() / v.len() as f64).sqrt()
    };
    // 1 + .2 |N|: mean 1 + .2 sqrt(2 / pi) = 1.1596, sd .2 sqrt(1 - 2 / pi) = .1206; .8 (1 + .1 N).
    assert!(roots.iter().all(|a| *a >= 1.0));
    assert!((mean(&roots) - 1.1596).abs() < 2e-3 && (sd(&roots) - 0.1206).abs() < 2e-3);
    assert!((mean(&quotients) - 0.8).abs() < 2e-3 && (sd(&quotients) - 0.08).abs() < 2e-3);
}

#[test]
fn what_the_features_leave_of_a_token_is_noise_of_the_given_level() {
    for config in [WorldConfig::a(), WorldConfig::c()] {
        let world = World::new(&config).unwrap();
        let (d, n, tokens) = (config.d, world.n_features(), 4000);
        let (x, a) = draw(&world, 0, tokens);
        let (mut sum, mut square) = (0.0, 0.0);
        for t in 0..tokens {
            for c in 0..d {
                let signal: f64 = (0..n)
                    .filter(|f| a[t * n + f] > 0.0)
                    .map(|f| f64::from(a[t * n + f]) * f64::from(world.directions()[f * d + c]))
                    .sum();
                let e = f64::from(x[t * d + c]) - signal;
                (sum, square) = (sum + e, square + e * e);
            }
        }
        let entries = (tokens * d) as f64;
        let (mean, sd) = (sum / entries, (square / entries).sqrt());
        assert!(mean.abs() < 5.0 * config.noise / entries.sqrt(), "{mean}");
        assert!((sd / config.noise - 1.0).abs() < 0.01, "{sd}");
    }
}

#[test]
fn directions_are_unit_spread_and_children_stand_at_rho_to_their_root() {
    // The mean over features of the largest |cos| to another: .302 to .307 and .346 to .356 in four worlds each of the
    // numpy reference. Gaussian directions of these sizes have .36 and .40.
    for (config, expected) in [(WorldConfig::a(), 0.304), (WorldConfig::c(), 0.352)] {
        let world = World::new(&config).unwrap();
        let v: Vec<&[f32]> = world.directions().chunks_exact(config.d).collect();
        assert_eq!(v.len(), world.n_features());
        let mut sum = 0.0;
        for f in 0..v.len() {
            let norm: f64 = v[f].iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
            assert!((norm - 1.0).abs() < 1e-6);
            assert_eq!(world.parents()[f] == ROOT, world.parent(f).is_none());
            if let Some(p) = world.parent(f) {
                assert!((cos(v[f], v[p]) - config.rho).abs() < 1e-6);
            }
            sum += (0..v.len()).filter(|&g| g != f).fold(0.0, |w: f64, g| w.max(cos(v[f], v[g]).abs()));
        }
        let mean = sum / v.len() as f64;
        assert!((mean - expected).abs() < 0.01, "{mean}");
    }
}

#[test]
fn mean_largest_cosine_of_world_a_without_entanglement_is_the_measured_one() {
    // The mean largest |cos| at n = 160, d = 64 was measured as .28 for the spread directions alone.
    let world = World::new(&WorldConfig { roots: 0, flat: 160, ..WorldConfig::a() }).unwrap();
    let v: Vec<&[f32]> = world.directions().chunks_exact(64).collect();
    let largest = |f: usize| (0..160).filter(|&g| g != f).fold(0.0, |w: f64, g| w.max(cos(v[f], v[g]).abs()));
    let mean = (0..160).map(largest).sum::<f64>() / 160.0;
    assert!((mean - 0.28).abs() < 0.03, "{mean}");
}

#[test]
fn worlds_of_equal_constants_are_equal_and_of_other_seeds_are_not() {
    let small = WorldConfig { d: 16, roots: 3, children: 2, flat: 2, ..WorldConfig::a() };
    let (a, b) = (World::new(&small).unwrap(), World::new(&small).unwrap());
    assert_eq!(a.directions(), b.directions());
    assert_eq!(draw(&a, 5, 20), draw(&b, 5, 20));
    let other = World::new(&WorldConfig { seed: 1, ..small }).unwrap();
    assert_ne!(a.directions(), other.directions());
    assert_ne!(draw(&a, 5, 20).1, draw(&other, 5, 20).1);
}

/// A small world with every option of SynthSAEBench, but for the probabilities.
fn bench() -> WorldConfig {
    let options = BenchOptions { compensate: false, bias: 1.0, ..WorldConfig::sae_bench().bench.unwrap() };
    let of = WorldConfig::sae_bench();
    WorldConfig { d: 16, roots: 4, children: 2, flat: 6, p_max: 0.23, noise: 0.01, bench: Some(options), ..of }
}

#[test]
fn features_fire_as_often_as_in_worlds_of_saelens() {
    let golden: serde_json::Value = serde_json::from_str(include_str!("../golden/synth.json")).expect("JSON");
    for name in ["clamped", "free"] {
        let of = &golden[name];
        let number = |key: &str| of[key].as_f64().expect("a number");
        let options = BenchOptions {
            depth: 2,
            correlation: 0.0,
            bias: 0.0,
            magnitude_spread: 0.0,
            ..WorldConfig::sae_bench().bench.unwrap()
        };
        let (p_min, p_max) = (number("p_min"), number("p_max"));
        let of_world = WorldConfig::sae_bench();
        let config =
            WorldConfig { d: 8, roots: 10, children: 3, flat: 90, p_min, p_max, bench: Some(options), ..of_world };
        let world = World::new(&config).unwrap();
        let n = world.n_features();
        let (_, a) = draw(&world, 0, TOKENS);
        assert_eq!(of["fires"].as_array().expect("counts").len(), n);
        let tokens = number("tokens");
        for f in 0..n {
            let theirs = of["fires"][f].as_f64().expect("a count") / tokens;
            let ours = (0..TOKENS).filter(|t| a[t * n + f] > 0.0).count() as f64 / TOKENS as f64;
            let p = world.probability(f);
            let error = |tokens: f64| 5.0 * (p / tokens).sqrt() + 1e-4;
            assert!((theirs - p).abs() < error(tokens), "{name}: feature {f} of SAELens: {theirs}, expected {p}");
            assert!((ours - p).abs() < error(TOKENS as f64), "{name}: feature {f}: {ours}, expected {p}");
        }
    }
}

#[test]
fn the_bench_world_has_the_sums_of_the_world_that_saelens_makes() {
    let golden: serde_json::Value = serde_json::from_str(include_str!("../golden/synth.json")).expect("JSON");
    // The width does not change what fires.
    let world = World::new(&WorldConfig { d: 2, ..WorldConfig::sae_bench() }).unwrap();
    let (n, tokens) = (world.n_features(), 4096);
    let (_, a) = draw(&world, 0, tokens);
    let ends = [128, 640, 2688, 10_880, n];
    let (mut on, mut energy, mut l0) = ([0.0; 5], [0.0; 5], Vec::new());
    for row in a.chunks_exact(n) {
        let mut active = 0.0;
        for (f, a) in row.iter().enumerate().filter(|(_, a)| **a > 0.0) {
            let depth = ends.iter().position(|end| f < *end).expect("a depth");
            (on[depth], energy[depth], active) = (on[depth] + 1.0, energy[depth] + f64::from(*a).powi(2), active + 1.0);
        }
        l0.push(active);
    }
    let of = |key: &str, depth: usize| golden["bench"][key][depth].as_f64().expect("a number");
    let near = |what: &str, ours: f64, theirs: f64, by: f64| {
        assert!((ours / theirs - 1.0).abs() < by, "{what}: {ours}, SAELens {theirs}");
    };
    for depth in 0..5 {
        // Worlds with other loadings differ by some percent.
        near(&format!("L0 of depth {depth}"), on[depth] / tokens as f64, of("l0_of_depth", depth), 0.08);
        near(&format!("energy of depth {depth}"), energy[depth] / tokens as f64, of("energy_of_depth", depth), 0.1);
    }
    let mean = l0.iter().sum::<f64>() / tokens as f64;
    let variance = l0.iter().map(|l| (l - mean).powi(2)).sum::<f64>() / tokens as f64;
    near("mean L0", mean, golden["bench"]["l0_mean"].as_f64().expect("a number"), 0.04);
    near("deviation of L0", variance.sqrt(), golden["bench"]["l0_std"].as_f64().expect("a number"), 0.15);
}

#[test]
fn the_bench_world_has_deep_trees_whose_rates_are_those_of_its_law() {
    let world = World::new(&bench()).unwrap();
    let n = world.n_features();
    assert_eq!(n, 4 * (1 + 2 + 4 + 8) + 6);
    let (x, a) = draw(&world, 0, TOKENS);
    for f in 0..n {
        let on = (0..TOKENS).filter(|t| a[t * n + f] > 0.0).count() as f64;
        let (p, share) = (world.probability(f), on / TOKENS as f64);
        // Magnitudes with a large standard deviation are sometimes cut at 0, which lowers the share slightly.
        assert!((share - p).abs() < 5.0 * (p / TOKENS as f64).sqrt() + 0.01 * p, "feature {f}: {share}, expected {p}");
    }
    let depth = |mut f: usize| std::iter::from_fn(|| world.parent(f).inspect(|&p| f = p)).count();
    assert_eq!((0..n).filter(|&f| depth(f) == 3).count(), 4 * 8);
    for row in a.chunks_exact(n) {
        let mut children = vec![0; n];
        for f in (0..n).filter(|&f| row[f] > 0.0) {
            if let Some(p) = world.parent(f) {
                assert!(row[p] > 0.0, "child {f} without its parent {p}");
                children[p] += 1;
            }
        }
        assert!(children.iter().all(|c| *c <= 1), "two children of one parent");
    }
    // The mean row is the bias, of norm 1, plus the mean of the features.
    let (n_on, d) = (world.expected_l0(), 16);
    assert!(n_on > 0.5 && x.chunks_exact(d).all(|r| r.iter().all(|v| v.is_finite())), "{n_on}");
    assert_eq!(draw(&world, 31, 5), (x[31 * d..36 * d].to_vec(), a[31 * n..36 * n].to_vec()));
}

#[test]
fn correlated_features_of_the_bench_world_fire_together_and_children_may_share_a_parent() {
    let mut config = bench();
    config.bench = Some(BenchOptions { exclusive: false, correlation: 0.15, ..config.bench.unwrap() });
    let world = World::new(&config).unwrap();
    let n = world.n_features();
    let (_, a) = draw(&world, 0, TOKENS);
    let on = |t: usize, f: usize| a[t * n + f] > 0.0;
    let shared = (0..TOKENS).filter(|&t| on(t, 4) && on(t, 5)).count();
    assert!(shared > 0, "both children of the first root at once");
    // Among roots and flat features, the largest lift of a pair is far above that of independent features.
    let free: Vec<usize> = (0..4).chain(n - 6..n).collect();
    let mut largest = 0.0f64;
    for (i, &f) in free.iter().enumerate() {
        for &g in &free[..i] {
            let both = (0..TOKENS).filter(|&t| on(t, f) && on(t, g)).count() as f64 / TOKENS as f64;
            largest = largest.max((both / (world.probability(f) * world.probability(g))).ln().abs());
        }
    }
    assert!(largest > 0.3, "{largest}");
}

#[test]
fn the_preset_of_the_bench_world_has_its_published_size_and_mean_l0() {
    // The width is 2, since random directions of 16,384 features take long in the full width.
    let world = World::new(&WorldConfig { d: 2, ..WorldConfig::sae_bench() }).unwrap();
    assert_eq!(world.n_features(), 16_384);
    let l0 = world.expected_l0();
    assert!((30.0..38.0).contains(&l0), "{l0}");
}

#[test]
fn spreading_the_bench_world_lowers_the_cosines() {
    let largest = |steps| {
        let mut config = bench();
        config.bench = Some(BenchOptions { spread_steps: steps, ..config.bench.unwrap() });
        let world = World::new(&config).unwrap();
        // Only roots and flat features, since the directions of children are changed afterwards.
        let v: Vec<&[f32]> = world.directions().chunks_exact(16).collect();
        let free: Vec<usize> = (0..4).chain(v.len() - 6..v.len()).collect();
        free.iter()
            .map(|&f| free.iter().filter(|g| **g != f).map(|&g| cos(v[f], v[g]).powi(2)).sum::<f64>())
            .sum::<f64>()
    };
    assert!(largest(400) < largest(0), "{} and {}", largest(400), largest(0));
}

#[test]
fn constants_out_of_range_are_refused_by_name() {
    let a = WorldConfig::a;
    for (config, name) in [
        (WorldConfig { d: 1, ..a() }, "d"),
        (WorldConfig { roots: 0, flat: 0, ..a() }, "roots"),
        (WorldConfig { roots: usize::MAX, ..a() }, "roots"),
        (WorldConfig { child_probability: 1.1, ..a() }, "child_probability"),
        (WorldConfig { p_max: f64::NAN, ..a() }, "p_max"),
        (WorldConfig { p_min: 0.0, ..a() }, "p_min"),
        (WorldConfig { noise: -0.1, ..a() }, "noise"),
        (WorldConfig { child_scale: f64::INFINITY, ..a() }, "child_scale"),
        (WorldConfig { rho: 1.0, ..a() }, "rho"),
        (WorldConfig { first: u64::MAX, ..a() }, "first"),
    ] {
        let err = World::new(&config).unwrap_err();
        assert!(matches!(&err, Error::Config { key, .. } if key == name), "{name}: {err}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn any_range_of_tokens_is_a_part_of_the_whole(
        roots in 0usize..4, children in 0usize..4, flat in 1usize..4, d in 2usize..9, start in 0u64..1 << 62,
        cut in 0usize..11,
    ) {
        let config = WorldConfig { d, roots, children, flat, ..WorldConfig::a() };
        let world = World::new(&config).unwrap();
        let n = world.n_features();
        let (x, a) = draw(&world, start, 10);
        let (head, tail) = (draw(&world, start, cut.min(10)), draw(&world, start + cut as u64, 10 - cut.min(10)));
        prop_assert_eq!(&x[..head.0.len()], &head.0[..]);
        prop_assert_eq!(&x[head.0.len()..], &tail.0[..]);
        prop_assert_eq!(&a[..head.1.len()], &head.1[..]);
        prop_assert_eq!(&a[head.1.len()..], &tail.1[..]);
        // Rows that are drawn without the truth are the same.
        let mut alone = vec![0.0; 10 * d];
        world.sample(start, 10, &mut alone, None);
        prop_assert_eq!(&alone, &x);
        // Or from another first token.
        let later = World::new(&WorldConfig { first: start, ..config }).unwrap();
        later.sample(0, 10, &mut alone, None);
        prop_assert_eq!(alone, x);
        prop_assert_eq!(a.len(), 10 * n);
    }
}
