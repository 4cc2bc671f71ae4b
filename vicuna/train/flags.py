"""Flags of a training run: how long, how fast, where to; and the checks between them."""

import math
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple

from vicuna.args import at_least, check_seed, flag, switch
from vicuna.data.flags import DataFlags
from vicuna.errors import UserError
from vicuna.model.flags import LoraFlags, ModelFlags

# Optimizers by transformers' name, with the bytes of their state for a trained parameter; adafactor's rows and columns
# are left out.
OPTIMIZER_BYTES = {
    **{"adamw_torch": 8, "adamw_torch_fused": 8, "adamw_8bit": 2, "paged_adamw_8bit": 2, "paged_adamw_32bit": 8},
    **{"adafactor": 0, "lion_8bit": 1, "paged_lion_8bit": 1, "sgd": 0},
}
SMALLEST_RATE = 1e-37  # what float32 holds
DEEPSPEED_CONFIG = "config-sample/ds_zero3.json"


@dataclass
class RunFlags:
    """How long, how fast, where to."""

    output_path: str = flag(
        "lora-Vicuna", "folder for the adapter, run_args.json, loss.png, session.log and checkpoint-N/"
    )
    overwrite: bool = flag(
        False,
        "replace the finished adapter or model in --output_path once this run's is complete; without, it is refused",
    )
    num_epoch: float = flag(3, "passes over the training records")
    max_steps: int | None = flag(
        None, "optimizer steps of the run, with as many passes over the records as they take; in place of --num_epoch"
    )
    total_batch: int = flag(128, "records per optimizer step over all devices together")
    micro_batch: int = flag(4, "records a device takes at once; lower it when memory runs out, nothing else changes")
    learning_rate: float = flag(3e-4, "peak learning rate")
    lr_scheduler: Literal["linear", "cosine", "constant_with_warmup"] = flag(
        "linear", "shape of the learning rate over the steps"
    )
    warmup_steps: int | None = flag(None, "optimizer steps of rising learning rate; default 100")
    warmup_ratio: float | None = flag(None, "the same as a share of all steps, instead of --warmup_steps")
    weight_decay: float = flag(0.0, "AdamW's weight decay")
    max_grad_norm: float = flag(1.0, "gradients are scaled down to this norm")
    optim: Literal[tuple(OPTIMIZER_BYTES)] = flag("adamw_torch", "optimizer, by transformers' name")
    share_prefix: bool = flag(
        True, "compute what rows of a micro batch begin with alike once, and no padding; False is for comparison"
    )
    gradient_checkpointing: bool = flag(True, "recompute activations in the backward pass: less memory, more time")
    torch_compile: bool = flag(
        False,
        "compile the decoder blocks by torch.compile, on the way: needs a C++ compiler, on a GPU Triton and a C one",
    )
    seed: int = flag(42, "fixes the order of the records, the adapter's beginning and dropout")
    eval_steps: int = flag(200, "optimizer steps between evaluations; 0 for none")
    save_steps: int = flag(200, "optimizer steps between checkpoints; 0 for none")
    save_total_limit: int = flag(30, "checkpoints to keep")
    log_steps: int = flag(20, "optimizer steps between log lines")
    resume_from_checkpoint: str | None = flag(
        None,
        "checkpoint-N of the same run to go on from, or auto for the latest whole one in --output_path; a folder with "
        "only an adapter is started from with a new schedule",
    )
    lora_remote_checkpoint: str | None = flag(
        None, "the same from the hub, when the folder above is not given or not there"
    )
    as_before: bool = flag(
        False, "flags that are not given are those of the run that --resume_from_checkpoint goes on with"
    )
    continue_schedule: str | None = flag(
        None,
        "checkpoint-N whose weights, optimizer and learning rate go on with other data, which starts at its beginning",
    )
    elastic: bool = flag(
        False, "resume on another number of devices or with another micro batch: the same rows per step"
    )
    ignore_data_skip: bool = flag(False, "on resume, begin the data anew instead of where it stopped")
    deepspeed: str | None = switch(
        f"DeepSpeed config file for bases that outgrow one card; bare: {DEEPSPEED_CONFIG}", DEEPSPEED_CONFIG
    )
    fsdp: bool = flag(False, "cut the base in parts over several GPUs by PyTorch itself (FSDP2), at --bits 16 or 32")
    early_stopping: int = flag(
        0, "end after this many evaluations without a better loss than the best before them; 0 to go on to the end"
    )
    report_to: Literal["none", "wandb", "tensorboard", "trackio", "swanlab"] = flag(
        "none", "report losses there too; its package has to be installed"
    )
    wandb: bool = flag(False, "another spelling of --report_to wandb")
    plan_only: bool = flag(False, "check flags, records and base, print the plan and stop")
    local_rank: int | None = flag(None, "accepted and unused: torchrun sets the environment")

    def __post_init__(self) -> None:
        for name in ("total_batch", "micro_batch", "log_steps", "save_total_limit"):
            at_least(f"--{name}", getattr(self, name), 1)
        for name in ("eval_steps", "early_stopping", "save_steps", "seed", "weight_decay", "max_grad_norm"):
            at_least(f"--{name}", getattr(self, name), 0)
        if self.max_steps is not None:
            at_least("--max_steps", self.max_steps, 1)
        for name in ("num_epoch", "learning_rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"--{name} {getattr(self, name)} must be above 0, and finite.")
        if self.learning_rate < SMALLEST_RATE:
            raise UserError(f"--learning_rate {self.learning_rate} is zero in float32: expected 1e-37 or more.")
        check_seed(self.seed)
        self._check_warmup()
        self._check_pairs()

    @property
    def length_flag(self) -> str:
        """The flag that says how long the run is, and its value."""
        return (
            f"--num_epoch above {self.num_epoch:g}" if self.max_steps is None else f"--max_steps above {self.max_steps}"
        )

    @property
    def sharding_flag(self) -> str:
        """The flag that cuts the base in parts, "" where none does."""
        return "--deepspeed" if self.deepspeed else "--fsdp" if self.fsdp else ""

    def _check_pairs(self) -> None:
        if self.wandb and self.report_to not in ("none", "wandb"):
            raise UserError(f"--wandb means --report_to wandb, but --report_to {self.report_to} was given; drop one.")
        self.report_to = "wandb" if self.wandb else self.report_to
        if self.early_stopping and not self.eval_steps:
            raise UserError("--early_stopping looks at evaluations, and --eval_steps 0 makes none: raise one of them.")
        if self.as_before and not (self.resume_from_checkpoint or self.lora_remote_checkpoint):
            raise UserError("--as_before takes the flags of the run that --resume_from_checkpoint names: give it, too.")
        if self.continue_schedule and (self.resume_from_checkpoint or self.lora_remote_checkpoint):
            raise UserError(
                "--continue_schedule goes on with other data, --resume_from_checkpoint with the same; give one of them."
            )
        if self.continue_schedule and self.sharding_flag:
            raise UserError(f"--continue_schedule does not work with {self.sharding_flag}; leave one of them out.")
        if self.fsdp and self.deepspeed:
            raise UserError("--fsdp and --deepspeed are two ways to cut a base in parts; give one of them.")
        if self.torch_compile and self.sharding_flag:
            raise UserError(f"--torch_compile does not work with {self.sharding_flag}; leave one of them out.")

    def _check_warmup(self) -> None:
        if self.warmup_ratio is not None and self.warmup_steps is not None:
            raise UserError("--warmup_steps and --warmup_ratio are two ways to say the same; give one of them.")
        if self.warmup_ratio is not None and not 0 <= self.warmup_ratio < 1:
            raise UserError(f"--warmup_ratio {self.warmup_ratio} is not a share of the steps: expected 0 <= ratio < 1.")
        if self.warmup_steps is not None:
            at_least("--warmup_steps", self.warmup_steps, 0)


class TrainFlags(NamedTuple):
    """All flags of a training program, by subject."""

    model: ModelFlags
    data: DataFlags
    lora: LoraFlags
    run: RunFlags

    @classmethod
    def names(cls) -> set[str]:
        """The names of all flags."""
        return {one.name for subject in cls.__annotations__.values() for one in fields(subject)}

    def by_name(self) -> dict[str, Any]:
        """The values of all by the names of the flags."""
        return {name: value for subject in self for name, value in vars(subject).items()}
