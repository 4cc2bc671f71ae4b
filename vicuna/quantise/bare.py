"""Bare checkpoints of GPTQ-for-LLaMa, such as llama7b-4bit-128g.pt, as folders: the tensors are those of GPTQ's first
format, and what they lack is the model's config and tokenizer, and words for bits and groups, which their shapes tell.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from vicuna.errors import UserError
from vicuna.files.json_files import read_json
from vicuna.files.tensors import dtype_name, main_dtype, read_tensor_file, write_model
from vicuna.files.weight_heads import heads_of
from vicuna.model.config import linear_layers, meta_model, read_config
from vicuna.model.declared import check_counts
from vicuna.model.gptq import GPTQ, WORD, check_packed, symmetric
from vicuna.model.known_files import copy_known
from vicuna.model.openable import copy_tokenizer, make_openable
from vicuna.quantise.settings import WHOLE_ROW

FOLDER_INSTEAD = "make a folder of the model itself: python tools/quant_llama.py MODEL DATASET --save DIR"
_NOT_WEIGHTS = ("rotary_emb.inv_freq",)  # computed from the config today
_PARTS = ("qweight", "qzeros", "scales", "g_idx")


def write_folder(file: Path, model: Path, out: Path) -> dict[str, Any]:
    """Write a bare checkpoint as a folder that every program opens.

    Args:
        model: a folder with the config and the tokenizer of the model that it was made of; its weights are not read.
        out: an empty folder.

    Returns:
        What config.json says of the quantisation.

    Raises:
        UserError: a layout that is not known, or of another model.
    """
    tensors = {name: one for name, one in read_tensor_file(file).items() if not name.endswith(_NOT_WEIGHTS)}
    config = read_config(model)
    check_counts(model, heads_of(tensors), f"the weights of {file}")
    check_layout(file, tensors, linear_layers(config))
    _check_names(file, tensors, config, model)
    settings = read_settings(tensors, linear_layers(config))
    written = read_json(model / "config.json")
    written.pop("torch_dtype", None)
    plain = {name: one for name, one in tensors.items() if not name.endswith(_PARTS)}
    written |= {"dtype": dtype_name(main_dtype(plain)), "quantization_config": settings}
    (out / "config.json").write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
    copy_tokenizer(model, out)
    copy_known(model, out, ["generation_config.json"])
    make_openable(out)
    check_packed(out, read_config(out), tensors)
    write_model(out, tensors)
    return settings


def check_layout(file: Path, tensors: Mapping[str, torch.Tensor], layers: Mapping[str, tuple[int, int]]) -> None:
    """Check that a file has, for each layer, what GPTQ-for-LLaMa packs it in.

    Raises:
        UserError: what it has instead.
    """
    packed = [name for name in tensors if name.endswith(".qweight")]
    if not packed:
        raise UserError(f"--quant_path {file} has no packed weights; expected a checkpoint of GPTQ-for-LLaMa.")
    for name in layers:
        lacking = [part for part in _PARTS if f"{name}.{part}" not in tensors]
        if lacking:
            has = ", ".join(sorted(one.removeprefix(f"{name}.") for one in tensors if one.startswith(f"{name}.")))
            raise UserError(
                f"--quant_path {file}: {name} has {has or 'nothing'} and no {lacking[0]}: it is of an earlier layout "
                f"than the one that today's kernels read, or of another model; {FOLDER_INSTEAD}."
            )


def _check_names(file: Path, tensors: Mapping[str, torch.Tensor], config: Any, model: Path) -> None:
    expected = {name: one.shape for name, one in meta_model(config).state_dict().items()}
    for name in linear_layers(config):
        del expected[f"{name}.weight"]
    for name, shape in expected.items():
        found = tensors[name].shape if name in tensors else None
        if found != shape and not (found is None and config.tie_word_embeddings and name == "lm_head.weight"):
            raise UserError(
                f"--quant_path {file} has {name} as {tuple(found) if found else 'nothing'}, and {tuple(shape)} follows "
                f"from {model / 'config.json'}: it is of another model; name its own with --model_path."
            )


def read_settings(tensors: Mapping[str, torch.Tensor], layers: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    """Bits, groups, order and symmetry of packed weights, from shapes and zero points."""
    name, (columns, _) = next(iter(layers.items()))
    bits = tensors[f"{name}.qweight"].shape[0] * WORD // columns
    groups = len(tensors[f"{name}.scales"])
    group = WHOLE_ROW if groups == 1 else -(-columns // groups)
    width = columns if group == WHOLE_ROW else group
    in_order = torch.equal(tensors[f"{name}.g_idx"].long(), torch.arange(columns) // width)
    zeros = all(symmetric(tensors[f"{one}.qzeros"], bits, 1) for one in layers)
    return {
        "quant_method": GPTQ, "bits": bits, "group_size": group, "desc_act": not in_order, "sym": zeros,
        "checkpoint_format": "gptq", "act_group_aware": False, "lm_head": False,
    }  # fmt: skip
