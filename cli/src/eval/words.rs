//! The tokens of the evaluated rows as words: few enough to count each latent on each.

use crate::dump::Dump;
use std::collections::BTreeMap;
use std::ops::Range;
use strata_core::metrics::similarity::{NO_WORD, Profiles};

/// Words of a profile, at most; the rarer tokens of a larger vocabulary share the second half of them.
const PROFILE: usize = 1024;
/// Words of a topic, at most: the most frequent ones.
const TOPIC: usize = 4096;
/// Vocabularies up to this size are of characters: their words of a topic are runs of three.
const CHARACTERS: usize = 256;

/// Numbers for the tokens of a dump.
pub struct Words<'a> {
    tokens: &'a [u32],
    /// Of each token id: its rank by frequency among the evaluated rows.
    rank: Vec<u32>,
    profile: usize,
    topic: BTreeMap<u64, u32>,
    characters: bool,
}

impl<'a> Words<'a> {
    /// Of the tokens of `dump`, if it has any, ranked by how often they occur in `rows`. Memory: 4 bytes a token of the
    /// vocabulary and, for characters, 12 bytes for each run of three that occurs.
    pub fn new(dump: &'a Dump, rows: Range<u64>) -> Option<Self> {
        let tokens = dump.tokens()?;
        let seen = &tokens[rows.start as usize..rows.end as usize];
        let most = seen.iter().max().map_or(0, |t| *t as usize + 1);
        let vocabulary = dump.vocab().map_or(most, |v| v.len().max(most));
        let mut count = vec![0u64; vocabulary];
        seen.iter().for_each(|t| count[*t as usize] += 1);
        let mut order: Vec<u32> = (0..vocabulary as u32).collect();
        order.sort_by_key(|t| (std::cmp::Reverse(count[*t as usize]), *t));
        let mut rank = vec![0; vocabulary];
        order.iter().enumerate().for_each(|(r, t)| rank[*t as usize] = r as u32);
        let characters = vocabulary <= CHARACTERS;
        let mut keys: BTreeMap<u64, u64> = BTreeMap::new();
        if characters {
            seen.windows(3).for_each(|w| *keys.entry(triple(w)).or_default() += 1);
        } else {
            order.iter().take(TOPIC).for_each(|t| *keys.entry(u64::from(*t)).or_default() += count[*t as usize]);
        }
        let mut ranked: Vec<(u64, u64)> = keys.into_iter().filter(|(_, n)| *n > 0).collect();
        ranked.sort_by_key(|(key, n)| (std::cmp::Reverse(*n), *key));
        ranked.truncate(TOPIC);
        let topic = ranked.into_iter().enumerate().map(|(i, (key, _))| (key, i as u32)).collect();
        Some(Self { tokens, rank, profile: vocabulary.min(PROFILE), topic, characters })
    }

    /// How many words a profile has.
    pub fn profile_words(&self) -> usize {
        self.profile
    }

    /// How many words a topic may have.
    pub fn topic_words(&self) -> usize {
        self.topic.len()
    }

    /// The word of a profile for `row`.
    pub fn profile(&self, row: u64) -> u32 {
        let (rank, vocabulary) = (self.rank[self.tokens[row as usize] as usize], self.rank.len());
        let own = self.profile / 2;
        if vocabulary <= self.profile || (rank as usize) < own {
            return rank;
        }
        (own as u32) + Profiles::bucket(rank, vocabulary, self.profile - own)
    }

    /// The word of a topic for `row`, of a sequence that begins at row `first`.
    pub fn topic(&self, first: u64, row: u64) -> u32 {
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

/// Three tokens of a vocabulary of characters as one key.
fn triple(tokens: &[u32]) -> u64 {
    tokens.iter().fold(0, |key, t| key << 21 | u64::from(*t))
}
