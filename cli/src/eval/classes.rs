//! Classes of tokens from their texts: kinds of tokens, and classes with members.
//!
//! A vocabulary of single characters has the kinds vowel, consonant, upper, digit, punct, space, newline and other. One
//! of longer texts has word start (a letter after white space), word part (a letter without white space before it),
//! digit, punct, space, newline and other; incomplete characters are other.

use crate::texts::is_part_of_character;
use strata_core::metrics::absorption::OUTSIDE;
use unicode_categories::UnicodeCategories;

/// Kinds of tokens, each token of exactly one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenClasses {
    names: &'static [&'static str],
    of_token: Vec<u32>,
    text: Vec<String>,
    single: bool,
}

/// A class of tokens with its members: `member[token]`, or [`OUTSIDE`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// The name of the class.
    pub name: String,
    /// The names of the members.
    pub members: Vec<String>,
    /// The member of each token id, or [`OUTSIDE`].
    pub member: Vec<u32>,
}

/// The position of a token in a word of letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WordPosition {
    /// Not in a word.
    Outside,
    /// The first letter of a word.
    Start,
    /// Neither the first nor the last letter of a word.
    Inside,
    /// The last letter of a word.
    End,
    /// The only letter of a word.
    Single,
}

impl WordPosition {
    /// Names, in the order of the variants.
    pub const NAMES: [&'static str; 5] = ["outside", "start", "inside", "end", "single"];
}

const CHAR_NAMES: [&str; 8] = ["vowel", "consonant", "upper", "digit", "punct", "space", "newline", "other"];
const TEXT_NAMES: [&str; 7] = ["word start", "word part", "digit", "punct", "space", "newline", "other"];

impl TokenClasses {
    /// Returns the kinds of the tokens with the texts `vocab`.
    pub fn new(vocab: &[String]) -> Self {
        let single = vocab.iter().all(|t| t.chars().count() <= 1);
        let text = vocab.to_vec();
        let names: &'static [&'static str] = if single { &CHAR_NAMES } else { &TEXT_NAMES };
        let of = |t: &String| names.iter().position(|n| *n == kind(t, single)).expect("a kind has a name") as u32;
        Self { names, of_token: text.iter().map(of).collect(), text, single }
    }

    /// Returns the names of the classes.
    pub fn names(&self) -> &'static [&'static str] {
        self.names
    }

    /// Returns the class of a token, in `0..names().len()`; a token without a text is in the last one, `other`.
    pub fn of(&self, token: u32) -> u32 {
        self.of_token.get(token as usize).copied().unwrap_or(self.names.len() as u32 - 1)
    }

    /// Returns whether every token is a single character.
    pub fn is_single(&self) -> bool {
        self.single
    }

    /// Returns the position of row `row` of a text in its word: a run of letters within a sequence. `starts` are the
    /// first rows of the sequences. Texts of several characters are `Start` or `Inside`, by their leading space.
    pub fn word_position(&self, tokens: &[u32], starts: Option<&[u64]>, row: usize) -> WordPosition {
        let letter = |row: usize| {
            let text = tokens.get(row).and_then(|t| self.text.get(*t as usize));
            text.is_some_and(|t| t.trim_start().starts_with(char::is_alphabetic))
        };
        if !letter(row) {
            return WordPosition::Outside;
        }
        if !self.single {
            let leads = self.text[tokens[row] as usize].starts_with(char::is_whitespace);
            return if leads { WordPosition::Start } else { WordPosition::Inside };
        }
        let begins = |row: usize| starts.is_some_and(|s| s.binary_search(&(row as u64)).is_ok());
        let before = row > 0 && !begins(row) && letter(row - 1);
        let after = !begins(row + 1) && letter(row + 1);
        match (before, after) {
            (false, false) => WordPosition::Single,
            (false, true) => WordPosition::Start,
            (true, true) => WordPosition::Inside,
            (true, false) => WordPosition::End,
        }
    }

    /// Classes with members, for absorption: of characters, letter (vowel, consonant), vowel, consonant, upper, digit
    /// and punct (each character), whitespace (space, newline); of longer texts, the words that start with each letter
    /// (each text) and those with a leading space (each letter).
    pub fn hierarchies(&self) -> Vec<Hierarchy> {
        let mut found = Vec::new();
        let mut add = |name: &str, member: &dyn Fn(usize) -> Option<String>| {
            let of: Vec<Option<String>> = (0..self.text.len()).map(member).collect();
            let mut members: Vec<String> = of.iter().flatten().cloned().collect();
            members.sort_unstable();
            members.dedup();
            let place = |m: &String| members.binary_search(m).map_or(OUTSIDE, |i| i as u32);
            let member = of.iter().map(|m| m.as_ref().map_or(OUTSIDE, place)).collect();
            if members.len() > 1 {
                found.push(Hierarchy { name: name.to_owned(), members, member });
            }
        };
        let kind_of = |t: usize| self.names[self.of_token[t] as usize];
        if self.single {
            let among = |t: usize, kinds: &[&str]| kinds.contains(&kind_of(t)).then(|| kind_of(t).to_owned());
            add("letter", &|t| among(t, &["vowel", "consonant"]));
            for name in ["vowel", "consonant", "upper", "digit", "punct"] {
                add(name, &|t| (kind_of(t) == name).then(|| self.text[t].clone()));
            }
            add("whitespace", &|t| among(t, &["space", "newline"]));
        } else {
            let first = |t: usize| self.text[t].trim_start().chars().next().filter(|c| c.is_ascii_alphabetic());
            for letter in 'a'..='z' {
                add(&format!("starts with {letter}"), &|t| {
                    first(t).filter(|c| c.eq_ignore_ascii_case(&letter)).map(|_| self.text[t].clone())
                });
            }
            add("leading space", &|t| {
                let leads = kind_of(t) == "word start";
                first(t).filter(|_| leads).map(|c| c.to_ascii_lowercase().to_string())
            });
        }
        found
    }
}

fn kind(text: &str, single: bool) -> &'static str {
    let Some(c) = text.trim_start().chars().next() else {
        return match text.chars().next() {
            Some(_) if text.contains(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}']) => "newline",
            Some(_) => "space",
            None => "other",
        };
    };
    if is_part_of_character(text) {
        "other"
    } else if c.is_ascii_digit() {
        "digit"
    } else if c.is_ascii_punctuation() || c.is_punctuation() {
        "punct"
    } else if !c.is_alphabetic() {
        "other"
    } else if !single {
        if text.starts_with(char::is_whitespace) { "word start" } else { "word part" }
    } else if c.is_uppercase() {
        "upper"
    } else if "aeiou".contains(c) {
        "vowel"
    } else {
        "consonant"
    }
}
