#!/bin/sh
# Builds the library that only encodes (`--no-default-features`), and checks its symbols, its size, and a program with it.
# usage: ffi/small.sh [--bench]      --bench: what starting costs, beside the whole library, with a model of 1,024 + 8,192 latents
#
# To install it: cargo build --profile small -p strata-sae-ffi --no-default-features; target/small has libstrata.so and libstrata.a.
set -eu
cd "$(dirname "$0")"
for tool in gcc nm strip; do command -v $tool >/dev/null || { echo "ffi: $tool is missing" >&2; exit 1; }; done
cargo build --locked --profile small -p strata-sae-ffi --no-default-features
target=${CARGO_TARGET_DIR:-../target}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
nm -D --defined-only "$target/small/libstrata.so" | awk '{print $3}' | LC_ALL=C sort | diff exports-small.txt - ||
    { echo "ffi: the library that only encodes exports other symbols than exports-small.txt says" >&2; exit 1; }
mkdir "$out/small" "$out/whole"
strip --strip-unneeded -o "$out/small/libstrata.so.1" "$target/small/libstrata.so"
size=$(stat -c %s "$out/small/libstrata.so.1")
# The aim is 400 KiB (docs/embedding.md). This only sees that it does not grow.
[ "$size" -lt $((1600 << 10)) ] || { echo "ffi: the library that only encodes: expected less than 1,600 KiB stripped, found $size bytes" >&2; exit 1; }
gcc -std=c99 -Wall -Wextra -Werror -pedantic -Iinclude examples/buffers.c "$out/small/libstrata.so.1" -o "$out/buffers"
LD_LIBRARY_PATH=$out/small "$out/buffers" ../tests/golden/sae >"$out/printed"
diff examples/minimal.expected "$out/printed" || { echo "ffi: the library that only encodes finds other codes" >&2; exit 1; }
if [ "${1-}" = --bench ]; then
    cargo build --locked --release -p strata-sae-ffi
    strip --strip-unneeded -o "$out/whole/libstrata.so.1" "$target/release/libstrata.so"
    cat >"$out/model.c" <<'C'
#define _POSIX_C_SOURCE 200809L
#include "model.h"
int main(int argc, char **argv) {
    (void)argc;
    write_model(argv[1], (bench_shape){.d = 576, .f1 = 1024, .f2 = 8192, .threshold = 2.5});
    return 0;
}
C
    gcc -std=c11 -O2 -Ibench "$out/model.c" -lm -o "$out/model"
    "$out/model" "$out/sae"
    for library in small whole small whole; do
        echo "$library, $(stat -c %s "$out/$library/libstrata.so.1") bytes"
        LD_LIBRARY_PATH=$out/$library "$out/buffers" "$out/sae" 1000 >/dev/null
    done
fi
echo "ffi small ok: $size bytes stripped"
