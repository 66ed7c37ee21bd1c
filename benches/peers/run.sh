#!/bin/sh
# Compares Strata with SAELens and PyTorch on this machine: see ../README.md.
#   benches/peers/run.sh [--quick] [--threads N] [STAGE...]
# It writes only into target/peers.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
work=$target/peers
mkdir -p "$work/data"
cd "$root"

cargo build --release --quiet -p strata-sae -p strata-benches --bins
"$here/setup.sh" "$work/venv"
if [ ! -e "$work/data/l3.npy" ]; then
    env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE "$work/venv/bin/python" "$here/dump.py" cli/assets/tinyshakespeare.txt "$work/data"
fi
exec "$work/venv/bin/python" "$here/compare.py" --data "$work/data" --out "$work/results" \
    --python "$work/venv/bin/python" --strata "$target/release/strata" --encode "$target/release/strata-bench-encode" "$@"
