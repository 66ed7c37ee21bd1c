//! What `strata report --live` computes with: the language model in the page is that of the command line.

#[path = "../../cli/live/src/gpt.rs"]
#[allow(dead_code, reason = "some of it is for the module alone")]
mod gpt;
#[path = "../../cli/live/src/session.rs"]
#[allow(dead_code, reason = "some of it is for the module alone")]
mod session;

use super::hierarchy::model;
use gpt::{Gpt, Past, Shape};
use session::Session;
use std::sync::Arc;
use strata_cli::lm::{EMBEDDED_TEXT, EMBEDDED_WEIGHTS, Lm, hook::Hook};
use strata_core::config::{Activation, Decoder, GateKind, ModelKind, Source};
use strata_core::format::weights::{write_cfg, write_weights_int8};
use strata_core::model::{Arch, Codes, Edit, Encoder, LevelArch, Model, Scratch, Variant, WeightType};
use strata_core::{Compute, Isa, Par};

const LAYER: usize = 2;

fn language() -> Gpt {
    let lm = Lm::embedded().expect("the embedded model");
    let shape = Shape { n_head: lm.config().n_head, epsilon: lm.config().epsilon as f32 };
    Gpt::read(EMBEDDED_WEIGHTS, shape).expect("the embedded model")
}

fn tokens(n: usize) -> Vec<u32> {
    let lm = Lm::embedded().expect("the embedded model");
    lm.encode_text(&EMBEDDED_TEXT[5000..5000 + n]).expect("characters of the model")
}

/// Rows of a text, window by window, as the page computes them.
fn rows(gpt: &Gpt, tokens: &[u32]) -> Vec<f32> {
    let mut rows = Vec::new();
    for window in tokens.chunks(gpt.context()) {
        let mut past = Past::default();
        for &token in window {
            gpt.step(&mut past, token, |layer, h| {
                if layer == LAYER {
                    rows.extend_from_slice(h);
                }
            });
        }
    }
    rows
}

fn sae() -> Model {
    let level = |latents, k| LevelArch { latents, activation: Activation::Topk, k };
    let arch = Arch {
        model: ModelKind::Tree,
        d: 128,
        level: [level(24, 4.0), level(60, 6.0)],
        source: Source::X,
        decoder: Decoder::Cum,
        gate: GateKind::Hard,
        variant: Variant::default(),
    };
    model(arch, 7, 2)
}

fn session() -> Session {
    let sae = sae();
    let cfg = write_cfg(&sae.arch, &Default::default());
    let mut session = Session::new(&cfg, &write_weights_int8(&sae).expect("a model")).expect("a model");
    session.set_language(language(), LAYER).expect("rows of the width of the model");
    session
}

#[test]
fn its_rows_are_those_of_the_command_line() {
    let (gpt, tokens) = (language(), tokens(200));
    let got = rows(&gpt, &tokens);
    let lm = Lm::embedded().expect("the embedded model");
    let windows: Vec<&[u32]> = tokens.chunks(128).collect();
    let want = lm.activations(&windows, &[Hook::resid_post(LAYER)]).expect("rows").remove(0);
    assert_eq!(got.len(), want.len());
    for (i, (got, want)) in got.chunks(128).zip(want.chunks(128)).enumerate() {
        let (error, size) = got.iter().zip(want).fold((0.0, 0.0), |(e, s), (g, w)| (e + (g - w) * (g - w), s + w * w));
        assert!(error < 1e-8 * size, "row {i}: {error} of {size}");
    }
}

#[test]
fn it_predicts_its_text() {
    let (gpt, tokens) = (language(), tokens(128));
    let mut past = Past::default();
    let mut nats = 0.0;
    for pair in tokens.windows(2) {
        let mut p = gpt.step(&mut past, pair[0], |_, _| {});
        gpt::softmax(&mut p);
        nats -= f64::from(p[pair[1] as usize].ln()) / (tokens.len() - 1) as f64;
    }
    assert!(nats < 2.0, "{nats} nats; the model has 1.5 on its own text, and a uniform guess 4.2");
}

/// The codes of rows with the same weights in 8 bits.
fn codes(x: &[f32]) -> [Codes; 2] {
    let sae = sae();
    let mut scratch = Scratch::new(&sae.arch);
    let mut codes = [Codes::new(), Codes::new()];
    let [one, two] = &mut codes;
    let compute = Compute::new(Isa::default(), Par::Seq);
    let encoder = Encoder::with_weights(Arc::new(sae), compute, WeightType::Int8).expect("a model");
    encoder.encode(x, &mut scratch, one, two).expect("finite rows");
    codes
}

#[test]
fn a_text_that_changes_is_read_as_if_it_were_new() {
    let tokens = tokens(300);
    let mut session = session();
    let x = rows(&language(), &tokens);
    // Longer and shorter texts, and changes in the first, the second and the last window.
    let mut changed = tokens.clone();
    (changed[40], changed[270]) = (3, 4);
    for (text, x) in [
        (&tokens[..5], &x[..5 * 128]),
        (&tokens[..130], &x[..130 * 128]),
        (&tokens[..128], &x[..128 * 128]),
        (&tokens[..], &x[..]),
        (&changed[..], &rows(&language(), &changed)[..]),
        (&tokens[..290], &x[..290 * 128]),
        (&tokens[..0], &x[..0]),
        (&tokens[..1], &x[..128]),
    ] {
        session.read(text).expect("tokens of the model");
        let want = codes(x);
        for (found, want) in session.found.iter().zip(&want) {
            let ends: Vec<usize> = found.ends.iter().map(|end| *end as usize).collect();
            assert_eq!(ends, want.offsets[1..], "{} tokens", text.len());
            assert_eq!((&found.index, &found.value), (&want.index, &want.value), "{} tokens", text.len());
        }
        assert_eq!(session.missed.len(), text.len());
    }
    assert!(session.read(&[65]).expect_err("no such token").contains("below 65"));
    assert!(session.rows(&x[..130]).expect_err("no whole row").contains("128"));
    session.rows(&x[..256]).expect("two rows");
    assert_eq!(session.found[1].index, codes(&x[..256])[1].index);
}

fn written(session: &mut Session, which: usize, edits: &[Edit], n: usize) -> Vec<u32> {
    session.begin(which, &tokens(90), edits.to_vec(), 0.8, 3).expect("a prompt");
    (0..n).map(|_| session.next(which).expect("a token")).collect()
}

#[test]
fn steering_changes_what_is_written_and_nothing_else_does() {
    let mut session = session();
    let edit = |strength| [Edit { level: 1, latent: 5, strength, set: false }];
    // Longer than a window, so that the second one begins with the end of the first.
    let plain = written(&mut session, 0, &[], 150);
    assert_eq!(plain, written(&mut session, 1, &edit(0.0), 150), "no strength");
    assert_ne!(plain, written(&mut session, 1, &edit(40.0), 150), "a strength");
    // Two texts at a time.
    session.begin(1, &tokens(90), edit(40.0).to_vec(), 0.8, 3).expect("a prompt");
    assert_eq!(plain, written(&mut session, 0, &[], 150));
    let wrong = [Edit { level: 2, latent: 60, strength: 1.0, set: false }];
    assert!(session.begin(0, &[0], wrong.to_vec(), 0.8, 3).is_err());
}

#[test]
fn a_language_model_of_another_width_is_refused() {
    let arch = Arch { d: 16, ..sae().arch };
    let sae = model(arch, 7, 2);
    let cfg = write_cfg(&sae.arch, &Default::default());
    let mut session = Session::new(&cfg, &write_weights_int8(&sae).expect("a model")).expect("a model");
    assert!(session.set_language(language(), LAYER).expect_err("128 is not 16").contains("16"));
    assert!(session.read(&[1]).expect_err("no language model").contains("no language model"));
    assert!(Gpt::read(&EMBEDDED_WEIGHTS[..100_000], Shape { n_head: 4, epsilon: 1e-5 }).is_err());
}
