//! JSON as Python writes and reads it: `NaN` and `Infinity` may occur as numbers, and a key may occur twice.

use crate::error::{Error, Result};
use alloc::borrow::Cow;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use serde_json::{Map, Value};

/// An object of settings, with the name of its file for messages.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    file: String,
    map: Map<String, Value>,
}

/// Replaces `NaN`, `Infinity` and `-Infinity` outside of strings by `null`: they are not JSON, but Python writes them.
fn without_nan(bytes: &[u8]) -> Cow<'_, [u8]> {
    const WORDS: [&[u8]; 3] = [b"NaN", b"-Infinity", b"Infinity"];
    if !bytes.windows(3).any(|w| w == b"NaN" || w == b"Inf") {
        return Cow::Borrowed(bytes);
    }
    let mut out = Vec::with_capacity(bytes.len());
    let (mut at, mut quoted) = (0, false);
    while at < bytes.len() {
        match bytes[at] {
            b'\\' if quoted => {
                out.extend_from_slice(&bytes[at..bytes.len().min(at + 2)]);
                at += 2;
                continue;
            }
            b'"' => quoted = !quoted,
            _ => {}
        }
        match WORDS.iter().find(|word| !quoted && bytes[at..].starts_with(word)) {
            Some(word) => {
                out.extend_from_slice(b"null");
                at += word.len();
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    Cow::Owned(out)
}

/// Parses JSON as Python writes it: `NaN` and the infinities become null, and of a key that occurs twice the last value
/// counts.
///
/// # Errors
/// The error of the parser.
pub fn lenient(bytes: &[u8]) -> core::result::Result<Value, serde_json::Error> {
    serde_json::from_slice(&without_nan(bytes))
}

impl Settings {
    /// Parses the object in `bytes`, the content of the file `file`. If a key occurs twice the last value counts, as in
    /// Python.
    ///
    /// # Errors
    /// [`Error::Format`] naming the file.
    pub fn parse(file: &str, bytes: &[u8]) -> Result<Self> {
        let value = lenient(bytes).map_err(|e| Error::format(0, format!("{file}: expected JSON: {e}")))?;
        match value {
            Value::Object(map) => Ok(Self { file: file.into(), map }),
            _ => Err(Error::format(0, format!("{file}: expected an object of settings"))),
        }
    }

    /// Returns an [`Error::Format`] about this file.
    #[cold]
    pub fn wrong(&self, what: impl core::fmt::Display) -> Error {
        Error::format(0, format!("{}: {what}", self.file))
    }

    /// Returns the error for a value that is missing or of another kind.
    fn wanted(&self, key: &str, expected: &str) -> Error {
        match self.map.get(key) {
            None => self.wrong(format_args!("`{key}` is missing")),
            Some(found) => self.wrong(format_args!("`{key}`: expected {expected}, found {found}")),
        }
    }

    /// Returns the value of `key`; none where it is absent or null.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    /// Returns whether `key` exists, even if it is null.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    /// Returns the text of `key`, if it is one.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Value::as_str)
    }

    /// Returns the first of `keys` that is a text.
    #[must_use]
    pub fn first_text(&self, keys: &[&str]) -> Option<&str> {
        keys.iter().find_map(|key| self.text(key))
    }

    /// Returns the flag of `key`, or `default` where it is absent.
    ///
    /// # Errors
    /// [`Error::Format`] for another value.
    pub fn flag(&self, key: &str, default: bool) -> Result<bool> {
        self.get(key).map_or(Ok(default), |v| v.as_bool().ok_or_else(|| self.wanted(key, "true or false")))
    }

    /// Returns the number of `key`, if there is one.
    ///
    /// # Errors
    /// [`Error::Format`] for another value.
    pub fn number(&self, key: &str) -> Result<Option<f64>> {
        self.get(key).map(|v| v.as_f64().ok_or_else(|| self.wanted(key, "a number"))).transpose()
    }

    /// Returns the count of `key`, if there is one. A whole number that is written with a point is accepted.
    ///
    /// # Errors
    /// [`Error::Format`] for another value.
    pub fn count(&self, key: &str) -> Result<Option<u64>> {
        let whole = |v: &Value| {
            v.as_u64().or_else(|| v.as_f64().filter(|n| *n >= 0.0 && libm::trunc(*n) == *n).map(|n| n as u64))
        };
        self.get(key).map(|v| whole(v).ok_or_else(|| self.wanted(key, "a whole number"))).transpose()
    }

    /// Returns the size `key`, at least 1 and below 2^32 - 1, which is no index.
    ///
    /// # Errors
    /// [`Error::Format`] if it is absent or out of range.
    pub fn size(&self, key: &str) -> Result<usize> {
        match self.count(key)? {
            Some(n) if n > 0 && n < u64::from(u32::MAX) => Ok(n as usize),
            _ => Err(self.wanted(key, &format!("a number from 1 to {}", u32::MAX - 1))),
        }
    }

    /// Returns the object `key`, empty where there is none.
    #[must_use]
    pub fn object(&self, key: &str) -> Self {
        let map = self.get(key).and_then(Value::as_object).cloned().unwrap_or_default();
        Self { file: format!("{}: `{key}`", self.file), map }
    }
}
