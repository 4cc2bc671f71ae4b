"""Folders in Hugging Face format that open in today's transformers and in the versions before 5.

transformers 5 writes fields that older versions, mlx-lm, vLLM and llama.cpp's converter refuse or, worse, pass over:
the base of the rotation then is another, and nothing says so. Whoever writes a folder ends with `make_openable`.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vicuna.files.json_files import read_json
from vicuna.foreign.paths import regular_files
from vicuna.log import log
from vicuna.model.config import read_config
from vicuna.model.new_rows import NEW_ROWS
from vicuna.prompt.tokenizer_files import CHAT_TEMPLATE_FILE, TOKENIZER_CONFIG
from vicuna.prompt.tokenizer_json import openable_tokenizer

CHAT_TEMPLATES = "additional_chat_templates"  # a folder, of bases with more than one template
TEMPLATE_FILES = (CHAT_TEMPLATE_FILE, "chat_template.json")
# What a tokenizer is made of, by name: a base's own code is never taken along.
TOKENIZER_FILES = (
    *("tokenizer.model", "tokenizer.json", TOKENIZER_CONFIG, "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", *TEMPLATE_FILES, NEW_ROWS),
)
# Kind of model -> a field, as transformers 5 has it -> the name that older versions read it under.
_OLDER_NAMES = {
    "gpt_neox": {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"},
    "qwen3_moe": {"num_local_experts": "num_experts"},
}


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Put a base's tokenizer files beside a model: byte for byte, but for what older programs do not open."""
    copy_files(source, folder, TOKENIZER_FILES)
    _make_tokenizer_openable(folder)


def copy_files(source: Path, folder: Path, names: Sequence[str]) -> None:
    """Copy those of a base's files that are there, and its further templates.

    What a link names is copied where it is a file of the same name, or of the hub's cache, which is made of links.
    """
    for file in [source / name for name in names] + regular_files(source / CHAT_TEMPLATES, "*.jinja"):
        if not file.is_file():
            continue
        there = file.resolve()
        if there.name != file.name and there.parent != source.resolve().parent.parent / "blobs":
            log.warning("%s is a link to %s, which is not taken along", file, there)
            continue
        copy = folder / file.relative_to(source)
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, copy)


def make_openable(folder: Path) -> None:
    """Have a written folder say what it is in the words of older programs, too; what is understood stays as it is."""
    _make_tokenizer_openable(folder)
    file = folder / "config.json"
    if not file.is_file():
        return
    settings = read_json(file)
    if (written := _openable_config(folder, settings)) != settings:
        _write_json(file, written)


def _make_tokenizer_openable(folder: Path) -> None:
    settings = read_json(file := folder / TOKENIZER_CONFIG)
    if (written := openable_tokenizer(settings, (folder / "tokenizer.json").is_file())) != settings:
        _write_json(file, written)


def _openable_config(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The fields of config.json, in the words of both ages."""
    written = dict(settings)
    if "rope_parameters" in settings:
        written |= _older_rotation(folder, settings)
    if "dtype" in settings:
        written["torch_dtype"] = settings["dtype"]  # before 4.56
    for name, older in _OLDER_NAMES.get(settings.get("model_type"), {}).items():
        if name in written:
            written.setdefault(older, written[name])
    return written


def _older_rotation(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """`rope_parameters`, as this version reads them, in the fields of older ones, which take 10,000 without."""
    rope = read_config(folder).rope_parameters or {}
    more: dict[str, Any] = {}
    if "full_attention" in rope and "sliding_attention" in rope:  # Gemma 3: a rotation for each kind of attention
        more["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        rope = rope["full_attention"]
    if not isinstance(rope.get("rope_theta"), int | float):
        log.info("%s: programs with transformers before 5 do not know how it turns positions", folder / "config.json")
        return {}
    scaling = {name: value for name, value in rope.items() if name not in ("rope_theta", "partial_rotary_factor")}
    more |= {name: rope[name] for name in ("rope_theta", "partial_rotary_factor") if name in rope}
    if scaling.get("rope_type") == "longrope":  # Phi 3's older config takes three fields, by these names, and no other
        more["original_max_position_embeddings"] = scaling["original_max_position_embeddings"]
        scaling = {"type": "longrope", **{name: scaling[name] for name in ("short_factor", "long_factor")}}
    if scaling.get("rope_type") != "default" and scaling:
        more["rope_scaling"] = scaling
    return more


def _write_json(file: Path, settings: dict[str, Any]) -> None:
    file.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
