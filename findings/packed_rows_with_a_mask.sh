#!/usr/bin/env bash
# transformers 5.23.0 keeps the documents of a packed row apart by position_ids, and no longer once it is given an
# attention_mask of ones, which says that nothing is padding.
#
# position_ids that begin anew are taken for documents of their own only where there is no attention_mask. A collator that
# pads, and so gives a mask for every batch, makes each document read those before it, without a word; the loss falls all
# the same.
#
# Seen with transformers 5.23.0, torch 2.13.0 on a CPU, Python 3.11, by SDPA and by eager attention:
#   sdpa, without a mask: off by 3.1e-06; with a mask of ones: off by 6.2e+00
#   eager, without a mask: off by 2.6e-06; with a mask of ones: off by 6.2e+00
# which is how far the logits of the second document are from those it has alone.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 numpy==2.4.6
cat >"$work/try.py" <<'PYTHON'
import torch
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
sizes = {"vocab_size": 300, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, initializer_range=0.2)).eval()
first, second = torch.randint(3, 300, (1, 7)), torch.randint(3, 300, (1, 5))
row = {
    "input_ids": torch.cat([first, second], dim=1),
    "position_ids": torch.cat([torch.arange(7), torch.arange(5)])[None],
}
ones = torch.ones_like(row["input_ids"])
seen = True
for attention in ("sdpa", "eager"):
    model.set_attn_implementation(attention)
    with torch.no_grad():
        alone = model(second).logits[0]
        apart = (model(**row, use_cache=False).logits[0, 7:] - alone).abs().max().item()
        crossing = (model(**row, attention_mask=ones, use_cache=False).logits[0, 7:] - alone).abs().max().item()
    print(f"{attention}, without a mask: off by {apart:.1e}; with a mask of ones: off by {crossing:.1e}")
    seen = seen and apart < 1e-4 and crossing > 0.1
raise SystemExit(0 if seen else 1)
PYTHON
"$work/env/bin/python" "$work/try.py" 2>/dev/null
