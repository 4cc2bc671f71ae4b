"""Open the folders of benchmarks/opens_elsewhere.py with whatever transformers is installed, and compare.

    python benchmarks/open_folder.py made

Needs transformers, peft, torch, sentencepiece and protobuf, of any version, and nothing of this project. Ends with
status 1 where a folder does not open, or its ids, its rendered dialogue or its logits are others than where it was
written.
"""

import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

BOUND = 1e-4  # largest difference of a logit, of logits between about -5 and 5


def main(made: Path) -> int:
    """Compare each folder, a line each."""
    transformers.logging.set_verbosity_error()
    print(f"transformers {transformers.__version__}, torch {torch.__version__}")
    failed = 0
    for file in sorted(made.glob("*/probe.pt")):
        try:
            said = compare(file.parent, torch.load(file, weights_only=True))
        except Exception as error:  # whatever it is, the folder does not open
            said = f"does not open: {type(error).__name__}: {str(error).splitlines()[0][:200]}"
        failed += not said.startswith("equal")
        print(f"{file.parent.name:20} {said}", flush=True)
    return int(bool(failed))


def compare(folder: Path, expected: dict[str, Any]) -> str:
    """What is other than expected, "equal …" for nothing."""
    base = Path(expected["base"]) if expected["base"] else folder
    tokenizer = AutoTokenizer.from_pretrained(base, trust_remote_code=False)
    if (ids := [tokenizer(text)["input_ids"] for text in expected["texts"]]) != expected["ids"]:
        return f"other ids: {ids} instead of {expected['ids']}"
    if lacking := set(expected["special"]) - set(tokenizer.all_special_tokens):
        return f"no special tokens: {lacking}"
    parts = ["ids", "special tokens"]
    if "rendering" in expected:
        rendering = tokenizer.apply_chat_template(expected["dialogue"], tokenize=False, add_generation_prompt=True)
        if rendering != expected["rendering"]:
            return f"another rendering: {rendering!r}"
        parts.append("rendering")
    if "logits" not in expected:
        config = AutoConfig.from_pretrained(base, trust_remote_code=False)
        return f"equal in {', '.join(parts)}; config read, {config.quantization_config['quant_method']}"
    model, info = AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.float32, output_loading_info=True, trust_remote_code=False
    )
    if info["missing_keys"] or info["unexpected_keys"]:
        return f"missing {info['missing_keys']}, unexpected {info['unexpected_keys']}"
    if expected["base"]:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, folder)
    with torch.no_grad():
        logits = [model.eval()(torch.tensor([one])).logits for one in ids]
    off = max(float((one - other).abs().max()) for one, other in zip(logits, expected["logits"], strict=True))
    if not off < BOUND:
        return f"logits are {off:.2g} off"
    return f"equal in {', '.join(parts)}; logits within {off:.1g}"


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
