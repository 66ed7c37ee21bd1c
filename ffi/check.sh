#!/bin/sh
# What only C can check, on Linux (CI): the exported symbols, the layout, the ABI against the committed one, the size, and
# the programs against .so and .a, as C99 and C++17, under valgrind where there is one. usage: ffi/check.sh
set -eu
cd "$(dirname "$0")"
for tool in gcc g++ nm strip; do command -v $tool >/dev/null || { echo "ffi: $tool is missing" >&2; exit 1; }; done
cargo build --locked --release -p strata-ffi
lib=${CARGO_TARGET_DIR:-../target}/release
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
system="-lgcc_s -lutil -lrt -lpthread -lm -ldl -lc"
strict="-Wall -Wextra -Werror -pedantic -Iinclude"
memcheck="valgrind -q --leak-check=full --errors-for-leak-kinds=definite,indirect,possible --error-exitcode=9"

nm -D --defined-only "$lib/libstrata.so" | awk '{print $3}' | LC_ALL=C sort | diff exports.txt - ||
    { echo "ffi: libstrata.so exports other symbols than exports.txt says" >&2; exit 1; }
./abi.sh
strip --strip-unneeded -o "$out/stripped.so" "$lib/libstrata.so"
size=$(stat -c %s "$out/stripped.so")
[ "$size" -lt $((2 << 20)) ] || { echo "ffi: libstrata.so, stripped: expected less than 2 MiB, found $size bytes" >&2; exit 1; }

ln -s "$(realpath "$lib/libstrata.so")" "$out/libstrata.so.1" # its soname
gcc -std=c11 $strict ../tests/c/layout.c "$out/libstrata.so.1" -o "$out/layout"
LD_LIBRARY_PATH=$out "$out/layout"
gcc -std=c99 $strict examples/minimal.c "$out/libstrata.so.1" -o "$out/shared"
gcc -std=c99 $strict examples/minimal.c "$lib/libstrata.a" $system -o "$out/static"
gcc -std=c99 -g $strict ../tests/c/hostile.c "$lib/libstrata.a" $system -o "$out/hostile"
gcc -std=c99 -g $strict ../tests/c/threads.c "$lib/libstrata.a" $system -o "$out/threads"
printf '#include <strata.h>\nint main() { return strata_abi_version() != STRATA_ABI_VERSION; }\n' >"$out/cpp.cpp"
g++ -std=c++17 $strict "$out/cpp.cpp" "$lib/libstrata.a" $system -o "$out/cpp"
"$out/cpp"
"$out/hostile" ../tests/golden/sae
"$out/threads" ../tests/golden/sae

check() {
    LD_LIBRARY_PATH=$out "$@" ../tests/golden/sae >"$out/printed" || { echo "ffi: $* failed" >&2; exit 1; }
    diff examples/minimal.expected "$out/printed" || { echo "ffi: $*: not what examples/minimal.expected says" >&2; exit 1; }
}
check "$out/shared"
check "$out/static"
if command -v valgrind >/dev/null; then
    check $memcheck "$out/static"
    $memcheck "$out/hostile" ../tests/golden/sae
else
    echo "ffi: no valgrind: leaks and bad accesses were not looked for"
fi
examples/check.sh
echo "ffi ok: $size bytes stripped"
