#!/bin/sh
# What only C can check, on Linux (CI): the exported symbols, the layout, and the example against .so and .a, as C99
# and C++17, under valgrind where there is one. usage: ffi/check.sh
set -eu
cd "$(dirname "$0")"
for tool in gcc g++ nm; do command -v $tool >/dev/null || { echo "ffi: $tool is missing" >&2; exit 1; }; done
cargo build --locked --release -p strata-ffi
lib=${CARGO_TARGET_DIR:-../target}/release
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
system="-lgcc_s -lutil -lrt -lpthread -lm -ldl -lc"
strict="-Wall -Wextra -Werror -pedantic -Iinclude"

nm -D --defined-only "$lib/libstrata.so" | awk '{print $3}' | LC_ALL=C sort | diff exports.txt - ||
    { echo "ffi: libstrata.so exports other symbols than exports.txt says" >&2; exit 1; }

ln -s "$(realpath "$lib/libstrata.so")" "$out/libstrata.so.1" # its soname
gcc -std=c11 $strict examples/layout.c "$out/libstrata.so.1" -o "$out/layout"
LD_LIBRARY_PATH=$out "$out/layout"
gcc -std=c99 $strict examples/minimal.c "$out/libstrata.so.1" -o "$out/shared"
gcc -std=c99 $strict examples/minimal.c "$lib/libstrata.a" $system -o "$out/static"
printf '#include <strata.h>\nint main() { return strata_abi_version() != STRATA_ABI_VERSION; }\n' >"$out/cpp.cpp"
g++ -std=c++17 $strict "$out/cpp.cpp" "$lib/libstrata.a" $system -o "$out/cpp"
"$out/cpp"

check() {
    LD_LIBRARY_PATH=$out "$@" ../tests/golden/sae >"$out/printed" || { echo "ffi: $* failed" >&2; exit 1; }
    diff examples/minimal.expected "$out/printed" || { echo "ffi: $*: not what examples/minimal.expected says" >&2; exit 1; }
}
check "$out/shared"
check "$out/static"
if command -v valgrind >/dev/null; then
    check valgrind -q --leak-check=full --errors-for-leak-kinds=definite,indirect,possible --error-exitcode=9 "$out/static"
else
    echo "ffi: no valgrind: leaks and bad accesses were not looked for"
fi
examples/check.sh
echo "ffi ok"
