#!/usr/bin/env bash
# peft 0.21.2 trains the fused experts of a mixture in place of the linear layers that target_modules names.
#
# In DeepSeek-V3, GLM-4.5 and ERNIE 4.5 the first blocks and the shared experts have linear layers down_proj, up_proj and
# gate_proj. With transformers 5, where the other experts are one tensor, target_modules=["down_proj"] becomes
# target_parameters={"down_proj"}: the experts get matrices, and no linear layer of that name does; nothing is said of it. A
# whole path, as model.layers.0.mlp.down_proj, is taken for the same. On Qwen2-MoE the name means its layers.
#
# Seen with peft 0.21.2, transformers 5.23.0, torch 2.13.0, Python 3.11:
#   deepseek_v3 down_proj                      trains experts
#   deepseek_v3 model.layers.0.mlp.down_proj   trains experts
#   glm4_moe down_proj                         trains experts
#   qwen2_moe down_proj                        trains shared_expert.down_proj
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 peft==0.21.2 numpy==2.4.6
cat >"$work/try.py" <<'PYTHON'
import sys
import warnings

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

warnings.simplefilter("ignore")
SIZES = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 4, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16, "num_experts": 4,
    "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
    "q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8, "head_dim": 16,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}


def trained(kind, target):
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SIZES))
    linear = {name for name, layer in model.named_modules() if isinstance(layer, torch.nn.Linear)}
    assert [name for name in linear if name.endswith(target)], "the name is that of a linear layer"
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules=[target]))
    names = {name.split(".lora_")[0] for name, one in model.named_parameters() if one.requires_grad}
    return sorted({name.split(".mlp.")[-1] for name in names})


found = {}
for kind, target in (
    ("deepseek_v3", "down_proj"), ("deepseek_v3", "model.layers.0.mlp.down_proj"), ("glm4_moe", "down_proj"),
    ("qwen2_moe", "down_proj"),
):
    found[kind, target] = trained(kind, target)
    print(f"{kind} {target:32} trains {', '.join(found[kind, target])}")
expected = [["experts"], ["experts"], ["experts"], ["shared_expert.down_proj"]]
sys.exit(list(found.values()) != expected)
PYTHON
"$work/env/bin/python" "$work/try.py" 2>/dev/null
