//! The gradients of transcoders, which reconstruct rows of another width than they read, against central differences of
//! the dense f64 oracle.

use strata_core::config::{Activation, Balance, Budget, Consistency, Decoder, GateKind, ModelKind, Source};
use strata_core::row_norm::RowNorm;
use strata_core::train::{Engine, Objective};
use strata_core::{Compute, Isa, Par};
use strata_tests::tolerance;

use super::gradient::{Draw, Worst, check, draw, run, settings, small};

/// Widths of the targets of rows of width 6: narrower, wider, equal, and 1.
const WIDTHS: [usize; 4] = [4, 9, 6, 1];

#[test]
fn gradients_of_transcoders_are_those_of_the_formulas() {
    let mut worst = Worst::default();
    let (mut tried, mut checked) = (0usize, 0);
    for &act1 in Activation::ALL {
        for &act2 in Activation::ALL {
            for &gate in GateKind::ALL {
                for source in [Source::X, Source::Z1] {
                    tried += 1;
                    let mut c = settings([act1, act2], gate, source, Decoder::ALL[tried % 3]);
                    c.loss.consistency = Consistency::ALL[tried / 3 % 7];
                    c.train.balance = Balance::ALL[tried / 2 % 5];
                    c.skip = tried % 2 == 0;
                    if tried % 5 == 0 {
                        c.revive.k_aux = 0;
                    }
                    if c.validate(6).is_err() {
                        c.loss.consistency = Consistency::None;
                    }
                    // Some problems have more than one chunk of rows.
                    let n = if tried % 23 == 0 { 70 } else { 7 };
                    let d = Draw {
                        target: Some(WIDTHS[tried / 7 % 4]),
                        n,
                        waits: tried % 11 == 0,
                        ..small(c, tried as u64)
                    };
                    checked += usize::from(check(&d, &mut worst));
                }
            }
        }
    }
    println!("{checked} configurations, worst {:.3} of the bound at {}", worst.ratio, worst.at);
    assert_eq!(checked, 250);
    worst.assert();
    assert!(worst.ratio > tolerance::NEEDED / 2.0, "the bound is too wide: {worst:?}");
}

#[test]
fn gradients_of_flat_transcoders_are_those_of_the_formulas() {
    let mut worst = Worst::default();
    for (case, &act) in Activation::ALL.iter().cycle().take(60).enumerate() {
        let mut c = settings([act, Activation::Relu], GateKind::None, Source::X, Decoder::Cum);
        c.level2.latents = 0;
        c.skip = case / 5 % 2 == 0;
        let d = Draw { target: Some(WIDTHS[case % 4]), n: [1, 7, 65][case % 3], ..small(c, case as u64) };
        assert!(check(&d, &mut worst), "valid settings");
    }
    worst.assert();
}

#[test]
fn a_shared_budget_is_for_transcoders_too() {
    let mut worst = Worst::default();
    for seed in 0..12 {
        let mut c = settings([Activation::Batchtopk; 2], GateKind::None, Source::X, Decoder::ALL[seed % 3]);
        (c.budget, c.skip) = (Budget::Shared, seed % 2 == 0);
        assert!(check(&Draw { target: Some(WIDTHS[seed % 4]), ..small(c, seed as u64) }, &mut worst), "valid settings");
    }
    worst.assert();
}

/// Threads and instruction sets change no bit of a step.
#[test]
fn the_bits_of_a_transcoder_do_not_depend_on_threads_or_instruction_sets() {
    for (case, &act) in Activation::ALL.iter().enumerate() {
        let mut c = settings([act, Activation::ALL[(case + 1) % 5]], GateKind::Hard, Source::X, Decoder::Cum);
        c.skip = case % 2 == 0;
        let d = Draw { target: Some(9), n: 130, ..small(c, case as u64) };
        let Some((drawn, _)) = draw(&d) else { continue };
        let of = |compute| run(&mut Objective::with_target(&d.config, d.d, d.target, compute).expect("valid"), &drawn);
        let (losses, grads) = of(Compute::new(Isa::default(), Par::Seq));
        for isa in Isa::all_available() {
            let other = of(Compute::new(isa, Par::Rayon));
            assert!(other.0 == losses && other.1 == grads, "{act}, {isa:?}");
        }
    }
}

#[test]
fn what_makes_no_sense_for_a_transcoder_is_refused() {
    let base = || settings([Activation::Topk; 2], GateKind::Hard, Source::X, Decoder::Cum);
    base().validate_rows(6, Some(9)).expect("a transcoder");
    base().validate_rows(6, None).expect("an autoencoder");
    let mut cases = Vec::new();
    let mut c = base();
    c.source = Source::Res;
    cases.push((c, Some(9), "`source`", "level 1 of a transcoder"));
    let mut c = base();
    c.data.row_norm = RowNorm::Layer;
    cases.push((c, Some(9), "`data.row_norm`", "expected `none`"));
    let mut c = base();
    (c.model, c.gate.kind) = (ModelKind::Seed, GateKind::Mul);
    cases.push((c, Some(9), "`model`", "`tree`"));
    let mut c = base();
    c.skip = true;
    cases.push((c, None, "`skip`", "--target"));
    cases.push((base(), Some(0), "`target`", "at least one number"));
    for (c, target, key, part) in cases {
        let error = c.validate_rows(6, target).expect_err("refused").to_string();
        assert!(error.contains(key) && error.contains(part), "{error}");
    }
    // Without a level 2 the residual source is not used and not refused.
    let mut flat = base();
    (flat.level2.latents, flat.source, flat.gate.kind) = (0, Source::Res, GateKind::None);
    flat.validate_rows(6, Some(9)).expect("a flat transcoder");
}

#[test]
fn an_engine_shows_the_rows_that_a_transcoder_reads_and_what_it_leaves_over() {
    let d =
        Draw { target: Some(9), ..small(settings([Activation::Relu; 2], GateKind::None, Source::X, Decoder::Cum), 5) };
    let (drawn, _) = draw(&d).expect("drawn");
    let compute = Compute::new(Isa::default(), Par::Seq);
    let mut engine = Engine::with_target(&d.config, d.d, d.target, drawn.params.clone(), compute).expect("valid");
    engine.step((&drawn.x[..], &drawn.y[..]), &drawn.problem.settings).expect("a finite step");
    assert_eq!(engine.input(3), &drawn.x[18..24]);
    let error = engine.residual(3);
    assert_eq!(error.len(), 9);
}
