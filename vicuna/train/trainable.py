"""What a run leaves behind, whatever --train it has: an adapter, or a whole model in Hugging Face format.

A whole model is written as adapters are: aside first, read again and compared, then moved into place.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from safetensors import safe_open
from torch import nn

from vicuna.errors import UserError
from vicuna.files.aside import aside_folder
from vicuna.files.outputs import put_all
from vicuna.files.tensors import INDEX_FILE
from vicuna.model.adapter import load_adapter, new_adapter, plan_adapter, save_adapter
from vicuna.model.adapter_files import read_adapter_tensors, train_kind
from vicuna.model.base import Base
from vicuna.model.config import has_fused_experts
from vicuna.model.flags import LoraFlags
from vicuna.model.found import ADAPTER_CONFIG, ADAPTER_FILES, adapter_file
from vicuna.model.openable import copy_tokenizer, make_openable
from vicuna.model.targets import check_targets
from vicuna.train.flags import RunFlags

SHARD_SIZE = "2GB"


def check_train_flag(base_path: Path, train: str, bits: int, dtype: torch.dtype, run: RunFlags) -> None:
    """Refuse what --train can not do at this precision, or would write over.

    Raises:
        UserError: see above.
    """
    output = Path(run.output_path)
    if run.continue_schedule and train != "lora":
        raise UserError(f"--continue_schedule goes on with a LoRA adapter, not with --train {train}; leave one out.")
    if train != "full":
        if any(output.glob("model*.safetensors")):
            raise UserError(
                f"--output_path {output} holds a whole model, beside which an adapter would be taken for a part of it; "
                "name another folder."
            )
        return
    if bits < 16:
        raise UserError(
            f"--train full changes every weight, which {bits} bits can not hold: pass --bits 16 or --bits 32."
        )
    if dtype is torch.float16 and not run.deepspeed:
        raise UserError(
            "--train full --bits 16 computes in float16 here, which loses small updates: pass --deepspeed, which keeps "
            "a float32 copy of the weights, or --bits 32."
        )
    if (output / ADAPTER_CONFIG).is_file():
        raise UserError(
            f"--output_path {output} holds an adapter, which would be loaded on top of the whole model that --train "
            "full writes; name another folder."
        )
    if output.is_dir() and output.samefile(base_path):
        raise UserError(f"--output_path {output} is the base itself; name another folder for what --train full writes.")


def weight_bits(train: str, bits: int, deepspeed: str | None) -> int:
    """At which precision the weights are loaded.

    All of them trained, they are float32: added to a bfloat16 weight, an update under 1/256 of it is lost. --bits 16
    then says how activations are computed. DeepSpeed keeps a float32 copy of its own.
    """
    return 32 if train == "full" and not deepspeed else bits


def plan_trainable(
    base: Base, flags: LoraFlags, folder: Path | None, bits: int
) -> tuple[LoraConfig | None, LoraFlags, str]:
    """As `vicuna.model.adapter.plan_adapter`, with None for the config where every weight is trained.

    Args:
        folder: where the adapter, or the whole model, to start from lies.
        bits: of the base.

    Raises:
        UserError: it holds the other of the two; names of layers that the base does not have.
    """
    if flags.train != "full":
        if "lora" in flags.trains and not folder:
            check_targets(base.config, flags.lora_target_modules)
        return plan_adapter(base, flags, folder, bits)
    if folder and any((folder / name).is_file() for name in ADAPTER_FILES[:2]):
        raise UserError(
            f"{folder} holds an adapter, but --train full starts from a whole model: pass --train "
            f"{train_kind(read_adapter_tensors(adapter_file(folder)))}, or the folder of a whole model."
        )
    if folder and not (folder / "config.json").is_file():
        raise UserError(f"{folder} has no config.json; expected a whole model in Hugging Face format.")
    return None, flags, ""


def base_to_load(base: Base, lora: LoraConfig | None, folder: Path | None) -> Base:
    """The base whose weights are loaded: with --train full the model in `folder`, if one is given."""
    return replace(base, path=folder) if lora is None and folder else base


def make_trainable(loaded: Any, lora: LoraConfig | None, folder: Path | None, base_name: str) -> Any:
    """What the Trainer gets: the base itself, or the adapter in `folder`, or a new one, on top of it."""
    if lora is None:
        return loaded
    if folder:
        return load_adapter(loaded, folder, base_name, trainable=True, dropout=lora.lora_dropout, within=lora)[0]
    return new_adapter(loaded, lora)


def closing_message(model: nn.Module, output: Path, base_path: Path) -> str:
    """The last line of a run."""
    if isinstance(model, PeftModel):
        what, paths = "adapter", f"{base_path} --lora_path {output}"
    else:
        what, paths = "model", str(output)
    return f"the {what} is in {output}; talk to it: python generate.py --model_path {paths}"


def save_trained(model: nn.Module, folder: Path, weights: dict[str, torch.Tensor], base_path: Path) -> None:
    """Write what was trained: the adapter, or the whole model with the base's tokenizer.

    Args:
        weights: from `vicuna.model.adapter.gather_tensors`.
    """
    if isinstance(model, PeftModel):
        save_adapter(model, folder, weights)
    else:
        save_model(model, folder, weights, base_path)


def save_model(model: Any, folder: Path, weights: dict[str, torch.Tensor], base_path: Path) -> None:
    """Write a whole model: aside first, read again and compared, then moved into place.

    Raises:
        RuntimeError: what was written is not what was trained; the folder is as it was.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with aside_folder(folder) as aside:
        model.config.use_cache = True  # switched off while training
        model.save_pretrained(aside, state_dict=weights, max_shard_size=SHARD_SIZE)
        model.config.use_cache = False
        copy_tokenizer(base_path, aside)
        make_openable(aside)
        _verify(aside, weights, getattr(model, "all_tied_weights_keys", {}), has_fused_experts(model))
        new = {file.name for file in aside.iterdir()}
        # the index once its parts are there
        put_all([aside / file for file in sorted(new, key=lambda file: file == INDEX_FILE)], folder)
    for old in [*folder.glob("model*.safetensors"), folder / INDEX_FILE]:
        if old.name not in new:  # else a former, single file would be preferred to the new parts
            old.unlink(missing_ok=True)


def _verify(folder: Path, expected: dict[str, torch.Tensor], tied: dict[str, str], mixture: bool) -> None:
    """Read a written model one tensor at a time; of tied ones only the first is in the files.

    Args:
        mixture: the model has its experts in one tensor, which the files have one by one: their values are counted.
    """
    found, separate = set(), 0
    for file in folder.glob("model*.safetensors"):
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118
                found.add(name)
                written = opened.get_tensor(name)
                if not torch.isfinite(written).all():
                    raise RuntimeError(f"{name} has values that are not finite: the run has diverged")
                if mixture and name not in expected:
                    separate += written.numel()
                elif name not in expected or not torch.equal(written, expected[name]):
                    raise RuntimeError(f"{name} was not written as it was trained")
    lacking = set(expected) - found - set(tied)
    if lacking and separate != sum(expected[name].numel() for name in lacking):
        raise RuntimeError(f"{len(lacking)} tensors were not written, such as {min(lacking)}")
    json.loads((folder / "config.json").read_text(encoding="utf-8"))
