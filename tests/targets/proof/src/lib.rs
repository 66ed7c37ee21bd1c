//! What every processor must compute to the same bits: 50 steps of a training, and the codes and reconstructions of the model
//! that comes of it, each as one SHA-256.

#![no_std]

extern crate alloc;

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use sha2::{Digest, Sha256};
use strata_core::format::weights::write_weights;
use strata_core::model::{Scratch, WeightType};
use strata_core::normalise::Normalisation;
use strata_core::train::Trainer;
use strata_core::{Codes, Compute, Config, Encoder, Isa, Model, Par, Philox, Result};

/// Width of a row: no multiple of 16, so that every kernel has a remainder.
pub const D: usize = 72;
/// Steps of the training.
pub const STEPS: u64 = 50;
/// Rows of a step.
const BATCH: usize = 96;
/// Rows that are encoded.
pub const ROWS: usize = 200;
const DIRECTIONS: usize = 96;

/// The hashes. Two processors agree if all of them are equal.
pub struct Proof {
    /// Of the bytes of the weights after the last step.
    pub training: [u8; 32],
    /// Of the codes of both levels: offsets, latents and the bits of the values.
    pub codes: [u8; 32],
    /// The same with weights in int8.
    pub codes_int8: [u8; 32],
    /// Of both reconstructions.
    pub decoded: [u8; 32],
    /// Latents that are active on a row, in the mean, at each level.
    pub l0: [f32; 2],
}

impl Proof {
    /// Returns a line for each hash, and one for the latents per row.
    #[must_use]
    pub fn lines(&self) -> String {
        let mut out = String::new();
        let named = [
            ("training", &self.training),
            ("codes", &self.codes),
            ("codes in int8", &self.codes_int8),
            ("reconstructions", &self.decoded),
        ];
        for (name, hash) in named {
            let hex: String = hash.iter().map(|b| format!("{b:02x}")).collect();
            out += &format!("{name}: {hex}\n");
        }
        out + &format!("latents per row: {:.3} and {:.3}\n", self.l0[0], self.l0[1])
    }
}

/// Rows of three to six directions out of 96, with a mean and some noise: `(n, D)`.
#[must_use]
pub fn rows(n: usize, seed: u64) -> Vec<f32> {
    let mut fixed = Philox::new(5, 5);
    let directions: Vec<f32> = (0..DIRECTIONS * D).map(|_| fixed.normal_f32()).collect();
    let mut rng = Philox::new(seed, 9);
    let mut out = Vec::with_capacity(n * D);
    for _ in 0..n {
        let mut row = [0.5f32; D];
        for _ in 0..3 + rng.below(4) {
            let (at, size) = (rng.below(DIRECTIONS as u64) as usize, 1.0 + rng.uniform_f32());
            row.iter_mut().zip(&directions[at * D..]).for_each(|(r, v)| *r += size * v);
        }
        out.extend(row.map(|r| r + 0.05 * rng.normal_f32()));
    }
    out
}

/// Trains 64 + 256 latents with the default settings, except that the gate, the families and the revival of dead latents begin
/// early enough to be part of 50 steps.
///
/// # Errors
/// Those of the trainer.
pub fn train(compute: Compute) -> Result<Model> {
    let mut config = Config::default();
    (config.level1.latents, config.level2.latents) = (64, 256);
    (config.level1.k, config.level2.k) = (4.0, 6.0);
    config.gate.reassign_every = 10;
    config.gate.min_count = 3.0;
    config.train.steps = STEPS;
    config.train.batch = BATCH;
    config.train.lr = 3e-3;
    config.revive.dead_after = 600;
    config.validate(D)?;
    let mut x = rows(512, 1);
    let normalisation = Normalisation::measure(compute.isa, &x, D, &config.data)?;
    normalisation.apply(&mut x);
    let mut trainer = Trainer::new(&config, normalisation, &x, compute)?;
    for step in 0..STEPS {
        x = rows(BATCH, 100 + step);
        trainer.normalisation().apply(&mut x);
        trainer.step(&x)?;
    }
    Ok(trainer.model())
}

/// Returns the codes of the row of ffi/examples/microcontroller, with the weights of `model` in 8 bits, as that program prints
/// them.
///
/// # Errors
/// Those of the encoder.
pub fn microcontroller(model: Model, isa: Isa) -> Result<String> {
    let x: Vec<f32> = (0..model.arch.d).map(|i| (i * 37 % 64) as f32 / 8.0 - 4.0).collect();
    let mut scratch = Scratch::new(&model.arch);
    let encoder = Encoder::with_weights(Arc::new(model), Compute::new(isa, Par::Seq), WeightType::Int8)?;
    encoder.encode_block(&x, &mut scratch)?;
    let mut out = String::new();
    for (name, codes) in ["parent", "child"].into_iter().zip(scratch.codes()) {
        for (index, value) in codes.index.iter().zip(&codes.value) {
            out += &format!("{name} {index} = {value} ({:08x})\n", value.to_bits());
        }
    }
    Ok(out)
}

fn hash_codes(codes: &[Codes; 2]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for codes in codes {
        codes.offsets.iter().for_each(|at| hash.update((*at as u64).to_le_bytes()));
        codes.index.iter().for_each(|index| hash.update(index.to_le_bytes()));
        codes.value.iter().for_each(|value| hash.update(value.to_le_bytes()));
    }
    hash.finalize().into()
}

/// Trains, encodes and decodes.
///
/// # Errors
/// Those of the trainer and of the encoder.
pub fn prove(isa: Isa) -> Result<Proof> {
    let compute = Compute::new(isa, Par::Seq);
    let model = Arc::new(train(compute)?);
    let training = Sha256::digest(write_weights(&model)?).into();
    let x = rows(ROWS, 7);
    let mut scratch = Scratch::new(&model.arch);
    let mut encode = |encoder: &Encoder| -> Result<[Codes; 2]> {
        let [mut codes1, mut codes2] = [Codes::new(), Codes::new()];
        encoder.encode(&x, &mut scratch, &mut codes1, &mut codes2)?;
        Ok([codes1, codes2])
    };
    let encoder = Encoder::new(model.clone(), compute)?;
    let codes = encode(&encoder)?;
    let int8 = encode(&Encoder::with_weights(model, compute, WeightType::Int8)?)?;
    let [mut one, mut two] = [vec![0.0f32; x.len()], vec![0.0f32; x.len()]];
    encoder.decode(&codes[0], &codes[1], &mut one, &mut two)?;
    let mut decoded = Sha256::new();
    one.iter().chain(&two).for_each(|value| decoded.update(value.to_le_bytes()));
    Ok(Proof {
        training,
        codes: hash_codes(&codes),
        codes_int8: hash_codes(&int8),
        decoded: decoded.finalize().into(),
        l0: [0, 1].map(|l| codes[l].index.len() as f32 / ROWS as f32),
    })
}
