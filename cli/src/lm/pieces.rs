//! Text cut into pieces that a tokenizer can be given one after another.

use std::ops::Range;

/// Bytes after which a piece ends at the next place where it may. A tokenizer needs 100 bytes of memory and more per byte
/// of its text.
const PIECE: usize = 1 << 18;
/// Bytes before and after a place that are encoded to see whether it may be cut.
const AROUND: usize = 1 << 12;
/// Places in a row that may not be cut, after which the rest of the text is one piece.
const TRIES: usize = 32;

/// Returns the pieces of `text`, in order, as lazily as they are asked for: each ends before a line that does not begin with
/// white space, where `is_boundary(before, after)` holds of the lines on both sides.
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

/// The first byte from `at` on that begins a line with something else than white space.
fn next_line(text: &str, at: usize) -> Option<usize> {
    let bytes = text.as_bytes().get(at..)?;
    let mut breaks = bytes.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(i, _)| at + i + 1);
    breaks.find(|&i| text[i..].chars().next().is_some_and(|c| !c.is_whitespace()))
}

/// The last line of `text`, with its break; at most [`AROUND`] bytes of it.
fn last_line(text: &str) -> &str {
    let line = text.trim_end_matches('\n').rfind('\n').map_or(0, |i| i + 1);
    let from = line.max(text.len().saturating_sub(AROUND));
    &text[(from..=text.len()).find(|&i| text.is_char_boundary(i)).unwrap_or(text.len())..]
}

/// The first line of `text`, with its break; at most [`AROUND`] bytes of it.
fn first_line(text: &str) -> &str {
    let line = text.find('\n').map_or(text.len(), |i| i + 1);
    &text[..(0..=line.min(AROUND)).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0)]
}
