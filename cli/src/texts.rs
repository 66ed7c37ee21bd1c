//! The readable texts of token ids: vocabularies in several formats, and their ways to spell tokens.
//!
//! Byte-level BPE writes every byte as a letter (`Ġ` is a space, `Ċ` a line end), SentencePiece writes a space as `▁` and
//! bytes as `<0xE2>`, WordPiece marks the tokens that continue a word (`##ing`), and CLIP those that end one (`</w>`). A
//! text here is what the token means: ` the`, `\n`, `ing`. A token that is only part of a character is written as bytes,
//! `\xF0\x9F`.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::{Map, Value};
use unicode_categories::UnicodeCategories;

use crate::files::read;

/// The largest token id of a vocabulary: those of real ones are below a million.
const MOST_IDS: u64 = 1 << 22;
/// Most bytes of a token. The longest tokens of published vocabularies have some hundred.
const TOKEN_BYTES: usize = 4096;

/// The way in which a vocabulary spells texts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spelling {
    /// Every byte is written as a letter.
    is_byte_level: bool,
    /// A byte is written as `<0xE2>`.
    has_bytes: bool,
    /// The letter for a space.
    space: Option<char>,
    /// Prefix of a token that continues a word; all others begin one.
    continues: Option<String>,
    /// Suffix of a token that ends a word.
    ends: Option<String>,
}

/// Returns whether `text` begins with a part of a character, written as bytes.
pub fn is_part_of_character(text: &str) -> bool {
    let hex = text.trim_start().strip_prefix("\\x").and_then(|t| t.get(..2));
    hex.is_some_and(|h| h.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b)))
}

/// Puts characters together that several tokens of a text make up, each a part of their bytes: the last of these tokens gets the
/// character, and those before it become empty. Other tokens, and parts of which no character comes, stay as they are.
pub fn join_characters(tokens: &mut [String]) {
    let mut from = 0;
    while from < tokens.len() {
        let mut bytes = Vec::new();
        // A character has at most four bytes, one per token.
        for to in from..tokens.len().min(from + 4) {
            match bytes_of(&tokens[to]) {
                Some(more) => bytes.extend(more),
                None => break,
            }
            if let Ok(text) = std::str::from_utf8(&bytes) {
                let text = text.to_owned();
                tokens[from..to].iter_mut().for_each(String::clear);
                tokens[to] = text;
                from = to;
                break;
            }
        }
        from += 1;
    }
}

/// Returns the bytes of a token that has parts of characters, written as `\xF0`; none for another token.
fn bytes_of(token: &str) -> Option<Vec<u8>> {
    let (mut bytes, mut rest, mut has_parts) = (Vec::new(), token, false);
    while let Some(c) = rest.chars().next() {
        let part = rest.strip_prefix("\\x").and_then(|hex| u8::from_str_radix(hex.get(..2)?, 16).ok());
        match part {
            Some(byte) if byte >= 0x80 => {
                bytes.push(byte);
                (rest, has_parts) = (&rest[4..], true);
            }
            _ => {
                bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                rest = &rest[c.len_utf8()..];
            }
        }
    }
    has_parts.then_some(bytes)
}

impl Spelling {
    /// Returns the spelling of a `tokenizer.json`, from its decoder, pre-tokenizer and model.
    pub fn of_tokenizer(v: &Value) -> Self {
        let mut found = Self::default();
        for part in [&v["decoder"], &v["pre_tokenizer"]] {
            found.look_at(part);
        }
        let model = &v["model"];
        let text = |key: &str| model[key].as_str().filter(|t| !t.is_empty()).map(str::to_owned);
        if model["type"] == "WordPiece" {
            found.continues = found.continues.or(text("continuing_subword_prefix"));
        }
        found.ends = found.ends.or(text("end_of_word_suffix"));
        found.has_bytes |= model["byte_fallback"] == true;
        found
    }

    fn look_at(&mut self, part: &Value) {
        for key in ["decoders", "pretokenizers"] {
            part[key].as_array().into_iter().flatten().for_each(|p| self.look_at(p));
        }
        let text = |key: &str| part[key].as_str().filter(|t| !t.is_empty()).map(str::to_owned);
        match part["type"].as_str().unwrap_or_default() {
            "ByteLevel" => self.is_byte_level = true,
            "ByteFallback" => self.has_bytes = true,
            "Metaspace" => {
                let letter = text("replacement").and_then(|t| t.chars().next());
                self.space = self.space.or(letter).or(Some('▁'));
            }
            "Replace" if part["content"] == " " => {
                let pattern = part["pattern"]["String"].as_str().unwrap_or_default();
                let mut chars = pattern.chars();
                if let (Some(letter), None) = (chars.next(), chars.next()) {
                    self.space = self.space.or(Some(letter));
                }
            }
            "WordPiece" => self.continues = self.continues.take().or(text("prefix")),
            "BPEDecoder" => self.ends = self.ends.take().or(text("suffix")),
            _ => {}
        }
    }

    /// Guesses the spelling of a plain list of tokens; the default where they are texts already.
    pub fn guess<'a>(tokens: impl Iterator<Item = &'a str> + Clone) -> Self {
        // Texts contain white space; no spelling does.
        if tokens.clone().any(|t| t.contains([' ', '\n', '\t'])) {
            return Self::default();
        }
        let longer = |t: &&str| t.chars().nth(1).is_some();
        let spelled = |letter: char| tokens.clone().filter(longer).any(|t| t.starts_with(letter));
        if spelled('▁') {
            let has_bytes = tokens.clone().any(|t| byte_of(t).is_some());
            return Self { space: Some('▁'), has_bytes, ..Self::default() };
        }
        let in_letters = |t: &str| is_special(t) || t.chars().all(|c| byte_of_letter(c).is_some());
        if spelled('Ġ') && tokens.clone().all(in_letters) {
            let ends = tokens.clone().any(|t| longer(&t) && t.ends_with("</w>"));
            return Self { is_byte_level: true, ends: ends.then(|| "</w>".to_owned()), ..Self::default() };
        }
        let mut tokens = tokens;
        let marks_special = tokens.clone().any(|t| matches!(t, "[UNK]" | "[CLS]" | "[PAD]"));
        let continues =
            tokens.any(|t| t.strip_prefix("##").is_some_and(|rest| rest.chars().all(char::is_alphanumeric)));
        Self { continues: (marks_special && continues).then(|| "##".to_owned()), ..Self::default() }
    }

    /// Returns the text of `token`.
    pub fn text(&self, token: &str) -> String {
        if self.has_bytes
            && let Some(byte) = byte_of(token)
        {
            return shown(&[byte]);
        }
        let (mut text, mut after) = (token.to_owned(), "");
        if let Some(suffix) = &self.ends
            && let Some(rest) = token.strip_suffix(suffix.as_str())
        {
            (text, after) = (rest.to_owned(), " ");
        }
        if self.is_byte_level {
            // A letter that is not a byte occurs in added tokens, which are texts.
            let bytes: Option<Vec<u8>> = text.chars().map(byte_of_letter).collect();
            text = bytes.map_or(text, |b| shown(&b));
        }
        if let Some(letter) = self.space {
            text = text.replace(letter, " ");
        }
        if let Some(prefix) = &self.continues {
            text = match text.strip_prefix(prefix.as_str()) {
                Some(rest) => rest.to_owned(),
                None if is_special(&text) || !begins_word(&text) => text,
                None => format!(" {text}"),
            };
        }
        text + after
    }
}

/// Returns whether a space belongs before a token that begins a word of WordPiece: not before closing punctuation, and
/// not in scripts without spaces.
fn begins_word(text: &str) -> bool {
    let Some(c) = text.chars().next() else { return false };
    let closes = c.is_punctuation_close() || c.is_punctuation_final_quote() || ".,!?;:'’%".contains(c);
    let is_dense = matches!(c, '\u{2e80}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}');
    !closes && !is_dense
}

/// Returns whether a token is a marker such as `[CLS]`, `<s>` and `<|endoftext|>`.
fn is_special(token: &str) -> bool {
    let between = |open, close| token.len() > 2 && token.starts_with(open) && token.ends_with(close);
    between('[', ']') || between('<', '>')
}

/// Returns the byte of `<0xE2>`.
fn byte_of(token: &str) -> Option<u8> {
    let hex = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (hex.len() == 2).then(|| u8::from_str_radix(hex, 16).ok())?
}

/// Returns the byte of a letter of byte-level BPE: the letter itself where it is printable, otherwise the letters from
/// U+0100 in order.
fn byte_of_letter(c: char) -> Option<u8> {
    let code = u32::from(c);
    match code {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => Some(code as u8),
        0x100..=0x120 => Some((code - 0x100) as u8),
        0x121..=0x142 => Some((code - 0x121 + 0x7f) as u8),
        0x143 => Some(0xad),
        _ => None,
    }
}

/// Returns bytes as text; bytes that are not a whole character are written as `\xF0`.
fn shown(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        out.push_str(chunk.valid());
        chunk.invalid().iter().for_each(|b| out.push_str(&format!("\\x{b:02X}")));
    }
    out
}

/// Returns the text of every token id of a `tokenizer.json`; that of an unused id is empty.
///
/// # Errors
/// A model without a vocabulary, or an invalid id.
pub fn of_tokenizer(v: &Value) -> Result<Vec<String>> {
    let spelling = Spelling::of_tokenizer(v);
    let mut texts = Vec::new();
    match &v["model"]["vocab"] {
        Value::Object(vocab) => put_all(&mut texts, vocab, &spelling)?,
        Value::Array(pieces) => {
            ensure!(pieces.len() as u64 <= MOST_IDS, "expected at most {MOST_IDS} tokens, found {}", pieces.len());
            for (id, piece) in pieces.iter().enumerate() {
                let token = piece[0].as_str().with_context(|| format!("token {id}: expected a string and a score"))?;
                put(&mut texts, token, id as u64, spelling.text(token))?;
            }
        }
        _ => bail!("\"model\": expected a \"vocab\" of tokens, found none"),
    }
    for added in v["added_tokens"].as_array().into_iter().flatten() {
        let token = added["content"].as_str().context("\"added_tokens\": expected a \"content\", found none")?;
        let id = added["id"].as_u64().with_context(|| format!("added token {token:?}: expected an id, found none"))?;
        put(&mut texts, token, id, token.to_owned())?;
    }
    Ok(texts)
}

fn put_all(texts: &mut Vec<String>, vocab: &Map<String, Value>, spelling: &Spelling) -> Result<()> {
    for (token, id) in vocab {
        let id = id.as_u64().with_context(|| format!("token {token:?}: expected an id, found {id}"))?;
        put(texts, token, id, spelling.text(token))?;
    }
    Ok(())
}

/// Refuses a token that is too long to be text: contexts repeat their tokens many times.
fn check_token(id: u64, token: &str) -> Result<()> {
    ensure!(token.len() <= TOKEN_BYTES, "token {id}: expected at most {TOKEN_BYTES} bytes, found {}", token.len());
    Ok(())
}

/// Returns the texts of a plain list of tokens.
fn of_list(tokens: &[&str]) -> Result<Vec<String>> {
    ensure!(tokens.len() as u64 <= MOST_IDS, "expected at most {MOST_IDS} tokens, found {}", tokens.len());
    tokens.iter().enumerate().try_for_each(|(id, token)| check_token(id as u64, token))?;
    let spelling = Spelling::guess(tokens.iter().copied());
    Ok(tokens.iter().map(|t| spelling.text(t)).collect())
}

fn put(texts: &mut Vec<String>, token: &str, id: u64, text: String) -> Result<()> {
    check_token(id, token)?;
    ensure!(id < MOST_IDS, "token {token:?}: expected an id below {MOST_IDS}, found {id}");
    let id = id as usize;
    if texts.len() <= id {
        texts.resize(id + 1, String::new());
    }
    texts[id] = text;
    Ok(())
}

/// Reads the texts of token ids from a `tokenizer.json`, a `vocab.json` (a list of texts, or the id of each token), a
/// `vocab.txt` (a token per line), or a directory that has one of these.
///
/// # Errors
/// One sentence with the path.
pub fn open(path: &Path) -> Result<Vec<String>> {
    if path.is_dir() {
        let names = ["tokenizer.json", "vocab.json", "vocab.txt"];
        return match names.iter().map(|n| path.join(n)).find(|p| p.exists()) {
            Some(file) => open(&file),
            None => bail!("`{}`: expected {} in it, found none", path.display(), names.join(" or ")),
        };
    }
    let bytes = read::bytes(path, read::VOCABULARY)?;
    let shown = path.display();
    if path.extension().is_some_and(|e| e == "txt") {
        let text = String::from_utf8(bytes).map_err(|_| anyhow!("`{shown}`: expected a token per line, in UTF-8"))?;
        return of_list(&text.lines().collect::<Vec<_>>()).with_context(|| format!("`{shown}`"));
    }
    let v: Value =
        serde_json::from_slice(&bytes).map_err(|e| anyhow!("`{shown}`: expected a vocabulary as JSON: {e}"))?;
    match &v {
        Value::Array(list) => {
            let tokens: Option<Vec<&str>> = list.iter().map(Value::as_str).collect();
            let tokens =
                tokens.with_context(|| format!("`{shown}`: expected a list of strings, found other things in it"))?;
            of_list(&tokens).with_context(|| format!("`{shown}`"))
        }
        Value::Object(object) if object.contains_key("model") => of_tokenizer(&v).with_context(|| format!("`{shown}`")),
        Value::Object(object) => {
            let spelling = Spelling::guess(object.keys().map(String::as_str));
            let mut texts = Vec::new();
            put_all(&mut texts, object, &spelling).with_context(|| format!("`{shown}`"))?;
            Ok(texts)
        }
        _ => bail!("`{shown}`: expected a list of texts, the id of each token, or a tokenizer.json, found neither"),
    }
}
