//! Models in 8 bits: what is written is read everywhere, and an encoder that uses it in place finds the same codes.

use super::ffi::allocator::{allocations, bytes};
use super::hierarchy::{any_arch, model};
use proptest::prelude::*;
use std::sync::Arc;
use strata_core::config::{Activation, Decoder, GateKind, ModelKind, Source};
use strata_core::format::weights::{
    read_model, read_model_shared, read_packed, write_cfg, write_weights, write_weights_int8,
};
use strata_core::kernel::weight::{Weight, to_int8};
use strata_core::model::{Arch, Codes, Encoder, LevelArch, Model, Scratch, SharedBytes, Variant, WeightType};
use strata_core::{Compute, Isa, Par, Philox};

fn shared(bytes: Vec<u8>) -> SharedBytes {
    Arc::new(bytes)
}

fn rows(arch: &Arch, n: usize, seed: u64) -> Vec<f32> {
    let mut rng = Philox::new(seed, 1);
    (0..n * arch.d).map(|_| 3.0 * rng.normal_f32()).collect()
}

fn written(model: &Model) -> (Vec<u8>, Vec<u8>) {
    (write_cfg(&model.arch, &Default::default()), write_weights_int8(model).expect("a model"))
}

/// The codes of all rows, in blocks of one.
fn in_place(cfg: &[u8], weights: Vec<u8>, x: &[f32], isa: Isa) -> strata_core::Result<[Codes; 2]> {
    let (packed, _) = read_packed(cfg, &shared(weights), Compute::new(isa, Par::Seq))?;
    let mut scratch = packed.scratch(1);
    let mut codes = [Codes::new(), Codes::new()];
    for row in x.chunks(packed.arch().d) {
        packed.encode_block(row, &mut scratch)?;
        codes.iter_mut().zip(scratch.codes()).for_each(|(all, one)| all.append(one));
    }
    Ok(codes)
}

fn codes(model: Model, weights: WeightType, x: &[f32], isa: Isa) -> [Codes; 2] {
    let mut codes = [Codes::new(), Codes::new()];
    let [one, two] = &mut codes;
    let mut scratch = Scratch::new(&model.arch);
    let encoder = Encoder::with_weights(Arc::new(model), Compute::new(isa, Par::Seq), weights).expect("a model");
    encoder.encode(x, &mut scratch, one, two).expect("finite rows");
    codes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn codes_in_place_are_those_of_the_same_weights(
        arch in any_arch(),
        gate in prop::sample::select(vec![GateKind::None, GateKind::Mul, GateKind::Add, GateKind::Hard, GateKind::GroupTop1]),
        n in 0usize..20,
        seed in 0u64..1000,
    ) {
        let mut model = model(Arch { gate, ..arch }, seed, 3);
        if !gate.has_families() {
            model.parents.clear();
        }
        let x = rows(&arch, n, seed);
        let (cfg, weights) = written(&model);
        let (read, _) = read_model(&cfg, &weights).expect("what was written");
        for isa in Isa::all_available() {
            match in_place(&cfg, weights.clone(), &x, isa) {
                Ok(got) => {
                    prop_assert_eq!(&got, &codes(model.clone(), WeightType::Int8, &x, isa));
                    prop_assert_eq!(&got, &codes(read.clone(), WeightType::F32, &x, isa));
                }
                Err(error) => prop_assert!(arch.source == Source::Res, "{}", error),
            }
        }
    }
}

/// The model of the proof that a microcontroller runs: 64 parents and 256 children of rows of 64.
fn small() -> Arch {
    let level = |latents, k| LevelArch { latents, activation: Activation::Batchtopk, k };
    Arch {
        model: ModelKind::Tree,
        d: 64,
        level: [level(64, 4.0), level(256, 8.0)],
        source: Source::X,
        decoder: Decoder::Cum,
        gate: GateKind::Hard,
        variant: Variant::default(),
    }
}

#[test]
fn rows_are_multiples_of_their_scale_and_the_rest_is_unchanged() {
    let model = model(small(), 3, 2);
    let (cfg, weights) = written(&model);
    let f32 = write_weights(&model).expect("a model");
    assert!(3 * weights.len() < f32.len(), "{} bytes of {}", weights.len(), f32.len());
    let (read, _) = read_model(&cfg, &weights).expect("what was written");
    assert_eq!(read_model_shared(&cfg, &shared(weights)).expect("the same").0, read);
    for ((name, want), (_, got)) in model.params.tensors().into_iter().zip(read.params.tensors()) {
        if name.ends_with("w_enc") || name.ends_with("w_dec") {
            let (q, scales) = to_int8(want, 64);
            let want: Vec<f32> = q.iter().enumerate().map(|(i, q)| q.widen(scales[i / 64])).collect();
            assert_eq!(&got[..], want, "{name}");
        } else {
            assert_eq!(got, want, "{name}");
        }
    }
    assert_eq!((read.parents, read.tau), (model.parents, model.tau));
}

#[test]
fn encoders_stay_where_they_lie() {
    let model = model(small(), 3, 2);
    let (cfg, weights) = written(&model);
    let weights = shared(weights);
    let compute = Compute::new(Isa::SCALAR, Par::Seq);
    let x = rows(&model.arch, 1, 4);
    let (used, most) = bytes(|| {
        let (packed, _) = read_packed(&cfg, &weights, compute).expect("what was written");
        let mut scratch = packed.scratch(1);
        let n = allocations(|| packed.encode_block(&x, &mut scratch).expect("a finite row"));
        assert_eq!(n, 0, "encoding allocates nothing");
        scratch.codes().clone()
    });
    assert!(used.iter().all(|codes| !codes.index.is_empty()), "{used:?}");
    // Everything that is allocated at any time, the reading of cfg.json included; the encoders alone have 20 KiB in 8 bits.
    assert!(most < 128 << 10, "{most} bytes");
}

#[test]
fn decoders_may_be_missing() {
    let model = model(small(), 3, 2);
    let (cfg, weights) = written(&model);
    let x = rows(&model.arch, 9, 4);
    let want = in_place(&cfg, weights.clone(), &x, Isa::SCALAR).expect("a model");
    let file = safetensors::SafeTensors::deserialize(&weights).expect("a file");
    let kept: Vec<_> = file.tensors().into_iter().filter(|(name, _)| !name.contains("w_dec")).collect();
    let without = safetensors::serialize(kept, None).expect("a file");
    assert_eq!(in_place(&cfg, without.clone(), &x, Isa::SCALAR).expect("a model"), want);
    let error = read_model(&cfg, &without).expect_err("a whole model has decoders").to_string();
    assert!(error.contains("level1.w_dec"), "{error}");
}

#[test]
fn what_cannot_be_used_in_place_is_refused() {
    let refused = |arch: Arch, part: &str| {
        let (cfg, weights) = written(&model(arch, 3, 2));
        let error = in_place(&cfg, weights, &[], Isa::SCALAR).expect_err(part).to_string();
        assert!(error.contains(part), "{error}");
    };
    refused(Arch { source: Source::Res, ..small() }, "source");
    refused(Arch { variant: Variant { prune: [0.5, 0.0], ..Variant::default() }, ..small() }, "prune");
    let model = model(small(), 3, 2);
    let cfg = write_cfg(&model.arch, &Default::default());
    let error = in_place(&cfg, write_weights(&model).expect("a model"), &[], Isa::SCALAR).expect_err("f32").to_string();
    assert!(error.contains("level1.w_enc") && error.contains("expected I8"), "{error}");
}

#[test]
fn a_damaged_file_is_refused() {
    let model = model(small(), 3, 2);
    let (cfg, weights) = written(&model);
    for end in [0, 8, 100, weights.len() / 2, weights.len() - 1] {
        assert!(in_place(&cfg, weights[..end].to_vec(), &[], Isa::SCALAR).is_err(), "the first {end} bytes");
        assert!(read_model(&cfg, &weights[..end]).is_err(), "the first {end} bytes");
    }
    // A scale that is infinite.
    let scale = to_int8(&model.params.level[0].w_enc, 64).1[5].to_le_bytes();
    let at = weights.windows(4).position(|bytes| bytes == scale).expect("the scale");
    let mut damaged = weights.clone();
    damaged[at..at + 4].copy_from_slice(&f32::INFINITY.to_le_bytes());
    for error in [
        in_place(&cfg, damaged.clone(), &[], Isa::SCALAR).expect_err("infinite").to_string(),
        read_model(&cfg, &damaged).expect_err("infinite").to_string(),
    ] {
        assert!(error.contains("level1.w_enc.scale is not finite"), "{error}");
    }
    // A file without the scales of a tensor.
    let file = safetensors::SafeTensors::deserialize(&weights).expect("a file");
    let kept: Vec<_> = file.tensors().into_iter().filter(|(name, _)| name != "level2.w_enc.scale").collect();
    let without = safetensors::serialize(kept, None).expect("a file");
    let error = read_model(&cfg, &without).expect_err("no scales").to_string();
    assert!(error.contains("level2.w_enc.scale"), "{error}");
}
