# The settings of each kind of model that the scripts of this folder train. All have the same number of latents and the same L0, 32.
# Sourced, not run.

# Stops at a kind that is none, before anything is captured.
check_kinds() {
    for kind in $kinds ${frozen:-}; do checked=$(settings "$kind" 4096); done
}

# Models with two levels and families have a control.
control_of() { # KIND
    case $1 in language* | default) echo --control ;; esac
}

is_trained() { # RUN CONTROL
    [ -e "$1/final_info.json" ] && { [ -z "$2" ] || [ -e "$1/control/final_info.json" ]; }
}

settings() { # KIND LATENTS
    case $2 in 9216) parents=1024 ;; 32768) parents=4096 ;; *) parents=$(($2 / 8)) ;; esac
    two="level1.latents=$parents level2.latents=$(($2 - parents))"
    case $1 in
        flat) echo "level1.latents=$2 level1.k=32 level2.latents=0 gate.kind=none loss.consistency=none" ;;
        matryoshka) echo "$two level1.k=20 level2.k=12 gate.kind=none loss.consistency=none budget=shared" ;;
        default) echo "$two level1.k=12.8 level2.k=19.2 gate.root_below=0.5 gate.reassign_every=250 gate.freeze=0.9 loss.consistency=none revive.reseed=true" ;;
        language) echo "$two" ;;
        # A quarter of the latents in level 1.
        language-wide) echo "level1.latents=$(($2 / 4)) level2.latents=$(($2 - $2 / 4))" ;;
        # As `--preset language-pruned`.
        flat-pruned) echo "$(settings flat "$2") train.prune=0.6 level1.prune=1.5" ;;
        language-pruned) echo "$two train.prune=0.6 level1.prune=1.5 level2.prune=1.5" ;;
        random-decoder) echo "$two train.freeze=decoder" ;;
        random-encoder) echo "$two train.freeze=encoder" ;;
        *) echo "KINDS: expected flat, matryoshka, default, language, language-wide, flat-pruned, language-pruned, random-decoder or random-encoder, found $1" >&2; exit 2 ;;
    esac
}
