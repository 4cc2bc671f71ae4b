#!/usr/bin/env bash
# Install requirements files into the active virtual environment, else into .venv; nothing is done twice.
#
#   bash scripts/install.sh requirements.txt [more.txt …]
#   TORCH_INDEX_URL=https://… bash scripts/install.sh requirements.txt    # where to take torch from
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -z "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] && [ ! -x .venv/bin/python ]; then
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        echo "Python 3.11 or newer is needed, this is $(python3 -V). Install one, and make it python3 or a virtual environment." >&2
        exit 1
    }
    python3 -m venv .venv
fi
. scripts/environment.sh
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "Python 3.11 or newer is needed, this environment has $("$PYTHON" -V). Make one with a newer Python." >&2
    exit 1
}

stamp=$("$PYTHON" -c 'import sys; print(sys.prefix)')/.chinese-vicuna-installed
wanted=$(pwd; cat pyproject.toml "$@")
if [ -f "$stamp" ] && grep -qF "$(printf %s "$wanted" | cksum)" "$stamp"; then exit 0; fi

torch=$(grep -h '^torch==' requirements.txt)
if ! "$PYTHON" -c 'import torch' 2>/dev/null && ! nvidia-smi >/dev/null 2>&1; then
    # Without a GPU the CPU build is a tenth of the size; many mirrors offer it already, PyTorch's index always does.
    if [ -z "${TORCH_INDEX_URL:-}" ] && "$PYTHON" -m pip install --quiet --no-deps --dry-run --report - "$torch" 2>/dev/null | grep -qF '+cpu'; then
        "$PYTHON" -m pip install --quiet --no-deps "$torch"
    else
        "$PYTHON" -m pip install --quiet --no-deps --index-url "${TORCH_INDEX_URL:-https://download.pytorch.org/whl/cpu}" "$torch"
    fi
fi
for file in "$@"; do
    echo "installing $file …"
    "$PYTHON" -m pip install --quiet --disable-pip-version-check -r "$file"
done
printf %s "$wanted" | cksum >>"$stamp"
