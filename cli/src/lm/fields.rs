//! Fields of `config.json`, read with one sentence for each fault.

use anyhow::{Result, bail};
use serde_json::Value;

/// No published model has a size near this; it keeps products of two sizes within `usize`.
const SIZE_MAX: u64 = 1 << 24;

/// Returns a size, which must be given.
pub fn size(v: &Value, key: &str) -> Result<usize> {
    match v[key].as_u64() {
        Some(n @ 1..=SIZE_MAX) => Ok(n as usize),
        _ => bail!("{key:?} must be a whole number from 1 to {SIZE_MAX}, found {}", shown(&v[key])),
    }
}

/// Returns a size; `default` for null or nothing.
pub fn size_or(v: &Value, key: &str, default: usize) -> Result<usize> {
    if v[key].is_null() { Ok(default) } else { size(v, key) }
}

/// Returns a token id; none for null or nothing. Of a list, as some models have for their ends, the first.
pub fn token(v: &Value, key: &str) -> Result<Option<u32>> {
    let id = v[key].as_array().and_then(|ids| ids.first()).unwrap_or(&v[key]);
    if id.is_null() {
        return Ok(None);
    }
    match id.as_u64().and_then(|id| u32::try_from(id).ok()) {
        Some(id) => Ok(Some(id)),
        None => bail!("{key:?} must be a token id, found {}", shown(&v[key])),
    }
}

/// Returns true or false; `default` for null or nothing.
pub fn switch(v: &Value, key: &str, default: bool) -> Result<bool> {
    match &v[key] {
        Value::Null => Ok(default),
        Value::Bool(b) => Ok(*b),
        other => bail!("{key:?} must be true or false, found {}", shown(other)),
    }
}

/// Returns a number above 0; none for null or nothing.
pub fn positive(v: &Value, key: &str) -> Result<Option<f64>> {
    if v[key].is_null() {
        return Ok(None);
    }
    match v[key].as_f64().filter(|x| *x > 0.0 && x.is_finite()) {
        Some(x) => Ok(Some(x)),
        None => bail!("{key:?} must be a number above 0, found {}", shown(&v[key])),
    }
}

/// Returns the constant that a norm adds to the variance: a number between 0 and 1, `default` for null or nothing.
pub fn epsilon(v: &Value, key: &str, default: f64) -> Result<f64> {
    let eps = &v[key];
    let found = if eps.is_null() { Some(default) } else { eps.as_f64() };
    match found.filter(|e| *e > 0.0 && *e < 1.0) {
        Some(e) => Ok(e),
        None => bail!("{key:?} must be a number between 0 and 1, found {}", shown(eps)),
    }
}

/// Refuses a model that a value of `key` other than false, null and nothing makes another one.
pub fn refuse(v: &Value, key: &str, why: &str) -> Result<()> {
    match &v[key] {
        Value::Null | Value::Bool(false) => Ok(()),
        other => bail!("{key:?} is not supported, found {}: {why}", shown(other)),
    }
}

/// Shows a value as it stands in the file.
pub fn shown(v: &Value) -> String {
    if v.is_null() { "nothing".into() } else { v.to_string() }
}
