#!/bin/sh
# Builds strata-core without std into a static library, links it with start.c and no libc, and runs it: `no_std ok`.
# The negative control: `std` turned on must fail with E0152, so that a dependency that links std cannot slip in.
# usage: tests/no_std/run.sh [--control]     (x86-64 Linux, gcc; the control compiles a second time)
set -eu
cd "$(dirname "$0")"
command -v gcc >/dev/null || { echo "no_std: gcc is missing; install it, or run this where there is one" >&2; exit 1; }
[ "$(uname -sm)" = "Linux x86_64" ] || { echo "no_std: start.c is for Linux on x86-64, this is $(uname -sm)" >&2; exit 1; }
target=${CARGO_TARGET_DIR:-target}
cargo build --locked --release --target-dir "$target"
gcc -O2 -Wall -Wextra -Werror -ffreestanding -fno-builtin -fno-tree-loop-distribute-patterns -nostdlib -static \
    -Wl,--gc-sections -Wl,--no-undefined start.c "$target/release/libno_std.a" -o "$target/no_std"
"$target/no_std"
if [ "${1-}" = --control ]; then
    if cargo check --locked --release --features std --target-dir "$target" 2>"$target/control.log"; then
        echo "no_std: the control compiled: std is not noticed any more" >&2
        exit 1
    fi
    grep -q E0152 "$target/control.log" || { cat "$target/control.log" >&2; exit 1; }
    echo "no_std control ok"
fi
