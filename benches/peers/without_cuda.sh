#!/bin/sh
# The torch of PyPI links CUDA libraries of 2.5 GB that a CPU never calls. In their place goes one small library that has
# every name torch asks of them, each a function that returns an error; torch then finds no GPU. $1: the environment.
# The runtime of CUDA and its profiler are small and stay the real ones.
set -eu
lib=$(echo "$1"/lib/python3*/site-packages/torch/lib)
made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT
[ -e "$lib/libtorch_cuda.so" ] || exit 0

# name@version of all that is asked for
nm -D --undefined-only "$lib"/libtorch_cuda.so "$lib"/libtorch_nvshmem.so "$lib"/libtorch_python.so |
    awk '{ print $2 }' | sort -u | grep -E '^(cublas|cudnn|cufft|cusparse|cuFile|p?nccl|nvrtc|nvshmem)' > "$made/names"
awk -F@ '{ print "int " $1 "(void) { return 1; }" }' "$made/names" > "$made/none.c"
awk -F@ 'NF > 1 { of[$2] = of[$2] $1 "; " } END { for (v in of) print v " { " of[v] "};" }' "$made/names" > "$made/none.map"
"${CC:-cc}" -w -fno-builtin -shared -fPIC -Wl,--version-script="$made/none.map" -o "$made/none.so" "$made/none.c"

# every library that torch names and the environment lacks
for needed in $(readelf -d "$lib"/libtorch_cuda.so "$lib"/libtorch_nvshmem.so "$lib"/libtorch_python.so |
    sed -n 's/.*NEEDED.*\[\(lib\(cu\|nccl\|nv\)[^]]*\)\]/\1/p' | sort -u); do
    case $needed in libcudart.*|libcupti.*) ;; *) cp "$made/none.so" "$lib/$needed" ;; esac
done
