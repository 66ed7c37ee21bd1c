//! The parent that its children divide most clearly, with the contexts in which each latent fires most strongly.

use crate::escape::is_unsafe;
use crate::eval::latents::LatentRecord;
use std::io::Write;
use std::ops::Range;

/// A latent is shown only if it fires on at least this many of the evaluated tokens.
const MIN_FIRES: u64 = 30;
/// Contexts per latent.
const CONTEXTS: usize = 5;
/// Tokens of text before and after the token on which the latent fires.
const BEFORE: usize = 24;
const AFTER: usize = 8;
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

/// Prints the parent and its children, one line per context, with the token in brackets.
///
/// # Errors
/// If `out` cannot be written to.
pub fn print(shown: &Shown<'_>, out: &mut dyn Write) -> std::io::Result<()> {
    let latent = |name: &str, l: &LatentRecord, out: &mut dyn Write| -> std::io::Result<()> {
        write!(out, "{name} {}: fires on {} tokens", l.latent, l.fires)?;
        if let Some((token, share)) = l.tokens.first() {
            write!(out, ", {:.0} % of its activation on {}", 100.0 * share, visible(token, true))?;
        }
        writeln!(out)?;
        for c in l.contexts.iter().take(CONTEXTS) {
            let text = |rows: Range<usize>| visible(&rows.map(|i| c.tokens.get(i)).collect::<String>(), false);
            writeln!(
                out,
                "  {:>6.2}  {:>24}[{}]{}",
                c.strength(),
                text(c.peak.saturating_sub(BEFORE)..c.peak),
                text(c.peak..c.peak + 1),
                text(c.peak + 1..c.length.min(c.peak + 1 + AFTER)),
            )?;
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
