#!/bin/sh
# What a host pays: start-up of a model of 100 MiB beside a read of its file, and latencies of one row. Needs gcc, 200 MB
# of disk, a quiet machine. usage: ffi/bench/run.sh [--build-only]
set -eu
cd "$(dirname "$0")/.."
cargo build --locked --release -p strata-sae-ffi
lib=${CARGO_TARGET_DIR:-../target}/release
gcc -std=c11 -O2 -Wall -Wextra -Werror -pedantic -Iinclude bench/host.c "$lib/libstrata.a" \
    -lgcc_s -lutil -lrt -lpthread -lm -ldl -lc -o "$lib/strata-host-bench"
[ "${1-}" = --build-only ] && exit 0
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"$lib/strata-host-bench" "$dir"
