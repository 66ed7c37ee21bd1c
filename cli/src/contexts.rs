//! The parent that its children divide most clearly, with the contexts in which each latent fires most strongly.

use crate::escape::is_unsafe;
use crate::eval::latents::{Context, LatentRecord};
use std::io::Write;
use std::ops::Range;

/// A latent is shown only if it fires on at least this many of the evaluated tokens.
const MIN_FIRES: u64 = 30;
/// Contexts per latent.
const CONTEXTS: usize = 5;
/// Tokens of text before and after the token on which the latent fires.
const BEFORE: usize = 24;
const AFTER: usize = 8;
/// Most tokens that are left out or added so that a line begins and ends with whole words.
const WORD: usize = 6;
/// Number of children that are shown.
const CHILDREN: usize = 8;

/// A parent and its children.
#[derive(Clone, Debug, PartialEq)]
pub struct Shown<'a> {
    /// The parent.
    pub parent: &'a LatentRecord,
    /// Its children, the most frequent first.
    pub children: Vec<&'a LatentRecord>,
}

/// Returns the parent whose children divide it most clearly: the largest sum over its children of `min(P(child |
/// parent), .5) KL(q_child || q_parent)`, where `q` is the distribution of the tokens on which a latent fires. `None`
/// without families, or where the dump has no tokens.
pub fn most_telling(latents: &[LatentRecord]) -> Option<Shown<'_>> {
    let parents = &latents[..latents.partition_point(|l| l.level == 1)];
    let children = &latents[parents.len()..];
    let alive = |l: &&LatentRecord| l.fires >= MIN_FIRES;
    let clear = |parent: &LatentRecord| -> f64 {
        let of = |c: &LatentRecord| (c.fires as f64 / parent.fires as f64).min(0.5) * c.divergence.unwrap_or(0.0);
        parent.children.iter().map(|j| &children[*j as usize]).filter(alive).map(of).sum()
    };
    let scored = parents.iter().filter(alive).map(|p| (clear(p), p)).filter(|(score, _)| *score > 0.0);
    // The first of equal ones.
    let (_, parent) = scored.reduce(|best, next| if next.0 > best.0 { next } else { best })?;
    let children = parent.children.iter().map(|j| &children[*j as usize]).filter(alive).take(CHILDREN).collect();
    Some(Shown { parent, children })
}

/// Background colours of a terminal, from weak to strong activations.
const SHADES: [u8; 5] = [230, 223, 216, 209, 202];

/// Prints the parent and its children, one line per context, with the token in brackets. In colour, every token on which the
/// latent fires has a background, the stronger the deeper.
///
/// # Errors
/// If `out` cannot be written to.
pub fn print(shown: &Shown<'_>, is_coloured: bool, out: &mut dyn Write) -> std::io::Result<()> {
    let latent = |name: &str, l: &LatentRecord, out: &mut dyn Write| -> std::io::Result<()> {
        write!(out, "{name} {}: fires on {} tokens", l.latent, l.fires)?;
        if let Some((token, share)) = l.tokens.first() {
            write!(out, ", {:.0} % of its activation on {}", 100.0 * share, visible(token, true))?;
        }
        writeln!(out)?;
        for c in l.contexts.iter().take(CONTEXTS) {
            writeln!(out, "  {:>6.2}  {}", c.strength(), line(c, is_coloured))?;
        }
        Ok(())
    };
    writeln!(
        out,
        "The parent whose children divide it most clearly, with the contexts in which each fires most strongly:"
    )?;
    writeln!(out)?;
    latent("parent", shown.parent, out)?;
    for child in &shown.children {
        latent(" child", child, out)?;
    }
    Ok(())
}

/// Returns the text around the token on which a latent fires, from and to whole words where they are near.
fn line(c: &Context, is_coloured: bool) -> String {
    let begins_word = |i: usize| c.tokens.get(i).starts_with(char::is_whitespace);
    let earliest = c.peak.saturating_sub(BEFORE);
    let from = (earliest..c.peak).take(WORD).find(|&i| i == 0 || begins_word(i)).unwrap_or(earliest);
    let latest = c.length.min(c.peak + 1 + AFTER);
    let to = (latest..c.length.min(latest + WORD)).find(|&i| begins_word(i)).unwrap_or(latest);
    // The last token of a character has it.
    let end = (c.peak..to).find(|&i| !c.tokens.get(i).is_empty()).map_or(c.peak + 1, |i| i + 1);
    let (values, top) = (c.dense(), c.strength());
    let text = |rows: Range<usize>| -> String {
        let token = |i: usize| {
            let token = visible(c.tokens.get(i), false);
            if !is_coloured || values[i] <= 0.0 || token.is_empty() {
                return token;
            }
            let strength = (values[i] / top).clamp(0.0, 1.0) * (SHADES.len() - 1) as f32;
            format!("\x1b[30;48;5;{}m{token}\x1b[0m", SHADES[strength.round() as usize])
        };
        rows.map(token).collect()
    };
    let width: usize = (from..c.peak).map(|i| visible(c.tokens.get(i), false).chars().count()).sum();
    let padding = " ".repeat(BEFORE.saturating_sub(width));
    format!("{padding}{}[{}]{}", text(from..c.peak), text(c.peak..end), text(end..to))
}

/// Shows line ends and other white space as visible signs.
fn visible(text: &str, quoted: bool) -> String {
    let plain: String = text
        .chars()
        .map(|c| match c {
            '\n' => '⏎',
            '\t' => '→',
            c if is_unsafe(c) => '·',
            c => c,
        })
        .collect();
    if quoted { format!("`{plain}`") } else { plain }
}
