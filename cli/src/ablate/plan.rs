//! The plan of an ablation.

use strata_core::Config;

/// A set of rows that are compared with one of them.
#[derive(Clone, Debug)]
pub struct Suite {
    /// Name of the suite.
    pub name: String,
    /// The rows; names are unique.
    pub rows: Vec<Row>,
    /// Index of the row that the others are compared with.
    pub base: usize,
}

/// One row of a table: settings, run with several seeds.
#[derive(Clone, Debug)]
pub struct Row {
    /// Name of the row.
    pub name: String,
    /// Settings of the row, with the first seed.
    pub config: Config,
    /// Whether it is a reference: a flat SAE, a Matryoshka, the seed model.
    pub is_reference: bool,
}
