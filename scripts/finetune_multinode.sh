#!/usr/bin/env bash
# Fine-tune on several hosts together: the same command on each, with its own NODE_RANK. OUTPUT_PATH is a folder that
# all of them share; code, base and data are at the same place on each. Variables as in finetune.sh, and PROGRAM.
#
#   NNODES=2 NODE_RANK=0 MASTER_ADDR=10.0.0.1 bash scripts/finetune_multinode.sh    # on 10.0.0.1
#   NNODES=2 NODE_RANK=1 MASTER_ADDR=10.0.0.1 bash scripts/finetune_multinode.sh    # on the other host
set -euo pipefail
for name in NNODES NODE_RANK MASTER_ADDR; do
    if [ -z "${!name:-}" ]; then
        echo "finetune_multinode.sh: $name is not set; expected NNODES=<hosts> NODE_RANK=<0 to hosts-1> MASTER_ADDR=<address of host 0>" >&2
        exit 2
    fi
done
export NNODES NODE_RANK MASTER_ADDR
exec bash "$(dirname "$0")/finetune.sh" "$@"
