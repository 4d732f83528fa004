#!/usr/bin/env bash
# Runs a selection of the tests with the lowest versions that setup.cfg allows, in an
# environment of its own, build/lowest. About ten minutes on two free cores, and 3 GB.
# Arguments go to pytest in the place of the selection.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/_environment.sh"

folder=build/lowest
python="$(find_python)"
mkdir -p "$folder"
# "keras >= 3.15" of install_requires becomes "keras==3.15", one a line.
"$python" - >"$folder/constraints.txt" <<'PYTHON'
import configparser

settings = configparser.ConfigParser()
settings.read("setup.cfg")
for line in settings["options"]["install_requires"].splitlines():
    requirement = line.partition("#")[0].replace(" ", "")
    if ">=" in requirement:
        print(requirement.replace(">=", "=="))
PYTHON
cat "$folder/constraints.txt"
[[ -x "$folder/venv/bin/python" ]] || "$python" -m venv "$folder/venv"
bin="$folder/venv/bin"
"$bin/python" -m pip install --quiet --disable-pip-version-check \
    --constraint "$folder/constraints.txt" --editable . pytest hypothesis jsonschema ||
    fail "the lowest versions cannot be installed together"
if (($# == 0)); then
    set -- tests/test_package.py tests/test_constraints.py tests/test_criteria.py \
        tests/test_finalize.py tests/structure/test_edits.py tests/export/test_tflite.py \
        tests/quantization/test_prepare.py tests/callbacks/test_contract.py \
        -k "not contract or one_fit"
fi
"$bin/python" -m pytest -p no:cacheprovider "$@"
