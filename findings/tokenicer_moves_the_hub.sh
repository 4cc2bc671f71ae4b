#!/usr/bin/env bash
# With gptqmodel installed, making a LoRA adapter sends every program that is started later to /tmp for the hub's models.
#
# peft reads gptqmodel 7.6.0, where it is installed, to see whether a layer is one of its own, on any base; gptqmodel reads
# tokenicer 0.0.14, and that sets HF_HOME, HF_HUB_CACHE, TRANSFORMERS_CACHE and HF_MODULES_CACHE in the environment to
# folders under /tmp/tokenicer_hf_home, unless they are set. This process has its paths already; what it starts afterwards
# (workers, launchers, a server) finds no model that was downloaded before, and downloads into /tmp. Nothing is said of it.
#
# Seen with tokenicer 0.0.14, huggingface_hub 2.4.0, Python 3.11:
#   before: a program that is started has its hub's cache in ~/.cache/huggingface/hub
#   after import tokenicer: in /tmp/tokenicer_hf_home/hub
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 huggingface_hub==2.4.0 numpy==2.4.6 logbar==0.4.15
"$work/env/bin/pip" install --quiet --no-deps tokenicer==0.0.14
cat >"$work/try.py" <<'PYTHON'
import subprocess
import sys

ASK = [sys.executable, "-c", "from huggingface_hub.constants import HF_HUB_CACHE; print(HF_HUB_CACHE)"]
before = subprocess.run(ASK, capture_output=True, text=True, check=True).stdout.strip()
import tokenicer  # noqa: E402

after = subprocess.run(ASK, capture_output=True, text=True, check=True).stdout.strip()
print("before: a program that is started has its hub's cache in", before)
print("after import tokenicer: in", after)
sys.exit(0 if before != after == "/tmp/tokenicer_hf_home/hub" else 1)
PYTHON
env -u HF_HOME -u HF_HUB_CACHE -u TRANSFORMERS_CACHE -u HF_MODULES_CACHE "$work/env/bin/python" "$work/try.py"
