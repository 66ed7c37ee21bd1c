//! Vocabularies in the formats of files, and the texts of their tokens.

use std::fs;
use std::path::Path;

use serde_json::json;
use strata_cli::eval::classes::TokenClasses;
use strata_cli::texts::{self, Spelling, is_part_of_character, join_characters};
use tempfile::TempDir;

/// The letters of byte-level BPE in order of the bytes, by their definition: bytes that can be seen are themselves, the
/// others get the letters from U+0100 on.
fn letters() -> Vec<char> {
    let seen = |b: u32| (33..=126).contains(&b) || (161..=172).contains(&b) || (174..=255).contains(&b);
    let mut next = 0x100;
    let mut letter = |b: u32| {
        if seen(b) {
            return char::from_u32(b).unwrap();
        }
        next += 1;
        char::from_u32(next - 1).unwrap()
    };
    (0..256).map(&mut letter).collect()
}

fn spelled(text: &[u8]) -> String {
    text.iter().map(|b| letters()[usize::from(*b)]).collect()
}

fn of(tokenizer: serde_json::Value) -> Vec<String> {
    texts::of_tokenizer(&tokenizer).unwrap()
}

#[test]
fn every_byte_of_byte_level_bpe_comes_back() {
    assert_eq!(spelled(" the\r\n".as_bytes()), "ĠthečĊ");
    let vocab: serde_json::Map<_, _> = (0..=255_u8).map(|b| (spelled(&[b]), json!(b))).collect();
    let found = of(json!({"model": {"type": "BPE", "vocab": vocab}, "decoder": {"type": "ByteLevel"}}));
    for (b, text) in found.iter().enumerate() {
        let expected = if b < 128 { char::from(b as u8).to_string() } else { format!("\\x{b:02X}") };
        assert_eq!(*text, expected);
    }
}

#[test]
fn texts_of_a_byte_level_tokenizer_are_those_of_its_decoder() {
    let words = [" she", "\r\n", " café", "你好", " 😀", "’", "“", "—"];
    let mut vocab: serde_json::Map<_, _> =
        words.iter().enumerate().map(|(i, w)| (spelled(w.as_bytes()), json!(i))).collect();
    vocab.insert(spelled(&" 😀".as_bytes()[..3]), json!(8));
    vocab.insert(spelled(&"😀".as_bytes()[2..]), json!(9));
    let added = json!([{"id": 10, "content": "<|endoftext|>", "special": true}, {"id": 11, "content": "   "}]);
    let tokenizer = json!({
        "model": {"type": "BPE", "vocab": vocab}, "added_tokens": added,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Split"}, {"type": "ByteLevel"}]}, "decoder": null
    });
    let found = of(tokenizer);
    assert_eq!(found[..8], words);
    assert_eq!(found[8..], [" \\xF0\\x9F", "\\x98\\x80", "<|endoftext|>", "   "]);
    assert!(is_part_of_character(&found[8]) && is_part_of_character(&found[9]) && !is_part_of_character("\\x"));
    let classes = TokenClasses::new(&found);
    let kinds: Vec<&str> = (0..12).map(|t| classes.names()[classes.of(t) as usize]).collect();
    let expected = [
        "word start",
        "newline",
        "word start",
        "word part",
        "other",
        "punct",
        "punct",
        "punct",
        "other",
        "other",
        "punct",
        "space",
    ];
    assert_eq!(kinds, expected);
}

#[test]
fn texts_of_sentencepiece_have_their_spaces_and_bytes() {
    let pieces = json!([["<unk>", 0], ["▁the", -1], ["ing", -2], ["▁", -3], ["<0xE2>", 0], ["<0x0A>", 0], ["▁▁a", -4]]);
    let decoders = json!([
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}
    ]);
    let model = json!({"type": "Unigram", "vocab": pieces});
    let found = of(json!({"model": model, "decoder": {"type": "Sequence", "decoders": decoders}}));
    assert_eq!(found, ["<unk>", " the", "ing", " ", "\\xE2", "\n", "  a"]);
    let meta = of(json!({"model": model, "decoder": {"type": "Metaspace", "replacement": "▁"}}));
    assert_eq!(meta[1], " the");
}

#[test]
fn texts_of_wordpiece_begin_with_a_space_unless_they_continue_a_word() {
    let vocab = json!({"[CLS]": 0, "the": 1, "##ing": 2, ".": 3, "(": 4, "7": 5, "好": 6, "##s": 7});
    let added = json!([{"id": 0, "content": "[CLS]"}]);
    let tokenizer = json!({
        "model": {"type": "WordPiece", "vocab": vocab, "continuing_subword_prefix": "##"}, "added_tokens": added
    });
    let found = of(tokenizer);
    assert_eq!(found, ["[CLS]", " the", "ing", ".", " (", " 7", "好", "s"]);
    assert_eq!([1, 2, 1, 7, 3].map(|t: usize| found[t].as_str()).concat(), " theing thes.");
    // CLIP marks the ends of words.
    let clip = json!({"model": {"vocab": {"the</w>": 0, "th": 1}, "end_of_word_suffix": "</w>"}, "decoder": {"type": "ByteLevel"}});
    assert_eq!(of(clip), ["the ", "th"]);
}

#[test]
fn files_without_a_decoder_are_read_by_their_tokens() {
    let dir = TempDir::new().unwrap();
    let open = |name: &str, text: &str| {
        fs::write(dir.path().join(name), text).unwrap();
        texts::open(&dir.path().join(name)).unwrap()
    };
    assert_eq!(open("vocab.json", r#"{"Ġthe": 1, "a": 0, "<|endoftext|>": 3}"#), ["a", " the", "", "<|endoftext|>"]);
    assert_eq!(open("vocab.txt", "[PAD]\n[CLS]\nthe\n##ing\n,\n"), ["[PAD]", "[CLS]", " the", "ing", ","]);
    assert_eq!(open("pieces.json", r#"["<s>", "▁a", "<0x0A>"]"#), ["<s>", " a", "\n"]);
    // A vocabulary with white space, or one of characters, is already text.
    for list in [&["Ġ", " a", "▁b"][..], &["Ġ", "ġ", "a"], &["#", "##", "a"], &["Ġab", "привет"]] {
        assert_eq!(open("list.json", &json!(list).to_string()), list);
        assert_eq!(Spelling::guess(list.iter().copied()), Spelling::default());
    }
    assert_eq!(open("tokenizer.json", r#"{"model": {"vocab": {"x": 0}}}"#), ["x"]);
    assert_eq!(texts::open(dir.path()).unwrap(), ["x"], "a directory of a model");
    let refused = |name: &str, text: &str, part: &str| {
        fs::write(dir.path().join(name), text).unwrap();
        let message = format!("{:#}", texts::open(&dir.path().join(name)).unwrap_err());
        assert!(message.contains(name) && message.contains(part) && !message.contains('\n'), "{message}");
    };
    refused("a.json", "[1]", "a list of strings");
    refused("a.json", "7", "found neither");
    refused("a.json", "{\"a\": -1}", "expected an id");
    refused("a.json", "{\"a\": 99999999999}", "expected an id below");
    refused("a.json", "{\"model\": {}}", "\"vocab\"");
    refused("a.json", "{", "JSON");
    assert!(texts::open(Path::new("none.json")).is_err());
}

#[test]
fn characters_of_several_tokens_are_put_together() {
    for (tokens, want) in [
        (&["a", r" \xF0\x9F", r"\xA6", r"\x80", "b"][..], &["a", "", "", " \u{1f980}", "b"][..]),
        (&[r"\xC3", r"\xA9t", r"\xE6\x97", r"\xA5\xE6", r"\x9C\xAC"], &["", "\u{e9}t", "", "", "\u{65e5}\u{672c}"]),
        // Parts without the rest, and texts that only look like parts.
        (&[r"\xF0\x9F", "a", r"\xA6"], &[r"\xF0\x9F", "a", r"\xA6"]),
        (&[r"\x41", r"\xZZ", "\\", ""], &[r"\x41", r"\xZZ", "\\", ""]),
        (&[], &[]),
    ] {
        let mut found: Vec<String> = tokens.iter().map(|t| (*t).to_owned()).collect();
        join_characters(&mut found);
        assert_eq!(found, want, "{tokens:?}");
    }
}
