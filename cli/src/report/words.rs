//! Words that name a latent on the map: those in which it fires.

use crate::eval::latents::{Context, LatentRecord};
use std::collections::BTreeMap;

/// Number of words per latent.
const WORDS: usize = 3;
/// Most letters of a word; a longer one is cut on the side that is farther from the token on which the latent fires.
const LETTERS: usize = 18;

/// Returns the words of the text in which the latent fires, those with the largest sums of activations first; without
/// text, the tokens that it promotes or fires on.
pub fn of(record: &LatentRecord) -> Vec<String> {
    let mut weight: BTreeMap<String, f64> = BTreeMap::new();
    for context in record.contexts.iter().chain(&record.sampled).filter(|c| !c.tokens.is_empty()) {
        let word = around(context);
        if !word.is_empty() {
            *weight.entry(word).or_default() += f64::from(context.strength());
        }
    }
    let mut words: Vec<(String, f64)> = weight.into_iter().collect();
    words.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    if words.is_empty() {
        let known = if record.tokens.is_empty() { &record.promotes } else { &record.tokens };
        return known.iter().map(|(t, _)| t.trim().to_owned()).filter(|t| !t.is_empty()).take(WORDS).collect();
    }
    words.into_iter().map(|w| w.0).take(WORDS).collect()
}

/// Returns whether a character can be inside of a word.
fn is_inner(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '\'' | '\u{2019}' | '-' | '_' | '\u{300}'..='\u{36f}')
}

/// Returns the word that the token at the peak is in, in lower case. A token of signs or white space alone is shown
/// with the word before it, white space as a sign.
fn around(context: &Context) -> String {
    let token = context.tokens.get(context.peak);
    let before: String = (0..context.peak).map(|i| context.tokens.get(i)).collect();
    let after: String = (context.peak + 1..context.length).map(|i| context.tokens.get(i)).collect();
    let head = |from: &str| -> String {
        let tail: Vec<char> = from.chars().rev().take_while(|c| is_inner(*c)).take(LETTERS).collect();
        tail.into_iter().rev().collect()
    };
    if !token.chars().any(char::is_alphanumeric) {
        let signs = token.chars().map(|c| match c {
            '\n' => '\u{23ce}',
            '\t' => '\u{2192}',
            c if c.is_whitespace() => '\u{2423}',
            c => c,
        });
        return head(&before).to_lowercase().chars().chain(signs.filter(|c| !c.is_control()).take(4)).collect();
    }
    // White space and signs at the ends of a token are where words end.
    let inside = token.trim_matches(|c: char| !is_inner(c));
    let joins_before = token.starts_with(is_inner);
    let joins_after = token.ends_with(is_inner);
    let start = if joins_before { head(&before) } else { String::new() };
    let room = LETTERS.saturating_sub(inside.chars().count());
    let start: String = start.chars().skip(start.chars().count().saturating_sub(room)).collect();
    let room = room.saturating_sub(start.chars().count());
    let end: String =
        if joins_after { after.chars().take_while(|c| is_inner(*c)).take(room).collect() } else { String::new() };
    format!("{start}{inside}{end}").to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(tokens: &[&str], peak: usize, value: f32) -> Context {
        let (at, values) = (vec![peak as u16], vec![value]);
        Context { peak, length: tokens.len(), at, values, tokens: tokens.iter().collect(), ..Context::default() }
    }

    #[test]
    fn words_are_whole_whatever_the_tokens_are() {
        for (tokens, peak, word) in [
            (&["t", "h", "y", " ", "L", "o", "r", "d", ",", " "][..], 5, "lord"),
            (&["t", "h", "y", " ", "L", "o", "r", "d", ",", " "], 8, "lord,"),
            (&["t", "h", "y", " ", "L", "o"], 3, "thy\u{2423}"),
            (&[" the", " un", "break", "able", " sea"], 2, "unbreakable"),
            (&[" the", " sea", " is"], 1, "sea"),
            (&["\n", "\n"], 1, "\u{23ce}"),
            (&["don", "'", "t"], 2, "don't"),
            (&["abcdefghijklmnopqrstuvwxyz"], 0, "abcdefghijklmnopqrstuvwxyz"),
            (&["abcdefghijklmnopqrst", "u"], 1, "defghijklmnopqrstu"),
        ] {
            assert_eq!(around(&context(tokens, peak, 1.0)), word, "{tokens:?}");
        }
    }

    #[test]
    fn the_words_with_most_activation_come_first() {
        let record = LatentRecord {
            contexts: vec![context(&["a"], 0, 3.0), context(&["b"], 0, 2.0)],
            sampled: vec![context(&["b"], 0, 1.5), context(&["c"], 0, 0.5), context(&["d"], 0, 0.25)],
            ..LatentRecord::default()
        };
        assert_eq!(of(&record), ["b", "a", "c"]);
        let bare = LatentRecord { promotes: vec![(" sea".into(), 1.0), (" ".into(), 0.5)], ..LatentRecord::default() };
        assert_eq!(of(&bare), ["sea"]);
        assert!(of(&LatentRecord::default()).is_empty());
    }
}
