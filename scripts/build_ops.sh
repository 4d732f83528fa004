#!/usr/bin/env bash
# Compiles the DRUM operation for the TensorFlow of the environment: the one in
# .venv, or that of PYTHON. Another compiler than the first found: CXX=clang++.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/_environment.sh"

if [[ -z "${PYTHON:-}" ]]; then
    prepare_environment
    PYTHON=.venv/bin/python
fi
"$PYTHON" tfcompress/ops/_build.py "$@"
