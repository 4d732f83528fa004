#!/usr/bin/env bash
# Builds sdist and wheel, and tries them in a clean environment, build/wheel: first
# without a C++ compiler, then with one. About five minutes on two free cores, and 3 GB.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/_environment.sh"

folder=build/wheel
rm -rf "$folder"
mkdir -p "$folder"
python="$(find_python)"
"$python" -m venv "$folder/venv"
bin="$PWD/$folder/venv/bin"
pip() { "$bin/python" -m pip --disable-pip-version-check "$@"; }
attempt() { (cd "$folder" && "$bin/python" ../../scripts/try_installation.py "$1"); }

echo "Building"
pip install --quiet build
"$bin/python" -m build --outdir "$folder/dist" . >"$folder/build.log" 2>&1 ||
    fail "$(tail -n 20 "$folder/build.log")"
ls "$folder/dist"

echo "The wheel, built where there was no TensorFlow"
pip install --quiet "$folder"/dist/*.whl
attempt tensorflow

again() { pip install --quiet --no-deps --force-reinstall --no-cache-dir "$@"; }
echo "The sdist, without a compiler"
CXX=no-compiler again "$folder"/dist/*.tar.gz
attempt tensorflow
echo "The sdist, with a compiler and TensorFlow"
again "$folder"/dist/*.tar.gz
attempt c++
