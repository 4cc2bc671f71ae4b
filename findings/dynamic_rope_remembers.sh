#!/usr/bin/env bash
# transformers 5.23.0 answers a prompt otherwise after a longer one, where RoPE is scaled dynamically.
#
# Beyond max_position_embeddings the frequencies are computed for the longest text that the model has seen, and kept in it until a text
# comes that is shorter than max_position_embeddings. A longer text that is not that short is computed with those of the longest one, so
# that greedy answers depend on what others asked before; a fresh copy of the model, or one token given alone, sets them back. The same
# prompt computed in chunks with a cache is another one too: each chunk has the frequencies of the length so far.
#
# Seen with transformers 5.23.0, torch 2.13.0 on a CPU, Python 3.11, as the difference of logits over the largest logit:
#   rope linear   the same prompt again: 0.00   after a longer one: 0.00   after a longer one and a token alone: 0.00
#   rope dynamic  the same prompt again: 0.00   after a longer one: 1.21   after a longer one and a token alone: 0.00
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 numpy==2.4.6
cat >"$work/try.py" <<'PYTHON'
import sys

import torch
from transformers import LlamaConfig, LlamaForCausalLM

SIZES = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


@torch.inference_mode()
def differences(kind):
    torch.manual_seed(0)
    rope = {"rope_type": kind, "factor": 4.0, "rope_theta": 10000.0}
    config = LlamaConfig(**SIZES, max_position_embeddings=64, rope_parameters=rope, initializer_range=0.5)
    model = LlamaForCausalLM(config).eval()
    prompt, longer = torch.arange(100)[None] % 64, torch.arange(200)[None] % 61
    first = model(prompt).logits
    again = model(prompt).logits
    model(longer)
    after = model(prompt).logits
    model(longer[:, :1])
    reset = model(prompt).logits
    return [float((one - first).abs().max() / first.abs().max()) for one in (again, after, reset)]


found = {kind: differences(kind) for kind in ("linear", "dynamic")}
for kind, (again, after, reset) in found.items():
    print(
        f"rope {kind:<8} the same prompt again: {again:.2f}   after a longer one: {after:.2f}   "
        f"after a longer one and a token alone: {reset:.2f}"
    )
as_seen = max(found["linear"]) < 1e-4 and found["dynamic"][1] > 0.05 and max(found["dynamic"][::2]) < 1e-4
sys.exit(0 if as_seen else 1)
PYTHON
"$work/env/bin/python" "$work/try.py"
