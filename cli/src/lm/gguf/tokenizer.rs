//! The tokenizer of a GGUF file, as a `tokenizer.json`.

use std::cmp::Reverse;
use std::collections::HashMap;

use anyhow::{Context, Result, bail, ensure};
use candle_core::quantized::gguf_file::Value as Datum;
use serde_json::{Map, Value, json};

use super::datum::number;

/// Kinds of tokens in `tokenizer.ggml.token_type`.
const NORMAL: i64 = 1;
const UNKNOWN: i64 = 2;
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;
const BYTE: i64 = 6;

type Metadata = HashMap<String, Datum>;

/// Returns the `tokenizer.json` that says the same as the metadata: byte-level BPE with its merges (`gpt2`), or SentencePiece
/// by the scores of its pieces (`llama`).
///
/// # Errors
/// One sentence with the key, what was expected and what was found.
pub(super) fn tokenizer_json(metadata: &Metadata) -> Result<Value> {
    let tokens = texts(metadata, "tokenizer.ggml.tokens")?;
    let kinds = match metadata.get("tokenizer.ggml.token_type") {
        Some(kinds) => numbers(kinds, "tokenizer.ggml.token_type", tokens.len())?.iter().map(|k| *k as i64).collect(),
        None => vec![NORMAL; tokens.len()],
    };
    let mut ids = Map::with_capacity(tokens.len());
    for (id, token) in tokens.iter().enumerate() {
        // Of equal tokens the first is the one that a text has.
        ids.entry((*token).to_owned()).or_insert_with(|| id.into());
    }
    let model = text(metadata, "tokenizer.ggml.model")?;
    let [model, normalizer, pre_tokenizer, decoder] = match model {
        "gpt2" => byte_level(metadata, ids)?,
        "llama" => sentence_piece(metadata, &tokens, &kinds, ids)?,
        other => bail!("`tokenizer.ggml.model` must be gpt2 or llama, found {other:?}"),
    };
    let added = |(id, kind): (usize, &i64)| {
        json!({ "id": id, "content": tokens[id], "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": *kind != USER_DEFINED })
    };
    let is_added =
        |(id, kind): &(usize, &i64)| matches!(**kind, CONTROL | USER_DEFINED | UNKNOWN) && !tokens[*id].is_empty();
    let added: Vec<Value> = kinds.iter().enumerate().filter(is_added).map(added).collect();
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer, "post_processor": null, "decoder": decoder, "model": model,
    }))
}

/// Returns model, normaliser, pre-tokenizer and decoder of byte-level BPE.
fn byte_level(metadata: &Metadata, ids: Map<String, Value>) -> Result<[Value; 4]> {
    let merges = texts(metadata, "tokenizer.ggml.merges")?;
    let merges: Vec<Value> = merges
        .iter()
        .map(|merge| match merge.split_once(' ') {
            Some((left, right)) => Ok(json!([left, right])),
            None => bail!("`tokenizer.ggml.merges` must hold pairs with a space between them, found {merge:?}"),
        })
        .collect::<Result<_>>()?;
    let letters = |use_regex: bool| json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex });
    let split = |digits: &str| {
        let words = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|";
        let rest = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
        let pattern = json!({ "Regex": format!("{words}{digits}{rest}") });
        let split = json!({ "type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": false });
        json!({ "type": "Sequence", "pretokenizers": [split, letters(false)] })
    };
    let single_digits = json!({ "type": "Digits", "individual_digits": true });
    let (mut normalizer, mut ignores_merges) = (Value::Null, false);
    let pre = text(metadata, "tokenizer.ggml.pre")?;
    let pre_tokenizer = match pre {
        "gpt-2" | "gpt2" | "phi-2" | "olmo" | "mpt" => letters(true),
        "smollm" | "starcoder" | "refact" | "codeshell" | "command-r" => {
            json!({ "type": "Sequence", "pretokenizers": [single_digits, letters(true)] })
        }
        "llama-bpe" | "llama3" | "llama-v3" | "smaug-bpe" | "dbrx" => {
            // A word that is a token is taken as it is, even where the merges would not make it.
            ignores_merges = true;
            split(r"\p{N}{1,3}")
        }
        "qwen2" | "deepseek-r1-qwen" => {
            normalizer = json!({ "type": "NFC" });
            split(r"\p{N}")
        }
        other => bail!(
            "`tokenizer.ggml.pre` must be gpt-2, phi-2, olmo, mpt, smollm, starcoder, refact, codeshell, command-r, \
             llama-bpe, smaug-bpe, dbrx, qwen2 or deepseek-r1-qwen, found {other:?}"
        ),
    };
    let model = bpe(ids, merges, None, ignores_merges);
    Ok([model, normalizer, pre_tokenizer, letters(true)])
}

/// Returns model, normaliser, pre-tokenizer and decoder of SentencePiece's BPE.
fn sentence_piece(metadata: &Metadata, tokens: &[&str], kinds: &[i64], ids: Map<String, Value>) -> Result<[Value; 4]> {
    let scores = metadata.get("tokenizer.ggml.scores").context("`tokenizer.ggml.scores` is missing")?;
    let scores = numbers(scores, "tokenizer.ggml.scores", tokens.len())?;
    let merges = merges(tokens, kinds, &scores);
    let unknown = metadata.get("tokenizer.ggml.unknown_token_id").and_then(|id| id.to_u32().ok());
    let unknown = unknown.and_then(|id| tokens.get(id as usize)).copied();
    let spaces = json!({ "type": "Replace", "pattern": { "String": " " }, "content": "▁" });
    let has_prefix = metadata.get("tokenizer.ggml.add_space_prefix").and_then(|v| v.to_bool().ok()).unwrap_or(true);
    let normalizer = if has_prefix {
        json!({ "type": "Sequence", "normalizers": [{ "type": "Prepend", "prepend": "▁" }, spaces] })
    } else {
        spaces
    };
    let back = json!({ "type": "Replace", "pattern": { "String": "▁" }, "content": " " });
    let decoder = json!({ "type": "Sequence", "decoders": [back, { "type": "ByteFallback" }, { "type": "Fuse" }] });
    Ok([bpe(ids, merges, unknown, false), normalizer, Value::Null, decoder])
}

fn bpe(vocab: Map<String, Value>, merges: Vec<Value>, unknown: Option<&str>, ignores_merges: bool) -> Value {
    json!({
        "type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": unknown.is_some(), "byte_fallback": unknown.is_some(),
        "ignore_merges": ignores_merges, "vocab": vocab, "merges": merges,
    })
}

/// Returns the merges that make each piece of two others, those of the pieces with the best scores first: SentencePiece merges
/// the neighbours whose piece has the best score.
fn merges(tokens: &[&str], kinds: &[i64], scores: &[f64]) -> Vec<Value> {
    let is_piece = |id: &usize| !matches!(kinds[*id], CONTROL | UNKNOWN | BYTE);
    let ids: HashMap<&str, usize> = (0..tokens.len()).filter(is_piece).map(|id| (tokens[id], id)).collect();
    let mut found = Vec::new();
    // Pieces that a user defined, such as runs of spaces, are made of others too.
    for id in (0..tokens.len()).filter(|id| matches!(kinds[*id], NORMAL | USER_DEFINED)) {
        let piece = tokens[id];
        let first = found.len();
        for (at, _) in piece.char_indices().skip(1) {
            let (left, right) = piece.split_at(at);
            if let (Some(l), Some(r)) = (ids.get(left), ids.get(right)) {
                found.push((scores[id], left, right, (*l, *r)));
            }
        }
        found[first..].sort_by_key(|(.., ids)| *ids);
    }
    // Sorting is stable: equal ones stay in the order of their ids.
    let length = |text: &str| Reverse(text.chars().count());
    found.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| (length(a.1), length(a.2)).cmp(&(length(b.1), length(b.2)))));
    found.into_iter().map(|(_, left, right, _)| json!([left, right])).collect()
}

fn text<'a>(metadata: &'a Metadata, key: &str) -> Result<&'a str> {
    match metadata.get(key) {
        Some(Datum::String(text)) => Ok(text),
        Some(other) => bail!("`{key}` must be a text, found {:?}", other.value_type()),
        None => bail!("`{key}` is missing"),
    }
}

fn texts<'a>(metadata: &'a Metadata, key: &str) -> Result<Vec<&'a str>> {
    let Some(Datum::Array(all)) = metadata.get(key) else { bail!("`{key}` must be a list of texts, found none") };
    let each = |v: &'a Datum| match v {
        Datum::String(text) => Ok(text.as_str()),
        other => bail!("`{key}` must be a list of texts, found {:?} in it", other.value_type()),
    };
    all.iter().map(each).collect()
}

/// Returns a list of `n` numbers.
fn numbers(value: &Datum, key: &str, n: usize) -> Result<Vec<f64>> {
    let Datum::Array(all) = value else { bail!("`{key}` must be a list of numbers, found {:?}", value.value_type()) };
    ensure!(all.len() == n, "`{key}` must have {n} numbers, one per token, found {}", all.len());
    let each = |v: &Datum| match number(v).as_f64() {
        Some(v) if v.is_finite() => Ok(v),
        _ => bail!("`{key}` must be a list of numbers, found {:?} in it", v.value_type()),
    };
    all.iter().map(each).collect()
}
