//! Coherence of the words of a family, measured as that of topics in topic models (Roeder, Both and Hinneburg 2015).

use alloc::vec;
use alloc::vec::Vec;

use super::super::composition::MAX_PAIRS;
use super::super::similarity::{NO_WORD, Profiles};
use super::super::sparsity::ALIVE_TOKENS;
use super::cofiring::{Mean, below, pairs_of, triangle};
use super::{Draws, Partition, Score, counts_of, members};
use crate::par::Par;
use crate::{Error, Result};

/// Number of words of a topic.
pub const TOP_WORDS: usize = 10;

/// Streaming counts of the words that share a window: a whole context, or every run of `length` tokens of it (the whole
/// context if it is shorter). A word counts once per window.
///
/// Integer counts: merged parts equal the whole. Memory: 4 bytes for each of the `words (words - 1) / 2` pairs, at most
/// 512 MiB; larger vocabularies need fewer words, such as the most frequent ones, with [`NO_WORD`] for the others.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Windows {
    length: Option<usize>,
    windows: u64,
    /// `[words]`: windows with the word.
    with: Vec<u64>,
    /// Windows with two words, by pair.
    both: Vec<u32>,
    /// `[words]`: one more than the position of the last token of each word so far; all 0 between contexts.
    last: Vec<u32>,
}

impl Windows {
    /// Makes empty counts of words `0..words`. `length` is that of a window, `None` for whole contexts.
    ///
    /// # Errors
    /// [`Error::Config`] for more than 2^27 pairs of words, and for windows of no tokens.
    pub fn new(words: usize, length: Option<usize>) -> Result<Self> {
        let too_many = || {
            let why = alloc::format!("expected at most {MAX_PAIRS} pairs of words, found those of {words} words");
            Error::config("words", why)
        };
        let pairs = pairs_of(words).ok_or_else(too_many)?;
        if length == Some(0) {
            return Err(Error::config("window", "expected at least 1 token, found 0"));
        }
        Ok(Self { length, windows: 0, with: vec![0; words], both: vec![0; pairs], last: vec![0; words] })
    }

    /// Adds one whole context, the words of its tokens in order. [`NO_WORD`] is a position without a word.
    ///
    /// # Errors
    /// [`Error::Index`] for a word out of range, [`Error::Capacity`] for more than `2^32 - 1` windows; nothing is
    /// added then.
    pub fn add(&mut self, context: &[u32]) -> Result<()> {
        let words = self.with.len();
        if let Some(&w) = context.iter().find(|w| **w != NO_WORD && **w as usize >= words) {
            return Err(Error::Index { what: "words", index: w as usize, len: words });
        }
        if context.is_empty() {
            return Ok(());
        }
        let length = self.length.unwrap_or(usize::MAX).min(context.len());
        self.check_room((context.len() - length + 1) as u64)?;
        if length == context.len() {
            self.add_one(context);
        } else {
            self.add_runs(context, length);
        }
        self.windows += (context.len() - length + 1) as u64;
        Ok(())
    }

    /// Adds one window.
    fn add_one(&mut self, window: &[u32]) {
        let mut distinct: Vec<u32> = window.iter().copied().filter(|w| *w != NO_WORD).collect();
        distinct.sort_unstable();
        distinct.dedup();
        for (k, &w) in distinct.iter().enumerate() {
            self.with[w as usize] += 1;
            let row = &mut self.both[below(w as usize)];
            distinct[..k].iter().for_each(|v| row[*v as usize] += 1);
        }
    }

    /// Adds every window of `length` tokens of a context. A token at `b` counts for the windows in which it is the
    /// first token of its word: those that start after the last token of that word. Of these, the windows that also
    /// have a word whose last token is at `a` are those that start at `a` or before. So each pair of tokens is visited
    /// once, and not once per window.
    fn add_runs(&mut self, context: &[u32], length: usize) {
        let runs = context.len() - length + 1;
        for (b, &w) in context.iter().enumerate().filter(|(_, w)| **w != NO_WORD) {
            let first = (b + 1).saturating_sub(length).max(self.last[w as usize] as usize);
            self.with[w as usize] += (b + 1).min(runs).saturating_sub(first) as u64;
            for a in (first..b).rev() {
                let v = context[a];
                if v != NO_WORD && self.last[v as usize] as usize == a + 1 {
                    self.both[triangle(v as usize, w as usize)] += (a + 1).min(runs).saturating_sub(first) as u32;
                }
            }
            self.last[w as usize] = b as u32 + 1;
        }
        context.iter().filter(|w| **w != NO_WORD).for_each(|w| self.last[*w as usize] = 0);
    }

    /// Checks that counts of 32 bits can hold `more` windows.
    fn check_room(&self, more: u64) -> Result<()> {
        let windows = self.windows + more;
        if windows > u64::from(u32::MAX) {
            let (needed, got) = (usize::try_from(windows).unwrap_or(usize::MAX), u32::MAX as usize);
            return Err(Error::Capacity { what: "windows in a table of words", needed, got });
        }
        Ok(())
    }

    /// Adds the windows of `other`.
    ///
    /// # Errors
    /// [`Error::Capacity`] for more than `2^32 - 1` windows together; nothing is added then.
    ///
    /// # Panics
    /// If words or windows differ.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        let same = self.length == other.length && self.with.len() == other.with.len();
        assert!(same, "merged accumulators must have the same words and windows");
        self.check_room(other.windows)?;
        self.windows += other.windows;
        self.with.iter_mut().zip(&other.with).for_each(|(a, b)| *a += b);
        self.both.iter_mut().zip(&other.both).for_each(|(a, b)| *a += b);
        Ok(())
    }

    /// Returns the number of windows counted.
    pub fn windows(&self) -> u64 {
        self.windows
    }

    /// Returns `ln(p_vw / (p_v p_w)) / -ln p_vw`, `p` shares of windows. -1 (never together) to 1 (only together), 0:
    /// independent, and by convention if every window has both; NaN if a word is in no window.
    pub fn npmi(&self, v: u32, w: u32) -> f64 {
        let (v, w) = (v as usize, w as usize);
        let (n, both) = (self.windows as f64, f64::from(self.both[triangle(v, w)]));
        if self.with[v] == 0 || self.with[w] == 0 {
            f64::NAN
        } else if both == 0.0 {
            -1.0
        } else if both == n {
            0.0
        } else {
            libm::log(both * n / (self.with[v] as f64 * self.with[w] as f64)) / -libm::log(both / n)
        }
    }

    /// Returns `ln((N_vw + 1) / N_w)`, with `N_vw` and `N_w` the numbers of windows with both words and with `w`, the
    /// word of the higher rank. Up to `ln 2`, higher is better; NaN if `w` is in no window.
    pub fn umass(&self, v: u32, w: u32) -> f64 {
        let with = self.with[w as usize] as f64;
        let both = f64::from(self.both[triangle(v as usize, w as usize)]);
        if with > 0.0 { libm::log((both + 1.0) / with) } else { f64::NAN }
    }
}

/// The words of one family.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Topic {
    /// The parent.
    pub parent: u32,
    /// Its top words, at most [`TOP_WORDS`], best first.
    pub word: Vec<u32>,
    /// Mean [`Windows::npmi`] of their pairs. -1 to 1, higher is better; NaN for fewer than two words.
    pub npmi: f64,
    /// Mean [`Windows::umass`] of their pairs. Up to `ln 2`, higher is better; NaN for fewer than two words.
    pub umass: f64,
}

/// The words of the families. Means over families that have at least two words.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct TopicReport {
    /// Windows counted.
    pub windows: u64,
    /// Families with an alive child.
    pub families: usize,
    /// Families among them without a pair of words, which are left out of the means.
    pub without_topic: usize,
    /// Mean [`Topic::npmi`]. -1 to 1, higher is better.
    pub npmi: Score,
    /// Mean [`Topic::umass`]. Up to `ln 2`, higher is better.
    pub umass: Score,
    /// Every family with an alive child, by parent.
    pub topic: Vec<Topic>,
}

/// The top words of each family, and of the families of each draw: [`TOP_WORDS`] words `w` with the largest mean
/// activation `sum_{j in C} a_j(w) / n(w)` (ties to the lowest), among those on at least [`ALIVE_TOKENS`] tokens and
/// with `a > 0`.
#[derive(Clone, Debug)]
pub struct TopWords {
    words: usize,
    /// `[clusters]`: the parents.
    parents: Vec<u32>,
    /// `[clusters]`: the words of each family, best first.
    families: Vec<Vec<u32>>,
    /// The same of the families of each draw.
    draws: Vec<Vec<Vec<u32>>>,
}

impl TopWords {
    /// Selects the top words of the families `partition`; `profiles` are those of level 2 over the current words.
    ///
    /// Cost: one pass over the words that latents fire on for the families and for each draw. Memory: 4 bytes per word
    /// of each latent, at most half of that of the profiles.
    ///
    /// # Errors
    /// [`Error::Index`] if a latent has no profile.
    pub fn new(par: Par, profiles: &Profiles, partition: &Partition, draws: Draws) -> Result<Self> {
        let (words, len) = (profiles.words(), profiles.latents());
        if let Some(&j) = partition.latents().iter().find(|&&j| j as usize >= len) {
            return Err(Error::Index { what: "latents with a profile", index: j as usize, len });
        }
        // Lists the words that each latent fires on, which are few, one list after the other, with the start of each.
        let row = |i: usize| profiles.mass(partition.latents()[i] as usize);
        let n = partition.latents().len();
        let mut first = vec![0usize];
        (0..n).for_each(|i| first.push(first[i] + row(i).iter().filter(|a| **a > 0).count()));
        let mut fired = Vec::with_capacity(first[n]);
        (0..n).for_each(|i| fired.extend((0..words as u32).filter(|w| row(i)[*w as usize] > 0)));
        let of = |label: &[u32]| -> Vec<Vec<u32>> {
            let (start, member) = members(label, partition.clusters());
            let (mut mass, mut touched) = (vec![0u64; words], Vec::new());
            let of_cluster = |bounds: &[usize]| {
                for &i in &member[bounds[0]..bounds[1]] {
                    let row = row(i);
                    for &w in &fired[first[i]..first[i + 1]] {
                        let sum = &mut mass[w as usize];
                        if *sum == 0 {
                            touched.push(w);
                        }
                        // The sum of all masses of a word fits: see `Profiles::add`.
                        *sum += row[w as usize];
                    }
                }
                let best = top(profiles, &mass, &touched);
                touched.drain(..).for_each(|w| mass[w as usize] = 0);
                best
            };
            start.windows(2).map(of_cluster).collect()
        };
        let fires = counts_of(partition, profiles.fires());
        Ok(Self {
            words,
            parents: partition.names().to_vec(),
            families: of(partition.labels()),
            draws: draws.map(par, &fires, partition.labels(), of),
        })
    }

    /// Measures the coherence of the top words in windows of the same words.
    ///
    /// # Errors
    /// [`Error::Shape`] if the windows have other words.
    pub fn report(&self, windows: &Windows) -> Result<TopicReport> {
        if self.words != windows.with.len() {
            return Err(Error::Shape { what: "words of the profiles", expected: windows.with.len(), got: self.words });
        }
        let means = |families: &[Vec<u32>]| {
            let (mut npmi, mut umass) = (Mean::default(), Mean::default());
            for [one, other] in families.iter().map(|words| together(windows, words)) {
                npmi.add(one);
                umass.add(other);
            }
            [npmi.mean(), umass.mean()]
        };
        let (value, null) = (means(&self.families), Vec::from_iter(self.draws.iter().map(|f| means(f))));
        let [npmi, umass] = [0, 1].map(|k| Score::new(value[k], null.iter().map(|draw| draw[k])));
        let topic: Vec<Topic> = self
            .parents
            .iter()
            .zip(&self.families)
            .map(|(&parent, word)| {
                let [npmi, umass] = together(windows, word);
                Topic { parent, word: word.clone(), npmi, umass }
            })
            .collect();
        let without_topic = topic.iter().filter(|t| t.npmi.is_nan()).count();
        Ok(TopicReport { windows: windows.windows, families: topic.len(), without_topic, npmi, umass, topic })
    }
}

/// Returns the top words among `words`, given the sum of the activations of a family on each, `mass`.
fn top(profiles: &Profiles, mass: &[u64], words: &[u32]) -> Vec<u32> {
    let seen = |w: u32| profiles.seen()[w as usize];
    let candidates = words.iter().filter(|w| seen(**w) >= ALIVE_TOKENS);
    let mut ranked: Vec<(f64, u32)> = candidates.map(|w| (mass[*w as usize] as f64 / seen(*w) as f64, *w)).collect();
    let order = |a: &(f64, u32), b: &(f64, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
    if ranked.len() > TOP_WORDS {
        ranked.select_nth_unstable_by(TOP_WORDS, order);
        ranked.truncate(TOP_WORDS);
    }
    ranked.sort_unstable_by(order);
    ranked.into_iter().map(|r| r.1).collect()
}

/// Returns the mean NPMI and UMass of the pairs of words; NaN for fewer than two.
fn together(windows: &Windows, words: &[u32]) -> [f64; 2] {
    let (mut npmi, mut umass) = (Mean::default(), Mean::default());
    for (k, &v) in words.iter().enumerate() {
        for &w in &words[..k] {
            npmi.add(windows.npmi(v, w));
            umass.add(windows.umass(v, w));
        }
    }
    [npmi.mean(), umass.mean()]
}
