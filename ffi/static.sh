#!/bin/sh
# Makes a static library of one object whose only global symbols are those of exports.txt: what Rust's standard library
# defines beside them would clash with another Rust library in the same program. Linux, gcc, binutils.
# usage: ffi/static.sh IN.a OUT.a
set -eu
[ $# = 2 ] || { echo "usage: ffi/static.sh IN.a OUT.a" >&2; exit 2; }
case $1 in /*) in=$1 ;; *) in=$PWD/$1 ;; esac
case $2 in /*) out=$2 ;; *) out=$PWD/$2 ;; esac
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Keep only what the exported functions reach. Groups of sections are merged, since a group whose name becomes local
# could no longer be told from that of another library. Without the compiler's plugin, which reads the bitcode of one LLVM.
# shellcheck disable=SC2046
gcc -r -nostdlib -fno-lto -fno-use-linker-plugin -Wl,--gc-sections -Wl,--force-group-allocation \
    $(sed 's/^/-Wl,--undefined=/' exports.txt) "$in" -o "$work/strata.o"
objcopy --keep-global-symbols=exports.txt --strip-debug --remove-section='.llvmbc*' --remove-section='.llvmcmd*' "$work/strata.o"
rm -f "$out"
ar rcsD "$out" "$work/strata.o"
