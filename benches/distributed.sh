#!/usr/bin/env bash
# Training over ranks on this machine, and the time that a cluster should take. usage: benches/distributed.sh measure [STRATA] | predict
#
# `measure` trains flat dictionaries of rows of width 768 as one process of two threads, as one of one thread, and as two ranks of one
# thread over TCP (and over MPI where STRATA has the feature `mpi` and mpirun is there), and prints rows per second and the peak
# memory of each process. `predict` prints the table of docs/distributed.md for clusters, which is computed from the formula below.
set -euo pipefail
cd "$(dirname "$0")/.."

measure() {
    local strata=$PWD/${1:-target/release/strata}
    dir=$(mktemp -d)
    # Not local: the trap outlives the function.
    trap 'rm -rf "$dir"' EXIT
    "$strata" --quiet synth --world sae-bench --rows 24000 --out "$dir/dump"
    echo "| F | processes | rows/s | peak MiB of each |"
    echo "|---|---|---|---|"
    local latents steps
    for latents in ${LATENTS:-24576 131072}; do
        steps=$([ "$latents" -gt 50000 ] && echo 4 || echo 8)
        local args=(train --dump "$dir/dump" --set "train.steps=$steps" --set train.batch=4096 --set train.log_every=1
            --set "level1.latents=$latents" --set level1.k=32 --set level2.latents=0 --set gate.kind=none --set train.checkpoint_every=0
            --set data.stats_rows=4096)
        for how in ${HOW:-threads-2 threads-1 tcp-2 mpi-2}; do
            local out=$dir/$how-$latents pids=() peaks=()
            case $how in
            threads-*) "$strata" --quiet --threads "${how#*-}" "${args[@]}" --out "$out" & pids=($!) ;;
            tcp-*)
                for rank in 0 1; do
                    RANK=$rank WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=29517 \
                        "$strata" --quiet --threads 1 "${args[@]}" --out "$out" &
                    pids+=($!)
                done
                ;;
            mpi-*)
                command -v mpirun >/dev/null && "$strata" --version >/dev/null || continue
                mpirun --allow-run-as-root --quiet --bind-to none -n 2 "$strata" --quiet --threads 1 "${args[@]}" --out "$out" &
                pids=($!)
                ;;
            esac
            # The high-water marks of the processes, until they end.
            local launcher=${pids[0]}
            while kill -0 "$launcher" 2>/dev/null; do
                [ "${how%-*}" != mpi ] || pids=($(pgrep -P "$launcher" || true))
                local at=0
                for pid in "${pids[@]}"; do
                    local kib
                    kib=$(awk '/VmHWM/ { print $2 }' "/proc/$pid/status" 2>/dev/null || true)
                    [ -z "$kib" ] || peaks[at]=$kib
                    at=$((at + 1))
                done
                sleep 0.1
            done
            wait
            local mib="" kib
            for kib in "${peaks[@]}"; do mib="$mib $((kib / 1024))"; done
            # The first two steps allocate and find the first floor of the candidates; the median of the others.
            sed -n 's/.*"tokens_per_s":\([0-9.]*\).*/\1/p' "$out/metrics.jsonl" | tail -n +3 | sort -g |
                awk -v f="$latents" -v how="$how" -v mib="$mib" \
                    '{ v[NR] = $1 } END { printf "| %d | %s | %.0f |%s |\n", f, how, v[int((NR + 1) / 2)], mib }'
            rm -rf "$out"
        done
    done
}

# Computed, per step of n rows, for R nodes:
#   compute     n F d c / (R P)             c = 1.3: encoder product, and what depends on the active latents; P = 32 cores of the rate
#                                           RATE, 25e9 multiply-adds per second, an assumption
#   optimiser   F d 2 x 28 bytes / (R M)    Adam reads and writes gradients, weights and moments; M = 200 GB/s of memory
#   rows        4 n d / B                   from rank to rank in pieces of 1 MiB
#   selection, codes   R 4 n k / B + 8 n k / B + 3 (R - 1) L
#   sums        2 (n / 256 + R - 1) (4 x 256 d / B + L)   the running sum, and its result
#   bias, norms 4 d F / 256 / B + 8 (R - 1) L
# B: bytes per second of a link, L = 20 us: the latency of a message.
predict() {
    awk -v rate="${RATE:-25}" 'BEGIN {
        n = 16384; k = 64; d = 4096; L = 20e-6; P = 32 * rate * 1e9; M = 200e9
        print "| F | nodes | Gbit/s | compute ms | rows | selection, codes | sums | of that waiting | bias, norms | step ms | rows/s | efficiency |"
        print "|---|---|---|---|---|---|---|---|---|---|---|---|"
        for (f = 0; f < 2; f++) for (g = 0; g < 2; g++) for (e = 3; e <= 6; e++) {
            F = f ? 1048576 : 131072; B = (g ? 100 : 25) * 1e9 / 8; R = 2 ^ e
            one = n * F * d * 1.3 / P + F * d * 56 / M
            compute = one / R
            rows = 4 * n * d / B
            codes = (R * 4 * n * k + 8 * n * k) / B + 3 * (R - 1) * L
            turn = 4 * 256 * d / B + L
            sums = 2 * (n / 256 + R - 1) * turn
            waiting = 2 * (R - 1) * turn
            bias = 4 * d * F / 256 / B + 8 * (R - 1) * L
            step = compute + rows + codes + sums + bias
            printf "| %d | %d | %d | %.0f | %.0f | %.0f | %.0f | %.0f | %.0f | %.0f | %.0f | %.0f %% |\n", F, R, B * 8e-9, 1e3 * compute,
                1e3 * rows, 1e3 * codes, 1e3 * sums, 1e3 * waiting, 1e3 * bias, 1e3 * step, n / step, 100 * one / step / R
        }
    }'
}

case ${1:-} in
measure) measure "${2:-}" ;;
predict) predict ;;
*) sed -n '2,3p' "$0" && exit 2 ;;
esac
