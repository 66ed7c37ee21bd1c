#!/bin/sh
# SynthSAEBench-16k: trains flat, Matryoshka and two-level models on a streamed world of 16,384 features, by the protocol of the published
# tables (width 4,096, 200 million tokens in batches of 1,024, each token seen once), and scores them with Strata's own code and with
# SAELens' side by side. Every stage that is finished is skipped, so that it can be stopped and started again.
#
# usage: benches/synthsaebench.sh [FOLDER]      (FOLDER: target/synthsaebench)
#
#   SAMPLES  tokens of a training                               20000000 (the published tables have 200000000)
#   L0S      latents per token                                  "25"
#   KINDS    flat, matryoshka, two                              "flat matryoshka two"
#   SEEDS    seeds                                              "0"
#   SETS     further settings of every training                 "train.lr=1e-3 train.row_norm=0.1 train.encoder_norm=0.3"
#   PRUNE    leave-one-out pruning of every level               "0 2"
#   TEST     tokens that are scored                             100000, of which the last tenth is scored by SAELens
#   PYTHON   a Python with sae-lens 6.54 and safetensors        (without it, Strata's scores alone)
#   STORED   1: keep the rows of the world, 1.5 kB each, which is faster where several models are trained on few of them
#   STRATA   the program                                        target/release/strata, which is built
set -eu
cd "$(dirname "$0")/.."
out=${1:-target/synthsaebench}
samples=${SAMPLES:-20000000} l0s=${L0S:-25} kinds=${KINDS:-flat matryoshka two} seeds=${SEEDS:-0}
sets=${SETS-train.lr=1e-3 train.row_norm=0.1 train.encoder_norm=0.3} prunes=${PRUNE-0 2} test=${TEST:-100000}
streamed=--streamed
if [ "${STORED:-}" = 1 ]; then streamed=; fi
strata=${STRATA:-target/release/strata}
if [ -z "${STRATA:-}" ]; then cargo build --release -p strata-sae; fi
mkdir -p "$out"
say() { printf '== %s: %s\n' "$(date +%H:%M:%S)" "$*"; }

# The last thousandth of the world is held out for the curves of the training; the tokens that are scored come after all of it.
world=$out/world
test_world=$out/test
[ -e "$world" ] || "$strata" synth --world sae-bench --rows "$((samples + samples / 1000))" $streamed --out "$world"
[ -e "$test_world" ] || "$strata" synth --world sae-bench --rows "$test" --set first="$((2 * samples))" --out "$test_world"

for seed in $seeds; do
    for l0 in $l0s; do
        for kind in $kinds; do
            part() { awk -v l0="$l0" -v share="$1" 'BEGIN { printf "%.2f", l0 * share }'; }
            plain="gate.kind=none loss.consistency=none"
            two="level1.latents=640 level1.k=$(part 0.616) level2.latents=3456 level2.k=$(part 0.384)"
            case $kind in
                flat) own="level1.latents=4096 level1.k=$l0 level2.latents=0 $plain" ;;
                matryoshka) own="$two budget=shared $plain" ;;
                two) own=$two ;;
                *) echo "KINDS: expected flat, matryoshka or two, found $kind" >&2; exit 2 ;;
            esac
            trained=$out/$kind-$l0-$seed
            if [ ! -e "$trained/final_info.json" ]; then
                say "training $kind, L0 $l0, seed $seed"
                flags=$(for s in $own $sets; do echo "--set $s"; done)
                if [ -e "$trained" ]; then flags="$flags --resume"; fi
                "$strata" train --quiet --dump "$world" --out "$trained" --seed "$seed" --set train.batch=1024 \
                    --set train.steps="$((samples / 1024))" --set data.holdout=0.001 --set data.outlier=0.0 \
                    --set train.checkpoint_every=10000 $flags
            fi
            for prune in $prunes; do
                run=$out/$kind-$l0-$seed-prune$prune
                if [ ! -e "$run/final_info.json" ]; then
                    # Pruning does not change the weights, but the thresholds that go with them.
                    rm -rf "$run" "$run.part"
                    cp -R "$trained" "$run.part"
                    level2=0
                    case $kind in flat) ;; *) level2=$prune ;; esac
                    "$strata" train --quiet --dump "$world" --out "$run.part" --resume --set level1.prune="$prune" \
                        --set level2.prune="$level2"
                    mv "$run.part" "$run"
                fi
                [ -e "$run/eval.json" ] || "$strata" eval "$run" --dump "$test_world" --all > "$run/eval.txt"
                codes=$run/codes.safetensors
                [ -n "${PYTHON:-}" ] || continue
                [ -e "$codes" ] || "$strata" encode "$run" --dump "$test_world" --out "$codes"
                [ -e "$run/saelens.json" ] || "$PYTHON" benches/peers/synth_score.py "$run" "$test_world" > "$run/saelens.json"
            done
        done
    done
done
python3 benches/peers/synth_table.py "$out"
