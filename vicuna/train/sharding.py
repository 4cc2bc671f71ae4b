"""A base cut in parts over several devices, by DeepSpeed ZeRO-3 or by PyTorch's FSDP2: checks and settings."""

import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vicuna.errors import UserError
from vicuna.foreign.typed import read_object
from vicuna.train.flags import RunFlags


def check_sharding(
    run: RunFlags, bits: int, device: torch.device, world_size: int, train: str = "lora"
) -> dict[str, Any]:
    """Refuse what can not be cut in parts, before time is spent; what a resumed run must have the same.

    Raises:
        UserError: DeepSpeed is not installed or its file is no JSON; a quantised base; no GPU, or only one, for FSDP.
    """
    if run.sharding_flag and run.elastic:
        raise UserError(
            "--elastic can not be had with --deepspeed or --fsdp, whose checkpoints hold one part for each device: "
            "resume on as many devices as before, without --elastic."
        )
    if run.fsdp:
        _check_fsdp(bits, device, world_size)
    found = _check_deepspeed(run.deepspeed, bits) if run.deepspeed else {"zero_stage": None}
    if "new_rows" in train and (run.fsdp or found["zero_stage"] == 3):
        raise UserError(
            f"--train {train} puts rows into whole tables at each step, and {run.sharding_flag} cuts these in parts: "
            "take DeepSpeed's stage 2 (--deepspeed config-sample/ds_zero2.json), or none."
        )
    return found


def _check_fsdp(bits: int, device: torch.device, world_size: int) -> None:
    if bits < 16:
        raise UserError(f"--fsdp can not cut a base of {bits} bits in parts; take --bits 16.")
    if device.type != "cuda":
        raise UserError(
            f"--fsdp needs NVIDIA GPUs, this run is on {device.type}; drop it, or take --deepspeed, which also runs "
            "on CPUs."
        )
    if world_size == 1:
        raise UserError(
            "--fsdp cuts the base over several processes, and this is one: torchrun --standalone --nproc_per_node=2 "
            "finetune.py …"
        )


def _check_deepspeed(file: str, bits: int) -> dict[str, Any]:
    if importlib.util.find_spec("deepspeed") is None:
        raise UserError("--deepspeed needs DeepSpeed, which is not installed: pip install deepspeed ninja.")
    try:
        config = read_object(Path(file))
        stage = config.get("zero_optimization", {}).get("stage", 0)
    except (UserError, AttributeError) as error:
        raise UserError(f"--deepspeed {file} can not be read as JSON ({error}).") from error
    if stage == 3 and bits < 16:
        raise UserError(
            f"--deepspeed {file} is ZeRO-3, which can not cut a base of {bits} bits in parts; take --bits 16."
        )
    text = json.dumps(config, sort_keys=True)
    return {"zero_stage": stage, "deepspeed_sha256": hashlib.sha256(text.encode()).hexdigest()}


def prepare_sharded_loading(run: RunFlags, zero_stage: int | None) -> bool:
    """Whether no device may hold the whole base, not even while it is loaded.

    ZeRO-3 then cuts it while it is read, for which DeepSpeed must know the processes of the run.
    """
    if zero_stage == 3:
        import deepspeed

        deepspeed.init_distributed(verbose=False)
    return run.fsdp or zero_stage == 3


def fsdp_config(skeleton: nn.Module, run: RunFlags) -> dict[str, Any] | None:
    """TrainingArguments' fsdp_config, None without --fsdp: FSDP2, cutting one decoder block after the other.

    Checkpoints hold one part for each device: none of them, and no process, has to hold everything. Activations are
    recomputed by the Trainer's own setting, not by FSDP's: accelerate's draws dropout anew, and the gradients would
    belong to another forward pass.
    """
    if not run.fsdp:
        return None
    return {
        "version": 2,
        "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "transformer_layer_cls_to_wrap": [decoder_block_class(skeleton)],
        "reshard_after_forward": True,
        "state_dict_type": "SHARDED_STATE_DICT",
        "cpu_ram_efficient_loading": False,
    }


def decoder_blocks(model: nn.Module) -> nn.ModuleList:
    """The repeated blocks: the longest list of modules."""
    return max((module for module in model.modules() if isinstance(module, nn.ModuleList)), key=len)


def decoder_block_class(model: nn.Module) -> str:
    """Class name of the repeated block."""
    return type(decoder_blocks(model)[0]).__name__
