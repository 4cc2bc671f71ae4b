#!/usr/bin/env bash
# Fine-tune an 8-bit base on instructions; the defaults are the recipe for LLaMA-7B at 256 tokens.
#
#   bash scripts/finetune.sh                                    # the sample data, every GPU, or the CPU
#   DATA_PATH=my.jsonl bash scripts/finetune.sh --num_epoch 1   # whatever follows goes to finetune.py
#   TOT_CUDA=0,1 MODEL_PATH=/data/llama-7b bash scripts/finetune.sh
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh

PROGRAM=${PROGRAM:-finetune.py}
flags=()
add() { if [ -n "$2" ]; then flags+=("$1" "$2"); fi; }
if ! given --data_path "$@"; then add --data_path "$(here "${DATA_PATH:-}")"; fi
add --output_path "$(here "${OUTPUT_PATH:-}")"
add --model_path "$(here_or_id "${MODEL_PATH:-}")"
add --test_size "${TEST_SIZE:-}"
case ${lora_checkpoint:-} in
    auto) add --resume_from_checkpoint auto ;;
    *) add --resume_from_checkpoint "$(here_or_id "${lora_checkpoint:-}")" ;;
esac
add --lora_remote_checkpoint "$(here_or_id "${lora_remote_checkpoint:-}")"
add --ignore_data_skip "${from_data_beginning:-}"

if [ -n "${TOT_CUDA:-}" ]; then export CUDA_VISIBLE_DEVICES=$TOT_CUDA; fi
gpus=${CUDA_VISIBLE_DEVICES-$(nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null | paste -sd, || true)}
NUM_PROCESSES=${NUM_PROCESSES:-$(printf %s "$gpus" | tr , '\n' | grep -c . || true)}

if [ "$NUM_PROCESSES" -le 1 ] && [ "${NNODES:-1}" -le 1 ]; then
    exec "$PYTHON" "$PROGRAM" "${flags[@]}" "$@"
fi
if [ "$NUM_PROCESSES" -lt 1 ]; then NUM_PROCESSES=1; fi
if [ "${NNODES:-1}" -gt 1 ] && { [ -z "${NODE_RANK:-}" ] || [ -z "${MASTER_ADDR:-}" ]; }; then
    echo "finetune.sh: NNODES is $NNODES, but NODE_RANK or MASTER_ADDR is not set; see finetune_multinode.sh" >&2
    exit 2
fi
# A mistake is answered once, before many processes start, by one that plans for all of them.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
RANK=0 WORLD_SIZE=$((NUM_PROCESSES * ${NNODES:-1})) "$PYTHON" "$PROGRAM" "${flags[@]}" "$@" --plan_only >/dev/null
rendezvous=(--standalone)
if [ -n "${PORT:-}" ]; then rendezvous=(--nnodes=1 --master_port="$PORT"); fi
if [ "${NNODES:-1}" -gt 1 ]; then
    rendezvous=(--nnodes="$NNODES" --node_rank="$NODE_RANK" --master_addr="$MASTER_ADDR" --master_port="${PORT:-29500}")
fi
exec "$PYTHON" -m vicuna.train.launch "${rendezvous[@]}" --nproc_per_node="$NUM_PROCESSES" "$PROGRAM" "${flags[@]}" "$@"
