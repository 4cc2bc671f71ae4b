#!/usr/bin/env bash
# transformers opens a GGUF whose rotation is scaled as if it were not: long texts are computed wrongly, without a word.
#
# A GGUF says linear scaling of RoPE as `llama.rope.scaling.type` and `.factor`, and Llama 3's as the tensor
# `rope_freqs.weight`, which llama.cpp divides the frequencies by. transformers 5.23.0 reads neither: the config it makes of
# the file has `rope_type` default. Of a model for 1,024 tokens by a factor of 4 every position is then four times too far.
#
# Seen with transformers 5.23.0, gguf 0.19.0, torch 2.13.0:
#   the file: linear 4.0 and 8 rope_freqs up to 8.0
#   the config of transformers: default, factor None; rope_freqs.weight is used nowhere
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 gguf==0.19.0 accelerate==1.15.0
cat >"$work/try.py" <<'PYTHON'
import sys

import gguf
import numpy as np
import torch
from transformers import AutoModelForCausalLM

folder = sys.argv[1]
writer = gguf.GGUFWriter(f"{folder}/scaled.gguf", "llama")
for key, value in {"context_length": 1024, "block_count": 1, "embedding_length": 64, "feed_forward_length": 64,
                   "attention.head_count": 4, "rope.dimension_count": 16, "vocab_size": 8}.items():
    writer.add_uint32(f"llama.{key}", value)
writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
writer.add_float32("llama.rope.freq_base", 10000.0)
writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
writer.add_rope_scaling_factor(4.0)
draw = np.random.default_rng(0)
shapes = {"token_embd": (8, 64), "output": (8, 64), "output_norm": (64,)}
block = {"attn_q": (64, 64), "attn_k": (64, 64), "attn_v": (64, 64), "attn_output": (64, 64), "attn_norm": (64,),
         "ffn_norm": (64,), "ffn_gate": (64, 64), "ffn_up": (64, 64), "ffn_down": (64, 64)}
for name, shape in (shapes | {f"blk.0.{name}": shape for name, shape in block.items()}).items():
    writer.add_tensor(f"{name}.weight", draw.normal(0, 0.3, shape).astype(np.float32))
writer.add_tensor("rope_freqs.weight", np.linspace(1, 8, 8, dtype=np.float32))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()

model = AutoModelForCausalLM.from_pretrained(folder, gguf_file="scaled.gguf")
rope = model.config.rope_parameters
plain = 1 / 10000.0 ** (torch.arange(0, 16, 2) / 16)
kept = torch.allclose(model.model.rotary_emb.inv_freq.float(), plain)
print("the file: linear 4.0 and 8 rope_freqs up to 8.0")
print(f"the config of transformers: {rope['rope_type']}, factor {rope.get('factor')};", end=" ")
print("rope_freqs.weight is used nowhere" if kept else "rotations are slowed down")
sys.exit(0 if rope["rope_type"] == "default" and kept else 1)
PYTHON
"$work/env/bin/python" "$work/try.py" "$work"
