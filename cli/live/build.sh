#!/usr/bin/env bash
# Makes cli/assets/live.wasm, or says whether it is what its sources give: byte for byte with this rustc, wherever the checkout lies.
# usage: cli/live/build.sh [--check] RUST_SRC       RUST_SRC: the folder of the sources of the standard library (.ci/targets fetches it)
set -euo pipefail
cd "$(dirname "$0")/../.."
check=
[ "${1-}" != --check ] || { check=1; shift; }
[ $# = 1 ] || { echo "usage: cli/live/build.sh [--check] RUST_SRC" >&2; exit 2; }
# The paths of packages are part of the names in a library, and these of the order of its functions: so they are always the same.
place=/tmp/strata-live
mkdir "$place" 2>/dev/null || { echo "live: $place is there already: another build, or one that was ended; remove it" >&2; exit 1; }
trap 'rm -rf "$place"' EXIT
cp -a --reflink=auto "$1" "$place/rust-src"
mkdir -p "$place/strata/cli"
cp -a Cargo.toml README.md LICENSE-* core "$place/strata"
cp -a cli/live "$place/strata/cli/live"
# Members that are not copied are not needed.
sed -i 's/^members = .*/members = ["core"]/; /^\[profile/,$d' "$place/strata/Cargo.toml"
export CARGO_INCREMENTAL=0 CARGO_TARGET_DIR=$place/build CARGO_BUILD_JOBS=${CARGO_BUILD_JOBS-}
[ -n "$CARGO_BUILD_JOBS" ] || unset CARGO_BUILD_JOBS
export RUSTC_BOOTSTRAP=1 __CARGO_TESTS_ONLY_SRC_ROOT=$place/rust-src
# No vector instructions: every browser that has WebAssembly runs it.
export RUSTFLAGS="--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=cargo --remap-path-prefix=$place=. -Zlocation-detail=none -Zfmt-debug=none"
(cd "$place/strata/cli/live" && cargo build --locked --release --quiet --target wasm32-unknown-unknown -Zbuild-std=core,alloc)
made=$place/build/wasm32-unknown-unknown/release/live.wasm
size=$(stat -c %s "$made")
[ "$size" -lt $((600 * 1000)) ] || { echo "live: expected less than 600 kB, found $size bytes" >&2; exit 1; }
if [ -n "$check" ]; then
    cmp "$made" cli/assets/live.wasm || { echo "live: cli/assets/live.wasm is not what its sources give: run cli/live/build.sh" >&2; exit 1; }
    echo "live: cli/assets/live.wasm is what its sources give, $size bytes"
else
    cp "$made" cli/assets/live.wasm
    echo "live: cli/assets/live.wasm has $size bytes"
fi
