//! The settings of the rows.

use crate::row_norm::RowNorm;
use crate::setting::{Allowed, Entry, Section, Value, settings};
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::RangeInclusive;
use serde::{Deserialize, Serialize};

/// A token of `data.skip_tokens`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TokenName {
    /// Its id.
    Id(u32),
    /// Its text in the vocabulary of the dump.
    Text(String),
}

impl Entry for Vec<TokenName> {
    fn list(
        &self,
        name: &'static str,
        _: Option<RangeInclusive<Self>>,
        meaning: &'static str,
        into: &mut Vec<Section>,
    ) {
        if let Some(section) = into.last_mut() {
            section.push(name, Value::List(self.len()), Allowed::Tokens, meaning);
        }
    }
}

settings! {
    /// Rows and their normalisation, which is folded into the saved weights.
    DataConfig {
        /// Normalise each row by itself first, as `layer_norm` (layer) and `constant_norm_rescale` (constant) of
        /// SAELens do. Losses are then those of normalised rows, and the saved model undoes the normalisation on its
        /// reconstructions.
        row_norm: RowNorm = RowNorm::None;
        /// Subtract the mean row.
        centre: bool = true;
        /// Multiply by one number such that the mean squared norm is the width of the rows.
        scale: bool = true;
        /// Start the decoder bias at the geometric median.
        geometric_median: bool = true;
        /// Leave out of training the rows whose norm is more than this many times the median norm; 0: keep all.
        outlier: f64 = 10.0, in 0.0..=1e9;
        /// Leave out, in training and evaluation, this many rows at the start of every sequence of the dump.
        skip_first: u64 = 0, in 0..=u64::MAX;
        /// Leave out, in training and evaluation, the rows of these tokens: ids, or texts of the dump's vocabulary.
        skip_tokens: Vec<TokenName> = Vec::new();
        /// Leave out, in training and evaluation, the rows of tokens that the dump marks as special: beginnings, ends,
        /// padding.
        skip_special: bool = false;
        /// Share of the rows, at the end of the dump, that is held out.
        holdout: f64 = 0.1, in 0.0..=0.9;
        /// Number of rows on which mean, scale, median and outliers are measured.
        stats_rows: usize = 1 << 16, in 1..=usize::MAX;
        /// Number of consecutive rows that are read together.
        block: u64 = 256, in 1..=u64::MAX;
        /// Number of blocks whose rows are mixed.
        window: u64 = 256, in 1..=u64::MAX;
    }
}
