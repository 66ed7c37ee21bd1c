#!/bin/sh
# How Strata's cost grows, on this machine: see ../README.md. Needs Python 3 and nothing else.
#   benches/peers/scaling.sh [--quick] [--threads N] [TABLE...]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
work=$target/peers
mkdir -p "$work/data"
cd "$root"
cargo build --release --quiet -p strata-sae -p strata-benches --bins
exec "${PYTHON:-python3}" "$here/scaling.py" --data "$work/data" --out "$work/results" \
    --strata "$target/release/strata" --encode "$target/release/strata-bench-encode" "$@"
