#!/bin/sh
# Compares the functions and structs of strata.h with those that programs have been compiled against (strata.abi): names,
# arguments, types, sizes, offsets. A library of empty functions is compared in place of the real one, since the contents of the
# opaque types are not part of the ABI. Additions are compatible; --write adds them to strata.abi, for a release that extends the
# ABI, never to silence a failure. Needs gcc and abidiff (abigail-tools). usage: ffi/abi.sh [--write]
set -eu
cd "$(dirname "$0")"
command -v abidiff >/dev/null || { echo "abi: no abidiff (abigail-tools): strata.h was not compared with strata.abi"; exit 0; }
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
{
    echo '#include <strata.h>'
    gcc -E -P include/strata.h | tr '\n' ' ' | sed 's/;/;\n/g' | grep -E '^ *(const )?[a-z0-9_]+ \*?strata_[a-z0-9_]+\(.*\);$' |
        sed 's/);$/) { __builtin_trap(); }/'
} >"$out/empty.c"
gcc -g -w -fPIC -shared -Wl,-soname,libstrata.so.1 -Iinclude "$out/empty.c" -o "$out/libstrata.so"
nm -D --defined-only "$out/libstrata.so" | awk '$2 == "T" {print $3}' | LC_ALL=C sort | diff exports.txt - ||
    { echo "abi: strata.h declares other functions than exports.txt says" >&2; exit 1; }
if [ "${1-}" = --write ]; then
    abidw --no-corpus-path --no-comp-dir-path --no-show-locs --no-elf-needed --out-file strata.abi "$out/libstrata.so"
    sed -i "s|path='[^']*/empty.c'|path='empty.c'|" strata.abi
else
    abidiff --no-added-syms --harmless strata.abi "$out/libstrata.so" ||
        { echo "abi: strata.h breaks programs that were compiled against strata.abi" >&2; exit 1; }
    echo "abi ok"
fi
