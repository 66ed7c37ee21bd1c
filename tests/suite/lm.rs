//! The language models of `strata capture` and `strata eval --splice`, compared with `transformers` and with
//! themselves.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use strata_cli::capture::{CaptureSpec, Captured, capture};
use strata_cli::corpus::Corpus;
use strata_cli::lm::hook::Hook;
use strata_cli::lm::{EMBEDDED_TEXT, Lm, cross_entropy};
use strata_cli::splice::splice;

/// Context of the embedded model.
const T: usize = 128;

const GOLDEN: &[u8] = include_bytes!("../golden/char-gpt.safetensors");

fn model() -> &'static Lm {
    static MODEL: OnceLock<Lm> = OnceLock::new();
    MODEL.get_or_init(|| Lm::embedded().unwrap())
}

fn golden(name: &str) -> Vec<f32> {
    floats(SafeTensors::deserialize(GOLDEN).unwrap().tensor(name).unwrap().data())
}

fn golden_ids() -> Vec<u32> {
    let file = SafeTensors::deserialize(GOLDEN).unwrap();
    let bytes = file.tensor("input_ids").unwrap().data().to_vec();
    bytes.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// The largest difference, as a share of the root mean square of `want`.
fn worst(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len(), "number of values");
    let rms = (want.iter().map(|w| f64::from(*w).powi(2)).sum::<f64>() / want.len() as f64).sqrt();
    got.iter().zip(want).map(|(g, w)| f64::from((g - w).abs())).fold(0.0, f64::max) / rms
}

/// The held-out tenth of the text.
fn held_out() -> Vec<u32> {
    let ids = model().encode_text(EMBEDDED_TEXT).unwrap();
    ids[ids.len() * 9 / 10..].to_vec()
}

fn in_pool<R: Send>(n_threads: usize, f: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap().install(f)
}

/// Both sides compute in f32 and differ only in the order of sums. A sum of up to 512 terms has an error of a few ULP
/// (6e-8), and four blocks add up eight of them; the largest of 32,768 values is then some 1e-6 of the typical one,
/// and a little more where the stream has a few large entries, since the share is of the root mean square. With
/// candle's order of sums it is at most 9e-6; twice that leaves room for those of other instruction sets.
const GOLDEN_BOUND: f64 = 2e-5;

#[test]
fn residual_stream_after_every_block_is_that_of_transformers() {
    let ids = golden_ids();
    for layer in 0..4 {
        let off = worst(&model().resid_post(&ids, 2, T, layer).unwrap(), &golden(&format!("resid_post.{layer}")));
        eprintln!("layer {layer}: {off:e} of the rms");
        assert!(off <= GOLDEN_BOUND, "layer {layer}: {off:e} of the rms");
    }
}

#[test]
fn logits_are_those_of_transformers_from_every_block() {
    let ids = golden_ids();
    let want = golden("logits");
    for layer in 0..4 {
        let got = model().logits_from(layer, &golden(&format!("resid_post.{layer}")), 2, T).unwrap();
        let off = worst(&got, &want);
        eprintln!("from layer {layer}: {off:e} of the rms");
        assert!(off <= GOLDEN_BOUND, "from layer {layer}: {off:e} of the rms");
    }
    assert!(worst(&model().logits(&ids, 2, T).unwrap(), &want) <= GOLDEN_BOUND);
}

#[test]
fn held_out_cross_entropy_is_that_of_training() {
    // The training script's own figure: windows of 128 inputs, each with its successor as target.
    let meta: Value = serde_json::from_str(include_str!("../../cli/assets/char-gpt/meta.json")).unwrap();
    let want = meta["val_cross_entropy_nats"].as_f64().unwrap();
    let ids = held_out();
    let n = (ids.len() - 1) / T;
    let logits = model().logits(&ids[..n * T], n, T).unwrap();
    let got = cross_entropy(&logits, &ids[1..n * T + 1]);
    eprintln!("held-out cross-entropy {got}");
    assert!((got - want).abs() < 0.01, "{got} nats, expected {want}");
}

#[test]
fn splice_of_the_same_rows_is_clean_and_of_the_mean_is_much_worse() {
    let ids = held_out();
    let ids = &ids[..40 * T];
    let x = model().resid_post(ids, 40, T, 2).unwrap();
    let d = x.len() / ids.len();
    let mean: Vec<f32> = (0..d)
        .map(|j| x.iter().skip(j).step_by(d).map(|v| f64::from(*v)).sum::<f64>() as f32 / ids.len() as f32)
        .collect();
    let halve = |x: &[f32], x_hat1: &mut [f32], x_hat2: &mut [f32]| {
        x_hat1.iter_mut().zip(x.iter().zip(mean.iter().cycle())).for_each(|(o, (x, m))| *o = 0.5 * (x + m));
        x_hat2.copy_from_slice(x);
        Ok(())
    };
    let report =
        |n| in_pool(n, || splice(model(), Hook::resid_post(2), ids, &[T; 40], halve, &mean, |_, _| false).unwrap());
    let r = report(2);
    eprintln!("{r:?}");
    assert_eq!(r.level2, r.clean);
    assert_eq!(r.recovered2, 1.0);
    assert!(r.mean_ablated > r.clean + 1.0);
    assert!(r.recovered1 > 0.0 && r.recovered1 < 1.0);
    assert_eq!(r.n_tokens, 40 * 127);
    assert_eq!(r, report(1));
    assert_eq!(r, report(3));
    assert_eq!((r.rows_left_out, r.of_all), (0, [r.level1, r.level2]));

    // Rows that are left out are not replaced, and the effect of replacing them is reported separately.
    let some =
        splice(model(), Hook::resid_post(2), ids, &[T; 40], halve, &mean, |i, x| i % T < 64 && x == &x[..d]).unwrap();
    assert_eq!((some.rows_left_out, some.of_all, some.clean), (40 * 64, [r.level1, r.level2], r.clean));
    assert!(some.level1 < r.level1 && some.mean_ablated < r.mean_ablated);
    let all = splice(model(), Hook::resid_post(2), ids, &[T; 40], halve, &mean, |_, _| true).unwrap();
    assert_eq!((all.level1, all.mean_ablated, all.of_all), (r.clean, r.clean, [r.level1, r.level2]));
}

#[test]
fn splice_names_the_level_that_is_not_finite() {
    let bad = |x: &[f32], x_hat1: &mut [f32], x_hat2: &mut [f32]| {
        x_hat1.copy_from_slice(x);
        x_hat2.fill(f32::NAN);
        Ok(())
    };
    let e = splice(model(), Hook::resid_post(1), &golden_ids(), &[T; 2], bad, &[0.0; 128], |_, _| false).unwrap_err();
    assert_eq!(e.to_string(), "the reconstruction of level 2 is not finite");
}

#[test]
fn a_later_token_changes_no_earlier_row() {
    let mut ids = golden_ids();
    let before = model().resid_post(&ids, 2, T, 3).unwrap();
    ids[T + 70] = (ids[T + 70] + 1) % 65;
    let after = model().resid_post(&ids, 2, T, 3).unwrap();
    let changed = (T + 70) * 128;
    assert_eq!(before[..changed], after[..changed]);
    // It changes its own row and each later one.
    let mut rows = before[changed..].chunks_exact(128).zip(after[changed..].chunks_exact(128));
    assert!(rows.all(|(a, b)| a != b));
}

#[test]
fn a_window_is_the_same_bits_in_any_company_and_on_any_pool() {
    let ids = held_out();
    let (b, whole) = (9, in_pool(1, || model().resid_post(&held_out()[..9 * T], 9, T, 3).unwrap()));
    for n_threads in [1, 2, 3] {
        assert_eq!(in_pool(n_threads, || model().resid_post(&ids[..b * T], b, T, 3).unwrap()), whole);
    }
    for w in 0..b {
        let alone = model().resid_post(&ids[w * T..(w + 1) * T], 1, T, 3).unwrap();
        assert_eq!(alone, whole[w * T * 128..(w + 1) * T * 128], "window {w}");
    }
    let short = model().resid_post(&ids[..50], 1, 50, 3).unwrap();
    assert!(worst(&short, &whole[..50 * 128]) <= GOLDEN_BOUND, "a prefix");
}

/// Returns everything a capture produces: rows, tokens, and the calls of `progress`.
fn captured(spec: &CaptureSpec, text: &'static str) -> (Vec<f32>, Vec<u32>, Vec<(u64, u64)>) {
    let (mut rows, mut tokens) = (Vec::new(), Vec::new());
    let calls = std::cell::RefCell::new(Vec::new());
    let mut sink = |found: Captured<'_>| {
        assert_eq!(found.rows[0].len(), found.tokens.len() * 128, "one token per row of width 128");
        assert_eq!(found.windows.iter().sum::<usize>(), found.tokens.len(), "every row is in a window");
        rows.extend_from_slice(&found.rows[0]);
        tokens.extend_from_slice(found.tokens);
        Ok(())
    };
    let report =
        capture(model(), &Corpus::of(text), spec, &mut sink, &|done, total| calls.borrow_mut().push((done, total)))
            .unwrap();
    assert_eq!(report.n_rows as usize, tokens.len(), "the report counts the rows that the sink was given");
    (rows, tokens, calls.into_inner())
}

#[test]
fn capture_gives_whole_windows_in_order_on_any_number_of_threads() {
    let text = &EMBEDDED_TEXT[..T * 11 + 5];
    let spec = CaptureSpec::new(model(), &[Hook::resid_post(1)]);
    let (rows, tokens, calls) = in_pool(1, || captured(&spec, text));
    let ids = model().encode_text(text).unwrap();
    assert_eq!(tokens, ids[..T * 11]);
    assert_eq!(rows, model().resid_post(&tokens, 11, T, 1).unwrap());
    assert_eq!((calls[0].0, *calls.last().unwrap()), (0, (11 * 128, 11 * 128)));
    assert!(calls.windows(2).all(|c| c[0].0 <= c[1].0) && calls.iter().all(|c| c.0 <= c.1), "{calls:?}");
    for n_threads in [2, 3, 16] {
        let (same, ids, _) = in_pool(n_threads, || captured(&spec, text));
        assert!(same == rows && ids == tokens, "{n_threads} threads");
    }
}

#[test]
fn capture_leaves_out_first_tokens_and_stops_at_its_limit() {
    let spec = CaptureSpec {
        hooks: vec![Hook::resid_post(0)],
        context: 50,
        bos: false,
        per_document: false,
        skip_first: 3,
        max_tokens: Some(47 * 4 + 46),
    };
    let (rows, tokens, _) = captured(&spec, EMBEDDED_TEXT);
    let ids = model().encode_text(&EMBEDDED_TEXT[..200]).unwrap();
    let want: Vec<u32> = ids.chunks(50).flat_map(|w| w[3..].to_vec()).collect();
    assert_eq!(tokens, want);
    let all = model().resid_post(&ids, 4, 50, 0).unwrap();
    let want: Vec<f32> = all.chunks(50 * 128).flat_map(|w| w[3 * 128..].to_vec()).collect();
    assert_eq!(rows, want);
}

#[test]
fn capture_stops_at_the_first_error_of_its_sink() {
    let mut calls = 0;
    let mut sink = |_: Captured<'_>| {
        calls += 1;
        anyhow::ensure!(calls < 3, "the disk is full");
        Ok(())
    };
    let e = capture(
        model(),
        &Corpus::of(&EMBEDDED_TEXT[..100_000]),
        &CaptureSpec::new(model(), &[Hook::resid_post(0)]),
        &mut sink,
        &|_, _| (),
    )
    .unwrap_err();
    assert_eq!((e.to_string().as_str(), calls), ("the disk is full", 3));
}

#[test]
fn what_cannot_be_captured_is_said_in_one_sentence() {
    let m = model();
    let err = |spec: &CaptureSpec, text: &'static str| {
        capture(m, &Corpus::of(text), spec, &mut |_| Ok(()), &|_, _| ()).unwrap_err().to_string()
    };
    let spec = CaptureSpec::new(m, &[Hook::resid_post(0)]);
    assert_eq!(
        err(&CaptureSpec::new(m, &[Hook::resid_post(4)]), "a"),
        "the layer must be from 0 to 3 in char-gpt, found 4"
    );
    assert_eq!(
        err(&spec, "a word"),
        "the text has 6 tokens, but one window needs 128; give shorter windows with --context"
    );
    assert_eq!(err(&spec, "caf\u{e9} #1"), "character 3 of the text, 'é', is not in the vocabulary of 65");
    assert_eq!(
        err(&CaptureSpec { context: 129, ..spec.clone() }, "a"),
        "the context must be from 1 to 128 tokens in char-gpt, found 129"
    );
    assert_eq!(
        err(&CaptureSpec { skip_first: 128, ..spec.clone() }, "a"),
        "the tokens skipped in each window (--skip-first) must be fewer than its 128, found 128"
    );
    assert_eq!(
        err(&CaptureSpec { max_tokens: Some(127), ..spec }, EMBEDDED_TEXT),
        "a limit of 127 tokens (--max-tokens) is less than the 128 rows of one window; give shorter windows with --context"
    );
    let e = m.resid_post(&[1, 65], 1, 2, 0).unwrap_err().to_string();
    assert_eq!(e, "token 1 must have an id below 65, found 65");
}

#[test]
fn vocabulary_is_the_characters_in_order() {
    let vocab = model().vocab();
    assert_eq!((vocab.len(), vocab[0].as_str(), vocab[64].as_str()), (65, "\n", "z"));
    let ids = model().encode_text("Hi\nz").unwrap();
    assert_eq!(ids.iter().map(|i| vocab[*i as usize].as_str()).collect::<String>(), "Hi\nz");
}

// With a small epsilon a layer norm of width 2 gives nothing but signs; half keeps it smooth, so that every part
// counts. A model of one block, width 2, two heads and three tokens, small enough to write down, as a directory to
// break.

pub(crate) fn tiny_config() -> Value {
    json!({
        "model_type": "gpt2", "n_layer": 1, "n_head": 2, "n_embd": 2, "n_inner": null, "n_positions": 4, "vocab_size": 3,
        "activation_function": "gelu_new", "layer_norm_epsilon": 0.5, "tie_word_embeddings": true
    })
}

type Tensors = Vec<(String, Vec<usize>, Vec<f32>)>;

fn tiny_tensors() -> Tensors {
    let shapes: [(&str, &[usize]); 16] = [
        ("wte.weight", &[3, 2]),
        ("wpe.weight", &[4, 2]),
        ("h.0.ln_1.weight", &[2]),
        ("h.0.ln_1.bias", &[2]),
        ("h.0.attn.c_attn.weight", &[2, 6]),
        ("h.0.attn.c_attn.bias", &[6]),
        ("h.0.attn.c_proj.weight", &[2, 2]),
        ("h.0.attn.c_proj.bias", &[2]),
        ("h.0.ln_2.weight", &[2]),
        ("h.0.ln_2.bias", &[2]),
        ("h.0.mlp.c_fc.weight", &[2, 8]),
        ("h.0.mlp.c_fc.bias", &[8]),
        ("h.0.mlp.c_proj.weight", &[8, 2]),
        ("h.0.mlp.c_proj.bias", &[2]),
        ("ln_f.weight", &[2]),
        ("ln_f.bias", &[2]),
    ];
    let fill = |at: usize, shape: &[usize]| {
        (0..shape.iter().product())
            .map(|i| ((at * 16 + i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u8 as f32 / 128.0 - 1.0)
            .collect()
    };
    shapes.iter().enumerate().map(|(at, (name, shape))| ((*name).into(), shape.to_vec(), fill(at, shape))).collect()
}

/// `bits` is 32 for f32, 16 for the upper half of its bits, which is bf16.
fn safetensors_of(tensors: &Tensors, bits: usize) -> Vec<u8> {
    let bytes = |v: &[f32]| v.iter().flat_map(|v| v.to_le_bytes()[4 - bits / 8..].to_vec()).collect::<Vec<u8>>();
    let data: Vec<Vec<u8>> = tensors.iter().map(|(_, _, v)| bytes(v)).collect();
    let dtype = if bits == 32 { Dtype::F32 } else { Dtype::BF16 };
    let views = tensors
        .iter()
        .zip(&data)
        .map(|((name, shape, _), data)| (name, TensorView::new(dtype, shape.clone(), data).unwrap()));
    safetensors::serialize(views, None).unwrap()
}

fn write(dir: &Path, config: &Value, weights: &[u8]) {
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
    fs::write(dir.join("model.safetensors"), weights).unwrap();
    fs::write(dir.join("meta.json"), r#"{"chars": "abc"}"#).unwrap();
}

/// A tiny model with as many rows of the embedding and positions as `config` says, of zeros beyond those of
/// [`tiny_tensors`], and with `tokenizer`.
pub(crate) fn load_with(config: &Value, tokenizer: &Value) -> anyhow::Result<Lm> {
    let dir = tempfile::tempdir().unwrap();
    let mut tensors = tiny_tensors();
    for (tensor, key) in tensors.iter_mut().zip(["vocab_size", "n_positions"]) {
        let rows = config[key].as_u64().unwrap() as usize;
        tensor.1[0] = rows;
        tensor.2.resize(rows * tensor.1[1], 0.25);
    }
    write(dir.path(), config, &safetensors_of(&tensors, 32));
    fs::write(dir.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    Lm::open(dir.path())
}

fn load(config: &Value, weights: &[u8]) -> anyhow::Result<Lm> {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), config, weights);
    Lm::open(dir.path())
}

#[test]
fn names_with_and_without_prefix_and_each_float_type_give_the_same_model() {
    let plain = tiny_tensors();
    let prefixed: Tensors = plain.iter().map(|(n, s, v)| (format!("transformer.{n}"), s.clone(), v.clone())).collect();
    let ids = [0, 1, 2, 1];
    let run = |lm: Lm| lm.logits(&ids, 1, 4).unwrap();
    let want = run(load(&tiny_config(), &safetensors_of(&plain, 32)).unwrap());
    assert_eq!(want.len(), 12);
    assert_eq!(run(load(&tiny_config(), &safetensors_of(&prefixed, 32)).unwrap()), want);
    // 128ths from -1 to 1 are exact in bf16.
    assert_eq!(run(load(&tiny_config(), &safetensors_of(&plain, 16)).unwrap()), want);
}

#[test]
fn a_separate_output_matrix_is_used_only_where_the_config_says_so() {
    let tied = tiny_tensors();
    let mut separate = tied.clone();
    let doubled = tied[0].2.iter().map(|v| 2.0 * v).collect();
    separate.push(("lm_head.weight".into(), vec![3, 2], doubled));
    let mut config = tiny_config();
    let run =
        |config: &Value, t: &Tensors| load(config, &safetensors_of(t, 32)).unwrap().logits(&[2, 0], 1, 2).unwrap();
    let want = run(&config, &tied);
    assert_eq!(run(&config, &separate), want);
    config["tie_word_embeddings"] = false.into();
    let twice: Vec<f32> = want.iter().map(|v| 2.0 * v).collect();
    assert_eq!(run(&config, &separate), twice);
    let e = load(&config, &safetensors_of(&tied, 32)).err().unwrap();
    assert!(format!("{e:#}").ends_with("/model.safetensors: tensor \"lm_head.weight\" is missing"), "{e:#}");
}

/// By its series, for arguments of a few units.
fn erf(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..80 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

/// The logits in f64, by the definition, for the tiny model.
fn tiny_oracle(config: &Value, tensors: &Tensors, ids: &[u32]) -> Vec<f64> {
    let w =
        |name: &str| tensors.iter().find(|t| t.0 == name).unwrap().2.iter().map(|v| f64::from(*v)).collect::<Vec<_>>();
    let norm = |x: &[f64], name: &str| -> Vec<f64> {
        let (m, eps) = ((x[0] + x[1]) / 2.0, config["layer_norm_epsilon"].as_f64().unwrap());
        let r = (((x[0] - m).powi(2) + (x[1] - m).powi(2)) / 2.0 + eps).sqrt();
        (0..2).map(|j| (x[j] - m) / r * w(&format!("{name}.weight"))[j] + w(&format!("{name}.bias"))[j]).collect()
    };
    let affine = |x: &[f64], name: &str| -> Vec<f64> {
        let (w, b) = (w(&format!("{name}.weight")), w(&format!("{name}.bias")));
        (0..b.len()).map(|j| b[j] + x.iter().enumerate().map(|(i, x)| x * w[i * b.len() + j]).sum::<f64>()).collect()
    };
    let mut h: Vec<Vec<f64>> = ids
        .iter()
        .enumerate()
        .map(|(p, id)| (0..2).map(|j| w("wte.weight")[*id as usize * 2 + j] + w("wpe.weight")[p * 2 + j]).collect())
        .collect();
    let qkv: Vec<Vec<f64>> = h.iter().map(|x| affine(&norm(x, "h.0.ln_1"), "h.0.attn.c_attn")).collect();
    for i in 0..h.len() {
        // Two heads of width 1, so the divisor sqrt(1) is no divisor.
        let y: Vec<f64> = (0..2)
            .map(|a| {
                let e: Vec<f64> = (0..=i).map(|j| (qkv[i][a] * qkv[j][2 + a]).exp()).collect();
                e.iter().enumerate().map(|(j, e)| e * qkv[j][4 + a]).sum::<f64>() / e.iter().sum::<f64>()
            })
            .collect();
        let y = affine(&y, "h.0.attn.c_proj");
        (0..2).for_each(|j| h[i][j] += y[j]);
        let mut u = affine(&norm(&h[i], "h.0.ln_2"), "h.0.mlp.c_fc");
        for u in &mut u {
            *u = match config["activation_function"].as_str().unwrap() {
                "relu" => u.max(0.0),
                "gelu" => 0.5 * *u * (1.0 + erf(*u / 2f64.sqrt())),
                _ => 0.5 * *u * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (*u + 0.044715 * u.powi(3))).tanh()),
            };
        }
        let y = affine(&u, "h.0.mlp.c_proj");
        (0..2).for_each(|j| h[i][j] += y[j]);
    }
    let rows = h.iter().map(|x| norm(x, "ln_f"));
    rows.flat_map(|x| {
        (0..3).map(|v| x[0] * w("wte.weight")[v * 2] + x[1] * w("wte.weight")[v * 2 + 1]).collect::<Vec<_>>()
    })
    .collect()
}

#[test]
fn a_tiny_model_is_what_its_definition_says() {
    let ids = [2, 0, 1, 1];
    let mut config = tiny_config();
    for act in ["gelu_new", "relu", "gelu"] {
        config["activation_function"] = act.into();
        let got = load(&config, &safetensors_of(&tiny_tensors(), 32)).unwrap().logits(&ids, 1, 4).unwrap();
        let want = tiny_oracle(&config, &tiny_tensors(), &ids);
        let off = got.iter().zip(&want).map(|(g, w)| (f64::from(*g) - w).abs()).fold(0.0, f64::max);
        eprintln!("{act}: {off:e}");
        assert!(off < 1e-6, "{act}: {off:e}");
    }
}

#[test]
fn attention_scales_follow_the_config() {
    // Width 2 and one head: scores are divided by sqrt(2). Without that division, queries smaller by as much.
    let mut config = tiny_config();
    config["n_head"] = 1.into();
    let mut tensors = tiny_tensors();
    let run =
        |config: &Value, t: &Tensors| load(config, &safetensors_of(t, 32)).unwrap().logits(&[2, 0, 1], 1, 3).unwrap();
    let want = run(&config, &tensors);
    config["scale_attn_weights"] = false.into();
    let off = worst(&run(&config, &tensors), &want);
    assert!(off > 1e-4, "{off:e}");
    for (name, cols) in [("h.0.attn.c_attn.weight", 6), ("h.0.attn.c_attn.bias", 6)] {
        let t = tensors.iter_mut().find(|t| t.0 == name).unwrap();
        t.2.chunks_mut(cols).for_each(|row| row[..2].iter_mut().for_each(|v| *v *= std::f32::consts::FRAC_1_SQRT_2));
    }
    assert!(worst(&run(&config, &tensors), &want) < 1e-6);
    // Block 0 is divided by 1.
    let before = run(&config, &tensors);
    config["scale_attn_by_inverse_layer_idx"] = true.into();
    assert_eq!(run(&config, &tensors), before);
}

#[test]
fn a_bad_config_is_said_in_one_sentence() {
    let weights = safetensors_of(&tiny_tensors(), 32);
    for (key, value, want) in [
        (
            "model_type",
            json!("bert"),
            "\"model_type\" must be one of gpt2, llama, mistral, qwen2, qwen3, gemma2, gemma3_text, gpt_neox, found \"bert\"",
        ),
        ("n_embd", Value::Null, "\"n_embd\" must be a whole number from 1 to 16777216, found nothing"),
        ("n_layer", json!(-1), "\"n_layer\" must be a whole number from 1 to 16777216, found -1"),
        ("n_head", json!(3), "\"n_embd\" must be a multiple of \"n_head\", found 2 and 3"),
        (
            "activation_function",
            json!("silu"),
            "\"activation_function\" must be gelu_new, gelu or relu, found \"silu\"",
        ),
        (
            "layer_norm_epsilon",
            json!("tiny"),
            "\"layer_norm_epsilon\" must be a number between 0 and 1, found \"tiny\"",
        ),
        ("scale_attn_weights", json!(1), "\"scale_attn_weights\" must be true or false, found 1"),
    ] {
        let mut config = tiny_config();
        config[key] = value;
        let e = format!("{:#}", load(&config, &weights).err().unwrap());
        assert!(e.ends_with(&format!("/config.json: {want}")), "{e}");
    }
}

#[test]
fn bad_weights_are_said_in_one_sentence() {
    let fails = |tensors: &Tensors, want: &str| {
        let e = format!("{:#}", load(&tiny_config(), &safetensors_of(tensors, 32)).err().unwrap());
        assert!(e.ends_with(&format!("/model.safetensors: {want}")), "{e}");
    };
    let mut t = tiny_tensors();
    t.remove(4);
    fails(&t, "tensor \"h.0.attn.c_attn.weight\" is missing");
    let mut t = tiny_tensors();
    t[10].1 = vec![8, 2];
    fails(&t, "tensor \"h.0.mlp.c_fc.weight\" must have shape [2, 8], found [8, 2]");
    let mut t = tiny_tensors();
    t[1].2[3] = f32::INFINITY;
    fails(&t, "tensor \"wpe.weight\" holds a value that is not finite");
    let whole = safetensors_of(&tiny_tensors(), 32);
    for len in (0..whole.len()).step_by(13).chain([whole.len() - 1]) {
        let e = format!("{:#}", load(&tiny_config(), &whole[..len]).err().unwrap());
        assert!(e.contains("/model.safetensors: not a whole safetensors file: "), "{len} bytes: {e}");
    }
}

#[test]
fn a_directory_without_its_files_is_said_in_one_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let err = || format!("{:#}", Lm::open(dir.path()).err().unwrap());
    let config = dir.path().join("config.json");
    assert!(err().starts_with(&format!("reading `{}`: ", config.display())), "{}", err());
    write(dir.path(), &tiny_config(), &[]);
    fs::remove_file(dir.path().join("meta.json")).unwrap();
    assert!(err().ends_with(" has neither tokenizer.json nor meta.json, so text cannot be encoded"), "{}", err());
    fs::write(dir.path().join("tokenizer.json"), "{}").unwrap();
    assert!(err().contains("/tokenizer.json: not a tokenizer: "), "{}", err());
    fs::write(dir.path().join("tokenizer.json"), "{").unwrap();
    assert!(err().contains("/tokenizer.json: not JSON: "), "{}", err());
    fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    let weights = dir.path().join("model.safetensors");
    assert!(err().starts_with(&format!("reading `{}`: ", weights.display())), "{}", err());
}

#[test]
fn a_byte_level_tokenizer_is_run_as_it_stands() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &tiny_config(), &safetensors_of(&tiny_tensors(), 32));
    let bpe = json!({
        "version": "1.0", "truncation": {"max_length": 1, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
        "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": null, "decoder": null,
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}
    });
    fs::write(dir.path().join("tokenizer.json"), bpe.to_string()).unwrap();
    let lm = Lm::open(dir.path()).unwrap();
    // The truncation that the tokenizer file asks for is ignored.
    assert_eq!(lm.encode_text("abaabb").unwrap(), [2, 0, 2, 1]);
    assert_eq!(lm.vocab(), ["a", "b", "ab"]);
}
