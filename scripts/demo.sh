#!/usr/bin/env bash
# Sets up .venv and runs the quickstart: a network is pruned while it trains,
# shrunk, exported and reported. Arguments go to recipes/quickstart.py.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/_environment.sh"

prepare_environment
.venv/bin/python recipes/quickstart.py "$@"
