#!/usr/bin/env bash
# peft 0.21.2: the context manager `disable_input_dtype_casting` ends in an AttributeError on a model whose adapter also
# trains rows of a table (trainable_token_indices): a layer of those is a tuner layer without the switch it sets.
# Expected: it leaves such layers alone, as LoRA's beside them are all it is about.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder"
"$folder/bin/pip" install -q torch==2.13.0 transformers==5.23.0 peft==0.21.2
"$folder/bin/python" - <<'PYTHON'
import sys

from peft import LoraConfig, get_peft_model
from peft.helpers import disable_input_dtype_casting
from transformers import LlamaConfig, LlamaForCausalLM

shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 40}


def enter(**more):
    model = get_peft_model(LlamaForCausalLM(LlamaConfig(**shape)), LoraConfig(target_modules=["q_proj"], **more))
    try:
        with disable_input_dtype_casting(model):
            return "entered"
    except AttributeError as error:
        return str(error)


alone, beside = enter(), enter(trainable_token_indices={"embed_tokens": [3, 4]})
print("LoRA alone:", alone)
print("LoRA beside rows of the embeddings:", beside)
seen = alone == "entered" and beside == "'TrainableTokensLayer' object has no attribute 'cast_input_dtype_enabled'"
sys.exit(0 if seen else 1)
PYTHON
