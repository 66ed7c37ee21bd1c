//! Lower bounds of quality: what 1,500 steps of the default must find in the synthetic world A.

use std::sync::Arc;
use strata_core::config::{Config, GateKind, ModelKind};
use strata_core::metrics::recovery::{Recovery, Truth, recovery};
use strata_core::model::{Codes, Encoder};
use strata_core::normalise::Normalisation;
use strata_core::synth::{World, WorldConfig};
use strata_core::train::Trainer;
use strata_core::{Compute, Isa, Par};

/// Rows of world A on which a trained model is judged; training never sees them.
const TEST_START: u64 = 1 << 40;
const TEST_ROWS: usize = 20_000;

/// The default for world A, with budgets equal to the true L0 of roots (with flat features) and of children.
pub fn world_a_config(steps: u64, seed: u64) -> Config {
    let mut config = Config { seed, ..Config::default() };
    config.level1.latents = 40;
    config.level1.k = 3.2;
    config.level2.latents = 200;
    config.level2.k = 2.0;
    config.train.steps = steps;
    config.train.batch = 256;
    config.train.lr = 3e-3;
    config.train.warmup = (200.0 / steps as f64).min(0.2);
    config.revive.dead_after = 400 * 256;
    config.data.outlier = 0.0;
    config
}

/// Held-out scores of a trained model, with its FVU2.
pub struct Outcome {
    pub fvu: [f64; 2],
    pub l0: [f64; 2],
    pub recovery: Recovery,
}

/// Trains on the world and scores the folded model with its inference rule.
pub fn run(world: &World, config: &Config) -> Outcome {
    let d = world.config().d;
    let isa = Isa::detect();
    let mut sample = vec![0.0; 4096 * d];
    world.sample(0, 4096, &mut sample, None);
    let normalisation = Normalisation::measure(isa, &sample, d, &config.data).expect("the world varies");
    let mut rows = sample[..256 * d].to_vec();
    normalisation.apply(&mut rows);
    let mut trainer =
        Trainer::new(config, normalisation, &rows, Compute::new(isa, Par::Rayon)).expect("a valid configuration");
    let mut x = vec![0.0; config.train.batch * d];
    for step in 0..config.train.steps {
        world.sample(4096 + step * config.train.batch as u64, config.train.batch, &mut x, None);
        trainer.normalisation().apply(&mut x);
        trainer.step(&x).expect("a finite step");
    }
    score(world, &Encoder::new(Arc::new(trainer.model()), Compute::new(isa, Par::Rayon)).expect("a valid model"))
}

fn score(world: &World, encoder: &Encoder) -> Outcome {
    let arch = encoder.model().arch;
    let (d, n) = (arch.d, TEST_ROWS);
    let mut x = vec![0.0; n * d];
    let mut truth = vec![0.0; n * world.n_features()];
    world.sample(TEST_START, n, &mut x, Some(&mut truth));
    let (mut codes1, mut codes2) = (Codes::new(), Codes::new());
    encoder.encode_par(Par::Rayon, &x, &mut codes1, &mut codes2).expect("finite rows");
    let (mut hat1, mut hat2) = (vec![0.0; n * d], vec![0.0; n * d]);
    encoder.decode(&codes1, &codes2, &mut hat1, &mut hat2).expect("codes of the model");
    let mut mean = vec![0.0f64; d];
    x.chunks(d).for_each(|row| mean.iter_mut().zip(row).for_each(|(m, v)| *m += f64::from(*v) / n as f64));
    let (mut total, mut sse) = (0.0, [0.0; 2]);
    for (i, &v) in x.iter().enumerate() {
        total += (f64::from(v) - mean[i % d]).powi(2);
        sse[0] += f64::from(hat1[i] - v).powi(2);
        sse[1] += f64::from(hat2[i] - v).powi(2);
    }
    let sparse1 = codes1.view(arch.level[0].latents).expect("level 1");
    let sparse2 = codes2.view(arch.level[1].latents).expect("level 2");
    let parents = (!encoder.model().parents.is_empty()).then_some(&encoder.model().parents[..]);
    let truth = Truth { directions: world.directions(), parent: world.parents(), magnitude: &truth };
    let decoder1 = &encoder.model().params.level[0].w_dec;
    let recovery = recovery(d, decoder1, encoder.decoder2(), &sparse1, &sparse2, &truth, parents).expect("scores");
    Outcome {
        fvu: sse.map(|s| s / total),
        l0: [codes1.index.len() as f64 / n as f64, codes2.index.len() as f64 / n as f64],
        recovery,
    }
}

#[test]
fn the_default_finds_the_tree_of_world_a_in_1500_steps() {
    let world = World::new(&WorldConfig::a()).expect("world A");
    for seed in 0..3 {
        let out = run(&world, &world_a_config(1500, seed));
        println!(
            "seed {seed}: FVU {:.4} {:.4} L0 {:.2} {:.2} {:?}",
            out.fvu[0], out.fvu[1], out.l0[0], out.l0[1], out.recovery
        );
        assert!(out.fvu[1] < 0.065, "FVU2 {}", out.fvu[1]);
        assert!(out.recovery.mcc > 0.76, "MCC {}", out.recovery.mcc);
        assert!(out.recovery.root_in_level1 > 0.9, "roots in level 1 {}", out.recovery.root_in_level1);
        assert!(out.recovery.edge_recall > 0.52, "edges {}", out.recovery.edge_recall);
        assert_eq!(out.recovery.containment, 1.0, "containment");
    }
}

#[test]
fn a_flat_batchtopk_and_the_seed_do_not_find_the_edges() {
    let world = World::new(&WorldConfig::a()).expect("world A");
    let mut flat = world_a_config(1500, 0);
    flat.level1.latents = 240;
    flat.level1.k = 5.2;
    flat.level2.latents = 0;
    let out = run(&world, &flat);
    println!("flat: FVU {:.4} {:?}", out.fvu[1], out.recovery);
    assert!(out.recovery.edge_recall <= 0.40, "flat: edges {}", out.recovery.edge_recall);

    let mut seed = world_a_config(1500, 0);
    seed.model = ModelKind::Seed;
    seed.gate.kind = GateKind::Mul;
    seed.level1.latents = 200;
    seed.level2.latents = 40;
    let out = run(&world, &seed);
    println!("seed: FVU {:.4} {:.4} L0 {:?} {:?}", out.fvu[0], out.fvu[1], out.l0, out.recovery);
    assert!(out.recovery.edge_recall <= 0.40, "seed: edges {}", out.recovery.edge_recall);
    assert!(out.fvu[0] > 1.0, "h1 D1 of the seed is no reconstruction: FVU {}", out.fvu[0]);
}
