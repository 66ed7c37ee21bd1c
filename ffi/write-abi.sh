#!/bin/sh
# Writes strata.abi, what programs have been compiled against: for a release that adds to the ABI, never to silence
# ffi/check.sh. Needs abidw (abigail-tools). usage: ffi/write-abi.sh
set -eu
cd "$(dirname "$0")"
cargo build --locked --release -p strata-ffi
exec abidw --no-corpus-path --no-comp-dir-path --no-show-locs --drop-private-types --headers-dir include \
    --out-file strata.abi "${CARGO_TARGET_DIR:-../target}/release/libstrata.so"
