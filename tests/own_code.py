"""Strangers' code for the tests: in a folder of a model or an adapter, named everywhere where a library looks for some;
whatever runs it leaves a mark."""

import json
from pathlib import Path

CLASSES = """
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
class OwnConfig(LlamaConfig):
    model_type = "own"
class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
class OwnTokenizer(PreTrainedTokenizerFast):
    pass
"""
ON_THE_HUB = "somebody/own"
_OWN = "own.OwnModel"
AUTO = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": _OWN, "AutoModel": f"{ON_THE_HUB}--{_OWN}"}
TOKENIZER = {"AutoTokenizer": ["own.OwnTokenizer", "own.OwnTokenizer"], "AutoProcessor": "own.OwnTokenizer"}
NAMED = {
    "config.json": {
        "auto_map": AUTO, "custom_pipelines": {"text-generation": {"impl": "own.OwnModel", "pt": ["AutoModel"]}},
        "custom_generate": ON_THE_HUB, "use_kernels": True, "_attn_implementation": "flash_attention_2",
        "_experts_implementation": "sonicmoe",
    },
    "generation_config.json": {"auto_map": AUTO, "custom_generate": ON_THE_HUB, "cache_implementation": "static"},
    "tokenizer_config.json": {"auto_map": TOKENIZER},
    "processor_config.json": {"auto_map": TOKENIZER, "processor_class": "OwnTokenizer"},
    "preprocessor_config.json": {"auto_map": TOKENIZER, "image_processor_type": "OwnTokenizer"},
}  # fmt: skip
ON_AN_ADAPTER = {
    "auto_mapping": {"base_model_class": "OwnModel", "parent_library": "own"}, "auto_map": AUTO,
    "megatron_core": "own", "base_model_name_or_path": ON_THE_HUB,
}  # fmt: skip


def write_code(folder: Path, mark: Path) -> None:
    """Put the code where it is looked for: beside the configs, under a tokenizer's name, and to generate with."""
    code = f"open({str(mark)!r}, 'w').close()\n{CLASSES}"
    (folder / "custom_generate").mkdir()
    for name in ("own.py", "tokenizer_own.py", "custom_generate/generate.py"):
        (folder / name).write_text(code, encoding="utf-8")


def add_to(file: Path, fields: dict) -> None:
    """More fields for a JSON file, which need not be there."""
    settings = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    file.write_text(json.dumps(settings | fields), encoding="utf-8")


def plant(folder: Path, mark: Path) -> Path:
    """Put code into the folder of a base, and name it in every config; `mark` is written by whatever runs it."""
    write_code(folder, mark)
    for name, fields in NAMED.items():
        add_to(folder / name, fields)
    return folder
