#!/usr/bin/env bash
# Install requirements files into the active virtual environment, else into .venv; nothing is done twice.
#
#   bash scripts/install.sh requirements.txt [more.txt …]
#   TORCH_INDEX_URL=https://… bash scripts/install.sh requirements.txt    # where to take torch from
set -euo pipefail
cd "$(dirname "$0")/.."

new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        echo "Python 3.11 or newer is needed, $1 is $("$1" -V). Install one, or activate an environment that has it." >&2
        exit 1
    }
}
if [ -z "${PYTHON:-}${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] && [ ! -x .venv/bin/python ]; then
    new_enough python3
    python3 -m venv .venv
fi
. scripts/environment.sh
new_enough "$PYTHON"
pip() { "$PYTHON" -m pip --quiet --disable-pip-version-check "$@"; }

has_gpu() { nvidia-smi >/dev/null 2>&1; }
has_torch() { "$PYTHON" -c 'import importlib.util as u, sys; sys.exit(u.find_spec("torch") is None)'; }
torch=$(grep -h '^torch==' requirements.txt)
if ! has_gpu && ! has_torch; then
    # The CPU build is a tenth of the size. Some indexes offer it themselves, PyTorch's own always does.
    echo "installing $torch for the CPU …"
    if [ -z "${TORCH_INDEX_URL:-}" ] && pip install --no-deps --dry-run --report - "$torch" 2>/dev/null | grep -qF '+cpu'; then
        pip install "$torch"
    else
        pip install --index-url "${TORCH_INDEX_URL:-https://download.pytorch.org/whl/cpu}" "$torch"
    fi
fi

stamps=$("$PYTHON" -c 'import sys; print(sys.prefix)')/.chinese-vicuna-installed
for file in "$@"; do
    stamp=$(pwd | cat - pyproject.toml "$file" | cksum)
    if [ -f "$stamps" ] && grep -qxF "$stamp" "$stamps"; then continue; fi
    echo "installing $file …"
    pip install -r "$file"
    echo "$stamp" >>"$stamps"
done
