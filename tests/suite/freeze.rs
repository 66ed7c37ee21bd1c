//! `train.freeze`: which weights stay at their random start, and which still learn.

use super::training::{rows, settings, step, trainer};
use strata_core::config::{Activation, Freeze, ModelKind};
use strata_core::train::Trainer;
use strata_core::{Compute, Isa, Par};

const STEPS: u64 = 150;

fn cosines(a: &[f32], b: &[f32], d: usize) -> Vec<f64> {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    a.chunks(d).zip(b.chunks(d)).map(|(a, b)| dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()).collect()
}

#[test]
fn what_is_frozen_stays_and_the_rest_learns() {
    for &freeze in Freeze::ALL {
        let mut config = settings(Activation::Batchtopk, STEPS);
        config.train.freeze = freeze;
        let (mut t, n) = trainer(&config);
        let start = t.model_unfolded().params;
        for i in 0..STEPS {
            step(&mut t, &n, i);
        }
        let end = t.model_unfolded().params;
        let levels = || start.level.iter().zip(&end.level);
        let encoder: Vec<bool> = levels().map(|(a, b)| a.w_enc[..] != b.w_enc[..]).collect();
        let decoder: Vec<bool> = levels().map(|(a, b)| a.w_dec[..] != b.w_dec[..]).collect();
        assert_eq!(encoder, [freeze != Freeze::Encoder; 2], "{freeze}");
        assert_eq!(decoder, [freeze != Freeze::Decoder; 2], "{freeze}");
        assert!(levels().all(|(a, b)| a.b_enc[..] != b.b_enc[..]), "{freeze}: biases learn");
        let d = n.mean.len();
        let near: Vec<f64> = levels().flat_map(|(a, b)| cosines(&a.w_dec, &b.w_dec, d)).collect();
        let least = near.iter().copied().fold(1.0, f64::min);
        match freeze {
            Freeze::SoftDecoder => {
                assert!((least - 0.8).abs() < 1e-4, "some direction is held at the border of its cone: {least}");
                let unit = end.level[1].w_dec.chunks(d).map(|r| r.iter().map(|v| v * v).sum::<f32>());
                assert!(unit.into_iter().all(|n| (n - 1.0).abs() < 1e-5));
            }
            Freeze::None | Freeze::Encoder => assert!(least < 0.79, "directions are free: {least}"),
            Freeze::Decoder => assert!(least > 1.0 - 1e-6),
        }
    }
}

#[test]
fn a_training_near_its_start_goes_on_to_the_same_bits() {
    let mut config = settings(Activation::Batchtopk, 20);
    config.train.freeze = Freeze::SoftDecoder;
    let (mut whole, n) = trainer(&config);
    for i in 0..20 {
        step(&mut whole, &n, i);
    }
    let (mut first, _) = trainer(&config);
    for i in 0..9 {
        step(&mut first, &n, i);
    }
    let mut second =
        Trainer::restore(&config, n.mean.len(), &mut first.state(), Compute::new(Isa::default(), Par::Seq)).unwrap();
    for i in 9..20 {
        step(&mut second, &n, i);
    }
    assert_eq!(whole.model_unfolded().params, second.model_unfolded().params);
}

#[test]
fn the_seed_model_has_nothing_to_freeze() {
    let mut config = settings(Activation::Relu, 10);
    config.model = ModelKind::Seed;
    config.train.freeze = Freeze::Decoder;
    let error = config.validate(rows(1, 0).len()).unwrap_err().to_string();
    assert!(error.contains("train.freeze") && error.contains("`none`"), "{error}");
}
