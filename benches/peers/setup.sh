#!/bin/sh
# Makes the environment of the peers in the folder $1: pinned packages from PyPI, about 0.7 GB to fetch and 2.5 GB on disk.
# Does nothing if it is there already. Needs Python 3.11 or newer and, on Linux, a C compiler and nm.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
venv=$1
if [ -e "$venv/ready" ] && cmp -s "$here/requirements.txt" "$venv/ready"; then exit 0; fi
rm -rf "$venv"
"${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps -r "$here/requirements.txt"
if [ "$(uname -s)" = Linux ]; then "$here/without_cuda.sh" "$venv"; fi
"$venv/bin/python" -c 'import torch, sae_lens, transformers'
cp "$here/requirements.txt" "$venv/ready"
