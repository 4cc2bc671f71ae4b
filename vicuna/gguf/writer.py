"""A Hugging Face LLaMA as a GGUF file: one tensor at a time, from memory-mapped files.

Only three things differ from the folder: names; the rows of the query and key projections, which llama.cpp wants in
the order of Meta's files; and the type, which llama.cpp's own library brings about where it is a quantised one.
"""

import json
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from vicuna.errors import UserError, printable
from vicuna.files.outputs import check_disk_space
from vicuna.files.tensors import LazyTensor
from vicuna.gguf.library import last_error, load_llama_cpp
from vicuna.gguf.vocabulary import add_vocabulary, has_known_vocabulary
from vicuna.gguf_file.reader import ARCHITECTURE, GENERATION, PROMPT_TYPE, optional_package
from vicuna.gguf_file.types import PLAIN_TYPES
from vicuna.model.base import Base
from vicuna.model.base_tensors import read_base_tensors
from vicuna.model.config import head_dim

PACKED = "q8_0"  # which the package gguf quantises bit by bit as llama.cpp does; the others only llama.cpp can
PLAIN_DTYPES = dict(zip(PLAIN_TYPES, (torch.float32, torch.float16, torch.bfloat16), strict=True))
_POLL_S = 0.2


def block_size(kind: str) -> int:
    """How many values of a row a type packs together: rows must be a multiple of it."""
    return 1 if kind in PLAIN_DTYPES else 256 if "_k" in kind else 32


def check_llama(base: Base) -> None:
    """Refuse a LLaMA that llama.cpp computes otherwise, or whose vocabulary it reads otherwise.

    Raises:
        UserError: see above.
    """
    config, path = base.config, base.path
    if not has_known_vocabulary(base.tokenizer):
        raise UserError(
            f"{path} has no tokenizer.model, of which the GGUF's vocabulary is made, and a tokenizer.json that is not "
            "byte-level, or cuts texts as llama.cpp does not; copy the base's tokenizer.model into the folder."
        )
    if config.hidden_act != "silu":
        raise UserError(f"{path} computes with {config.hidden_act}; llama.cpp's LLaMA only knows silu.")
    rope = config.rope_parameters
    if rope["rope_type"] not in ("default", "linear", "dynamic", "llama3", "yarn") or {"mscale", "attention_factor"} & {
        name for name, value in rope.items() if value is not None
    }:
        raise UserError(f"{path} has RoPE scaling {rope}, which llama.cpp's LLaMA does not compute.")


def context_of(base: Base) -> int:
    """Longest sequence in tokens for llama.cpp, which does not compute dynamic scaling."""
    rope = getattr(base.config, "rope_parameters", None) or {}
    dynamic = rope.get("rope_type") == "dynamic"
    return min(base.context, base.config.max_position_embeddings) if dynamic else base.context


@dataclass(frozen=True)
class PlannedTensor:
    """One tensor of the file: what it is called here and there, and its type."""

    source: str  # "" for one that is computed
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    packed: bool = False  # as Q8_0 of what it is

    @property
    def nbytes(self) -> int:
        """What it takes in the file."""
        values = math.prod(self.shape)
        if not self.packed:
            return values * self.dtype.itemsize
        count, size = optional_package("gguf").GGML_QUANT_SIZES[optional_package("gguf").GGMLQuantizationType.Q8_0]
        return values // count * size


def plan_tensors(base: Base, weights: Mapping[str, LazyTensor], kind: str) -> list[PlannedTensor]:
    """The tensors of the GGUF in the order of the blocks.

    Args:
        weights: by name, from `vicuna.model.base_tensors.read_base_tensors`.
        kind: a type of `PLAIN_DTYPES`, or PACKED, or "" for the one each tensor has. Vectors are always float32.
    """
    config, gguf = base.config, optional_package("gguf")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    made = []
    for source, tensor in weights.items():
        if source == "lm_head.weight" and config.tie_word_embeddings:
            continue  # llama.cpp takes the embeddings where there is no head
        packed = kind == PACKED and len(tensor.shape) == 2
        plain = PLAIN_DTYPES.get(kind, torch.float32) if kind else tensor.dtype
        dtype = torch.float32 if len(tensor.shape) == 1 else plain
        name = names.get_name(source, try_suffixes=(".weight", ".bias"))
        made.append(PlannedTensor(source, name, tuple(tensor.shape), dtype, packed))
    if config.rope_parameters["rope_type"] == "llama3":
        made.append(PlannedTensor("", "rope_freqs.weight", (head_dim(config) // 2,), torch.float32))
    return made


def permute_qk(tensor: torch.Tensor, name: str, config: Any) -> torch.Tensor:
    """Rows of a query or key projection (or of its bias, or of its lora_B) in the order of Meta's rotation.

    Hugging Face rotates value i with value i + d/2 of a head of size d, Meta and llama.cpp i with i + 1.
    """
    if "q_proj" in name or "k_proj" in name:
        heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
        halves = tensor.reshape(heads, 2, len(tensor) // heads // 2, *tensor.shape[1:])
        return halves.swapaxes(1, 2).reshape(tensor.shape)
    return tensor


def write_gguf(base: Base, file: Path, kind: str, prompt_type: str, template: str, ends: Sequence[int]) -> None:
    """Write a LLaMA, unquantised or as PACKED.

    Args:
        kind: as in `plan_tensors`.
        prompt_type: what it was trained with, "" if unknown; template: its chat template, "" for none.
        ends: ids that end an answer, see `vicuna.gguf.ends.ordered_ends`.

    Raises:
        UserError: see `vicuna.model.base_tensors.read_base_tensors`; weights that are not finite, or not at that type.
    """
    weights = read_base_tensors(base.path, base.config)
    gguf = optional_package("gguf")
    writer = gguf.GGUFWriter(file, ARCHITECTURE)
    _model_keys(writer, base, kind)
    add_vocabulary(writer, base, ends)
    if template:
        writer.add_chat_template(template)
    add_strings(writer, vicuna_keys(prompt_type, base.generation_config))
    todo = plan_tensors(base, weights, kind)

    def tensors() -> Iterator[torch.Tensor]:
        for entry in todo:
            if entry.source:
                whole = weights[entry.source][0 : entry.shape[0]]
                yield permute_qk(whole, entry.source, base.config).to(entry.dtype)
            else:
                yield _llama3_factors(base.config)

    write_tensors(writer, todo, tensors(), base.path)


def write_tensors(writer: Any, todo: list[PlannedTensor], tensors: Iterator[torch.Tensor], source: Path) -> None:
    """Write the keys, the list of tensors, then each of them.

    Args:
        source: where they come from, for messages.

    Raises:
        UserError: values that are not finite, or not at that type; or no room on the disk.
    """
    gguf = optional_package("gguf")
    types = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
    for entry in todo:
        raw = gguf.GGMLQuantizationType["Q8_0" if entry.packed else types[entry.dtype]]
        kept = np.dtype("uint8") if entry.packed else _numpy(torch.empty(0, dtype=entry.dtype)).dtype
        shape = gguf.quant_shape_to_byte_shape(entry.shape, raw) if entry.packed else entry.shape
        writer.add_tensor_info(entry.name, shape, kept, entry.nbytes, raw)
    total = sum(entry.nbytes for entry in todo)
    check_disk_space(writer.path.parent, total)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    with tqdm(total=total, desc="Writing", unit="B", unit_scale=True, disable=None) as bar:
        for entry, tensor in zip(todo, tensors, strict=True):
            if not torch.isfinite(tensor).all():
                raise UserError(
                    f"{entry.source} in {source} has values that are not finite, or too large for "
                    f"{types[entry.dtype].lower()}; take --type bf16 or f32 if the weights themselves are sound."
                )
            values = _numpy(tensor.contiguous())
            if entry.packed:
                values = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
            writer.write_tensor_data(values)
            bar.update(entry.nbytes)
    writer.close()


def _numpy(tensor: torch.Tensor) -> Any:
    """The tensor's bytes for numpy, which has no bfloat16."""
    return (tensor.view(torch.int16) if tensor.dtype is torch.bfloat16 else tensor).numpy()


def _model_keys(writer: Any, base: Base, kind: str) -> None:
    config, gguf = base.config, optional_package("gguf")
    names = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", PACKED: "MOSTLY_Q8_0"}
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(base.path.resolve().name)
    writer.add_file_type(gguf.LlamaFileType[names[kind or "f32"]])
    if kind == PACKED:
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(context_of(base))
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_dim(config))
    writer.add_value_length(head_dim(config))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(head_dim(config))
    rope = config.rope_parameters
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
        writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])


def vicuna_keys(prompt_type: str, generation: Any = None) -> dict[str, str]:
    """Keys of our own: the template it was trained with, and what it declares of its decoding."""
    keys = {PROMPT_TYPE: prompt_type} if prompt_type else {}
    if generation is not None:
        declared = generation.to_diff_dict()
        kept = {name: value for name, value in declared.items() if name[0] != "_" and name != "transformers_version"}
        keys[GENERATION] = json.dumps(kept, sort_keys=True)
    return keys


def add_strings(writer: Any, keys: Mapping[str, str]) -> None:
    for name, text in keys.items():
        writer.add_string(name, text)


def _llama3_factors(config: Any) -> torch.Tensor:
    """By how much each pair's rotation slows down, (head_dim / 2,), as Llama 3.1 computes it."""
    rope, size = config.rope_parameters, head_dim(config)
    plain = 1.0 / rope["rope_theta"] ** (torch.arange(0, size, 2, dtype=torch.float32) / size)
    turns = rope["original_max_position_embeddings"] * plain / (2 * math.pi)
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    share = ((turns - low) / (high - low)).clamp(0, 1)  # 0: slowed down by the whole factor, 1: not at all
    return 1 / ((1 - share) / rope["factor"] + share)


def quantise(source: Path, file: Path, kind: str, threads: int) -> None:
    """Have llama.cpp's own library quantise a GGUF.

    Raises:
        UserError: it did not.
    """
    gguf, llama_cpp = optional_package("gguf"), load_llama_cpp()
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = int(gguf.LlamaFileType[f"MOSTLY_{kind.upper()}"])
    params.nthread = threads
    status = []

    def work() -> None:
        status.append(llama_cpp.llama_model_quantize(str(source).encode(), str(file).encode(), params))

    thread = threading.Thread(target=work, daemon=True)  # so that Ctrl-C ends the program
    thread.start()
    with tqdm(desc=printable(f"Quantising to {kind}"), unit="B", unit_scale=True, disable=None) as bar:
        while thread.is_alive():
            thread.join(_POLL_S)
            if file.is_file():
                bar.update(file.stat().st_size - bar.n)
    if status != [0]:
        raise UserError(
            f"llama.cpp could not quantise to {kind} ({last_error('no reason given')}). Is the disk full? Another "
            "--type, such as q8_0, may do."
        )


def packs(base: Base, kind: str) -> bool:
    """Whether a LLaMA can be written as `kind` without llama.cpp: every row divides into its blocks."""
    if kind != PACKED:
        return False
    planned = plan_tensors(base, read_base_tensors(base.path, base.config), kind)
    return not undivided_tensors({one.name: one.shape for one in planned}, kind)


def undivided_tensors(shapes: Mapping[str, Sequence[int]], kind: str) -> list[str]:
    """Tensors whose rows do not divide into the type's blocks: llama.cpp gives them another type."""
    return [name for name, shape in shapes.items() if len(shape) == 2 and shape[1] % block_size(kind)]
