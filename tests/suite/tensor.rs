//! Owned tensors, and tensors in shared bytes.

use std::sync::Arc;

use strata_core::config::{Activation, Decoder, GateKind, ModelKind, Source};
use strata_core::format::weights::{read_model, read_model_shared, write_cfg, write_weights};
use strata_core::model::{Arch, LevelArch, SharedBytes, Tensor};
use strata_core::{Compute, Encoder, Isa, Model, Par, Philox};

/// Bytes whose address is a multiple of 8 plus `offset`; those of a mapped file have the offset 0.
struct Placed {
    words: Vec<u64>,
    offset: usize,
    len: usize,
}

impl AsRef<[u8]> for Placed {
    fn as_ref(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.words)[self.offset..][..self.len]
    }
}

fn shared(bytes: &[u8], offset: usize) -> SharedBytes {
    let len = bytes.len();
    let mut words = vec![0; (offset + len).div_ceil(8)];
    bytemuck::cast_slice_mut::<u64, u8>(&mut words)[offset..][..len].copy_from_slice(bytes);
    Arc::new(Placed { words, offset, len })
}

fn model() -> Model {
    let arch = Arch {
        model: ModelKind::Tree,
        d: 7,
        level: [
            LevelArch { latents: 6, activation: Activation::Batchtopk, k: 2.0 },
            LevelArch { latents: 10, activation: Activation::Topk, k: 3.0 },
        ],
        source: Source::Res,
        decoder: Decoder::Cum,
        gate: GateKind::Hard,
        variant: Default::default(),
    };
    let mut rng = Philox::new(3, 0);
    let mut params = arch.zeros();
    params.each_mut().flatten().for_each(|v| *v = rng.normal_f32());
    Model { arch, params, parents: (0..10).map(|j| j % 6).collect(), tau: [0.5, 0.0] }
}

#[test]
fn shared_numbers_are_read_where_they_lie_and_copied_by_the_first_change() {
    let numbers: Vec<f32> = (0..9).map(|i| i as f32 - 3.5).collect();
    let bytes = shared(bytemuck::cast_slice(&numbers), 0);
    let mut tensor = Tensor::shared(&bytes, 0..36);
    assert_eq!(&tensor[..], numbers);
    assert_eq!(tensor.as_ptr() as usize, (*bytes).as_ref().as_ptr() as usize, "the same place");
    let twin = tensor.clone();
    assert!(tensor.is_shared() && twin.is_shared() && tensor == Tensor::from(numbers.clone()));
    tensor[4] = 100.0;
    assert!(!tensor.is_shared());
    assert_eq!((tensor[3], tensor[4], twin[4]), (numbers[3], 100.0, numbers[4]));
    assert_eq!(Tensor::shared(&bytes, 4..12)[..], numbers[1..3]);
    assert_eq!(Tensor::shared(&bytes, 36..36).len(), 0);
    // The bytes stay alive as long as a tensor refers to them.
    drop(bytes);
    assert_eq!(&twin[..], numbers);
}

#[test]
fn numbers_at_an_odd_address_are_copied() {
    let numbers = [1.5f32, -2.0, 1e-40, f32::MAX];
    for offset in [1, 2, 3, 5] {
        let bytes = shared(bytemuck::cast_slice(&numbers), offset);
        let tensor = Tensor::shared(&bytes, 0..16);
        assert!(!tensor.is_shared());
        assert_eq!(&tensor[..], numbers);
    }
}

#[test]
fn a_model_read_in_place_is_the_model_and_encodes_the_same_bits() {
    let model = model();
    let (cfg, bytes) = (write_cfg(&model.arch, &Default::default()), write_weights(&model).unwrap());
    for (offset, in_place) in [(0, true), (8, true), (1, false), (2, false)] {
        let file = shared(&bytes, offset);
        let (read, _) = read_model_shared(&cfg, &file).unwrap();
        assert_eq!(read, model);
        assert_eq!(read, read_model(&cfg, &bytes).unwrap().0);
        for (_, tensor) in read.params.tensors().into_iter().filter(|(_, t)| !t.is_empty()) {
            assert_eq!(tensor.is_shared(), in_place, "at {offset}");
        }
        drop(file);
        let x: Vec<f32> = (0..70).map(|i| (i as f32 * 0.7).sin()).collect();
        let codes = |model: Model| {
            let encoder = Encoder::new(Arc::new(model), Compute::new(Isa::default(), Par::Seq)).unwrap();
            let mut codes = Default::default();
            let (a, b): &mut (_, _) = &mut codes;
            encoder.encode(&x, &mut strata_core::model::Scratch::new(&encoder.model().arch), a, b).unwrap();
            codes
        };
        assert_eq!(codes(read), codes(model.clone()));
    }
}

#[test]
fn a_damaged_file_is_refused_in_place_as_in_a_copy() {
    let model = model();
    let (cfg, bytes) = (write_cfg(&model.arch, &Default::default()), write_weights(&model).unwrap());
    let mut not_finite = bytes.clone();
    let bias = model.params.b_dec[0].to_le_bytes();
    let at = bytes.windows(4).position(|w| w == bias).unwrap();
    not_finite[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    for damaged in [&bytes[..bytes.len() - 1], &bytes[..9], &[], &not_finite] {
        let [copied, in_place] = [read_model(&cfg, damaged), read_model_shared(&cfg, &shared(damaged, 0))];
        assert_eq!(copied.unwrap_err(), in_place.unwrap_err());
    }
}
