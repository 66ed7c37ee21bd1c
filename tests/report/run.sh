#!/usr/bin/env bash
# Makes reports of a small run and a small ablation, and opens them in headless Chromium.
# usage: tests/report/run.sh [DIRECTORY FOR SCREENSHOTS]
set -euo pipefail
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
shots=${1:-$work/shots}
mkdir -p "$shots"

missing=()
command -v chromium >/dev/null || missing+=(chromium)
command -v npm >/dev/null || missing+=(nodejs npm)
if ((${#missing[@]})); then
    apt-get update -qq
    apt-get install -y -qq -t bookworm "${missing[@]}" >/dev/null
fi
cp tests/report/package.json tests/report/package-lock.json tests/report/*.mjs "$work"
(cd "$work" && npm ci --silent --no-audit --no-fund)

[ -n "${STRATA:-}" ] || cargo build --release -p strata-sae
strata=${STRATA:-target/release/strata}
# So few steps leave nearly all children under ROOT: the families of the page come from a low bar.
"$strata" --quiet demo --out "$work/demo" --set train.steps=300 --set gate.root_below=0.2 >/dev/null
"$strata" --quiet report "$work/demo/run" -o "$work/run.html"

"$strata" --quiet synth --world a --rows 20000 --seed 7 --out "$work/world" >/dev/null
small=(--set level1.latents=48 --set level2.latents=160 --set level1.k=2.5 --set level2.k=2.7 --set train.batch=256)
"$strata" --quiet train --dump "$work/world" --out "$work/bare" "${small[@]}" --set train.steps=300 >/dev/null
"$strata" --quiet report "$work/bare"
cp "$work/bare/report.html" "$work/bare.html"
"$strata" --quiet train --dump "$work/world" --out "$work/other" "${small[@]}" --set train.steps=300 --seed 1 >/dev/null
"$strata" --quiet eval "$work/bare" >/dev/null
"$strata" --quiet eval "$work/other" >/dev/null
"$strata" --quiet report "$work/bare" "$work/other" --title 'Two seeds' -o "$work/pair.html"
"$strata" --quiet ablate --dump "$work/world" --out "$work/ablation" --suite gates --suite sparsity-ratio --seeds 3 \
    "${small[@]}" --set train.steps=60 >/dev/null
"$strata" --quiet report "$work/ablation"

node "$work/browser.mjs" "$(command -v chromium)" "$shots" "$work/run.html" "$work/bare.html" \
    "$work/ablation/report.html" "$work/pair.html"

# Pages that compute: of the embedded language model, and of rows. What the first must show is what the program finds: the rows of
# a text, encoded with the same weights in 8 bits.
"$strata" --quiet report "$work/demo/run" --live -o "$work/live.html"
size=$(stat -c %s "$work/live.html")
[ "$size" -lt 12000000 ] || { echo "report: --live: expected less than 12 MB for the demo, found $size bytes" >&2; exit 1; }
"$strata" --quiet report "$work/bare" --live -o "$work/live-rows.html"
printf 'ROMEO:\nWhat light through yonder window breaks?\nIt is the east, and Juliet is the sun.\nArise, fair sun, and kill the envious moon,\nWho is already sick' >"$work/text.txt"
"$strata" --quiet capture --text "$work/text.txt" --per-document --hook blocks.2.hook_resid_post --dtype f32 --out "$work/typed" >/dev/null
"$strata" --quiet convert --to int8 "$work/demo/run" "$work/int8" >/dev/null
"$strata" --quiet encode "$work/int8" --dump "$work/typed" --out "$work/typed.safetensors" >/dev/null
"$strata" --quiet encode "$work/bare" --dump "$work/world" --weights int8 --out "$work/rows.safetensors" >/dev/null
node "$work/live.mjs" "$(command -v chromium)" "$shots" "$work/live.html" "$work/live-rows.html" "$work/text.txt" \
    "$work/typed.safetensors" "$work/world" "$work/rows.safetensors"
echo "the page of the demo that computes has $size bytes, and $(stat -c %s "$work/run.html") without"
