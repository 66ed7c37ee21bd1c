//! The tokens of the evaluated rows as words: few enough to count each latent on each of them.

use super::batches::{Batch, RowWords};
use crate::dump::Dump;
use crate::row_filter::RowFilter;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use strata_core::metrics::similarity::{MAX_CELLS, NO_WORD, Profiles};

/// Most words of a profile; the rarer tokens of a larger vocabulary share the second half of them.
const PROFILE: usize = 1024;
/// Most words of a topic: the most frequent ones.
const TOPIC: usize = 4096;
/// Vocabularies up to this size consist of characters: their words of a topic are runs of three.
const CHARACTERS: usize = 256;

/// Numbers the tokens of a dump as words.
pub struct Words<'a> {
    tokens: &'a [u32],
    /// The rank by frequency of each token id that occurs in the evaluated rows.
    rank: BTreeMap<u32, u32>,
    profile: usize,
    topic: BTreeMap<u64, u32>,
    characters: bool,
}

impl<'a> Words<'a> {
    /// Numbers the tokens of `dump`, if it has any, by their frequency in `rows` without those that `filter` names; few
    /// enough words for tables of `latents`. Memory: some tens of bytes per token that occurs and, for characters, per
    /// run of three that occurs.
    pub fn new(dump: &'a Dump, filter: &RowFilter<'_>, rows: Range<u64>, latents: usize) -> Option<Self> {
        let tokens = dump.tokens()?;
        let seen = &tokens[rows.start as usize..rows.end as usize];
        let mut count: BTreeMap<u32, u64> = BTreeMap::new();
        let used = rows.zip(seen).filter(|(row, _)| !filter.names(*row)).map(|(_, t)| *t);
        let seen: Cow<'_, [u32]> = if filter.keeps_all() { seen.into() } else { used.collect() };
        seen.iter().for_each(|t| *count.entry(*t).or_default() += 1);
        let mut order: Vec<u32> = count.keys().copied().collect();
        order.sort_by_key(|t| (std::cmp::Reverse(count[t]), *t));
        let rank: BTreeMap<u32, u32> = order.iter().enumerate().map(|(r, t)| (*t, r as u32)).collect();
        let vocabulary = dump.vocab().map_or(order.len(), |v| v.len().max(order.len()));
        let characters = vocabulary <= CHARACTERS;
        let mut keys: BTreeMap<u64, u64> = BTreeMap::new();
        if characters {
            seen.windows(3).for_each(|w| *keys.entry(triple(w)).or_default() += 1);
        } else {
            order.iter().take(TOPIC).for_each(|t| *keys.entry(u64::from(*t)).or_default() += count[t]);
        }
        let mut ranked: Vec<(u64, u64)> = keys.into_iter().filter(|(_, n)| *n > 0).collect();
        ranked.sort_by_key(|(key, n)| (std::cmp::Reverse(*n), *key));
        let cells = MAX_CELLS / latents.max(1);
        ranked.truncate(TOPIC.min(cells));
        let topic = ranked.into_iter().enumerate().map(|(i, (key, _))| (key, i as u32)).collect();
        Some(Self { tokens, profile: rank.len().min(PROFILE).min(cells), rank, topic, characters })
    }

    /// Returns the number of words of a profile.
    pub fn profile_words(&self) -> usize {
        self.profile
    }

    /// Returns the largest number of words of a topic.
    pub fn topic_words(&self) -> usize {
        self.topic.len()
    }

    /// Returns the words of the rows of `batch`.
    pub fn of<'b>(&self, batch: &'b Batch) -> &'b RowWords {
        batch.words.get_or_init(|| {
            let profile = batch.rows.iter().map(|row| self.profile(*row)).collect();
            let topic = batch.rows.iter().zip(&batch.positions).map(|(row, at)| self.topic(row - u64::from(*at), *row));
            RowWords { profile, topic: topic.collect() }
        })
    }

    /// Returns the word of a profile for `row`.
    fn profile(&self, row: u64) -> u32 {
        let (Some(&rank), vocabulary) = (self.rank.get(&self.tokens[row as usize]), self.rank.len()) else {
            return NO_WORD;
        };
        let own = self.profile / 2;
        if vocabulary <= self.profile || (rank as usize) < own {
            return rank;
        }
        (own as u32) + Profiles::bucket(rank, vocabulary, self.profile - own)
    }

    /// Returns the word of a topic for `row`, in a sequence that starts at row `first`.
    fn topic(&self, first: u64, row: u64) -> u32 {
        let key = if !self.characters {
            u64::from(self.tokens[row as usize])
        } else if row >= first + 2 {
            triple(&self.tokens[row as usize - 2..=row as usize])
        } else {
            return NO_WORD;
        };
        self.topic.get(&key).copied().unwrap_or(NO_WORD)
    }
}

/// Packs three tokens of a vocabulary of characters into one key.
fn triple(tokens: &[u32]) -> u64 {
    tokens.iter().fold(0, |key, t| key << 21 | u64::from(*t))
}
