#!/bin/sh
# What only C can check, on Linux (CI): the exported symbols, the layout, the ABI against the committed one, the size, and
# the programs against .so and .a, as C99 and C++17, under valgrind where there is one. usage: ffi/check.sh
set -eu
cd "$(dirname "$0")"
for tool in gcc g++ nm strip objcopy; do command -v $tool >/dev/null || { echo "ffi: $tool is missing" >&2; exit 1; }; done
cargo build --locked --release -p strata-sae-ffi
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
./static.sh "$lib/libstrata.a" "$out/libstrata.a"
nm -g --defined-only "$out/libstrata.a" | awk 'NF == 3 {print $3}' | LC_ALL=C sort | diff exports.txt - ||
    { echo "ffi: libstrata.a, as it is installed, defines other symbols than exports.txt says" >&2; exit 1; }
size=$(stat -c %s "$out/libstrata.a")
[ "$size" -lt $((20 << 20)) ] || { echo "ffi: libstrata.a, as it is installed: expected less than 20 MiB, found $size bytes" >&2; exit 1; }
size=$(stat -c %s "$out/stripped.so")
# The readers of a dozen formats take 0.5 MB of the limit, watch-lists and heads 0.1 MB.
[ "$size" -lt $((5 << 19)) ] || { echo "ffi: libstrata.so, stripped: expected less than 2.5 MiB, found $size bytes" >&2; exit 1; }
# A build without the feature `cuda` has none of the code for devices: neither the names of kernels nor the sentences about models.
for word in rows_in_order product_above 'on a GPU yet'; do
    ! grep -aq "$word" "$out/stripped.so" || { echo "ffi: libstrata.so without the feature cuda has \`$word\` in it" >&2; exit 1; }
done

ln -s "$(realpath "$lib/libstrata.so")" "$out/libstrata.so.1" # its soname
gcc -std=c11 $strict ../tests/c/layout.c "$out/libstrata.so.1" -o "$out/layout"
LD_LIBRARY_PATH=$out "$out/layout"
gcc -std=c99 $strict examples/minimal.c "$out/libstrata.so.1" -o "$out/shared"
gcc -std=c99 $strict examples/minimal.c "$lib/libstrata.a" $system -o "$out/whole"
gcc -std=c99 $strict examples/minimal.c "$out/libstrata.a" $system -o "$out/static"
gcc -std=c99 $strict examples/watch.c "$out/libstrata.so.1" -o "$out/watch"
gcc -std=c99 $strict examples/watch_rows.c "$out/libstrata.so.1" -o "$out/watch_rows"
gcc -std=c99 $strict examples/watch.c "$out/libstrata.a" $system -o "$out/watch_static"
for program in hostile threads leave limits stack; do
    gcc -std=c99 -g $strict ../tests/c/$program.c "$out/libstrata.a" $system -o "$out/$program"
done
gcc -std=c99 $strict -shared -fPIC ../tests/c/nomap.c -ldl -o "$out/nomap.so"
rustc --edition 2024 --crate-type staticlib -O -C lto=fat -C panic=unwind ../tests/c/other.rs -o "$out/libother.a"
gcc -std=c99 $strict ../tests/c/two.c "$out/libstrata.a" "$out/libother.a" $system -o "$out/two"
printf '#include <strata.h>\nint main() { return strata_abi_version() != STRATA_ABI_VERSION; }\n' >"$out/cpp.cpp"
g++ -std=c++17 $strict "$out/cpp.cpp" "$lib/libstrata.a" $system -o "$out/cpp"
"$out/cpp"
"$out/hostile" ../tests/golden/sae ../tests/golden/heads.safetensors
"$out/threads" ../tests/golden/sae
"$out/leave" ../tests/golden/sae
"$out/limits" ../tests/golden/sae "$out"
"$out/stack" 32768
"$out/two"

check() {
    LD_LIBRARY_PATH=$out "$@" ../tests/golden/sae >"$out/printed" || { echo "ffi: $* failed" >&2; exit 1; }
    diff examples/minimal.expected "$out/printed" || { echo "ffi: $*: not what examples/minimal.expected says" >&2; exit 1; }
}
watched() {
    LD_LIBRARY_PATH=$out "$@" ../tests/golden/sae ../tests/golden/heads.safetensors >"$out/printed" ||
        { echo "ffi: $* failed" >&2; exit 1; }
    diff examples/watch.expected "$out/printed" || { echo "ffi: $*: not what examples/watch.expected says" >&2; exit 1; }
}
watched "$out/watch"
watched "$out/watch_static"
watched_rows() { # rows of ones and of twos, as float
    for number in '\0\0\200\077' '\0\0\0\100'; do printf "$number$number$number$number$number$number"; done >"$out/rows"
    LD_LIBRARY_PATH=$out "$@" ../tests/golden/sae "$out/rows" >"$out/printed" ||
        { echo "ffi: $* failed" >&2; exit 1; }
    diff examples/watch_rows.expected "$out/printed" || { echo "ffi: $*: not what examples/watch_rows.expected says" >&2; exit 1; }
}
watched_rows "$out/watch_rows"
check "$out/shared"
check "$out/static"
check "$out/whole"
# File systems that have no shared maps, and those that have no maps at all.
for maps in shared all; do NOMAP=$maps LD_PRELOAD=$out/nomap.so check "$out/static"; done
if command -v valgrind >/dev/null; then
    check $memcheck "$out/static"
    watched $memcheck "$out/watch_static"
    watched_rows $memcheck "$out/watch_rows"
    $memcheck "$out/hostile" ../tests/golden/sae ../tests/golden/heads.safetensors
else
    echo "ffi: no valgrind: leaks and bad accesses were not looked for"
fi
examples/check.sh
echo "ffi ok: $size bytes stripped"
