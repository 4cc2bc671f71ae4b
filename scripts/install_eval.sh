#!/usr/bin/env bash
# Install what scoring by benchmarks and against references needs: lm-eval, sacrebleu and rouge-score (half a minute).
#
#   bash scripts/install_eval.sh
set -euo pipefail
cd "$(dirname "$0")/.."

bash scripts/install.sh requirements.txt
. scripts/environment.sh

# Without what they ask for beyond requirements_eval.txt, which is larger than everything else.
stamp=$(cksum requirements_eval.txt)
installed=$("$PYTHON" -c 'import sys; print(sys.prefix)')/.chinese-vicuna-eval
if [ "$(cat "$installed" 2>/dev/null)" != "$stamp" ]; then
    echo "installing requirements_eval.txt …"
    "$PYTHON" -m pip --quiet --disable-pip-version-check install --no-deps -r requirements_eval.txt
    echo "$stamp" >"$installed"
fi
