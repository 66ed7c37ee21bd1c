//! From text to token ids: `tokenizer.json`, or a plain list of characters.

use std::collections::HashMap;
use std::io::Read;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;
use tokenizers::{ModelWrapper, Tokenizer};

use super::pieces::Pieces;
use crate::console::check_interrupt;
use crate::panics::caught;
use crate::texts;

/// The mapping from text to token ids.
pub enum Vocab {
    /// One token per character.
    Chars(Chars),
    /// The tokenizer of `tokenizer.json`.
    Tokenizer(Box<Described>),
}

/// A tokenizer with its ids.
pub struct Described {
    tokenizer: Tokenizer,
    /// The text of every id.
    texts: Vec<String>,
    /// Ids of special tokens, which are not text: beginnings, ends, padding. Ascending.
    special: Vec<u32>,
}

/// A character vocabulary.
pub struct Chars {
    list: Vec<char>,
    ids: HashMap<char, u32>,
}

impl Vocab {
    /// Reads `tokenizer.json`.
    ///
    /// A tokenizer that splits text into single characters and looks up each is read as a character vocabulary: the ids
    /// are the same, it is faster, and a missing character is an error instead of silently another token.
    pub fn from_tokenizer_json(json: &[u8]) -> Result<Self> {
        let v: Value = serde_json::from_slice(json).context("not JSON")?;
        if let Some(chars) = char_tokenizer(&v) {
            return Ok(Self::Chars(Chars::new(chars?)?));
        }
        Self::described(&v, json)
    }

    /// Reads a tokenizer that was put together as `tokenizer.json`.
    pub fn from_tokenizer(v: &Value) -> Result<Self> {
        Self::described(v, v.to_string().as_bytes())
    }

    fn described(v: &Value, json: &[u8]) -> Result<Self> {
        let read = || -> Result<Tokenizer> {
            let mut t = Tokenizer::from_bytes(json).map_err(|e| anyhow!("not a tokenizer: {e}"))?;
            t.with_padding(None);
            t.with_truncation(None).map_err(|e| anyhow!("truncation cannot be turned off: {e}"))?;
            Ok(without_dropout(t))
        };
        let t = checked("it cannot be read", read)?;
        let mut special: Vec<u32> =
            t.get_added_tokens_decoder().iter().filter(|(_, t)| t.special).map(|(id, _)| *id).collect();
        special.sort_unstable();
        Ok(Self::Tokenizer(Box::new(Described { tokenizer: t, texts: texts::of_tokenizer(v)?, special })))
    }

    /// Reads the string `"chars"` of `meta.json`: the character at index `i` has id `i`.
    pub fn from_meta_json(json: &[u8]) -> Result<Self> {
        let v: Value = serde_json::from_slice(json).context("not JSON")?;
        let Some(chars) = v["chars"].as_str() else { bail!("\"chars\" must be a string with one character per token") };
        Ok(Self::Chars(Chars::new(chars.chars().collect())?))
    }

    /// Returns the ids of special tokens, which are not text, ascending.
    pub fn special(&self) -> &[u32] {
        match self {
            Self::Chars(_) => &[],
            Self::Tokenizer(t) => &t.special,
        }
    }

    /// Returns the text of every id, in order; that of an unused id is empty.
    pub fn tokens(&self) -> Vec<String> {
        match self {
            Self::Chars(c) => c.list.iter().map(char::to_string).collect(),
            Self::Tokenizer(t) => t.texts.clone(),
        }
    }

    /// Returns the ids of `text`, without the special tokens that a tokenizer would add: at least the first `most`, and all
    /// where there are fewer.
    ///
    /// # Errors
    /// As [`Ids::next_ids`].
    pub fn encode(&self, text: &str, most: usize) -> Result<Vec<u32>> {
        let mut all = Vec::new();
        let mut ids = Ids::new(self, text.as_bytes());
        while all.len() < most
            && let Some((some, _)) = ids.next_ids()?
        {
            all.extend(some);
        }
        Ok(all)
    }
}

/// The ids of a text that is read while they are taken, without the special tokens that a tokenizer would add. They are those
/// of the whole text: it is cut only where the two sides have the same ids separately as together. In memory is one piece of
/// the text, which ends at the first line end after 256 KiB that no token of the tokenizer can cross.
pub struct Ids<'a, R> {
    vocab: &'a Vocab,
    pieces: Pieces<R>,
    /// Characters before the piece at hand.
    n_chars: usize,
}

impl<'a, R: Read> Ids<'a, R> {
    pub(super) fn new(vocab: &'a Vocab, text: R) -> Self {
        Self { vocab, pieces: Pieces::new(text), n_chars: 0 }
    }

    /// Returns the next ids and the bytes of text that they come from; none at the end.
    ///
    /// # Errors
    /// Text that cannot be read; a character outside a character vocabulary, with its position; an interrupt.
    pub fn next_ids(&mut self) -> Result<Option<(Vec<u32>, u64)>> {
        let piece = self.pieces.next(|before, after| match self.vocab {
            Vocab::Chars(_) => Ok(true),
            Vocab::Tokenizer(t) => {
                let apart = [t.encode(before)?, t.encode(after)?].concat();
                Ok(t.encode(&[before, after].concat())? == apart)
            }
        })?;
        let Some(piece) = piece else { return Ok(None) };
        check_interrupt()?;
        let ids = match self.vocab {
            Vocab::Chars(c) => c.encode(&piece, self.n_chars)?,
            Vocab::Tokenizer(t) => t.encode(&piece)?,
        };
        self.n_chars += piece.chars().count();
        Ok(Some((ids, piece.len() as u64)))
    }
}

impl Described {
    fn encode(&self, text: &str) -> Result<Vec<u32>> {
        checked("the tokenizer cannot encode the text", || {
            let e = self.tokenizer.encode_fast(text, false);
            let e = e.map_err(|e| anyhow!("the tokenizer cannot encode the text: {e}"))?;
            Ok(e.get_ids().to_vec())
        })
    }
}

/// Runs `f`, a call of the tokenizer library, which panics on some files and texts.
///
/// # Errors
/// The error of `f`; or the fault `what`, with the words of the panic.
fn checked<T>(what: &str, f: impl FnOnce() -> Result<T>) -> Result<T> {
    caught(f).map_err(|panic| anyhow!("{what}: the library of tokenizers fails on it ({panic})"))?
}

/// Makes a tokenizer always merge, as it should when a model is used: dropout is for training and random.
fn without_dropout(mut t: Tokenizer) -> Tokenizer {
    if let ModelWrapper::BPE(bpe) = t.get_model()
        && bpe.dropout.is_some()
    {
        let mut bpe = bpe.clone();
        bpe.dropout = None;
        t.with_model(bpe);
    }
    t
}

impl Chars {
    fn new(list: Vec<char>) -> Result<Self> {
        let mut ids = HashMap::with_capacity(list.len());
        for (id, c) in list.iter().enumerate() {
            if let Some(first) = ids.insert(*c, id as u32) {
                bail!("the character {c:?} occurs twice in the vocabulary, at {first} and at {id}");
            }
        }
        Ok(Self { list, ids })
    }

    /// Returns the ids of `text`, which begins at character `from`.
    fn encode(&self, text: &str, from: usize) -> Result<Vec<u32>> {
        let id = |(i, c)| {
            self.ids.get(&c).copied().ok_or_else(|| {
                anyhow!("character {} of the text, {c:?}, is not in the vocabulary of {}", from + i, self.list.len())
            })
        };
        text.chars().enumerate().map(id).collect()
    }
}

/// Returns the characters in the order of their ids, if `v` is a word-level tokenizer over single characters and
/// nothing else.
fn char_tokenizer(v: &Value) -> Option<Result<Vec<char>>> {
    let pre = &v["pre_tokenizer"];
    let splits_all = pre["type"] == "Split"
        && pre["pattern"]["Regex"] == "[\\s\\S]"
        && pre["behavior"] == "Isolated"
        && pre["invert"] == false;
    let bare = v["normalizer"].is_null() && v["added_tokens"].as_array().is_none_or(Vec::is_empty);
    if !(splits_all && bare && v["model"]["type"] == "WordLevel") {
        return None;
    }
    let vocab = v["model"]["vocab"].as_object()?;
    let mut list = vec![None; vocab.len()];
    for (token, id) in vocab {
        let mut chars = token.chars();
        let (Some(c), None) = (chars.next(), chars.next()) else { return None };
        match id.as_u64().and_then(|i| list.get_mut(usize::try_from(i).ok()?)) {
            Some(place) => *place = Some(c),
            None => return Some(Err(anyhow!("the id of {token:?} must be below {}, found {id}", vocab.len()))),
        }
    }
    let list: Option<Vec<char>> = list.into_iter().collect();
    Some(list.ok_or_else(|| anyhow!("two characters of the vocabulary share an id")))
}
