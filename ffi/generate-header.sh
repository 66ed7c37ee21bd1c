#!/bin/sh
# Writes include/strata.h from the doc comments of ffi/src. A test of the suite says whether it is up to date.
set -eu
cd "$(dirname "$0")/.."
STRATA_WRITE_HEADER=1 exec cargo test --locked --release -p strata-tests -- ffi::header
