//! Level 2 behind a hard gate has the bits of the dense product behind the same gate.

use crate::ffi::allocator::allocations;
use proptest::prelude::*;
use std::sync::Arc;
use strata_core::config::{Activation, Decoder, GateKind, ModelKind, Source};
use strata_core::gate::{self, Families};
use strata_core::kernel::{dense, reduce, sparse};
use strata_core::model::{Arch, Codes, Encoder, Lanes, LevelArch, Model, Scratch};
use strata_core::rng::Philox;
use strata_core::{Compute, Isa, Par, ROOT};
use strata_tests::vary::Vary;

/// A model with random weights and families of very different sizes, some of them empty; some children are under ROOT.
pub fn model(arch: Arch, seed: u64, roots: u64) -> Model {
    let mut rng = Philox::new(seed, 0);
    let mut params = arch.zeros();
    params.each_mut().flatten().for_each(|v| *v = 0.4 * rng.normal_f32());
    let parents = (0..arch.level[1].latents)
        .map(|_| {
            let under_root = rng.below(10) < roots;
            // The lower of two random parents, so that the first families are the largest.
            let p = rng.below(arch.level[0].latents as u64).min(rng.below(arch.level[0].latents as u64)) as u32;
            if under_root { ROOT } else { p }
        })
        .collect();
    Model { arch, params, parents, tau: [0.2, 0.3] }
}

/// Returns the codes by the definition: every pre-activation of level 2, then the gate, then the activation.
fn by_definition(model: &Model, isa: Isa, x: &[f32]) -> [Codes; 2] {
    let Arch { d, .. } = model.arch;
    let [f1, f2] = model.arch.latents();
    let width = model.arch.source_width();
    let families = Families::new(model.parents.clone(), f1);
    let mut codes = [Codes::new(), Codes::new()];
    for row in x.chunks(d) {
        let (mut xt, mut u1, mut a2, mut u2) = (vec![0.0; d], vec![0.0; f1], vec![0.0; f2], vec![0.0; f2]);
        reduce::sub_into(isa, row, &model.params.b_dec, &mut xt);
        dense::affine(isa, &xt, &model.params.level[0].w_enc, d, Some(&model.params.level[0].b_enc), &mut u1);
        let (mut index, mut value) = (Vec::new(), Vec::new());
        model.rule(0).fire(isa, &u1, &mut index, &mut value);
        let mut s = vec![0.0; width];
        match model.arch.source {
            Source::X => s.copy_from_slice(&xt),
            Source::Res => {
                sparse::accumulate_rows(isa, &index, &value, &model.params.level[0].w_dec, d, &mut s);
                s.iter_mut().zip(&xt).for_each(|(s, x)| *s = x - *s);
            }
            Source::Z1 => index.iter().zip(&value).for_each(|(j, z)| s[*j as usize] = *z),
        }
        dense::affine(isa, &s, &model.params.level[1].w_enc, width, Some(&model.params.level[1].b_enc), &mut a2);
        // With a negative threshold of jumprelu a latent may have a value below 0; behind such a parent nothing fires.
        let active = index.iter().zip(&value).filter(|(_, z)| **z > 0.0).map(|(p, _)| *p);
        gate::hard(&families, active, model.arch.gate == GateKind::GroupTop1, &a2, &mut u2);
        let [one, two] = &mut codes;
        model.rule(1).fire(isa, &u2, &mut two.index, &mut two.value);
        one.index.extend(index);
        one.value.extend(value);
        one.end_row();
        two.end_row();
    }
    codes
}

/// Models that are large enough for the screen, with families of several strips of latents, of a few children and of
/// none.
fn screened_arch() -> impl Strategy<Value = Arch> {
    (any_arch(), 96usize..140, 2usize..60, 512usize..900).prop_map(|(arch, d, f1, f2)| {
        let source = if arch.source == Source::Z1 { Source::Res } else { arch.source };
        Arch { d, source, ..arch }.sized([f1, f2]).keeping([f1.min(6) as f64, arch.level[1].k])
    })
}

pub fn any_arch() -> impl Strategy<Value = Arch> {
    use Activation::{Batchtopk, Gated, Jumprelu, Relu, Topk};
    let activation = || prop::sample::select(vec![Relu, Topk, Batchtopk, Jumprelu, Gated]);
    let gate = prop::sample::select(vec![GateKind::Hard, GateKind::GroupTop1]);
    let source = prop::sample::select(vec![Source::X, Source::Res, Source::Z1]);
    (1usize..40, 1usize..20, 1usize..200, activation(), activation(), gate, source).prop_map(
        |(d, f1, f2, activation1, activation2, gate, source)| Arch {
            model: ModelKind::Tree,
            d,
            level: [
                LevelArch { latents: f1, activation: activation1, k: f1.min(3) as f64 },
                LevelArch { latents: f2, activation: activation2, k: f2.min(5) as f64 },
            ],
            source,
            decoder: Decoder::Cum,
            gate,
            variant: Default::default(),
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn codes_are_those_of_the_dense_product(arch in any_arch(), n in 0usize..80, seed in 0u64..1000, roots in 0u64..11) {
        let model = Arc::new(model(arch, seed, roots));
        let mut rng = Philox::new(seed, 1);
        let x: Vec<f32> = (0..n * arch.d).map(|_| rng.normal_f32()).collect();
        let want = by_definition(&model, Isa::all_available()[0], &x);
        for isa in Isa::all_available() {
            let encoder = Encoder::new(model.clone(), Compute::new(isa, Par::Seq)).expect("a model");
            let [mut one, mut two] = [Codes::new(), Codes::new()];
            encoder.encode(&x, &mut Scratch::new(&arch), &mut one, &mut two).expect("finite rows");
            prop_assert_eq!(&one, &want[0]);
            prop_assert_eq!(&two, &want[1], "{:?}", isa);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn screened_codes_are_those_of_the_dense_product(
        arch in screened_arch(),
        n in 0usize..90,
        seed in 0u64..1000,
        roots in 0u64..11,
        high: bool,
    ) {
        let mut model = model(arch, seed, roots);
        if high {
            // Thresholds at which few of many latents fire, as in a trained model.
            model.tau = [6.0, 9.0];
            for level in &mut model.params.level {
                level.b_enc.iter_mut().for_each(|b| *b -= 4.0);
            }
        }
        let model = Arc::new(model);
        let mut rng = Philox::new(seed, 1);
        let x: Vec<f32> = (0..n * arch.d).map(|_| rng.normal_f32()).collect();
        let isa = Isa::detect();
        let want = by_definition(&model, isa, &x);
        let encoder = Encoder::new(model, Compute::new(isa, Par::Seq)).expect("a model");
        let mut scratch = Scratch::new(&arch);
        // The second pass reuses the scratch of the first.
        for _ in 0..2 {
            let [mut one, mut two] = [Codes::new(), Codes::new()];
            encoder.encode(&x, &mut scratch, &mut one, &mut two).expect("finite rows");
            prop_assert_eq!(&one, &want[0]);
            prop_assert_eq!(&two, &want[1]);
        }
    }
}

/// There are more rows than one block has, a family of many strips, and one of exactly one strip.
#[test]
fn codes_of_many_rows_are_those_of_each_row() {
    let arch = Arch {
        model: ModelKind::Tree,
        d: 128,
        level: [
            LevelArch { latents: 12, activation: Activation::Batchtopk, k: 3.0 },
            LevelArch { latents: 700, activation: Activation::Batchtopk, k: 5.0 },
        ],
        source: Source::X,
        decoder: Decoder::Cum,
        gate: GateKind::Hard,
        variant: Default::default(),
    };
    let mut model = model(arch, 3, 1);
    model.parents.iter_mut().enumerate().for_each(|(j, p)| *p = if j < 16 { 5 } else { 7 * u32::from(j % 3 > 0) });
    let model = Arc::new(model);
    let mut rng = Philox::new(4, 1);
    let x: Vec<f32> = (0..2777 * arch.d).map(|_| rng.normal_f32()).collect();
    let want = by_definition(&model, Isa::detect(), &x);
    assert!(want[1].index.len() > 17_000, "{}", want[1].index.len());
    let encoder = Encoder::new(model, Compute::new(Isa::detect(), Par::Seq)).expect("a model");
    let mut all = [Codes::new(), Codes::new()];
    let [one, two] = &mut all;
    encoder.encode_par(Par::Rayon, &x, one, two).expect("finite rows");
    assert_eq!(all, want);
    // The same without the gate: with all children screened, and on the scalar instruction set without a screen.
    let plain = Encoder::new(Arc::new(encoder.model().clone()), Compute::new(Isa::SCALAR, Par::Seq)).expect("a model");
    let open = [&encoder, &plain].map(|encoder| {
        let [mut one, mut two, mut open] = [Codes::new(), Codes::new(), Codes::new()];
        encoder
            .encode_open_par(Par::Rayon, &x, &mut Lanes::default(), &mut one, &mut two, &mut open)
            .expect("finite rows");
        assert_eq!([one, two], want);
        open
    });
    assert_eq!(open[0], open[1]);
    assert!(open[0].index.len() > want[1].index.len());
}

/// Families that share strips of latents, so that there are more panels than strips.
#[test]
fn a_block_of_screened_families_allocates_nothing() {
    for activation in [Activation::Topk, Activation::Relu, Activation::Batchtopk] {
        let arch = Arch {
            model: ModelKind::Tree,
            d: 96,
            level: [
                LevelArch { latents: 200, activation: Activation::Relu, k: 3.0 },
                LevelArch { latents: 1000, activation, k: 5.0 },
            ],
            source: Source::X,
            decoder: Decoder::Cum,
            gate: GateKind::Hard,
            variant: Default::default(),
        };
        let mut model = model(arch, 3, 0);
        model.parents.iter_mut().enumerate().for_each(|(j, p)| *p = j as u32 / 5);
        let encoder = Encoder::new(Arc::new(model), Compute::new(Isa::detect(), Par::Seq)).expect("a model");
        let mut scratch = Scratch::for_rows(&arch, 64).reserved(&encoder);
        let mut rng = Philox::new(5, 1);
        let x: Vec<f32> = (0..64 * arch.d).map(|_| rng.normal_f32()).collect();
        assert_eq!(allocations(|| encoder.encode_block(&x, &mut scratch).expect("finite rows")), 0, "{activation}");
        assert!(scratch.codes()[1].index.len() > 64);
    }
}

#[test]
fn a_topk_of_less_than_one_latent_is_no_model() {
    let arch = Arch {
        model: ModelKind::Tree,
        d: 4,
        level: [
            LevelArch { latents: 3, activation: Activation::Topk, k: 1.0 },
            LevelArch { latents: 5, activation: Activation::Topk, k: 0.5 },
        ],
        source: Source::X,
        decoder: Decoder::Cum,
        gate: GateKind::Hard,
        variant: Default::default(),
    };
    let of = |arch: Arch| Encoder::new(Arc::new(model(arch, 1, 1)), Compute::new(Isa::detect(), Par::Seq)).map(|_| ());
    let error = of(arch).unwrap_err().to_string();
    assert!(error.contains("level 2") && error.contains("0.5"), "{error}");
    assert!(of(arch.keeping([0.9, 1.0])).is_err());
    assert!(of(arch.activated([Activation::Batchtopk, Activation::Topk]).keeping([0.9, 1.0])).is_ok());
}
