"""At what precision a base's weights are stored, and what that leaves of --bits: weights are used as they are."""

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers.quantizers import AutoHfQuantizer

from vicuna.errors import UserError, first_line
from vicuna.files.tensors import dtype_name, main_dtype, read_tensor_files, weight_paths
from vicuna.gguf_file.link import stands_for
from vicuna.gguf_file.reader import read_gguf
from vicuna.gguf_file.weights import describe_types
from vicuna.log import log
from vicuna.model.config import quantization_method
from vicuna.model.flags import ModelFlags
from vicuna.model.gptq import INSTALL, KERNELS, check_packed, read_gptqmodel, silenced
from vicuna.sentences import Sentence

BITSANDBYTES = "bitsandbytes"


def stored_method(config: Any) -> str:
    """What a base's weights are read with; "" for plain ones, also where its config names a method nobody knows."""
    method = quantization_method(config)
    return method if method and AutoHfQuantizer.supports_quant_method(config.quantization_config) else ""


def stored_bits(config: Any) -> int | None:
    """How many bits a base's quantised weights are stored in; None for plain weights."""
    method = stored_method(config)
    if not method:
        return None
    settings = config.quantization_config
    if method == BITSANDBYTES:
        return 8 if settings.get("load_in_8bit") else 4
    bits = settings.get("bits")
    return bits if isinstance(bits, int) else 8


def check_quantiser(path: Path, config: Any) -> bool:
    """Whether a base's quantised weights are dequantised when they are loaded, as quantisers do on some devices.

    Raises:
        UserError: what its quantiser needs is missing.
    """
    check_marks(path, config)
    ours = stored_method(config) in KERNELS
    try:
        if ours:
            read_gptqmodel()
        with silenced() if ours else contextlib.nullcontext():
            quantiser = AutoHfQuantizer.from_config(config.quantization_config, pre_quantized=True)
            quantiser.validate_environment(device_map=None, weights_only=True)
    except Exception as error:  # each of some twenty quantisers raises what it likes
        raise UserError(
            f"{path} is quantised with {stored_method(config)}, which can not be read here ({first_line(error)}): "
            f"{f'{INSTALL} installs what it needs' if ours else 'install what is missing'}, or take the model that it "
            "was made of."
        ) from error
    return bool(getattr(quantiser.quantization_config, "dequantize", False))


def check_marks(path: Path, config: Any) -> None:
    """Check that config and weights agree on whether and how these are quantised; files are mapped for it.

    Raises:
        UserError: they do not; transformers would then take whole numbers for weights, or fail at the first token.
    """
    method = stored_method(config)
    names = read_tensor_files(weight_paths(path))
    if method in KERNELS:
        check_packed(path, config, names)
        return
    if packed := next((name for name in names if name.endswith(".qweight")), ""):
        raise UserError(
            f"the weights in {path} are quantised by GPTQ or AWQ ({packed}), and config.json beside them does not say "
            "so in quantization_config: copy the config that was saved with them."
        )
    says = method == BITSANDBYTES
    marked = next((name for name in names if name.endswith(".SCB") or "bitsandbytes__" in name), "")
    if says and not marked:
        raise UserError(
            f"{path / 'config.json'} says that the weights are quantised by bitsandbytes, and they are plain: remove "
            "quantization_config from it."
        )
    if marked and not says:
        raise UserError(
            f"the weights in {path} are quantised by bitsandbytes ({marked}), and config.json beside them does not say "
            "so in quantization_config: copy the config that was saved with them."
        )


def use_as_stored(path: Path, config: Any, flags: ModelFlags, train: str = "lora") -> ModelFlags:
    """The flags with the bits that a base will really have: those it is stored in, where it is stored quantised.

    Raises:
        UserError: it can not be read here, or its weights are to be trained.
    """
    bits = stored_bits(config)
    if bits is None:
        check_marks(path, config)
        return flags
    if check_quantiser(path, config):
        bits = max(16, flags.bits)
    elif train == "full":
        raise UserError(
            f"--train full changes every weight, and those in {path} are stored at {bits} bits "
            f"({stored_method(config)}): take the model that it was made of."
        )
    if bits != flags.bits:
        log.info("%s: --bits %d does not count, its weights are %s", path, flags.bits, stored_precision(path, config))
    return replace(flags, bits=bits, int8=None)


def stored_precision(path: Path, config: Any) -> str:
    """What a base's weights are stored as, such as float16 or "bitsandbytes 8 bit"; files are mapped for it."""
    if bits := stored_bits(config):
        return f"{stored_method(config)} {bits} bit"
    if file := stands_for(path):
        return f"{describe_types(read_gguf(str(file), '--model_path'))} of a GGUF"
    return dtype_name(main_dtype(read_tensor_files(weight_paths(path))))


def loaded_precision(config: Any, bits: int, dtype: torch.dtype) -> str:
    """What a base's weights are in memory, in words.

    Args:
        bits: as `use_as_stored` gives them; dtype: in which they are computed with.
    """
    if bits >= 16:
        return Sentence("bits", bits=8 * dtype.itemsize)
    return Sentence("bits_as_stored" if stored_method(config) else "bits", bits=bits)
