#!/usr/bin/env bash
# The page of chat_7B.sh under the name of the original's interaction.py. Variables as in chat_7B.sh.
#
#   BASE_MODEL=/data/llama-7b LORA_PATH=owner/name bash scripts/interaction.sh
#   LORA_PATH=owner/name PROMPT_TYPE=interaction bash scripts/interaction.sh     # with the template it had, too
set -euo pipefail
exec bash "$(dirname "$0")/chat_7B.sh" "$@"
