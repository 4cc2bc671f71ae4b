#!/usr/bin/env bash
# Install what scoring by benchmarks and against references needs: lm-eval, sacrebleu and rouge-score (half a minute).
#
#   bash scripts/install_eval.sh             # --verify and --newest as in scripts/install.sh
set -euo pipefail
cd "$(dirname "$0")/.."

bash scripts/install.sh "$@" requirements.txt
# Without what they ask for beyond requirements_eval.txt, which is larger than everything else.
bash scripts/install.sh "$@" --no-deps requirements_eval.txt
