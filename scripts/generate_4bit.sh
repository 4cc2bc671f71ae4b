#!/usr/bin/env bash
# The page of generate.sh on a 4-bit base. Variables as in generate.sh.
#
#   BASE_MODEL=/data/llama-13b LORA_PATH=lora-Vicuna bash scripts/generate_4bit.sh
set -euo pipefail
exec bash "$(dirname "$0")/generate.sh" --bits 4 "$@"
