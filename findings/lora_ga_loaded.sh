#!/usr/bin/env bash
# peft 0.21.2 loads a LoRA-GA adapter without a word, and computes another model than the one that was trained.
#
# At the start LoRA-GA takes scaling * B A out of the base's weights, found from gradients. PiSSA and OLoRA do so too, and PEFT
# does it again when such an adapter is loaded; CorDA, which needs data as well, is refused then. For LoRA-GA the
# gradients are gone, and the matrices go onto the base as it is. from_pretrained says nothing of it.
#
# Seen with peft 0.21.2, transformers 5.23.0, torch 2.13.0 on a CPU, Python 3.11:
#   init pissa     loaded as trained: True
#   init olora     loaded as trained: True
#   init lora_ga   loaded as trained: False, off by 0.87 of the largest logit, said of it: nothing
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 peft==0.21.2 accelerate==1.15.0 numpy==2.4.6
cat >"$work/try.py" <<'PYTHON'
import sys
import warnings

import torch
from peft import LoraConfig, LoraGAConfig, PeftModel, get_peft_model, preprocess_loraga
from transformers import LlamaConfig, LlamaForCausalLM

IDS = torch.arange(1, 33)[None]
SIZES = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


def base():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES, initializer_range=0.2)).eval()


def off(init):
    """How far the loaded model is from the one that was saved, and what loading it said of LoRA."""
    settings = {"r": 4, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM", "init_lora_weights": init}
    model = base()
    if init == "lora_ga":
        config = LoraConfig(**settings, lora_ga_config=LoraGAConfig())
        preprocess_loraga(model, config, lambda: model(IDS, labels=IDS).loss.backward())
    else:
        config = LoraConfig(**settings)
    trained = get_peft_model(model, config).eval()
    with torch.no_grad():
        for parameter in trained.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn_like(parameter)
        expected = trained(IDS).logits
        trained.save_pretrained(f"{sys.argv[1]}/{init}")
        fresh = base()
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            loaded = PeftModel.from_pretrained(fresh, f"{sys.argv[1]}/{init}").eval()
        found = loaded(IDS).logits
    return float((found - expected).abs().max() / expected.abs().max()), [text for one in said if "lora" in (text := str(one.message)).lower()]


results = {init: off(init) for init in ("pissa", "olora", "lora_ga")}
for init, (far, said) in results.items():
    more = "" if far < 1e-4 else f", off by {far:.2f} of the largest logit, said of it: {said or 'nothing'}"
    print(f"init {init:<9} loaded as trained: {far < 1e-4}{more}")
as_seen = [results[init][0] < 1e-4 for init in ("pissa", "olora", "lora_ga")] == [True, True, False]
sys.exit(0 if as_seen and results["lora_ga"][1] == [] else 1)
PYTHON
"$work/env/bin/python" "$work/try.py" "$work"
