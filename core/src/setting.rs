//! The table of settings: one entry gives a field, its default, its range and its meaning.

use crate::error::{Error, Result};
use alloc::string::String;
use alloc::vec::Vec;
use alloc::{format, vec};
use core::fmt;
use core::ops::RangeInclusive;

/// The smallest positive `f64`: as the low end of a range it excludes 0.
pub(crate) const ABOVE_ZERO: f64 = 5e-324;

/// Declares a section of the settings. An entry is one line with its meaning above it:
///
/// ```text
/// /// What the setting does, in whole sentences.
/// field: type = default, in low..=high;
/// ```
///
/// Numbers have a range; a `bool` and an enum declared by `choices!` need none. From the entries follow the struct with
/// its `Default`, the reading and writing of `config.toml`, the check of `Config::validate`, the output of
/// `strata settings` and `docs/settings.md`.
macro_rules! settings {
    ($(#[doc = $about:literal])+ $name:ident {
        $($(#[doc = $meaning:literal])+ $field:ident: $type:ty = $default:expr $(, in $range:expr)?;)+
    }) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name { $($(#[doc = $meaning])+ pub $field: $type),+ }

        impl $name {
            /// The defaults.
            pub const DEFAULT: Self = Self { $($field: $default),+ };
        }

        impl Default for $name {
            fn default() -> Self { Self::DEFAULT }
        }

        impl $crate::setting::Entry for $name {
            fn list(
                &self,
                name: &'static str,
                _: Option<core::ops::RangeInclusive<Self>>,
                meaning: &'static str,
                into: &mut alloc::vec::Vec<$crate::setting::Section>,
            ) {
                into.push($crate::setting::Section::new(name, meaning));
                $({
                    let range = None$(.or(Some($range)))?;
                    let meaning = concat!($($meaning),+);
                    $crate::setting::Entry::list(&self.$field, stringify!($field), range, meaning, into);
                })+
            }
        }
    };
}

pub(crate) use settings;

/// Settings under one heading of `config.toml`.
#[derive(Clone, Debug, PartialEq)]
pub struct Section {
    /// The heading; empty for the settings above the first one.
    pub name: &'static str,
    /// The subject of the section.
    pub meaning: &'static str,
    /// The settings, in order.
    pub settings: Vec<Setting>,
}

/// One setting.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// The dotted key, as in `train.steps`.
    pub key: String,
    /// The value.
    pub value: Value,
    /// Its allowed values.
    pub allowed: Allowed,
    /// Its meaning.
    pub meaning: &'static str,
}

/// The value of a setting. Its `Display` is that of `config.toml`, without the quotes of a word.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// `true` or `false`.
    Switch(bool),
    /// A whole number.
    Integer(u64),
    /// A number.
    Number(f64),
    /// One of the words of an enum.
    Word(&'static str),
    /// A list with this many entries.
    List(usize),
}

/// The allowed values of a setting. Its `Display` says them in words.
#[derive(Clone, Debug, PartialEq)]
pub enum Allowed {
    /// `true` or `false`.
    Switch,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A whole number in this range; `u64::MAX` means that there is no upper limit.
    Integer(RangeInclusive<u64>),
    /// A number in this range; the smallest positive number as its low end excludes 0.
    Number(RangeInclusive<f64>),
    /// A list of token ids and texts.
    Tokens,
}

/// An entry of a table of settings: a value, or a section of its own.
pub(crate) trait Entry: Sized {
    /// Appends the setting to the last section of `into`, or the section with its settings.
    fn list(
        &self,
        name: &'static str,
        range: Option<RangeInclusive<Self>>,
        meaning: &'static str,
        into: &mut Vec<Section>,
    );
}

impl Section {
    pub(crate) fn new(name: &'static str, meaning: &'static str) -> Self {
        Self { name, meaning: meaning.trim(), settings: vec![] }
    }

    pub(crate) fn push(&mut self, name: &str, value: Value, allowed: Allowed, meaning: &'static str) {
        let key = if self.name.is_empty() { name.into() } else { format!("{}.{name}", self.name) };
        self.settings.push(Setting { key, value, allowed, meaning: meaning.trim() });
    }
}

impl Setting {
    /// Checks that the value is allowed.
    ///
    /// # Errors
    /// [`Error::Config`] with the key, what is allowed, and the value.
    pub(crate) fn check(&self) -> Result<()> {
        let is_allowed = match (&self.allowed, self.value) {
            (Allowed::Integer(range), Value::Integer(value)) => range.contains(&value),
            (Allowed::Number(range), Value::Number(value)) => range.contains(&value),
            // The types of the other settings admit only allowed values.
            (Allowed::Switch | Allowed::Choice(_) | Allowed::Tokens, _) => true,
            (Allowed::Integer(_) | Allowed::Number(_), _) => false,
        };
        if is_allowed {
            return Ok(());
        }
        Err(Error::config(self.key.as_str(), format!("expected {}, found {}", self.allowed, self.value)))
    }
}

/// Implements [`Entry`] for the types of values.
macro_rules! entries {
    ($($type:ty: |$value:ident, $range:ident| $made:expr, $allowed:expr;)+) => {
        $(impl Entry for $type {
            fn list(
                &self,
                name: &'static str,
                $range: Option<RangeInclusive<Self>>,
                meaning: &'static str,
                into: &mut Vec<Section>,
            ) {
                let $value = *self;
                if let Some(section) = into.last_mut() {
                    section.push(name, $made, $allowed, meaning);
                }
            }
        })+
    };
}
entries! {
    bool: |value, _range| Value::Switch(value), Allowed::Switch;
    u64: |value, range| Value::Integer(value), Allowed::Integer(range.unwrap_or(0..=u64::MAX));
    usize: |value, range| Value::Integer(value as u64), Allowed::Integer(range.map_or(0..=u64::MAX, |r| {
        *r.start() as u64..=if *r.end() == usize::MAX { u64::MAX } else { *r.end() as u64 }
    }));
    f64: |value, range| Value::Number(value), Allowed::Number(range.unwrap_or(f64::NEG_INFINITY..=f64::INFINITY));
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Switch(value) => write!(f, "{value}"),
            Self::Integer(value) => write!(f, "{value}"),
            Self::Number(value) if *value == 0.0 || (1e-4..1e6).contains(&value.abs()) => write!(f, "{value}"),
            Self::Number(value) if value.is_finite() => write!(f, "{value:e}"),
            Self::Number(value) => write!(f, "{value}"),
            Self::Word(value) => f.write_str(value),
            Self::List(0) => f.write_str("[]"),
            Self::List(n) => write!(f, "[{n} entries]"),
        }
    }
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Switch => f.write_str("true or false"),
            Self::Tokens => f.write_str("ids and texts"),
            Self::Choice(words) => f.write_str(&words.join(", ")),
            Self::Integer(range) if *range.end() == u64::MAX => write!(f, "at least {}", range.start()),
            Self::Integer(range) => write!(f, "{} to {}", range.start(), range.end()),
            Self::Number(range) => {
                let [low, high] = [*range.start(), *range.end()].map(Value::Number);
                match (*range.start() == ABOVE_ZERO, *range.end() == f64::INFINITY) {
                    (true, true) => f.write_str("more than 0"),
                    (true, false) => write!(f, "more than 0, at most {high}"),
                    (false, true) => write!(f, "at least {low}"),
                    (false, false) => write!(f, "{low} to {high}"),
                }
            }
        }
    }
}
