#!/bin/sh
# Installs Strata into a tree, moves the tree, and builds and runs every example from there as its reader would: C and
# C++ by pkg-config and by CMake, shared and static, strata.hpp in both styles, Python with numpy.
# usage: ffi/examples/check.sh      after `cargo build --release -p strata-sae-ffi`; called by ffi/check.sh
# CMake and numpy that are not there are fetched from PyPI into target/examples; with STRATA_OFFLINE=1 their parts are left out.
set -eu
cd "$(dirname "$0")"
target=${CARGO_TARGET_DIR:-../../target}
mkdir -p "$target"
target=$(realpath "$target")
golden=$(realpath ../../tests/golden/sae)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
strict="-Wall -Wextra -Werror -pedantic"
fail() { echo "examples: $*" >&2; exit 1; }

CARGO_TARGET_DIR=$target ../install.sh "$work/first"
mv "$work/first" "$work/tree"
tree=$work/tree

# Runs a program on the golden model; what it prints is the same in every language.
check() {
    LD_LIBRARY_PATH=$tree/lib "$@" "$golden" >"$work/printed" || fail "$* failed"
    diff minimal.expected "$work/printed" || fail "$*: not what minimal.expected says"
}
valgrind() {
    command valgrind -q --leak-check=full --show-leak-kinds="$kinds" --errors-for-leak-kinds="$kinds" --error-exitcode=9 "$@"
}

command -v pkg-config >/dev/null || fail "pkg-config is missing"
config() { PKG_CONFIG_PATH=$tree/lib/pkgconfig pkg-config "$@" strata; }
gcc -std=c99 $strict minimal.c $(config --cflags --libs) -o "$work/c"
gcc -std=c99 $strict minimal.c $(config --cflags --static --libs | sed 's/-lstrata/-l:libstrata.a/') -o "$work/c_static"
g++ -std=c++17 $strict minimal.cpp $(config --cflags --libs) -o "$work/cpp"
g++ -std=c++17 $strict owners.cpp $(config --cflags --libs) -o "$work/throwing"
g++ -std=c++17 $strict -DSTRATA_NO_EXCEPTIONS -fno-exceptions owners.cpp $(config --cflags --libs) -o "$work/returning"
check "$work/c"
check "$work/c_static"
check "$work/cpp"
for style in throwing returning; do
    LD_LIBRARY_PATH=$tree/lib "$work/$style" "$golden" "$work/dump-$style" "$golden/../heads.safetensors" || fail "strata.hpp, $style"
done
# The blocks of the README, which are whole programs.
block() { sed -n "/^\`\`\`$1\$/,/^\`\`\`\$/p" ../../README.md | sed '/^```/d'; }
ln -s "$golden" "$work/run"
block c >"$work/readme.c"
block cpp >"$work/readme.cpp"
gcc -std=c99 $strict "$work/readme.c" $(config --cflags --libs) -o "$work/readme_c"
g++ -std=c++17 $strict "$work/readme.cpp" $(config --cflags --libs) -o "$work/readme_cpp"
printed=$(cd "$work" && LD_LIBRARY_PATH=$tree/lib ./readme_c) || fail "the README: the program in C: $printed"
printed=$(cd "$work" && LD_LIBRARY_PATH=$tree/lib ./readme_cpp) || fail "the README: the program in C++"
[ "$(echo $printed)" = "parent 3 = 0.7951 parent 4 = 0.748905" ] || fail "the README: the program in C++ prints $printed"
if command -v valgrind >/dev/null; then
    kinds=definite,indirect,possible
    check valgrind "$work/cpp"
    kinds=definite,indirect # the queues of a thread pool have memory that stays the process's, reachable by tagged pointers
    LD_LIBRARY_PATH=$tree/lib valgrind "$work/throwing" "$golden" "$work/dump-valgrind" "$golden/../heads.safetensors" || fail "valgrind: strata.hpp"
fi

venv=$target/examples
if [ "${STRATA_OFFLINE-}" = 1 ]; then
    echo "examples: STRATA_OFFLINE: CMake and Python were left out"
else
    command -v python3 >/dev/null || fail "python3 is missing"
    [ -x "$venv/bin/cmake" ] || { python3 -m venv "$venv" && "$venv/bin/pip" install -q --disable-pip-version-check cmake==4.4.5 numpy; } ||
        fail "cmake and numpy cannot be had from PyPI; STRATA_OFFLINE=1 leaves their parts out"
    "$venv/bin/cmake" -S cmake -B "$work/cmake" -DCMAKE_PREFIX_PATH="$tree" >"$work/log" 2>&1 &&
        "$venv/bin/cmake" --build "$work/cmake" >>"$work/log" 2>&1 || { cat "$work/log" >&2; fail "the CMake consumer does not build"; }
    check "$work/cmake/minimal_c"
    check "$work/cmake/minimal_cpp"
    check "$venv/bin/python" minimal.py
fi
version=$(sed -n 's/^version = "\(.*\)"/\1/p' ../../Cargo.toml | head -1)
[ "$(config --modversion)" = "$version" ] && grep -q "PACKAGE_VERSION \"$version\"" ../cmake/strata-config-version.cmake ||
    fail "strata.pc or strata-config-version.cmake have another version than Cargo.toml, $version"
echo "examples ok"
