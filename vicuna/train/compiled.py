"""--torch_compile: the parts of each decoder block compiled in place, so that no weight gets another name.

Attention over rows laid into one another takes tuples that differ with each micro batch, and of the last block other
tokens are left out each time: both stay outside of what is compiled, so that no micro batch is compiled for anew.
"""

import contextlib
import getpass
import importlib.util
import os
import shutil
import signal
import stat
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface

from vicuna.errors import Stopped, UserError, first_line
from vicuna.log import log
from vicuna.model.gptq import KERNELS
from vicuna.model.stored import stored_method
from vicuna.train.flags import RunFlags
from vicuna.train.row_attention import NAME, row_attention
from vicuna.train.sharding import decoder_blocks
from vicuna.train.sharing import KINDS
from vicuna.train.signals import GracefulStopCallback

FLAG = "--torch_compile"
DROP = f"or drop {FLAG}"
OLDEST_GPU = (7, 0)  # that Triton makes kernels for
CACHE = "TORCHINDUCTOR_CACHE_DIR"
OF_ATTENTION, OF_LAST_BLOCK = ("attention_mask", "layout", "row_tokens", "token_places"), "predicting"
POSIX = ("posix_prefix",)  # Debian's default scheme is another one


def check_torch_compile(run: RunFlags, config: Any, device: torch.device) -> None:
    """Refuse what can not be compiled, or not here, before time is spent; a line is compiled to see.

    Raises:
        UserError: a kind of base or device that was not tried; no compiler, no header files, no Triton; a folder for
            kernels that others can write into.
    """
    if not run.torch_compile:
        return
    if config.model_type not in KINDS:
        raise UserError(f"{FLAG} works for bases of type {', '.join(KINDS)}, this one is {config.model_type}: drop it.")
    if stored_method(config) in KERNELS:
        raise UserError(
            f"{FLAG} does not work on a base of GPTQ or AWQ, whose kernels are called as they are: drop it."
        )
    if missing := what_is_missing(device.type, os.environ):
        raise UserError(f"{FLAG} {missing}, {DROP}.")
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < OLDEST_GPU:
        raise UserError(f"{FLAG} needs a GPU of compute capability 7.0 or later: drop it.")
    check_kernel_folder(kernel_folder(os.environ))
    _try(device)


def what_is_missing(device_type: str, environ: Mapping[str, str]) -> str:
    """What torch.compile calls on a kind of device and does not find, and how to install it; "" for nothing."""
    if device_type not in ("cpu", "cuda"):
        return f"works on CPUs and NVIDIA GPUs, this run is on {device_type}: take another device"
    if device_type == "cuda" and importlib.util.find_spec("triton") is None:
        return "needs Triton, which is not installed: pip install triton"
    path = environ.get("PATH", "")
    if device_type == "cuda":
        language, variable, package = "C", "CC", "gcc"
        default = next((name for name in ("gcc", "clang") if shutil.which(name, path=path)), "gcc")
    else:
        language, variable, package = "C++", "CXX", "g++ (Debian, Ubuntu) or gcc-c++ (Fedora)"
        default = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    compiler = environ.get(variable, default)
    if not shutil.which(compiler, path=path):
        return (
            f"needs a {language} compiler, and there is no {compiler}: install the package {package}, name one in the "
            f"environment variable {variable}"
        )
    folders = [Path(sysconfig.get_path("include", scheme)) for scheme in (sysconfig.get_default_scheme(), *POSIX)]
    if not any((folder / "Python.h").is_file() for folder in folders):
        return (
            f"needs the header files of Python, and there is no {folders[0] / 'Python.h'}: install the package "
            "python3-dev (Debian, Ubuntu) or python3-devel (Fedora)"
        )
    return ""


def kernel_folder(environ: Mapping[str, str]) -> Path:
    """Where PyTorch keeps what it has compiled, for the next start."""
    try:
        name = getpass.getuser()
    except (KeyError, ImportError, OSError):
        name = f"uid_{os.getuid()}"
    return Path(environ.get(CACHE) or Path(tempfile.gettempdir()) / f"torchinductor_{name}")


def check_kernel_folder(folder: Path) -> None:
    """Refuse a folder of kernels, which are run as they lie there, that others can write into.

    Raises:
        UserError: see above.
    """
    if os.name != "posix" or not folder.exists():
        return
    found = folder.stat()
    if found.st_uid != os.getuid() or found.st_mode & stat.S_IWOTH:
        raise UserError(
            f"{FLAG} runs what lies in {folder}, and others can write into it: name a folder of your own in the "
            f"environment variable {CACHE}, {DROP}."
        )


def compile_blocks(model: nn.Module, rows_laid_out: bool) -> None:
    """Have the parts of each decoder block compiled when they are first called; what is compiled holds for all blocks.

    Not the block as one: activation checkpointing, where it can not be compiled whole, would leave all of it out.

    Args:
        rows_laid_out: rows are laid into one another: their attention, and the last block, are computed as they stand.
    """
    torch.compiler.set_stance("default")  # GPTQModel, which is read where it is installed, has it switched off
    blocks = list(decoder_blocks(model))
    if rows_laid_out and (blocks := blocks[:-1]):
        _PastGraphs(blocks)
    for block in blocks:
        for part in block.children():
            part.compile(dynamic=True)
    log.info("%s: kernels are made when they are first needed, and kept in %s", FLAG, kernel_folder(os.environ))


@contextlib.contextmanager
def compiled_blocks(model: nn.Module, rows_laid_out: bool, stopper: GracefulStopCallback) -> Iterator[None]:
    """As `compile_blocks`, with an end in a sentence where a compiler fails: a Ctrl-C reaches it, too.

    Raises:
        UserError: which checkpoint stands, and the command that goes on from it.
        Stopped: the same, when the run was to stop.
    """
    compile_blocks(model, rows_laid_out)
    try:
        yield
    except RuntimeError as error:
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        if stopper.signal:
            text = f"stopped by {signal.Signals(stopper.signal).name} while kernels were made. {stopper.go_on()}"
            raise Stopped(text, 128 + stopper.signal) from error
        said = " ".join(str(error).strip().splitlines()[:2])  # the first may be only who says it
        text = f"{FLAG}: PyTorch could not compile a part of a block ({said}): mend that, {DROP}."
        raise UserError(f"{text} {stopper.go_on()}") from error


class _PastGraphs:
    """Hands what attention alone takes past all that is compiled, whose arguments are then alike for all micro batches.

    It is the same for all blocks, also when activation checkpointing computes one again: a micro batch has been gone
    back through before the next one comes.
    """

    def __init__(self, blocks: list[nn.Module]):
        self.taken: dict[str, Any] = {}
        self.inside = {part for block in blocks for part in block.modules()}
        for block in blocks:
            block.register_forward_pre_hook(self._take, with_kwargs=True)
        AttentionInterface.register(NAME, torch.compiler.disable(self._attend))

    def _take(self, block: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        self.taken = {name: kwargs[name] for name in OF_ATTENTION if name in kwargs}
        return args, {name: value for name, value in kwargs.items() if name not in (*OF_ATTENTION, OF_LAST_BLOCK)}

    def _attend(
        self,
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, None]:
        if module not in self.inside:
            return row_attention(module, query, key, value, attention_mask, **kwargs)
        found, _ = row_attention(module, query, key, value, **{**kwargs, **self.taken})
        return found.flatten().view(found.shape), None  # with strides that are always alike, also of one row


def _try(device: torch.device) -> None:
    torch.compiler.set_stance("default")
    try:
        torch.compile(_line, dynamic=True)(torch.ones(2, 32, device=device))
    except (RuntimeError, OSError) as error:
        raise UserError(
            f"{FLAG}: PyTorch can not compile a line here ({first_line(error)}): mend that, {DROP}."
        ) from error


def _line(values: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.silu(values) * 2
