//! strata-tests
