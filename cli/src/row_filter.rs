//! The rule that decides which rows of a dump are used, shared by training, calibration, evaluation, probes and
//! splicing.

use crate::dump::Dump;
use anyhow::{Result, bail};
use strata_core::config::{DataConfig, TokenName};
use strata_core::{Isa, RowRule};

/// Why a row is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Its position or its token is named by the settings.
    Named,
    /// Its norm is over the limit.
    OverLimit,
}

/// A [`RowRule`] with the tokens and sequences of a dump.
#[derive(Clone, Debug)]
pub struct RowFilter<'a> {
    rule: RowRule,
    starts: Option<&'a [u64]>,
    tokens: Option<&'a [u32]>,
    isa: Isa,
}

impl<'a> RowFilter<'a> {
    /// Keeps every row.
    pub fn none(isa: Isa) -> Self {
        Self { rule: RowRule::default(), starts: None, tokens: None, isa }
    }

    /// Leaves out what `data` names. The limit of the norm is not known before the rows are measured: see
    /// [`RowFilter::set_limit`].
    ///
    /// # Errors
    /// One sentence if the dump has no sequences, no tokens, or no such text of `data.skip_tokens`.
    pub fn of_settings(dump: &'a Dump, data: &DataConfig, isa: Isa) -> Result<Self> {
        if data.skip_first > 0 && dump.sequence_starts().is_none() {
            bail!("`data.skip_first`: {} does not say where its sequences begin", dump.name());
        }
        if !data.skip_tokens.is_empty() && dump.tokens().is_none() {
            bail!("`data.skip_tokens`: {} does not say the tokens of its rows", dump.name());
        }
        let mut skip_tokens = Vec::new();
        for name in &data.skip_tokens {
            match name {
                TokenName::Id(id) => skip_tokens.push(*id),
                TokenName::Text(text) => skip_tokens.extend(ids_of(dump, text)?),
            }
        }
        if data.skip_special {
            match (dump.special_tokens(), dump.tokens()) {
                (Some(ids), Some(_)) => skip_tokens.extend(ids),
                _ => bail!(
                    "`data.skip_special`: {} does not say which tokens are special: name them with `data.skip_tokens`",
                    dump.name()
                ),
            }
        }
        skip_tokens.sort_unstable();
        skip_tokens.dedup();
        let rule = RowRule { norm_limit: None, skip_first: data.skip_first, skip_tokens };
        Ok(Self { rule, starts: dump.sequence_starts(), tokens: dump.tokens(), isa })
    }

    /// Leaves out of `dump` what the training of a model left out.
    ///
    /// # Errors
    /// One sentence if the model names positions or tokens, and the dump has none.
    pub fn of_model(dump: &'a Dump, rule: &RowRule, isa: Isa) -> Result<Self> {
        let (starts, tokens) = (dump.sequence_starts(), dump.tokens());
        let why = match rule {
            r if r.skip_first > 0 && starts.is_none() => "the first rows of every sequence, and {} does not say them",
            r if !r.skip_tokens.is_empty() && tokens.is_none() => "the rows of some tokens, and {} does not say them",
            _ => return Ok(Self { rule: rule.clone(), starts, tokens, isa }),
        };
        bail!("the model was trained without {}: use a dump of `strata capture`", why.replace("{}", dump.name()));
    }

    /// Leaves out rows with a larger norm than `limit` from now on.
    pub fn set_limit(&mut self, limit: f32) {
        self.rule.norm_limit = limit.is_finite().then_some(limit);
    }

    /// Returns the rule, which is saved with the model.
    pub fn rule(&self) -> &RowRule {
        &self.rule
    }

    /// Returns whether no row can be left out.
    pub fn keeps_all(&self) -> bool {
        self.rule.keeps_all()
    }

    /// Returns whether `row` of the dump is left out by its position or token, which is known without its numbers.
    pub fn names(&self, row: u64) -> bool {
        let position = |starts: &[u64]| row - starts[starts.partition_point(|s| *s <= row).saturating_sub(1)];
        let is_first = self.rule.skip_first > 0 && self.starts.is_some_and(|s| position(s) < self.rule.skip_first);
        let of_token = |tokens: &[u32]| self.rule.skip_tokens.binary_search(&tokens[row as usize]).is_ok();
        is_first || !self.rule.skip_tokens.is_empty() && self.tokens.is_some_and(of_token)
    }

    /// Returns why row `row` of the dump, whose numbers are `x`, is left out; none if it is used.
    pub fn reason(&self, row: u64, x: &[f32]) -> Option<Reason> {
        if self.names(row) {
            return Some(Reason::Named);
        }
        self.rule.is_over(self.isa, x).then_some(Reason::OverLimit)
    }

    /// Returns whether row `row` of the dump, whose numbers are `x`, is used.
    pub fn keeps(&self, row: u64, x: &[f32]) -> bool {
        self.reason(row, x).is_none()
    }

    /// Removes from `ids` and `x`, `(n, d)`, the rows that are left out; returns how many of each [`Reason`] there were.
    pub fn retain(&self, ids: &mut Vec<u64>, x: &mut Vec<f32>) -> LeftOut {
        let mut counts = LeftOut::default();
        if self.keeps_all() || ids.is_empty() {
            return counts;
        }
        let (d, mut kept) = (x.len() / ids.len(), 0);
        for i in 0..ids.len() {
            match self.reason(ids[i], &x[i * d..(i + 1) * d]) {
                Some(reason) => counts.count(reason),
                None => {
                    ids[kept] = ids[i];
                    x.copy_within(i * d..(i + 1) * d, kept * d);
                    kept += 1;
                }
            }
        }
        ids.truncate(kept);
        x.truncate(kept * d);
        counts
    }
}

/// Returns the ids of a text of `data.skip_tokens`: those of every token with that text.
fn ids_of(dump: &Dump, text: &str) -> Result<Vec<u32>> {
    let Some(vocab) = dump.vocab() else {
        bail!(
            "`data.skip_tokens`: {} has no texts of its tokens: name `{}` by its id",
            dump.name(),
            text.escape_debug()
        );
    };
    let ids: Vec<u32> = (0..).zip(vocab).filter(|(_, t)| *t == text).map(|(id, _)| id).collect();
    if ids.is_empty() {
        bail!("`data.skip_tokens`: {} has no token with the text `{}`", dump.name(), text.escape_debug());
    }
    Ok(ids)
}

/// Rows that were left out, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LeftOut {
    /// Rows with a norm over the limit that are not named.
    pub over_limit: u64,
    /// Rows that are left out by their position or token.
    pub named: u64,
}

impl LeftOut {
    /// Counts one more.
    pub fn count(&mut self, reason: Reason) {
        match reason {
            Reason::Named => self.named += 1,
            Reason::OverLimit => self.over_limit += 1,
        }
    }

    /// Adds the counts of `other`.
    pub fn merge(&mut self, other: Self) {
        self.over_limit += other.over_limit;
        self.named += other.named;
    }

    /// Returns their sum.
    pub fn total(self) -> u64 {
        self.over_limit + self.named
    }
}
