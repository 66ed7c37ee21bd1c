//! strata-ffi
