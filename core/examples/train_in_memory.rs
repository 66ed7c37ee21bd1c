//! Trains a two-level SAE on rows in memory, and scores what it found: no files and no language model.
//!
//! ```sh
//! cargo run --release -p strata-sae-core --example train_in_memory
//! ```
//!
//! The rows come from a synthetic world whose features and tree are known, so that the result can be checked: 24 roots
//! with 5 children each and 16 features without a tree, in 64 dimensions.

#![allow(clippy::disallowed_macros, reason = "an example prints")]

use std::error::Error;
use std::sync::Arc;

use strata_core::config::Config;
use strata_core::format::weights::{Origin, read_model, write_cfg, write_weights};
use strata_core::metrics::recovery::{Truth, recovery};
use strata_core::normalise::Normalisation;
use strata_core::synth::{World, WorldConfig};
use strata_core::train::Trainer;
use strata_core::{Codes, Compute, Encoder, Isa, Par};

/// The first of the rows on which the model is scored; training does not reach them.
const HELD_OUT: u64 = 1 << 40;

fn main() -> Result<(), Box<dyn Error>> {
    run(800)
}

/// Trains for this many steps, and scores the model on rows that training did not see.
pub fn run(steps: u64) -> Result<(), Box<dyn Error>> {
    let world = World::new(&WorldConfig::a())?;
    let d = world.config().d;
    // With the feature `rayon`, `Par::Rayon` uses all threads; the bits are the same.
    let compute = Compute::new(Isa::detect(), Par::Seq);

    let mut config = Config::default();
    config.level1.latents = 40;
    config.level1.k = 3.2;
    config.level2.latents = 200;
    config.level2.k = 2.0;
    config.train.steps = steps;
    config.train.batch = 256;
    config.train.lr = 3e-3;
    config.revive.dead_after = 400 * 256;
    config.validate(d)?;

    // Centring and scaling are measured on a sample, applied to every batch, and folded into the saved weights.
    let mut x = vec![0.0; 4096 * d];
    world.sample(0, 4096, &mut x, None);
    let normalisation = Normalisation::measure(compute.isa, &x, d, &config.data)?;
    x.truncate(config.train.batch * d);
    normalisation.apply(&mut x);
    let mut trainer = Trainer::new(&config, normalisation, &x, compute)?;

    for step in 0..config.train.steps {
        world.sample(4096 + step * config.train.batch as u64, config.train.batch, &mut x, None);
        trainer.normalisation().apply(&mut x);
        let report = trainer.step(&x)?;
        if step % 100 == 99 {
            let [fvu1, fvu2] = report.losses.fvu;
            println!("step {:>4}: FVU of level 1 {fvu1:.4}, of both levels {fvu2:.4}", step + 1);
        }
    }
    // The thresholds of batch-top-k are set so that each level has the L0 that was asked for.
    trainer.calibrate(&x)?;

    // The bytes of the two files of a model. Reading them back gives the same model.
    let model = trainer.model();
    let cfg = write_cfg(&model.arch, &Origin::default());
    let (model, _origin) = read_model(&cfg, &write_weights(&model)?)?;

    let n = 4096;
    let (mut x, mut truth) = (vec![0.0; n * d], vec![0.0; n * world.n_features()]);
    world.sample(HELD_OUT, n, &mut x, Some(&mut truth));
    let encoder = Encoder::new(Arc::new(model), compute)?;
    let (mut codes1, mut codes2) = (Codes::new(), Codes::new());
    encoder.encode_par(compute.par, &x, &mut codes1, &mut codes2)?;

    let model = encoder.model();
    let [f1, f2] = model.arch.latents();
    let truth = Truth { directions: world.directions(), parent: world.parents(), magnitude: &truth };
    let found = recovery(
        d,
        &model.params.level[0].w_dec,
        encoder.decoder2(),
        &codes1.view(f1)?,
        &codes2.view(f2)?,
        &truth,
        Some(&model.parents),
    )?;
    println!(
        "mean cosine of matched directions {:.3}, F1 {:.3}, roots in level 1 {:.2}, edges found {:.2}",
        found.mcc, found.f1, found.root_in_level1, found.edge_recall
    );
    Ok(())
}
