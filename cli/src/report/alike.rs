//! Contexts with nearly the same text.

use crate::eval::latents::Context;

/// Rows before the one on which the latent fires that are compared.
const BEFORE: usize = 12;
/// Rows after it that are compared.
const AFTER: usize = 6;
/// Two contexts are alike if this share of the compared rows has the same text.
const SHARE: f64 = 0.8;
/// Contexts with fewer rows in common are not alike.
const FEWEST: usize = 8;

/// Returns, for each context of a list, the first one of the list that it is alike; none if it is the first of its
/// kind.
///
/// Two contexts are aligned at the rows on which the latent fires. They are alike if at least four of five tokens are
/// equal, among those of these rows, of the 12 before and of the 6 after that both contexts have; there must be at
/// least eight.
pub fn firsts(contexts: &[&Context]) -> Vec<Option<usize>> {
    let mut firsts: Vec<Option<usize>> = Vec::with_capacity(contexts.len());
    for (i, context) in contexts.iter().enumerate() {
        let like = (0..i).find(|k| firsts[*k].is_none() && are_alike(contexts[*k], context));
        firsts.push(like);
    }
    firsts
}

fn are_alike(a: &Context, b: &Context) -> bool {
    if a.tokens.is_empty() || b.tokens.is_empty() || a.tokens.get(a.peak) != b.tokens.get(b.peak) {
        return false;
    }
    let before = BEFORE.min(a.peak).min(b.peak);
    let after = AFTER.min(a.length - 1 - a.peak).min(b.length - 1 - b.peak);
    let compared = before + 1 + after;
    let same = (0..compared).filter(|i| a.tokens.get(a.peak - before + i) == b.tokens.get(b.peak - before + i)).count();
    compared >= FEWEST && same as f64 >= SHARE * compared as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(text: &str, peak: usize) -> Context {
        let tokens = text.chars().map(String::from).collect();
        Context { peak, length: text.chars().count(), tokens, ..Context::default() }
    }

    #[test]
    fn contexts_that_differ_in_one_of_five_tokens_are_one() {
        let all = [
            context("First Citizen: speak", 13),
            context("Worst Citizen: speak", 13),
            context("Second Citizen: Come", 14),
            context("the king is not here", 13),
            context("First Citizen: speak", 6),
        ];
        let all: Vec<&Context> = all.iter().collect();
        assert_eq!(firsts(&all), [None, Some(0), None, None, None]);
    }

    #[test]
    fn little_text_says_nothing() {
        let (short, bare) = (context("abc", 1), Context { length: 20, peak: 9, ..Context::default() });
        assert_eq!(firsts(&[&short, &short, &bare, &bare]), [None; 4]);
    }
}
