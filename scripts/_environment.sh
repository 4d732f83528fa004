# Sourced by the other scripts: a virtual environment in .venv with the package.
# shellcheck shell=bash

cd "$(dirname "${BASH_SOURCE[0]}")/.."
export TF_CPP_MIN_LOG_LEVEL="${TF_CPP_MIN_LOG_LEVEL:-2}"

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

is_recent() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

# Prints the Python to build the environment with.
find_python() {
    local candidate
    if [[ -n "${PYTHON:-}" ]]; then
        is_recent "$PYTHON" || fail "PYTHON=$PYTHON is not a Python of 3.11 or newer"
        printf '%s' "$PYTHON"
        return
    fi
    # The default first: its venv module is the one most likely installed.
    for candidate in python3 python3.13 python3.12 python3.11; do
        if is_recent "$candidate"; then
            printf '%s' "$candidate"
            return
        fi
    done
    fail "no Python of 3.11 or newer found; install one, or name it: PYTHON=… $0"
}

make_venv() {
    local python
    python="$(find_python)"
    "$python" -c 'import ensurepip, venv' 2>/dev/null || fail \
        "$python cannot make virtual environments;" \
        "on Debian and Ubuntu: sudo apt-get install python3-venv"
    echo "Making the virtual environment .venv with $("$python" --version)"
    rm -rf .venv
    "$python" -m venv .venv
}

# What an installation depends on; the path, because it is an editable one.
fingerprint() {
    { pwd && .venv/bin/python --version && cat setup.cfg pyproject.toml; } | cksum
}

# prepare_environment [EXTRA]: installs the package, with an extra, if need be.
prepare_environment() {
    local extra="${1:-}" stamp
    is_recent .venv/bin/python || make_venv
    # An installation with any extra will do for one without.
    for stamp in .venv/installed-${extra:-*}; do
        if [[ -e "$stamp" && "$(<"$stamp")" == "$(fingerprint)" ]]; then
            return
        fi
    done
    stamp=".venv/installed-${extra:-plain}"
    echo "Installing tfcompress${extra:+[$extra]} and what it needs into .venv"
    .venv/bin/python -m pip install --disable-pip-version-check \
        --editable ".${extra:+[$extra]}" 2>&1 | tee .venv/install.log |
        sed -un 's/^Collecting \([^ ]*\).*/  \1/p; s/^Installing collected.*/  installing/p' ||
        fail "the installation failed:"$'\n'"$(tail -n 20 .venv/install.log)"
    # TensorFlow was not there yet while the package was built.
    .venv/bin/python tfcompress/ops/_build.py || true
    fingerprint >"$stamp"
}
