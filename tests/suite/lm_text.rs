//! Text to token ids for a capture: in pieces, with and without a token of the beginning, from tokenizers with more ids
//! than the model has.

use crate::lm::{load_with, tiny_config};
use serde_json::{Value, json};
use std::fs;
use strata_cli::capture::{CaptureSpec, capture, capture_to};
use strata_cli::console::Console;
use strata_cli::corpus::Corpus;
use strata_cli::dump::{Dump, Source};
use strata_cli::lm::Lm;
use strata_cli::lm::hook::Hook;
use strata_cli::row_filter::RowFilter;
use strata_core::config::DataConfig;
use strata_core::{Dtype, Isa};

/// Returns the letter of each byte in byte-level BPE: printable bytes stand for themselves, the others for letters from
/// U+0100 on.
fn letters() -> Vec<String> {
    let is_seen = |b: u8| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let mut next = 0x100;
    let letter = |b: u8| {
        let mut code = u32::from(b);
        if !is_seen(b) {
            (code, next) = (next, next + 1);
        }
        char::from_u32(code).expect("a letter").to_string()
    };
    (0..=255).map(letter).collect()
}

/// A byte-level BPE with the splits of GPT-2, a few merges, and tokens that stand for no text.
fn byte_level(special: &[&str]) -> Value {
    let mut tokens = letters();
    let merges = ["t h", "th e", "Ġ t", "Ġ the", "Ġ a", "n d", "Ġa nd", "Ċ Ċ", "Ġ Ġ", "ĠĠ ĠĠ", "i n", "in g"];
    tokens.extend(merges.iter().map(|m| m.replace(' ', "")));
    let vocab: serde_json::Map<_, _> = tokens.iter().enumerate().map(|(id, t)| (t.clone(), id.into())).collect();
    let added: Vec<Value> = special
        .iter()
        .enumerate()
        .map(|(i, s)| {
            json!({"id": tokens.len() + i, "content": s, "special": true, "single_word": false, "lstrip": false,
                   "rstrip": false, "normalized": false})
        })
        .collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": null, "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": vocab, "merges": merges}
    })
}

/// A BPE over characters that adds a space before every text, as SentencePiece does, so that a text may not be cut.
fn metaspace() -> Value {
    let chars = ["▁", "\n", "a", "b", "▁a"];
    let vocab: serde_json::Map<_, _> = chars.iter().enumerate().map(|(id, t)| ((*t).into(), id.into())).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "model": {"type": "BPE", "vocab": vocab, "merges": ["▁ a"]}
    })
}

/// A tiny model with `tokenizer` and `vocab` rows of the embedding.
fn lm(tokenizer: &Value, vocab: usize, bos: Option<u32>) -> Lm {
    let mut config = tiny_config();
    config["vocab_size"] = vocab.into();
    config["n_positions"] = 8.into();
    config["bos_token_id"] = bos.map_or(Value::Null, Value::from);
    load_with(&config, tokenizer).expect("a model")
}

/// Text of 1.2 MB with characters that tokenizers treat specially.
fn nasty() -> String {
    let lines = [
        "the thing and the \u{1f980} sing\n",
        "\r\n  indented\tand the rest \r\n",
        "\n\n\n",
        "caf\u{e9} na\u{ef}ve \u{65e5}\u{672c}\u{8a9e}\n",
        "\u{301}a line that begins with a mark\n",
        "    four spaces, the   end   \n",
        "'s 're 12345 -- ...\n",
    ];
    let mut text = String::new();
    for i in 0..60_000_usize {
        text.push_str(lines[(i * i + i / 7) % lines.len()]);
    }
    text
}

#[test]
fn ids_of_the_pieces_are_those_of_the_whole_text() {
    let text = nasty();
    assert!(text.len() > 3 << 18, "several pieces");
    for tokenizer in [byte_level(&["<|end|>"]), metaspace()] {
        let text =
            if tokenizer["pre_tokenizer"].is_null() { "a b\nb  a\n\n a\n".repeat(100_000) } else { text.clone() };
        let whole = tokenizers_ids(&tokenizer, &text);
        let lm = lm(&tokenizer, 400, None);
        assert!(lm.encode_text(&text).expect("ids") == whole, "all ids");
        let first = lm.encode_first(&text, 1000).expect("ids");
        assert!(first.len() >= 1000 && whole.starts_with(&first), "the first ids");
    }
    // If the text can be cut, only as much of it is encoded as is needed.
    let lm = lm(&byte_level(&[]), 400, None);
    assert!(
        lm.encode_first(&text, 1000).expect("ids").len() < lm.encode_text(&text).expect("ids").len() / 2,
        "a piece"
    );
}

fn tokenizers_ids(json: &Value, text: &str) -> Vec<u32> {
    let t = tokenizers::Tokenizer::from_bytes(json.to_string()).expect("a tokenizer");
    t.encode_fast(text, false).expect("ids").get_ids().to_vec()
}

#[test]
fn ids_that_the_model_lacks_are_refused_where_a_text_has_them() {
    let tokenizer = byte_level(&["<|end|>", "<|pad|>"]);
    // The model has a row of the embedding for the first of the two added ids only.
    let lm = lm(&tokenizer, 269, None);
    assert_eq!((lm.vocab().len(), lm.special_tokens()), (269, vec![268]));
    let spec = CaptureSpec { context: 4, ..CaptureSpec::new(&lm, &[Hook::resid_post(0)]) };
    let rows = |text: &'static str| capture(&lm, &Corpus::of(text), &spec, &mut |_| Ok(()), &|_, _| ());
    assert_eq!(rows("abc<|end|>").expect("rows").n_rows, 4);
    assert_eq!(
        rows("abc<|pad|>").expect_err("an id too large").to_string(),
        "token 3 must have an id below 269, found 269"
    );
}

#[test]
fn windows_begin_with_the_token_of_the_beginning_and_special_tokens_are_marked() {
    let tokenizer = byte_level(&["<|bos|>"]);
    let lm = lm(&tokenizer, 269, Some(268));
    let text = "abcdefghijk";
    let ids = lm.encode_text(text).expect("ids");
    let mut spec = CaptureSpec { context: 4, bos: true, ..CaptureSpec::new(&lm, &[Hook::resid_post(0)]) };
    let dir = tempfile::tempdir().expect("a directory");
    let at = dir.path().join("dump");
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut console = Console { out: &mut out, err: &mut err, quiet: true, json: true, watch: None };
    capture_to(&lm, &Corpus::of(text), &spec, Dtype::F32, &at, &mut console).expect("a dump");
    let report: Value = serde_json::from_slice(&out).expect("JSON");
    assert_eq!(
        (report["n_windows"].as_u64(), report["n_rows"].as_u64(), report["n_tokens"].as_u64()),
        (Some(3), Some(12), Some(9))
    );
    let dump = Dump::open(std::slice::from_ref(&at), None).expect("a dump");
    let want: Vec<u32> = ids[..9].chunks(3).flat_map(|w| [&[268], w].concat()).collect();
    assert_eq!((dump.tokens(), dump.special_tokens()), (Some(&want[..]), Some(&[268][..])));
    // The rows are those that the model computes for whole windows.
    let mut rows = vec![0.0; want.len() * dump.d()];
    dump.read_range(0, want.len(), &mut rows).expect("rows");
    assert_eq!(rows, lm.resid_post(&want, 3, 4, 0).expect("rows"));
    // Special tokens can be left out by a setting, or not captured.
    let data = DataConfig { skip_special: true, ..DataConfig::default() };
    let filter = RowFilter::of_settings(&dump, &data, Isa::detect()).expect("a filter");
    assert_eq!((0..12).filter(|row| filter.names(*row)).collect::<Vec<u64>>(), [0, 4, 8]);
    spec.skip_first = 1;
    let mut tokens = Vec::new();
    capture(
        &lm,
        &Corpus::of(text),
        &spec,
        &mut |found| {
            tokens.extend_from_slice(found.tokens);
            Ok(())
        },
        &|_, _| (),
    )
    .expect("rows");
    assert_eq!(tokens, ids[..9]);

    // A tokenizer without a list of special tokens is refused, and so is a model without a beginning-of-sequence token.
    fs::write(dir.path().join("bare.json"), "[]").expect("a file");
    let bare = Source { paths: vec![at.clone()], ..Source::new(&[]) };
    let text = fs::read_to_string(at.join("dump.json")).expect("a manifest");
    let mut manifest: Value = serde_json::from_str(&text).expect("JSON");
    manifest.as_object_mut().expect("an object").remove("special_tokens");
    fs::write(at.join("dump.json"), manifest.to_string()).expect("written");
    let why =
        RowFilter::of_settings(&bare.open().expect("a dump"), &data, Isa::detect()).expect_err("unknown").to_string();
    assert!(why.contains("`data.skip_special`") && why.contains("data.skip_tokens"), "{why}");
    let none = lm_without_bos(&tokenizer);
    let why = capture(&none, &Corpus::of("abcdefgh"), &spec, &mut |_| Ok(()), &|_, _| ())
        .expect_err("no beginning")
        .to_string();
    assert!(why.contains("\"bos_token_id\""), "{why}");
}

fn lm_without_bos(tokenizer: &Value) -> Lm {
    lm(tokenizer, 269, None)
}
