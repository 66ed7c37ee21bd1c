//! strata-benches
