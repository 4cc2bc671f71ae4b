"""Small LLaMAs with byte-level vocabularies as Qwen, Llama 3, SmolLM2 and Mistral have them, and of their own."""

import json
from pathlib import Path
from typing import Any

import torch

from tests.gguf.gguf_models import ROPE

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
REST = r"[^\r\n\p{L}\p{N}]?\p{L}+|DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
CASES = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*|\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"""| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
)
# llama.cpp's name -> what cuts texts in the published tokenizer.json, and whether it ignores merges.
PUBLISHED: dict[str, tuple[tuple[str, ...], bool]] = {
    "gpt-2": ((), False),
    "smollm": (("digits",), False),
    "qwen2": ((f"{CONTRACTIONS}|{REST}".replace("DIGITS", r"\p{N}"),), False),
    "llama-bpe": ((f"{CONTRACTIONS}|{REST}".replace("DIGITS", r"\p{N}{1,3}"),), True),
    "dbrx": ((f"{CONTRACTIONS}|{REST}".replace("DIGITS", r"\p{N}{1,3}"),), False),
    "tekken": ((CASES,), True),
    "deepseek-v3": ((r"\p{N}{1,3}", "[一-龥\u3040-ゟ゠-ヿ]+", DEEPSEEK), False),
}
TEXTS = [
    "今天天气很好，我们去公园吧。123 plus 4567 is  4690!\n\n1. one\n2. two",
    "The quick brown Fox's 42 friends.",
    "你好",
]
CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + "
    "'\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
QWEN_LIKE = {"specials": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], "eos": "<|im_end|>", "template": CHATML}
LLAMA_3_LIKE = {
    "specials": ["<|begin_of_text|>", "<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"], "bos": "<|begin_of_text|>",
    "eos": "<|eot_id|>", "ends": ["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"],
}  # fmt: skip


def published(name: str) -> dict[str, Any]:
    """`pre_tokenizer` as it stands in the published tokenizer.json."""
    cuts, _ = PUBLISHED[name]
    parts: list[dict[str, Any]] = [
        {"type": "Digits", "individual_digits": True}
        if cut == "digits"
        else {"type": "Split", "pattern": {"Regex": cut}, "behavior": "Isolated", "invert": False}
        for cut in cuts
    ]
    regex = name in ("gpt-2", "smollm")
    last = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": regex}
    return {"type": "Sequence", "pretokenizers": [*parts, last]} if parts else last


def make_tokenizer(
    folder: Path, name: str, specials: list[str], eos: str, bos: str = "", template: str = "", **more: Any
) -> dict[str, int]:
    """A tokenizer of some hundred pieces that cuts as llama.cpp's `name`; the ids of its special tokens.

    Args:
        more: fields of tokenizer.json.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(TEXTS * 20, trainer)
    made.add_special_tokens(specials)
    spec = json.loads(made.to_str())
    spec["pre_tokenizer"] = published(name)
    spec["model"]["ignore_merges"] = PUBLISHED[name][1]
    spec |= more
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(spec, ensure_ascii=False), encoding="utf-8")
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": eos, "add_bos_token": bool(bos)}
    config |= {"bos_token": bos} if bos else {}
    config |= {"chat_template": template} if template else {}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return {one: made.token_to_id(one) for one in specials}


def make_byte_level(
    folder: Path, name: str, like: dict[str, Any], seed: int = 0, more: dict[str, Any] | None = None, **config: Any
) -> Path:
    """A random LLaMA with such a tokenizer; hidden 32 and 2 blocks unless `config` says otherwise."""
    from transformers import LlamaConfig, LlamaForCausalLM

    said = {key: value for key, value in like.items() if key != "ends"}
    ids = make_tokenizer(folder, name, **said, **(more or {}))
    ends = [ids[one] for one in like.get("ends", [like["eos"]])]
    shape = {
        "vocab_size": max(ids.values()) + 6, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.2,
        "bos_token_id": ids.get(like.get("bos")), "eos_token_id": ends if len(ends) > 1 else ends[0],
        "tie_word_embeddings": True, "rope_parameters": {**ROPE, "rope_type": "default"},
    }  # fmt: skip
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**shape | config))
    model.generation_config.eos_token_id = ends
    model.save_pretrained(folder)
    return folder
