#!/usr/bin/env bash
# Install what quantising by GPTQ and AWQ needs, and opening what it made: GPTQModel and optimum (under a minute; a
# part of it is compiled, so a C compiler is needed).
#
#   bash scripts/install_gptq.sh
set -euo pipefail
cd "$(dirname "$0")/.."

bash scripts/install.sh requirements.txt
. scripts/environment.sh

# Its requirements name one old numpy, which would take the place of the one that everything else here is tested with.
stamp=$(cksum requirements_gptq.txt)
installed=$("$PYTHON" -c 'import sys; print(sys.prefix)')/.chinese-vicuna-gptq
if [ "$(cat "$installed" 2>/dev/null)" != "$stamp" ]; then
    echo "installing requirements_gptq.txt …"
    pip() { "$PYTHON" -m pip --quiet --disable-pip-version-check "$@"; }
    pip install 'setuptools>=77' wheel # what it is built with; it would take another torch for that by itself
    pip install --no-deps --no-build-isolation -r requirements_gptq.txt
    echo "$stamp" >"$installed"
fi
