#!/bin/sh
# Builds the library that only encodes (`--no-default-features`), and checks its symbols, its size, and a program with it.
# usage: ffi/small.sh [--bench]      --bench: what starting costs, beside the whole library, with a model of 1,024 + 8,192 latents
#
# It has the kernels of one instruction set, the one that it is compiled for. STRATA_CPU names a processor as `rustc
# -Ctarget-cpu` does; on x86-64 it is x86-64-v3, with AVX2, unless you say otherwise. target/small has libstrata.so and libstrata.a.
set -eu
cd "$(dirname "$0")"
for tool in gcc nm strip; do command -v $tool >/dev/null || { echo "ffi: $tool is missing" >&2; exit 1; }; done
[ "$(uname -m)" = x86_64 ] && cpu=${STRATA_CPU:-x86-64-v3} || cpu=${STRATA_CPU:-}
# RUSTFLAGS would compile the crates of the other profiles once more: the target of its own keeps those.
target=$(realpath -m "${CARGO_TARGET_DIR:-../target}")
# Without the Rust library among the crate types, in whose presence cargo leaves out the optimisation across crates.
RUSTFLAGS="${cpu:+-Ctarget-cpu=$cpu}" CARGO_TARGET_DIR=$target/small-cpu cargo rustc --locked --profile small -p strata-sae-ffi \
    --no-default-features --crate-type cdylib,staticlib
small=$target/small-cpu/small
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
nm -D --defined-only "$small/libstrata.so" | awk '{print $3}' | LC_ALL=C sort | diff exports-small.txt - ||
    { echo "ffi: the library that only encodes exports other symbols than exports-small.txt says" >&2; exit 1; }
mkdir "$out/small" "$out/whole"
strip --strip-unneeded -o "$out/small/libstrata.so.1" "$small/libstrata.so"
size=$(stat -c %s "$out/small/libstrata.so.1")
# docs/embedding.md says what it is made of. Kernels for AVX-512, which compare in 8 bits first, take 24 KB more than those for AVX2.
[ "$cpu" = x86-64-v3 ] && most=400 || most=420
[ "$size" -lt $((most << 10)) ] || { echo "ffi: the library that only encodes: expected less than $most KiB stripped, found $size bytes" >&2; exit 1; }
gcc -std=c99 -Wall -Wextra -Werror -pedantic -Iinclude examples/buffers.c "$out/small/libstrata.so.1" -o "$out/buffers"
LD_LIBRARY_PATH=$out/small "$out/buffers" ../tests/golden/sae >"$out/printed"
diff examples/minimal.expected "$out/printed" || { echo "ffi: the library that only encodes finds other codes" >&2; exit 1; }
gcc -std=c99 -Wall -Wextra -Werror -pedantic -Iinclude examples/buffers.c "$small/libstrata.a" -Wl,--gc-sections -lm -o "$out/static"
"$out/static" ../tests/golden/sae 2>/dev/null | diff examples/minimal.expected - ||
    { echo "ffi: libstrata.a that only encodes finds other codes" >&2; exit 1; }
if [ "${1-}" = --bench ]; then
    cargo build --locked --release -p strata-sae-ffi
    strip --strip-unneeded -o "$out/whole/libstrata.so.1" "$target/release/libstrata.so"
    cat >"$out/model.c" <<'C'
#define _POSIX_C_SOURCE 200809L
#include "model.h"
int main(int argc, char **argv) {
    (void)argc;
    write_model(argv[1], (bench_shape){.d = 576, .f1 = 1024, .f2 = 8192, .k1 = 16, .k2 = 16, .threshold = 2.15});
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
