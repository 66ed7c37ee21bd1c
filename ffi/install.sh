#!/bin/sh
# Installs the libraries, headers, pkg-config and CMake files under a prefix, on Linux; the tree can be moved afterwards.
# usage: ffi/install.sh PREFIX     after `cargo build --release -p strata-sae-ffi`; DESTDIR is put in front of PREFIX
#
#   include/strata.h, strata.hpp
#   lib/libstrata.so -> libstrata.so.1, libstrata.a
#   lib/pkgconfig/strata.pc
#   lib/cmake/strata/strata-config.cmake, strata-config-version.cmake
set -eu
[ $# = 1 ] || { echo "usage: ffi/install.sh PREFIX" >&2; exit 2; }
prefix=${DESTDIR-}$1
case $prefix in /*) ;; *) prefix=$PWD/$prefix ;; esac
target=${CARGO_TARGET_DIR:-$(dirname "$0")/../target}
case $target in /*) ;; *) target=$PWD/$target ;; esac
cd "$(dirname "$0")"
for file in libstrata.so libstrata.a; do
    [ -f "$target/release/$file" ] || { echo "install: $target/release/$file is missing: cargo build --release -p strata-sae-ffi" >&2; exit 1; }
done
install -d "$prefix/include" "$prefix/lib/pkgconfig" "$prefix/lib/cmake/strata"
install -m 644 include/strata.h include/strata.hpp "$prefix/include"
./static.sh "$target/release/libstrata.a" "$prefix/lib/libstrata.a"
chmod 644 "$prefix/lib/libstrata.a"
install -m 755 "$target/release/libstrata.so" "$prefix/lib/libstrata.so.1"
strip --strip-unneeded "$prefix/lib/libstrata.so.1"
ln -sf libstrata.so.1 "$prefix/lib/libstrata.so"
install -m 644 strata.pc "$prefix/lib/pkgconfig"
install -m 644 cmake/strata-config.cmake cmake/strata-config-version.cmake "$prefix/lib/cmake/strata"
