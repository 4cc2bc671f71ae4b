#!/usr/bin/env bash
# Install what quantising by GPTQ and AWQ needs, and opening what it made: GPTQModel and optimum (under a minute; a
# part of it is compiled, so a C compiler is needed).
#
#   bash scripts/install_gptq.sh             # --verify and --newest as in scripts/install.sh
set -euo pipefail
cd "$(dirname "$0")/.."

bash scripts/install.sh "$@" requirements.txt
# Its requirements name one old numpy, which would take the place of the one that everything else here is tested with;
# and built by itself it would take another torch for that.
bash scripts/install.sh "$@" --no-deps --no-build-isolation requirements_gptq.txt
