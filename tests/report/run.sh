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
cp tests/report/package.json tests/report/package-lock.json tests/report/browser.mjs "$work"
(cd "$work" && npm ci --silent --no-audit --no-fund)

cargo build --release -p strata-sae
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
