//! Cuts text into pieces that a tokenizer can encode one after another.

use std::ops::Range;

/// Bytes after which a piece ends at the next position where it may be cut. A tokenizer needs 100 or more bytes of
/// memory per byte of its text.
const PIECE: usize = 1 << 18;
/// Bytes before and after a position that are encoded to see whether the text may be cut there.
const AROUND: usize = 1 << 12;
/// Number of consecutive positions that may not be cut, after which the rest of the text is one piece.
const TRIES: usize = 32;

/// Returns the pieces of `text`, in order and lazily: each ends before a line that does not begin with white space,
/// where `is_boundary(before, after)` holds for the lines on both sides.
pub(super) fn pieces<E>(
    text: &str,
    is_boundary: impl Fn(&str, &str) -> Result<bool, E>,
) -> impl Iterator<Item = Result<Range<usize>, E>> {
    let (mut start, mut tries) = (0, 0);
    std::iter::from_fn(move || {
        if start >= text.len() {
            return None;
        }
        let mut at = start + PIECE;
        while tries < TRIES
            && let Some(end) = next_line(text, at)
        {
            match is_boundary(last_line(&text[start..end]), first_line(&text[end..])) {
                Err(error) => {
                    start = text.len();
                    return Some(Err(error));
                }
                Ok(true) => {
                    tries = 0;
                    return Some(Ok(std::mem::replace(&mut start, end)..end));
                }
                Ok(false) => (at, tries) = (end, tries + 1),
            }
        }
        Some(Ok(std::mem::replace(&mut start, text.len())..text.len()))
    })
}

/// Returns the first byte from `at` that begins a line with something other than white space.
fn next_line(text: &str, at: usize) -> Option<usize> {
    let bytes = text.as_bytes().get(at..)?;
    let mut breaks = bytes.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(i, _)| at + i + 1);
    breaks.find(|&i| text[i..].chars().next().is_some_and(|c| !c.is_whitespace()))
}

/// Returns the last line of `text`, with its line break; at most [`AROUND`] bytes of it.
fn last_line(text: &str) -> &str {
    let line = text.trim_end_matches('\n').rfind('\n').map_or(0, |i| i + 1);
    let from = line.max(text.len().saturating_sub(AROUND));
    &text[(from..=text.len()).find(|&i| text.is_char_boundary(i)).unwrap_or(text.len())..]
}

/// Returns the first line of `text`, with its line break; at most [`AROUND`] bytes of it.
fn first_line(text: &str) -> &str {
    let line = text.find('\n').map_or(text.len(), |i| i + 1);
    &text[..(0..=line.min(AROUND)).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0)]
}
