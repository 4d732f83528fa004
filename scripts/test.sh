#!/usr/bin/env bash
# Sets up .venv and runs lint, types, the build of the site and the test suite.
# Arguments go to pytest: scripts/test.sh tests/zoo, or scripts/test.sh -m slow.
# While at work: scripts/test.sh --quick, at most two minutes on two free cores.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/_environment.sh"

prepare_environment test
bin=.venv/bin
echo "Lint"
"$bin/ruff" check .
"$bin/ruff" format --check .
echo "Types"
"$bin/mypy"
if [[ "${1:-}" == --quick ]]; then
    # What most changes break: package, arithmetic, structure, one run of each method.
    echo "Quick tests"
    exec "$bin/python" -m pytest --numprocesses=auto --maxprocesses=4 --dist=worksteal \
        tests/test_package.py tests/test_schedules.py tests/test_constraints.py \
        tests/test_policy.py tests/test_criteria.py tests/test_finalize.py \
        tests/ops/test_binary.py tests/cost tests/structure/test_edits.py \
        tests/structure/test_facts.py tests/callbacks/test_contract.py \
        -k "not contract or one_fit" "${@:2}"
fi
echo "Documentation"
# The variable silences an announcement of the theme.
NO_MKDOCS_2_WARNING=1 "$bin/mkdocs" build --strict
# Reports are checked for barriers with axe-core in Chromium, where both can be had.
if command -v npm >/dev/null && [[ ! -e node_modules/axe-core ]]; then
    npm install --no-save --no-package-lock --silent axe-core >/dev/null 2>&1 || true
fi
echo "Tests"
# A process a core, up to four: each takes about 2 GB of memory.
"$bin/python" -m pytest --numprocesses=auto --maxprocesses=4 --dist=worksteal "$@"
if (($# == 0)); then
    echo "Tests on JAX"
    KERAS_BACKEND=jax JAX_PLATFORMS=cpu "$bin/python" -m pytest \
        --numprocesses=auto --maxprocesses=4 --dist=worksteal \
        tests/callbacks/test_contract.py tests/callbacks/test_backends.py \
        tests/ops/test_drum_on_backends.py tests/quantization/test_on_backends.py \
        tests/training/test_stream_on_backends.py tests/callbacks/test_progress.py \
        -k "one_fit or second_fit or works_on_a_part or shrinking_resumes or backends \
            or gives_nothing_back"
fi
