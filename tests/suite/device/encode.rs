//! Codes that a device finds are those of the CPU.

use crate::hierarchy::model;
use proptest::prelude::*;
use std::sync::Arc;
use strata_core::config::{Activation, Decoder, GateKind, ModelKind, Source};
use strata_core::model::{Arch, Codes, Lanes, LevelArch, Scratch, WeightType};
use strata_core::rows::{Dtype, Rows};
use strata_core::{Compute, Encoder, Isa, Par, Philox};
use strata_tests::emulator::{ORDERS, device};

/// Rows: some are there several times, so that there are ties, some have a scale of their own, and one is 0.
pub fn rows(n: usize, d: usize, seed: u64) -> Vec<f32> {
    let mut rng = Philox::new(seed, 1);
    let mut x: Vec<f32> = (0..n * d).map(|_| rng.normal_f32()).collect();
    for i in 0..n {
        let row = i * d..(i + 1) * d;
        match rng.below(8) {
            0 if i > 0 => x.copy_within(0..d, i * d),
            1 => x[row].iter_mut().for_each(|v| *v *= 1e-3),
            2 => x[row].iter_mut().for_each(|v| *v *= 300.0),
            3 => x[row].fill(0.0),
            _ => {}
        }
    }
    x
}

/// Asserts that an encoder on the emulator has the codes of the CPU.
fn assert_same(arch: Arch, n: usize, seed: u64, roots: u64, weights: WeightType, order: u32) {
    let mut model = model(arch, seed, roots);
    if !arch.gate.has_families() {
        model.parents.clear();
    }
    let model = Arc::new(model);
    let x = rows(n, arch.d, seed);
    let cpu = Encoder::with_weights(model, Compute::new(Isa::detect(), Par::Seq), weights).expect("a model");
    let mut want = [Codes::new(), Codes::new(), Codes::new()];
    let [one, two, open] = &mut want;
    cpu.encode_open_par(Par::Seq, &x, &mut Lanes::default(), one, two, open).expect("finite rows");
    let on = cpu.clone().on(&device(order)).expect("a model for devices");
    let mut lanes = Lanes::default();
    // The second time bars start from a guess.
    for time in 0..2 {
        let mut found = [Codes::new(), Codes::new(), Codes::new()];
        let [one, two, open] = &mut found;
        on.encode_open_par(Par::Seq, &x, &mut lanes, one, two, open).expect("finite rows");
        for (what, (found, want)) in
            ["level 1", "level 2", "level 2 without its gate"].iter().zip(found.iter().zip(&want))
        {
            assert_eq!(found.offsets, want.offsets, "{what}, time {time}, {arch:?}");
            assert_eq!(found.index, want.index, "{what}, time {time}, {arch:?}");
            let bits = |codes: &Codes| codes.value.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(found), bits(want), "{what}, time {time}, {arch:?}");
        }
    }
    // The other ways in have the same codes.
    let mut found = [Codes::new(), Codes::new()];
    let [one, two] = &mut found;
    on.encode(&x, &mut Scratch::new(&arch), one, two).expect("finite rows");
    assert_eq!(found[..], want[..2], "codes of `encode`");
    // Rows as they lie.
    for dtype in [Dtype::F16, Dtype::Bf16] {
        let (mut bytes, mut wide) = (Vec::new(), vec![0.0; x.len()]);
        dtype.narrow(&x, &mut bytes);
        let stored = Rows::new(&bytes, n, arch.d, arch.d * dtype.size_bytes(), dtype).expect("whole rows");
        stored.widen(0..n, &mut wide);
        let (mut want, mut found) = ([Codes::new(), Codes::new()], [Codes::new(), Codes::new()]);
        let [one, two] = &mut want;
        cpu.encode_par(Par::Seq, &wide, one, two).expect("finite rows");
        let [one, two] = &mut found;
        on.encode_stored_in(Par::Seq, stored, &mut lanes, one, two).expect("finite rows");
        assert!(on.reads_stored() && found == want, "codes of rows of {dtype}");
    }
}

fn any_arch(d: impl Strategy<Value = usize>, f: impl Strategy<Value = [usize; 2]>) -> impl Strategy<Value = Arch> {
    use Activation::{Batchtopk, Gated, Jumprelu, Relu, Topk};
    let activation = || prop::sample::select(vec![Relu, Topk, Topk, Batchtopk, Jumprelu, Gated]);
    let gate = prop::sample::select(vec![GateKind::None, GateKind::Hard, GateKind::Hard, GateKind::GroupTop1]);
    let source = prop::sample::select(vec![Source::X, Source::Res]);
    (d, f, activation(), activation(), gate, source).prop_map(
        |(d, [f1, f2], activation1, activation2, gate, source)| Arch {
            model: ModelKind::Tree,
            d,
            level: [
                LevelArch { latents: f1, activation: activation1, k: f1.min(4) as f64 },
                LevelArch { latents: f2, activation: activation2, k: f2.clamp(1, 6) as f64 },
            ],
            source,
            decoder: Decoder::Cum,
            gate: if f2 == 0 { GateKind::None } else { gate },
            variant: Default::default(),
        },
    )
}

/// Sizes around those that the kernels work in.
fn sizes(most: usize) -> impl Strategy<Value = usize> {
    let all = [1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 127, 128, 129, 200, 320];
    prop::sample::select(all.into_iter().filter(|n| *n <= most).collect::<Vec<_>>())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn codes_of_small_models_have_the_bits_of_the_cpu(
        arch in any_arch(sizes(129), (sizes(200), prop_oneof![Just(0), sizes(320)]).prop_map(|(f1, f2)| [f1, f2])),
        n in sizes(70),
        seed in 0u64..1000,
        roots in 0u64..11,
        order in prop::sample::select(ORDERS.to_vec()),
        weights in prop::sample::select(WeightType::ALL.to_vec()),
    ) {
        assert_same(arch, n, seed, roots, weights, order);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]
    #[test]
    fn codes_of_screened_models_have_the_bits_of_the_cpu(
        arch in any_arch(
            prop::sample::select(vec![96usize, 97, 100, 112, 128, 160]),
            prop::sample::select(vec![[512usize, 0], [700, 0], [40, 600], [520, 516], [17, 530]]),
        ),
        n in sizes(140),
        seed in 0u64..1000,
        roots in 0u64..11,
        order in prop::sample::select(ORDERS.to_vec()),
    ) {
        assert_same(arch, n, seed, roots, WeightType::F32, order);
    }
}

#[test]
fn a_pruned_model_is_refused_in_one_sentence() {
    let level = LevelArch { latents: 9, activation: Activation::Batchtopk, k: 3.0 };
    let mut arch = Arch {
        model: ModelKind::Tree,
        d: 8,
        level: [level, LevelArch { latents: 0, ..level }],
        source: Source::X,
        decoder: Decoder::Cum,
        gate: GateKind::None,
        variant: Default::default(),
    };
    arch.variant.prune = [0.5, 0.0];
    let cpu = Encoder::new(Arc::new(model(arch, 1, 0)), Compute::new(Isa::detect(), Par::Seq)).expect("a model");
    let Err(why) = cpu.on(&device(0)) else { panic!("a pruned model is encoded on a device") };
    let why = why.to_string();
    assert_eq!(why, "a model that is pruned (`level1.prune`, `level2.prune`) is not encoded on a GPU yet: use the CPU");
}
