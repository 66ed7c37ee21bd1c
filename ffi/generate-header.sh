#!/bin/sh
# Writes include/strata.h from the doc comments of ffi/src; with --verify says whether it is up to date (CI).
# Needs cbindgen 0.29.4: cargo install --locked cbindgen --version 0.29.4
set -eu
cd "$(dirname "$0")"
command -v cbindgen >/dev/null || { echo "generate-header: cbindgen is missing: see the top of this script" >&2; exit 1; }
[ "$(cbindgen --version)" = "cbindgen 0.29.4" ] || { echo "generate-header: cbindgen 0.29.4 is needed" >&2; exit 1; }
mkdir -p include
exec cbindgen --quiet --config cbindgen.toml "$@" --output include/strata.h .
