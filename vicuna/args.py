"""How flags are declared and read: each is a field of a dataclass with its default, its meaning and its unit.

A flag means the same in every program, because the programs combine the same small dataclasses, which stand in the
`flags.py` of the package that they are for. The parser is transformers' HfArgumentParser, which takes `--x True`,
`--x 1` and a bare `--x` alike; torch is not imported.
"""

import math
import shlex
import sys
from argparse import Action, ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from typing import Any

from vicuna.errors import UserError


class Words(list):
    """A list that a help text shows as it is typed."""

    def __str__(self) -> str:
        return " ".join(map(str, self))


@dataclass(frozen=True)
class Fallback:
    """A default that gives way to what only the base tells; a help text shows it as it is typed."""

    value: str

    def __str__(self) -> str:
        return self.value


class Gather(Action):
    """A list flag that is given twice has the values of both; the first time they take the default's place."""

    def __call__(
        self, parser: ArgumentParser, namespace: Namespace, values: Sequence[Any], option_string: str | None = None
    ) -> None:
        before = getattr(namespace, self.dest)
        setattr(namespace, self.dest, list(values) if before is self.default else [*before, *values])


def flag(default: Any, text: str) -> Any:
    """A dataclass field whose help text ends with its default, or with the one that a program puts in its place."""
    if default not in (None, "", []):
        text = f"{text} (default: %(default)s)"
    if isinstance(default, list):
        return field(default_factory=lambda: Words(default), metadata={"help": text, "action": Gather})
    return field(default=default, metadata={"help": text})


def switch(text: str, bare: Any = True) -> Any:
    """A flag that is None until it is given, and `bare` without a value; a bool also takes `--x 1` and `--x False`."""
    return field(default=None, metadata={"help": text, "nargs": "?", "const": bare})


def at_least(name: str, value: float, low: float) -> None:
    if value < low:
        raise UserError(f"{name} {value} is too small: expected {low} or more.")
    if not math.isfinite(value):
        raise UserError(f"{name} {value} is not a number to count with: expected {low} or more.")


def check_seed(value: int) -> None:
    if not 0 <= value < 2**32:
        raise UserError(f"--seed {value} is out of range: expected 0 to {2**32 - 1}.")


def parse(
    description: str,
    *groups: type,
    argv: list[str] | None = None,
    words: Sequence[str] = (),
    program: str | None = None,
    **defaults: Any,
) -> tuple:
    """The flags of a program, one dataclass instance for each of `groups`.

    A flag that does not exist, a value of the wrong kind and a contradiction end the program with status 2 and
    a sentence. `defaults` replace the groups' own; one of them gives way to a flag that says the same differently.

    Args:
        words: flags that may also be given as bare words, in this order.
        program: what is typed before the flags; default: the name of the file.
    """
    from transformers import HfArgumentParser  # not before `run` stands, for it takes its time

    parser = HfArgumentParser(
        groups,
        prog=program,
        description=description,
        formatter_class=RawDescriptionHelpFormatter,
        usage="%(prog)s [flags]        (python %(prog)s --help lists them)",
        allow_abbrev=False,
    )
    parser.set_defaults(**{name: Words(one) if isinstance(one, list) else one for name, one in defaults.items()})
    argv = sys.argv[1:] if argv is None else argv
    names = [one.name for group in groups for one in fields(group)]
    left = parser.parse_known_args(argv)[1]
    if mistyped := next((word for word in left if word.startswith("--")), ""):  # told before what is missing for it
        parser.error(f"{mistyped!r} is not a flag of {parser.prog}; {_hint(mistyped, names, parser.prog)}")
    try:
        argv = _named(argv, left, words) if words else argv
        if defaults.get("warmup_ratio") is not None and parser.parse_known_args(argv)[0].warmup_steps is not None:
            parser.set_defaults(warmup_ratio=None)
        *flags, unknown = parser.parse_args_into_dataclasses(
            args=argv, look_for_args_file=False, return_remaining_strings=True
        )
    except UserError as error:
        parser.error(str(error))
    if unknown:
        parser.error(f"{unknown[0]!r} is not a flag of {parser.prog}; {_hint(unknown[0], names, parser.prog)}")
    return tuple(flags)


def _named(argv: list[str], left: Sequence[str], names: Sequence[str]) -> list[str]:
    """The command line with its bare words behind the flags that they stand for.

    Args:
        left: what the parser takes for no flag and no value of one.
    """
    bare = [word for word in left if not word.startswith("-")][: len(names)]
    rest, said = list(argv), []
    for name, word in zip(names, bare, strict=False):
        at = next(at for at, one in enumerate(rest) if one == word and not (at and rest[at - 1].startswith("-")))
        del rest[at]
        said += [f"--{name}", word]
    return said + rest


def this_command(values: dict[str, Any], argv: list[str] | None = None) -> str:
    """The command line that this program was started with, as it would be typed with other values of some flags.

    Args:
        values: by the names of the flags; a flag whose value is None is left out.
        argv: the program and its words; default: those of this process.
    """
    program, *words = sys.argv if argv is None else argv
    kept, is_other = [], False
    for word in words:
        if word.startswith("--"):
            is_other = word[2:].split("=")[0].replace("-", "_") in values
        if not is_other:
            kept.append(word)
    for name, value in values.items():
        if value is not None:
            kept += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return shlex.join(["python", program, *kept])


# What alpaca-lora, LLaMA-Factory, Unsloth, PEFT and transformers call what the flags here are for: the flag, or
# several of which a program has one, and what else there is to say.
ELSEWHERE = {
    "model_path": "base_model model model_name model_name_or_path base_model_name_or_path pretrained_model",
    "lora_path": "lora_weights adapter adapter_path adapter_name_or_path peft_path peft_model lora_model lora_ckpt",
    "resume_from_checkpoint": "lora_weights adapter_name_or_path resume resume_checkpoint checkpoint",
    "data_path": "dataset dataset_name dataset_path dataset_dir data data_file data_files train_file train_data "
    "input_file test_file predict_file",
    "output_path": "output_dir output out_dir save_dir save_path output_file predictions_file",
    "out_path": "output_dir output output_path save_dir export_dir",
    "max_steps": "max_iters num_steps train_steps max_train_steps",
    "num_epoch": "num_epochs num_train_epochs epochs epoch n_epochs",
    "total_batch": "batch_size global_batch_size train_batch_size gradient_accumulation_steps accumulation_steps",
    "micro_batch": "micro_batch_size per_device_train_batch_size per_device_batch_size per_device_eval_batch_size "
    "batch_size eval_batch_size",
    "learning_rate": "lr",
    "lr_scheduler": "lr_scheduler_type scheduler",
    "cutoff_len": "max_length max_seq_length max_seq_len seq_length model_max_length block_size max_source_length",
    "test_size": "val_set_size val_size eval_size validation_split",
    "lora_r": "lora_rank rank r lora_dim",
    "lora_target_modules": "lora_target target_modules lora_modules",
    "lora_dropout": "dropout",
    "lora_alpha": "alpha",
    "bits": "load_in_8bit load_in_4bit load_8bit load_4bit quantization_bit quantization bf16 fp16 torch_dtype dtype "
    "precision",
    "prompt_type": "template prompt_template prompt_template_name prompt_style chat_template conv_template",
    "train": "finetuning_type full_finetuning modules_to_save",
    "train_turns": "mask_history",
    "log_steps": "logging_steps",
    "gradient_checkpointing": "use_gradient_checkpointing activation_checkpointing",
    "optim": "optimizer",
    "wandb": "report_to use_wandb wandb_project wandb_run_name",
    "max_new_tokens": "max_tokens max_length",
    "host": "server_name listen server_host ip",
    "port": "server_port",
    "share_link": "share share_gradio",
    "auth": "gradio_auth username password",
    "text": "instruction prompt query question",
}


def _hint(word: str, names: Sequence[str], program: str) -> str:
    """What is to be typed instead of a word that is no flag here."""
    meant = word.split("=")[0].lstrip("-").replace("-", "_").lower()
    known = [f"--{name}" for name in names if meant in ELSEWHERE.get(name, "").split()]
    if word.startswith("--") and known:
        return f"here it is {' or '.join(known)}."
    near = get_close_matches(f"--{meant}", [f"--{name}" for name in names if name != "local_rank"], n=1)
    return f"did you mean {near[0]}?" if near else f"python {program} --help lists the flags."
