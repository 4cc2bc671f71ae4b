"""Flags of the base model and the adapter on it."""

from dataclasses import dataclass
from typing import Literal

from vicuna.args import at_least, flag, switch
from vicuna.errors import UserError

ALL_LINEAR = "all-linear"  # PEFT's own word, which finds nothing on a base of GPTQ
BOTH = "lora+embeddings+head"
SHORT = {"lora+embeddings": BOTH}  # another spelling -> what it stands for
# What they stood for before the input embeddings could be trained alone; run_args.json of then has no "trains".
BEFORE = {"embeddings": "embeddings+head", **SHORT}
TRAIN = ("lora", "full", "embeddings", "embeddings+head", BOTH, *SHORT, "new_rows", "lora+new_rows")


@dataclass
class ModelFlags:
    """Which base model, and how precise."""

    model_path: str = flag(
        "models/tiny-llama-zh", "base model: a folder in Hugging Face format, a hub id owner/name, or a .gguf file"
    )
    bits: Literal[4, 8, 16, 32] | None = flag(
        None,
        "precision of the base's weights: 8 and 4 through bitsandbytes (4 is NF4, double quantised), 16, 32; default 8",
    )
    context: int | None = flag(
        None, "longest sequence of the base in tokens; default: what its config says, RoPE scaling included"
    )
    int8: bool | None = switch("the original's spelling: 1 is --bits 8, 0 is --bits 16")

    def __post_init__(self) -> None:
        if self.context is not None:
            at_least("--context", self.context, 8)
        if self.int8 is not None:
            meant = 8 if self.int8 else 16
            if self.bits not in (None, meant):
                raise UserError(
                    f"--int8 {int(self.int8)} means --bits {meant}, but --bits {self.bits} was given; drop --int8."
                )
            self.bits = meant
        self.bits = self.bits or 8


@dataclass
class LoraFlags:
    """What is trained, and the adapter."""

    train: Literal[TRAIN] = flag(
        "lora",
        "what is trained: the adapter's matrices; every weight, at --bits 16 or 32; the input embeddings; these and "
        "the head; the adapter's matrices and these two, which lora+embeddings is short for; of embeddings and head "
        "only the rows that tools/expand_vocabulary.py added; the adapter's matrices and these rows",
    )
    lora_r: int = flag(8, "rank of the adapter")
    lora_alpha: int = flag(16, "scaling: the update is multiplied by alpha / r")
    lora_dropout: float = flag(0.05, "dropout in front of the adapter, 0 to 1")
    lora_target_modules: list[str] = flag(
        ["q_proj", "v_proj"],
        "linear layers that get an adapter; all-linear for every one but the head, routers, and experts in one tensor",
    )

    @property
    def trains(self) -> tuple[str, ...]:
        """The parts that --train names."""
        return tuple(SHORT.get(self.train, self.train).split("+"))

    def __post_init__(self) -> None:
        at_least("--lora_r", self.lora_r, 1)
        at_least("--lora_alpha", self.lora_alpha, 1)
        if not 0 <= self.lora_dropout < 1:
            raise UserError(f"--lora_dropout {self.lora_dropout} is not a probability: expected 0 <= dropout < 1.")
        # Also "[q_proj,v_proj]" and "q_proj, v_proj", as alpaca-lora and LLaMA-Factory take them.
        names = [name.strip(" []'\"") for words in self.lora_target_modules for name in words.split(",")]
        self.lora_target_modules = [name for name in names if name]
        if ALL_LINEAR in self.lora_target_modules and len(self.lora_target_modules) > 1:
            raise UserError(f"--lora_target_modules {ALL_LINEAR} stands for every linear layer: name no other with it.")
        if not self.lora_target_modules:
            raise UserError("--lora_target_modules names no module; expected some such as q_proj v_proj.")
