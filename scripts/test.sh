#!/usr/bin/env bash
# Sets up .venv and runs lint, types and the test suite. Arguments go to pytest:
# scripts/test.sh tests/zoo, or scripts/test.sh -m slow.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/_environment.sh"

prepare_environment test
bin=.venv/bin
echo "Lint"
"$bin/ruff" check .
"$bin/ruff" format --check .
echo "Types"
"$bin/mypy"
echo "Tests"
"$bin/python" -m pytest "$@"
