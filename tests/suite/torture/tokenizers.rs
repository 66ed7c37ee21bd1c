//! Tokenizers that make their own library panic, or that are random.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cli::{Ran, args, hash, strata};

/// A byte-pair tokenizer of a few letters.
fn bpe() -> Value {
    let mut vocab: serde_json::Map<String, Value> =
        "abcdefgh.xyz! ".chars().enumerate().map(|(i, c)| (c.to_string(), i.into())).collect();
    vocab.insert("ab".into(), 14.into());
    vocab.insert("def".into(), 16.into());
    vocab.insert("de".into(), 15.into());
    json!({
        "version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": null, "post_processor": null,
        "decoder": null, "truncation": null, "padding": null,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": ["a b", "d e", "de f"],
        },
    })
}

/// [`bpe`] with one part replaced.
fn with(part: &str, value: Value) -> Value {
    let mut tokenizer = bpe();
    tokenizer[part] = value;
    tokenizer
}

fn with_model(part: &str, value: Value) -> Value {
    let mut tokenizer = bpe();
    tokenizer["model"][part] = value;
    tokenizer
}

fn lm(dir: &Path, tokenizer: &str) {
    for name in ["config.json", "model.safetensors"] {
        fs::copy(format!("{}/../cli/assets/char-gpt/{name}", env!("CARGO_MANIFEST_DIR")), dir.join(name)).unwrap();
    }
    fs::write(dir.join("tokenizer.json"), tokenizer).unwrap();
}

fn capture(model: &Path, text: &Path, out: &Path) -> Ran {
    strata(&args!["capture", "--model", model, "--text", text, "--layer", "0", "--context", "8", "--out", out])
}

/// Base64 of a charsmap that begins with the size of its trie.
fn precompiled(trie: &[u32], rest: &[u8]) -> Value {
    let mut bytes = ((4 * trie.len()) as u32).to_le_bytes().to_vec();
    bytes.extend(trie.iter().flat_map(|n| n.to_le_bytes()));
    bytes.extend(rest);
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let n = chunk.iter().fold(0u32, |n, b| n << 8 | u32::from(*b)) << (8 * (3 - chunk.len()));
        let digits = (0..4).map(|i| char::from(DIGITS[(n >> (18 - 6 * i)) as usize & 63]));
        text.extend(digits.take(chunk.len() + 1));
        text.extend(std::iter::repeat_n('=', 3 - chunk.len()));
    }
    json!({ "type": "Precompiled", "precompiled_charsmap": text })
}

#[test]
fn hostile_tokenizers_are_one_sentence_or_work() {
    let dir = TempDir::new().unwrap();
    let text = dir.path().join("text");
    let split = |pattern: Value, behavior: &str| {
        with("pre_tokenizer", json!({ "type": "Split", "pattern": pattern, "behavior": behavior, "invert": false }))
    };
    let replace = |pattern: Value, content: &str| {
        with("normalizer", json!({ "type": "Replace", "pattern": pattern, "content": content }))
    };
    let unigram = |unk: Value, vocab: Value| {
        with("model", json!({ "type": "Unigram", "unk_id": unk, "vocab": vocab, "byte_fallback": false }))
    };
    let padding = json!({
        "strategy": { "Fixed": 1u64 << 62 }, "direction": "Right", "pad_to_multiple_of": 0, "pad_id": 0,
        "pad_type_id": 0, "pad_token": "x",
    });
    let added = |content: &str, id: u64| {
        with(
            "added_tokens",
            json!([{ "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                     "normalized": false, "special": true }]),
        )
    };
    let mut cases: Vec<(&str, String)> = [
        ("plain", bpe()),
        ("charsmap empty", with("normalizer", precompiled(&[], b""))),
        ("charsmap beyond its end", with("normalizer", precompiled(&[u32::MAX, u32::MAX], b"abc\0"))),
        ("charsmap small", with("normalizer", precompiled(&[u32::MAX; 256], b"x"))),
        ("charsmap loop", with("normalizer", precompiled(&[0x8000_0005; 512], b"\0"))),
        ("charsmap offsets", with("normalizer", precompiled(&[0x0100 | 1 << 8; 1024], b""))),
        ("charsmap not UTF-8", with("normalizer", precompiled(&[0x0302_0100; 256], b"\xff\xfe\0"))),
        ("split by nothing", split(json!({ "Regex": "" }), "Removed")),
        ("split by an empty string", split(json!({ "String": "" }), "Isolated")),
        ("split backtracking", split(json!({ "Regex": "(a|aa)+$" }), "Isolated")),
        ("split by a reference", split(json!({ "Regex": "(a+)\\1+b" }), "Isolated")),
        ("split unclosed", split(json!({ "Regex": "(" }), "Isolated")),
        ("split too large", split(json!({ "Regex": "((a{1,100}){1,100}){1,100}" }), "Isolated")),
        ("replace backtracking", replace(json!({ "Regex": "(?=a)*(a|aa)+$" }), "x")),
        ("replace nothing", replace(json!({ "String": "" }), "zz")),
        ("id of 2^32 - 1", with_model("vocab", json!({ "a": 4_294_967_295u64 }))),
        ("merge of what is missing", with_model("merges", json!(["a q"]))),
        ("merge of nothing", with_model("merges", json!([""]))),
        ("unknown token missing", with_model("unk_token", json!("NOPE"))),
        ("dropout of 2", with_model("dropout", json!(2.0))),
        ("prefix longer than its tokens", with_model("continuing_subword_prefix", json!("aaaaaaaaaa"))),
        ("prefix of several bytes", with_model("continuing_subword_prefix", json!("€€"))),
        ("unigram without its unknown", unigram(json!(99), json!([["a", -1.0]]))),
        ("unigram empty", unigram(json!(0), json!([]))),
        ("unigram null", unigram(Value::Null, json!([["<unk>", 0.0], ["a", -1.0]]))),
        ("unigram empty token", unigram(json!(0), json!([["<unk>", 0.0], ["", -1.0], ["a", -1.0]]))),
        ("unigram huge scores", unigram(json!(0), json!([["<unk>", 1e308], ["a", 1e308], ["b", -1e308]]))),
        ("padding", with("padding", padding)),
        ("added empty", added("", 3)),
        ("added huge", added("q", 4_294_967_295)),
        ("fixed length 0", with("pre_tokenizer", json!({ "type": "FixedLength", "length": 0 }))),
        (
            "metaspace empty",
            with("pre_tokenizer", json!({ "type": "Metaspace", "replacement": "", "prepend_scheme": "always" })),
        ),
        ("prepend nothing", with("normalizer", json!({ "type": "Prepend", "prepend": "" }))),
        ("a token of 50 kB", with_model("vocab", json!({ "a": 0, "b".repeat(50_000): 1 }))),
    ]
    .into_iter()
    .map(|(name, tokenizer)| (name, tokenizer.to_string()))
    .collect();
    let nested =
        format!("{{\"version\":\"1.0\",\"normalizer\":{}", "{\"type\":\"Sequence\",\"normalizers\":[".repeat(5000));
    cases.extend([
        ("nested", nested),
        ("brackets", "[".repeat(100_000)),
        ("list", "[]".into()),
        ("empty", String::new()),
    ]);

    let mut panics = 0;
    for (name, tokenizer) in cases {
        fs::write(
            &text,
            if name.contains("backtracking") { "a".repeat(5000) } else { "abc def gh. abba xyz! ".repeat(20) },
        )
        .unwrap();
        lm(dir.path(), &tokenizer);
        let out = dir.path().join("out");
        let ran = capture(dir.path(), &text, &out);
        if ran.code == 0 {
            fs::remove_dir_all(&out).unwrap();
            continue;
        }
        panics += usize::from(ran.err.contains("library of tokenizers fails"));
        let ran = ran.fails(&[]);
        assert_eq!(
            ran.err.lines().filter(|l| l.contains("error") || l.contains("panic")).count(),
            1,
            "{name}: {}",
            ran.err
        );
        assert!(ran.err.len() < 2000 && !out.exists(), "{name}: {}", ran.err);
    }
    assert!(panics > 3, "{panics} panics: nothing was tested");
}

#[test]
fn dropout_is_off() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("text"), "abc def gh. abba xyz! ".repeat(20)).unwrap();
    let hashes = [Value::Null, json!(0.9), json!(0.9)].map(|dropout| {
        lm(dir.path(), &with_model("dropout", dropout).to_string());
        let (out, text) = (dir.path().join("out"), dir.path().join("text"));
        capture(dir.path(), &text, &out).ok();
        let hash = hash(&out.join("tokens.safetensors"));
        fs::remove_dir_all(out).unwrap();
        hash
    });
    assert!(hashes[0] == hashes[1] && hashes[0] == hashes[2], "{hashes:?}");
}
