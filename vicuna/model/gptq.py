"""Bases in the formats of GPTQ and AWQ, which GPTQModel computes: how it is read, and what is checked before it is.

Of its kernels always the plain ones of PyTorch: the others vary with the processor, refuse some shapes, and train
nothing where an evaluation came first.
"""

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from huggingface_hub import constants
from transformers.utils import logging as verbosity

from vicuna.errors import UserError
from vicuna.files.json_files import read_json
from vicuna.model.config import linear_layers, quantization_method

GPTQ, AWQ = "gptq", "awq"
KERNELS = {GPTQ: "gptq_torch", AWQ: "torch_awq"}  # as transformers names them
WORD = 32  # bits of an int32 that weights are packed in
RECORD = "quantisation.json"  # what tools/quant_llama.py writes beside weights about how it made them
INSTALL = "bash scripts/install_gptq.sh"
# Before GPTQModel is read: it fails with one worker, as it would take on two cores, and it would compile C++ to pack.
_SETTINGS = {"GPTQMODEL_CPU_WORKERS": "2", "GPTQMODEL_DISABLE_PACK_EXT": "1"}


@contextlib.contextmanager
def silenced() -> Iterator[io.StringIO]:
    """What a library prints to standard output in the block, which belongs to answers and tables."""
    level = verbosity.get_verbosity()
    with contextlib.redirect_stdout(io.StringIO()) as said, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        verbosity.set_verbosity_error()
        try:
            yield said
        finally:
            verbosity.set_verbosity(level)


@contextlib.contextmanager
def same_environment() -> Iterator[None]:
    """What a library sets in the environment is taken back: every program that is started later would inherit it.

    tokenicer 0.0.14, which GPTQModel reads, has the hub's cache and modules in a folder of /tmp where nothing else is
    set, so that processes started later look for models there; here it finds set what holds already.
    """
    before = dict(os.environ)
    for name in ("HF_HOME", "HF_HUB_CACHE", "HF_MODULES_CACHE"):
        os.environ.setdefault(name, getattr(constants, name, "") or os.path.join(constants.HF_HOME, "modules"))
    os.environ.setdefault("TRANSFORMERS_CACHE", constants.HF_HUB_CACHE)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


def read_gptqmodel() -> ModuleType:
    """GPTQModel, read without its banner; its kernels are then computed as they stand where a CPU does it.

    Compiled by torch.compile, they need a C++ compiler and some ten seconds, and are no faster there.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    # From a thread of its own: where llama-cpp-python is missing, gptqmodel 7.6.0 keeps the ImportError for good, and
    # with it the frames of all who led there, with what they hold: a run's process group would never end.
    with same_environment(), silenced(), ThreadPoolExecutor(1) as apart:
        gptqmodel = apart.submit(import_module, "gptqmodel").result()
    from logbar import LogBar

    LogBar.shared().setLevel("ERROR")
    logging.getLogger("tokenicer").setLevel(logging.WARNING)
    if not torch.cuda.is_available():
        torch.compiler.set_stance("force_eager")
    return gptqmodel


def keep_peft_silent() -> None:
    """Read GPTQModel, where it is installed, before PEFT does, which it does for a LoRA on any base."""
    if find_spec("gptqmodel"):
        read_gptqmodel()


def config_for_plain_kernels(config: Any) -> Any:
    """The config of such a base, naming the kernel that it is to be opened with."""
    config = deepcopy(config)
    config.quantization_config["backend"] = KERNELS[quantization_method(config)]
    return config


def made_of(path: Path) -> str:
    """The model that quantised weights were made of, in words."""
    file = path / RECORD
    name = read_json(file).get("base") if file.is_file() else None
    return f"{name}, which it was made of" if name else "the model that it was made of"


def check_packed(path: Path, config: Any, tensors: Mapping[str, torch.Tensor]) -> None:
    """Check that a folder's weights are what its config says: method, bits, groups, zero points.

    Raises:
        UserError: they are not, or the head is quantised too, which transformers would fill with random numbers.
    """
    method, settings = quantization_method(config), config.quantization_config
    bits, group = settings.get("bits", 4), settings.get("group_size", 128)
    file, taken = path / "config.json", settings.get("checkpoint_format", settings.get("format", "gptq")) == "gptq"
    if settings.get("lm_head") or any(name.startswith("lm_head.q") for name in tensors):
        raise UserError(
            f"the head of {path} is quantised, which transformers does not read: quantise the model that it was made "
            "of anew, with python tools/quant_llama.py."
        )
    if not isinstance(bits, int) or not isinstance(group, int) or group == 0 or group < -1:
        raise UserError(f"{file} says {bits} bits in groups of {group}: expected numbers, such as 4 and 128.")
    for name, (columns, rows) in linear_layers(config).items():
        packed, scales = tensors.get(f"{name}.qweight"), tensors.get(f"{name}.scales")
        if packed is None or scales is None:
            raise UserError(f"{file} says that the weights are quantised by {method}, and {name} in {path} is not.")
        words = packed.shape[0] * WORD / columns if method == GPTQ else packed.shape[1] * WORD / rows
        if words != bits:
            raise UserError(f"{file} says {bits} bits, and {name} in {path} has {words:g}: correct the config.")
        found = len(scales)
        if found != (1 if group == -1 else -(-columns // group)):
            raise UserError(
                f"{file} says group_size {group}, and {name} in {path} has {found} groups of {columns // found} in "
                f"its rows of {columns}: correct the config."
            )
        if method == GPTQ and settings.get("sym") and not symmetric(tensors[f"{name}.qzeros"], bits, taken):
            raise UserError(
                f"the zero points of {name} in {path} are not where symmetric weights have them: it was saved again "
                "after it was opened, which ruins it. Copy the folder that it was opened from."
            )


def symmetric(zeros: torch.Tensor, bits: int, taken: int) -> bool:
    """Whether all zero points lie in the middle of the range; of three bits, which lie across words, nothing is told.

    Args:
        taken: what the format takes away from a zero point, 1 in the first.
    """
    if bits not in (2, 4, 8):
        return True
    word = sum(2 ** (bits - 1) - taken << shift for shift in range(0, WORD, bits))
    signed = word - (1 << WORD) if word >> (WORD - 1) else word
    return bool((zeros == signed).all())
