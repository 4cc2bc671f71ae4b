#!/usr/bin/env bash
# transformers makes a tokenizer of a GGUF that splits texts otherwise than the file says: numbers get other ids.
#
# A GGUF names its splitting in `tokenizer.ggml.pre`. transformers 5.23.0 knows some names only, and takes GPT-2's pattern for
# the others, smollm among them, whose digits stand one by one. Where merges hold two digits, "12" becomes one piece that the
# model has seldom or never seen; of SmolLM2-135M's published file one text of ten in a real set gets other ids.
#
# Seen with transformers 5.23.0, tokenizers 0.23.3, gguf 0.19.0:
#   the splitting that smollm stands for: ['1', '2']
#   AutoTokenizer of the file: ['12']
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 tokenizers==0.23.3 gguf==0.19.0
cat >"$work/try.py" <<'PYTHON'
import sys

import gguf
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer

folder = sys.argv[1]
alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
pieces = ["<|endoftext|>", *alphabet, "12"]
writer = gguf.GGUFWriter(f"{folder}/small.gguf", "llama")
writer.add_tokenizer_model("gpt2")
writer.add_tokenizer_pre("smollm")
writer.add_token_list(pieces)
writer.add_token_types([gguf.TokenType.CONTROL, *[gguf.TokenType.NORMAL] * (len(pieces) - 1)])
writer.add_token_merges(["1 2"])
writer.add_bos_token_id(0)
writer.add_eos_token_id(0)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()

# The tokenizer.json that SmolLM and SmolLM2 publish has these two steps, and llama.cpp splits so for the name.
meant = Tokenizer(models.BPE({piece: number for number, piece in enumerate(pieces)}, [("1", "2")]))
meant.pre_tokenizer = pre_tokenizers.Sequence(
    [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
)
expected = meant.encode("12").tokens
found = AutoTokenizer.from_pretrained(folder, gguf_file="small.gguf").tokenize("12")
print("the splitting that smollm stands for:", expected)
print("AutoTokenizer of the file:", found)
sys.exit(0 if (expected, found) == (["1", "2"], ["12"]) else 1)
PYTHON
"$work/env/bin/python" "$work/try.py" "$work"
