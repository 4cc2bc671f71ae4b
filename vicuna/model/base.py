"""The base model: finding it, checking it before any weight is read, and loading it at 4, 8, 16 or 32 bits.

The four precisions are one value, `bits`, which `load_kwargs` turns into arguments of from_pretrained.
"""

import hashlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import CustomDtype, compute_module_sizes, get_balanced_memory, infer_auto_device_map
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig, GenerationConfig, PreTrainedModel

from vicuna.errors import UserError, first_line, listing
from vicuna.model.flags import ModelFlags
from vicuna.prompt.tokenizer import TextTokenizer

BASE_FILES = ["*.json", "*.safetensors", "tokenizer.model"]
EMBEDDED_BASE = ModelFlags.model_path


def local_folder(name: str, flag: str, allow_patterns: list[str]) -> Path:
    """The folder that `name` means: a path here, or a hub id owner/name, which is then downloaded to the cache.

    What starts with `.`, `/` or `~`, or lies in a folder that exists, is a path.

    Raises:
        UserError: no such folder, or a hub id that can not be had.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        raise UserError(f"{flag} {name} is a file; expected the folder that holds it.")
    if name == EMBEDDED_BASE:
        raise UserError(
            f"{flag} {name} does not exist yet: make it with python tools/make_tiny_llama.py --output_path {name}."
        )
    if name.startswith((".", "/", "~")) or name.count("/") != 1 or path.parent.is_dir():
        raise UserError(f"{flag} {name} does not exist: no such folder here, and no hub id of the form owner/name.")
    try:
        return Path(snapshot_download(name, allow_patterns=allow_patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = first_line(error).split(". ")[0]
        raise UserError(
            f"{flag} {name} is no folder here, and the hub did not give it ({reason}). Check the spelling, or the "
            "network."
        ) from error


@dataclass
class Base:
    """A base model that passed every check which needs no weights."""

    path: Path
    config: Any
    tokenizer: TextTokenizer
    generation_config: GenerationConfig

    @property
    def context(self) -> int:
        """Longest sequence the base was made for, in tokens; without end where its config names none."""
        return getattr(self.config, "max_position_embeddings", sys.maxsize)


def check_base(name: str) -> Base:
    """Find a base and check its config, tokenizer, ids and files.

    Raises:
        UserError: what does not fit, naming both sources.
    """
    path = local_folder(name, "--model_path", BASE_FILES)
    if not (path / "config.json").is_file():
        if any(path.glob("consolidated.*.pth")):
            raise UserError(
                f"--model_path {name} is in Meta's layout: convert it first, python tools/convert_llama.py --input_dir "
                f"{name} --output_dir {path.name}-hf."
            )
        raise UserError(
            f"--model_path {name} has no config.json, found {listing(path)}; expected a model in Hugging Face format."
        )
    config = read_config(path)
    if not any(path.glob("*.safetensors")) and not any(path.glob("pytorch_model*.bin")):
        raise UserError(
            f"--model_path {name} has no weights: expected *.safetensors or pytorch_model*.bin beside config.json."
        )
    meta_model(config)
    tokenizer = TextTokenizer(path)
    generation_config = _generation_config(path, config)
    _check_ids(path, config, generation_config, tokenizer)
    return Base(path, config, tokenizer, generation_config)


def read_config(folder: Path) -> Any:
    """The config of a folder in Hugging Face format.

    Raises:
        UserError: it can not be read.
    """
    try:
        return AutoConfig.from_pretrained(folder)
    except (ValueError, OSError, KeyError) as error:
        raise UserError(f"{folder / 'config.json'} can not be read ({first_line(error)}).") from error


def _generation_config(path: Path, config: Any) -> GenerationConfig:
    if not (path / "generation_config.json").is_file():
        return GenerationConfig.from_model_config(config)
    try:
        return GenerationConfig.from_pretrained(path)
    except (ValueError, OSError) as error:
        raise UserError(f"{path / 'generation_config.json'} can not be read ({first_line(error)}).") from error


def _check_ids(path: Path, config: Any, generation_config: GenerationConfig, tokenizer: TextTokenizer) -> None:
    """Early 2023's most common failure: a config with bos 0 and eos 1 beside a tokenizer with 1 and 2."""
    for source, holder in (("config.json", config), ("generation_config.json", generation_config)):
        for name, own in (("bos_token_id", tokenizer.bos_id), ("eos_token_id", tokenizer.eos_id)):
            declared = getattr(holder, name, None)
            ids = declared if isinstance(declared, list) else [declared]
            if declared is not None and own not in ids:
                raise UserError(
                    f"{path / source} says {name} {declared}, but {tokenizer.source.name} beside it says {own}: "
                    f"answers would not end. Correct {name} in {source} if the tokenizer is the right one."
                )
    if tokenizer.size > config.vocab_size:
        raise UserError(
            f"{tokenizer.source} has {tokenizer.size} pieces, but the base's vocab_size is {config.vocab_size}: "
            "the tokenizer belongs to another base."
        )


def fingerprint(path: Path) -> str:
    """SHA-256 over a base's config, tokenizer and weight files: their names, sizes, first and last MiB."""
    digest = hashlib.sha256()
    files = [
        file
        for pattern in ("config.json", "tokenizer*", "*.safetensors", "*.bin")
        for file in sorted(path.glob(pattern))
    ]
    for file in files:
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


def meta_model(config: Any) -> PreTrainedModel:
    """The model without weights: names and shapes only, at no cost.

    Raises:
        UserError: a model that does not continue text.
    """
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config)
    except ValueError as error:
        kind = type(config).__name__.removesuffix("Config")
        raise UserError(
            f"the base is of type {kind}, which does not continue text; expected one like LLaMA."
        ) from error


def head_dim(config: Any) -> int:
    """The width of an attention head."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


WEIGHTS_SHARE = 0.9  # of a GPU's free memory that weights may take where several hold them


def device_map(config: Any, bits: int, dtype: torch.dtype, free: dict[int, int]) -> dict[str, int]:
    """Which GPU each part of a base goes to: decoder blocks are never split, a tied head stays with its embedding.

    A base that takes no more than half of the first GPU stays there: answers then never wait for a transfer.

    Args:
        free: bytes by GPU.

    Raises:
        UserError: it does not fit all of them together.
    """
    model = meta_model(config)
    block = type(max((m for m in model.modules() if isinstance(m, nn.ModuleList)), key=len)[0])
    small = {4: CustomDtype.INT4, 8: torch.int8}.get(bits)
    head = model.get_output_embeddings()
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and module is not head]
    dtypes = {"dtype": dtype, "special_dtypes": {f"{name}.weight": small for name in linear if small}}
    sizes = compute_module_sizes(model, **dtypes)
    first = min(free)
    if sizes[""] <= free[first] / 2:
        return {"": first}
    whole = {"no_split_module_classes": [block.__name__], **dtypes}
    room = {gpu: int(WEIGHTS_SHARE * count) for gpu, count in free.items()}
    # Accelerate keeps room on the first GPU for the largest part, which may lie in main memory elsewhere.
    largest = max(
        sizes[name] for name, part in model.named_modules() if isinstance(part, block) or not [*part.children()]
    )
    for budget in (get_balanced_memory(model, dict(room), **whole), room):  # evenly, or else one GPU after the other
        for extra in (0, largest):
            found = infer_auto_device_map(model, {**budget, first: budget[first] + extra}, **whole)
            used = {gpu: sum(sizes[name] for name, place in found.items() if place == gpu) for gpu in found.values()}
            if all(used[gpu] <= room.get(gpu, -1) for gpu in used):
                return dict(found)
    raise UserError(
        f"the base takes {sizes[''] / 2**30:.1f} GiB at {bits} bits, and {len(free)} GPUs have "
        f"{' + '.join(f'{count / 2**30:.1f}' for count in free.values())} GiB free, some of which answers need. "
        "Take fewer --bits, a smaller base, or end other programs on the GPUs."
    )


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
    if bits == 8 and where.type == "cuda" and torch.cuda.get_device_capability(where) < (7, 5):
        raise UserError(
            "--bits 8 needs a GPU of compute capability 7.5 or above (LLM.int8); use --bits 4 or --bits 16."
        )
    place = {"": where} if placed else None
    if spread and where.type == "cuda" and torch.cuda.device_count() > 1:
        free = {gpu: torch.cuda.mem_get_info(gpu)[0] for gpu in range(torch.cuda.device_count())}
        place = device_map(base.config, bits, dtype, free)
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            base.path,
            device_map=place,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, by name
            **load_kwargs(bits, dtype),
        )
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"{base.path} at {bits} bits does not fit {where}. Take fewer --bits, or a smaller base."
        ) from error
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"the weights in {base.path} can not be loaded ({first_line(error)}). Copy the folder again."
        ) from error
    lacking = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
    if lacking:
        raise UserError(
            f"the weights in {base.path} lack {len(lacking)} tensors, such as {lacking[0]}. Copy the folder again."
        )
    if bits == 4:
        _keep_weights_unpacked(model)
    model.generation_config = base.generation_config
    return model


def _keep_weights_unpacked(model: PreTrainedModel) -> None:
    """Without this, bitsandbytes 0.50 on an AVX512-BF16 CPU repacks 4-bit weights in place at the first evaluation,
    and every gradient and every merge after it is silently wrong (tests/model/test_load_base.py shows it)."""
    import bitsandbytes as bnb

    for module in model.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False
