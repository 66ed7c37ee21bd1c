#!/bin/sh
# Fuzzes the readers: `model` any bytes as the files of a model, through the C ABI and then used; `parsers` any bytes as
# each kind of file. Needs cargo-fuzz (cargo install --locked cargo-fuzz) and g++. A finding is left in artifacts/.
# usage: tests/fuzz/run.sh [SECONDS each, 300] [TARGET, both]
set -eu
cd "$(dirname "$0")"
command -v cargo-fuzz >/dev/null || { echo "fuzz: cargo-fuzz is missing: see the top of this script" >&2; exit 1; }
# The sanitizers are there in every toolchain, but only nightly ones let them be asked for.
export RUSTC_BOOTSTRAP=1
grown=$(mktemp -d)
trap 'rm -rf "$grown"' EXIT
for target in ${2-model parsers}; do
    mkdir -p "$grown/$target"
    # New inputs go into the first folder; those of corpus/ are committed.
    cargo fuzz run --fuzz-dir . "$target" "$grown/$target" "corpus/$target" -- -max_total_time="${1-300}" \
        -dict=words.dict -max_len=8192 -rss_limit_mb=2048 -use_value_profile=1 -print_final_stats=1
done
