"""The base model: finding it, checking it before any weight is read, and loading it at 4, 8, 16 or 32 bits.

The four precisions are one value, `bits`, which `load_kwargs` turns into arguments of from_pretrained.
"""

import contextlib
import hashlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, GenerationConfig, PreTrainedModel

from vicuna.errors import UserError, first_line
from vicuna.files.tensors import read_tensor_files, weight_paths
from vicuna.files.weight_heads import read_heads
from vicuna.foreign.odd_files import NEVER_RUN
from vicuna.foreign.paths import regular_files
from vicuna.gguf_file.folder import folder_of
from vicuna.gguf_file.link import stands_for
from vicuna.gguf_file.reader import is_gguf, read_gguf
from vicuna.gguf_file.weights import describe_types
from vicuna.log import log
from vicuna.model.config import check_continues_text, meta_model, own_config, read_config
from vicuna.model.context import read_context
from vicuna.model.declared import check_counts, check_shapes
from vicuna.model.declared_decoding import read_generation_config
from vicuna.model.found import ADAPTER_FILES, RUN_ARGS, base_folder, holds_adapter
from vicuna.model.gptq import KERNELS, config_for_plain_kernels, silenced
from vicuna.model.placement import device_map
from vicuna.model.run_record import read_run_record
from vicuna.model.stored import BITSANDBYTES, check_marks, check_quantiser, stored_method
from vicuna.model.token_ids import check_ids, ends_of
from vicuna.prompt.rendering import BASE
from vicuna.prompt.tokenizer import TextTokenizer

# Of from_pretrained: an adapter is looked for where there is none, else one beside the weights is loaded with them.
BASE_ALONE = {"adapter_kwargs": {"subfolder": "none"}}


@dataclass
class Base:
    """A base model that passed every check which needs no weights.

    Attributes:
        path: the folder with its files. For a GGUF file one that stands for it, of the file's name.
        context: longest sequence in tokens, see `vicuna.model.context`.
        file: the GGUF file that it is, None for a folder.
    """

    path: Path
    config: Any
    tokenizer: TextTokenizer
    generation_config: GenerationConfig
    context: int = sys.maxsize
    file: Path | None = None

    @property
    def place(self) -> Path:
        """Where it lies, for people and for who opens it again: the GGUF file or the folder."""
        return self.file or self.path


def check_base(name: str, context: int | None = None) -> Base:
    """Find a base, a folder or a GGUF file, and check its config, tokenizer, ids and files.

    Args:
        context: what the user says of it, as --context.

    Raises:
        UserError: what does not fit, naming both sources.
    """
    path = folder_of(name) if is_gguf(name) else base_folder(name)
    config = read_config(path)
    heads = read_heads(weight_paths(path))
    check_continues_text(config)
    check_counts(path, heads)
    if holds_adapter(path):
        log.info("%s also holds an adapter, which is no part of the base; --lora_path %s puts it on", path, path)
    tokenizer = TextTokenizer(path)
    generation_config = read_generation_config(path, config)
    by_template = tokenizer.chat is not None and _trained_with(path) in ("", BASE)
    check_ids(path, config, generation_config, tokenizer, by_template)
    check_shapes(path, config, meta_model(config), heads)
    generation_config.eos_token_id = ends_of(config, generation_config, tokenizer, by_template)
    found = read_context(path, config, context)
    if found.reason:
        log.info("%s: context of %d tokens (%s)%s", path, found.tokens, found.reason, _other_context(context))
    file = stands_for(path)
    if file is not None:
        types = describe_types(read_gguf(str(file), "--model_path"))
        log.info("%s is opened as a base: its tensors (%s) are dequantised", file, types)
    return Base(path, config, tokenizer, generation_config, found.tokens, file)


def _other_context(given: int | None) -> str:
    return "; --context of training and chat sets another" if given is None else ""


def _trained_with(path: Path) -> str:
    """The prompt type that a model's folder names as its own, "" for none."""
    said = read_run_record(path / RUN_ARGS)
    return "" if holds_adapter(path) and "merged" not in said else said.get("prompt_type") or ""


def fingerprint(path: Path) -> str:
    """SHA-256 over a base's config, tokenizer and weight files: their names, sizes, first and last MiB.

    An adapter beside them is no part of the base. The same of a file that is a base of its own.
    """
    path = stands_for(path) or path
    digest = hashlib.sha256()
    others = ADAPTER_FILES[:2] if holds_adapter(path) else ()
    files = [
        file
        for pattern in ("config.json", "tokenizer*", "*.safetensors", "*.bin")
        for file in regular_files(path, pattern)
        if file.name not in others
    ]
    for file in [path] if path.is_file() else files:
        size = file.stat().st_size
        digest.update(f"{file.name} {size}\n".encode())
        with file.open("rb") as opened:
            digest.update(opened.read(1 << 20))
            opened.seek(max(0, size - (1 << 20)))
            digest.update(opened.read())
    return digest.hexdigest()


def device() -> torch.device:
    """The device of this process: its own GPU under torchrun, the first visible one otherwise, else the CPU.

    Raises:
        UserError: CUDA_VISIBLE_DEVICES names GPUs, and there is none.
    """
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    if (named := os.environ.get("CUDA_VISIBLE_DEVICES", "")) not in ("", "-1"):
        raise UserError(
            f"CUDA_VISIBLE_DEVICES={named} names no GPU that this PyTorch can use; nvidia-smi lists them. "
            "Unset it (or TOT_CUDA) to run on the CPU."
        )
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def compute_dtype(bits: int) -> tuple[torch.dtype, str]:
    """The precision activations are computed in, and why.

    Only hardware that computes in bfloat16 gets it: `torch.cuda.is_bf16_supported()` also counts emulation,
    and is True on a 2080 Ti, where it is far slower than float16.
    """
    if bits == 32:
        return torch.float32, "asked for by --bits 32"
    where = device()
    if where.type == "cuda":
        major, minor = torch.cuda.get_device_capability(where)
        if major >= 8:
            return torch.bfloat16, f"this GPU (sm_{major}{minor}) computes in it"
        return torch.float16, f"this GPU (sm_{major}{minor}) only emulates bfloat16"
    if where.type == "mps":
        return torch.float16, "the precision of Apple GPUs"
    features = torch.cpu.get_capabilities()
    for feature, name in (("amx_bf16", "AMX"), ("avx512_bf16", "AVX512-BF16")):
        if features.get(feature):
            return torch.bfloat16, f"this CPU has {name}"
    return torch.float32, "this CPU has neither AVX512-BF16 nor AMX"


def load_kwargs(bits: int, dtype: torch.dtype) -> dict[str, Any]:
    """Arguments of from_pretrained for a base at `bits`. 4 bits is NF4, double quantised, as in QLoRA (2305.14314)."""
    if bits == 4:
        quantization = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
        )
        return {"quantization_config": quantization, "dtype": dtype}
    if bits == 8:
        return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True), "dtype": dtype}
    return {"dtype": dtype}


def checkpointing_kwargs(bits: int) -> dict[str, bool]:
    """Arguments of activation checkpointing.

    At 8 bits the reentrant kind: bitsandbytes 0.50 keeps the input of every 8-bit product on the graph itself, where
    the other kind can not drop it; about five times as much is then held until the backward pass.
    """
    return {"use_reentrant": bits == 8}


def load_base(base: Base, bits: int, placed: bool = True, spread: bool = False) -> PreTrainedModel:
    """The base's weights at `bits`, on this process's device.

    Args:
        placed: False leaves them to who cuts them in parts: in main memory, or in ZeRO-3's parts from the first.
        spread: several GPUs, where there are some, may share them.

    Raises:
        UserError: weights that are missing, broken, of another shape, or too large for the device.
    """
    dtype, _ = compute_dtype(bits)
    where = device()
    stored = stored_method(base.config)
    if (
        bits == 8
        and stored not in KERNELS
        and where.type == "cuda"
        and torch.cuda.get_device_capability(where) < (7, 5)
    ):
        raise UserError(
            "--bits 8 needs a GPU of compute capability 7.5 or above (LLM.int8); use --bits 4 or --bits 16."
        )
    place = {"": where} if placed else None
    if spread and where.type == "cuda" and torch.cuda.device_count() > 1:
        free = {gpu: torch.cuda.mem_get_info(gpu)[0] for gpu in range(torch.cuda.device_count())}
        place = device_map(base.config, bits, dtype, free)
    kwargs = {"dtype": dtype} if stored else load_kwargs(bits, dtype)
    kwargs |= own_config(base.config, base.path)
    if stored:
        check_quantiser(base.path, base.config)
    else:
        check_marks(base.path, base.config)
    if stored in KERNELS:
        kwargs["config"] = config_for_plain_kernels(base.config)
    try:
        with silenced() if stored in KERNELS else contextlib.nullcontext():
            kind, source = (AutoModelForCausalLM, {}) if base.file is None else _read_here(base, placed)
            model, info = kind.from_pretrained(
                base.path if base.file is None else None,
                device_map=place,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are refused below, by name
                **kwargs,
                **source,
                **BASE_ALONE,
                **NEVER_RUN,
            )
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"{base.path} at {bits} bits does not fit {where}. Take fewer --bits, or a smaller base."
        ) from error
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"the weights in {base.path} can not be loaded ({first_line(error)}). Copy the folder again."
        ) from error
    _check_loaded(base, info)
    if stored == BITSANDBYTES or (bits == 4 and not stored):
        _prepare_4_bit(model, dtype)
    model.generation_config = base.generation_config
    if base.file is not None:
        model.name_or_path = model.config.name_or_path = str(base.path)
    return model


def _check_loaded(base: Base, info: dict[str, Any]) -> None:
    """What from_pretrained says of a base's tensors, in a sentence each.

    Raises:
        UserError: some are missing.
    """
    lacking = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
    if lacking:
        raise UserError(
            f"the weights in {base.path} lack {len(lacking)} tensors, such as {lacking[0]}. Copy the folder again."
        )
    if left := sorted(info["unexpected_keys"]):
        log.warning(
            "%s holds %d tensors that such a model does not have, such as %s; left out", base.path, len(left), left[0]
        )


def _read_here(base: Base, placed: bool) -> tuple[type[PreTrainedModel], dict[str, Any]]:
    """What opens a GGUF base, and its arguments of from_pretrained: tensors that are dequantised one by one.

    transformers' own reader gives float32 as a whole, or the file's rounding; neither goes with `load_kwargs`.
    """
    tensors = read_tensor_files(weight_paths(base.path))
    if not placed:  # ZeRO-3's parts are cut from tensors themselves
        tensors = {name: rows[...] for name, rows in tensors.items()}
    return type(meta_model(base.config)), {"config": base.config, "state_dict": tensors}


def _prepare_4_bit(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Compute with 4-bit weights in `dtype`, whatever they were stored with, and leave them as they are.

    Without this, bitsandbytes 0.50 on an AVX512-BF16 CPU repacks 4-bit weights in place at the first evaluation,
    and every gradient and every merge after it is silently wrong (tests/model/test_load_base.py shows it).
    """
    import bitsandbytes as bnb

    for module in model.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False
            module.compute_dtype = dtype
