//! Cuts text into pieces that a tokenizer can encode one after another.

use std::io::Read;

use anyhow::{Result, anyhow, bail};

/// Bytes after which a piece ends at the next position where it may be cut. A tokenizer needs 100 or more bytes of
/// memory per byte of its text.
const PIECE: usize = 1 << 18;
/// Bytes before and after a position that are encoded to see whether the text may be cut there.
const AROUND: usize = 1 << 12;
/// Number of consecutive positions that may not be cut, after which the rest of the text is one piece.
const TRIES: usize = 32;

/// The pieces of a text, in order and lazily.
pub(super) struct Pieces<R> {
    from: R,
    /// Text that was read and not given out.
    text: String,
    /// The beginning of a character that was read.
    part: Vec<u8>,
    /// Bytes that became text.
    n_read: u64,
    has_ended: bool,
    cannot_cut: bool,
}

impl<R: Read> Pieces<R> {
    pub(super) fn new(from: R) -> Self {
        Self { from, text: String::new(), part: Vec::new(), n_read: 0, has_ended: false, cannot_cut: false }
    }

    /// Returns the next piece: it ends before a line that does not begin with white space, where `is_boundary(before, after)`
    /// holds for the lines on both sides.
    ///
    /// # Errors
    /// Text that cannot be read or is not UTF-8; an error of `is_boundary`.
    pub(super) fn next(&mut self, is_boundary: impl Fn(&str, &str) -> Result<bool>) -> Result<Option<String>> {
        let (mut at, mut tries) = (PIECE, 0);
        while !self.cannot_cut {
            self.fill(at + AROUND)?;
            let Some(end) = next_line(&self.text, at) else {
                if self.has_ended {
                    break;
                }
                self.fill(2 * self.text.len())?;
                continue;
            };
            self.fill(end + AROUND)?;
            if is_boundary(last_line(&self.text[..end]), first_line(&self.text[end..]))? {
                let rest = self.text.split_off(end);
                return Ok(Some(std::mem::replace(&mut self.text, rest)));
            }
            (at, tries) = (end, tries + 1);
            self.cannot_cut = tries == TRIES;
        }
        self.fill(usize::MAX)?;
        Ok(Some(std::mem::take(&mut self.text)).filter(|text| !text.is_empty()))
    }

    /// Reads until there is text of `most` bytes, or the end.
    fn fill(&mut self, most: usize) -> Result<()> {
        let mut bytes = [0; 1 << 14];
        while self.text.len() < most && !self.has_ended {
            let n = self.from.read(&mut bytes).map_err(|e| anyhow!("reading the text: {e}"))?;
            self.has_ended = n == 0;
            self.part.extend_from_slice(&bytes[..n]);
            let valid = match std::str::from_utf8(&self.part) {
                Ok(text) => text.len(),
                // A character may continue in what is read next.
                Err(e) if e.error_len().is_none() && !self.has_ended => e.valid_up_to(),
                Err(e) => {
                    let at = e.valid_up_to();
                    let hint = match self.part[..] {
                        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] if self.n_read == 0 => {
                            "; it looks like UTF-16: save it as UTF-8"
                        }
                        _ => "; save it as UTF-8",
                    };
                    bail!("byte {}: expected UTF-8, found 0x{:02x}{hint}", self.n_read + at as u64, self.part[at]);
                }
            };
            let rest = self.part.split_off(valid);
            let whole = std::mem::replace(&mut self.part, rest);
            self.n_read += valid as u64;
            self.text.push_str(&String::from_utf8(whole)?);
        }
        Ok(())
    }
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
