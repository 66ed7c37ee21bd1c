#!/bin/sh
# Fetches llama.cpp (in the source package of llama-cpp-python on PyPI), builds it for the CPU, and builds strata-llama
# against it and an installed Strata. What is there already is kept.
# usage: ffi/examples/llama/build.sh      Python 3.10, a C++ compiler; 80 MB to fetch, 4 minutes of one core the first time
#
# All of it lies in LLAMA_CACHE, by default .cache beside this script (not in git):
#   venv/                  Python packages of requirements.txt, cmake and ninja among them
#   llama/, exact/         llama.cpp, installed; exact/ differs in one line: its GELU is computed in float32 and not looked
#                          up in a table of f16, so that rows can be compared closely
#   vendor/                what llama.cpp's own programs are made of and it does not install: cpp-httplib, nlohmann/json, common/
#   strata/, bin/, bin-exact/
set -eu
cd "$(dirname "$0")"
here=$PWD
cache=${LLAMA_CACHE:-$here/.cache}
mkdir -p "$cache"
cache=$(realpath "$cache")
VERSION=0.3.36
JOBS=${JOBS:-2}
say() { echo "build: $*"; }

if ! cmp -s requirements.txt "$cache/venv/requirements.txt"; then
    say "Python packages"
    rm -rf "$cache/venv"
    python3 -m venv "$cache/venv"
    "$cache/venv/bin/pip" install -q --disable-pip-version-check -r requirements.txt
    cp requirements.txt "$cache/venv"
fi
PATH=$cache/venv/bin:$PATH

if [ ! -f "$cache/llama/done-$VERSION" ] || [ ! -d "$cache/vendor" ]; then
    work=$cache/work
    rm -rf "$work" "$cache/llama" "$cache/exact" "$cache/vendor" "$cache/bin" "$cache/bin-exact"
    mkdir -p "$work"
    say "fetching llama-cpp-python $VERSION"
    # --no-binary for this package alone: `:all:` would have pip build the tools that its build asks for.
    pip download -q --disable-pip-version-check --no-deps --no-binary llama-cpp-python -d "$work" "llama-cpp-python==$VERSION"
    tar xzf "$work/llama_cpp_python-$VERSION.tar.gz" -C "$work"
    source=$work/llama_cpp_python-$VERSION/vendor/llama.cpp
    say "building llama.cpp"
    off=
    for option in BUILD_SHARED_LIBS LLAMA_BUILD_IS_DEV LLAMA_BUILD_COMMON LLAMA_BUILD_TESTS LLAMA_BUILD_EXAMPLES \
        LLAMA_BUILD_TOOLS LLAMA_BUILD_SERVER LLAMA_BUILD_APP LLAMA_OPENSSL GGML_OPENMP GGML_LLAMAFILE GGML_CCACHE GGML_NATIVE; do
        off="$off -D$option=OFF"
    done
    # The number and commit would come from the git repository around, which is not llama.cpp's.
    cmake -S "$source" -B "$work/build" -G Ninja -DCMAKE_BUILD_TYPE=Release $off \
        -DLLAMA_BUILD_NUMBER=0 -DLLAMA_BUILD_COMMIT="llama-cpp-python-$VERSION" >"$work/log"
    cmake --build "$work/build" -j "$JOBS" --target llama ggml >>"$work/log"
    cmake --install "$work/build" --prefix "$cache/llama" >>"$work/log"
    say "building it again, without the table"
    grep -q '^#define GGML_GELU_FP16$' "$source/ggml/src/ggml-cpu/vec.h" || { say "there is no table any more" >&2; exit 1; }
    sed -i '/^#define GGML_GELU_FP16$/d' "$source/ggml/src/ggml-cpu/vec.h"
    cmake --build "$work/build" -j "$JOBS" --target llama ggml >>"$work/log"
    cmake --install "$work/build" --prefix "$cache/exact" >>"$work/log"
    mkdir "$cache/vendor"
    cp -R "$source/vendor/cpp-httplib" "$source/vendor/nlohmann" "$source/common" "$cache/vendor"
    rm -rf "$work"
    touch "$cache/llama/done-$VERSION"
fi

say "Strata and the program"
cargo build --locked --release -p strata-sae-ffi
../../install.sh "$cache/strata"
for kind in "llama bin" "exact bin-exact"; do
    set -- $kind
    cmake -S "$here" -B "$cache/$2" -G Ninja -DCMAKE_BUILD_TYPE=Release -DCMAKE_PREFIX_PATH="$cache/strata;$cache/$1" \
        -DLLAMA_VENDOR="$cache/vendor" >/dev/null
    cmake --build "$cache/$2" -j "$JOBS" >"$cache/log" || { cat "$cache/log" >&2; exit 1; }
done
say "$cache/bin/strata-llama"
