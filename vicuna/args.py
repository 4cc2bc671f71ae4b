"""Every flag of the programs: its default, its meaning, its unit; and the checks between flags.

A flag means the same in every program, because the programs combine the same small dataclasses. The parser is
transformers' HfArgumentParser, which takes `--x True`, `--x 1` and a bare `--x` alike; torch is not imported.
"""

import ipaddress
import math
import os
from argparse import RawDescriptionHelpFormatter
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from typing import Any, Literal

from transformers import HfArgumentParser

from vicuna.errors import UserError
from vicuna.prompt.templates import PROMPT_TYPES, TRAIN_TURNS

OPTIMIZERS = (
    *("adamw_torch", "adamw_torch_fused", "adamw_8bit", "paged_adamw_8bit", "paged_adamw_32bit"),
    *("adafactor", "lion_8bit", "paged_lion_8bit", "sgd"),
)
DEEPSPEED_CONFIG = "config-sample/ds_zero3.json"
PRESETS = ("precise", "balanced", "creative", "beam", "original")


class Words(list):
    """A list that a help text shows as it is typed."""

    def __str__(self) -> str:
        return " ".join(self)


def flag(default: Any, text: str) -> Any:
    """A dataclass field whose help text ends with its default, or with the one that a program puts in its place."""
    if default not in (None, "", []):
        text = f"{text} (default: %(default)s)"
    if isinstance(default, list):
        return field(default_factory=lambda: Words(default), metadata={"help": text})
    return field(default=default, metadata={"help": text})


def switch(text: str) -> Any:
    """A bool that is None until it is given: `--x`, `--x 1` and `--x False` all work."""
    return field(default=None, metadata={"help": text, "nargs": "?", "const": True})


@dataclass
class ModelFlags:
    """Which base model, and how precise."""

    model_path: str = flag(
        "models/tiny-llama-zh", "base model: a folder in Hugging Face format, or a hub id owner/name"
    )
    bits: Literal[4, 8, 16, 32] | None = flag(
        None,
        "precision of the base's weights: 8 and 4 through bitsandbytes (4 is NF4, double quantised), 16, 32; default 8",
    )
    int8: bool | None = switch("the original's spelling: 1 is --bits 8, 0 is --bits 16")

    def __post_init__(self) -> None:
        if self.int8 is not None:
            meant = 8 if self.int8 else 16
            if self.bits not in (None, meant):
                raise UserError(
                    f"--int8 {int(self.int8)} means --bits {meant}, but --bits {self.bits} was given; drop --int8."
                )
            self.bits = meant
        self.bits = self.bits or 8


@dataclass
class DataFlags:
    """What is learnt, and how it becomes tokens."""

    data_path: list[str] = flag(
        ["sample/instruct/data_sample.jsonl"],
        "records: .json or .jsonl of instructions or dialogues in any known format, or of a field text; or a .txt of "
        "documents separated by blank lines. Several files are mixed; my.jsonl:2 takes each training record of that "
        "file twice an epoch, :0.5 half of them",
    )
    prompt_type: Literal[PROMPT_TYPES] = flag("instruct", "template around a record; text adds nothing")
    cutoff_len: int = flag(
        256, "longest example in tokens; a longer dialogue loses its oldest turns, a longer answer its end"
    )
    train_turns: Literal[TRAIN_TURNS] = flag(
        "last", "answers of a dialogue to learn; all takes --prompt_type chat, and puts EOS behind each (chat_eos)"
    )
    train_on_inputs: bool = flag(False, "learn the prompt too, as the original in effect did")
    test_size: int | None = flag(
        None,
        "records held out for evaluation, the same ones for every seed; 0 for none; default 5 %% of the records, at "
        "most 200",
    )
    skip_bad_rows: bool = flag(False, "leave malformed records out, and count them, instead of stopping")
    encoding: str | None = flag(
        None, "text encoding of the data file; default: found out among UTF-8, UTF-16 and GB18030"
    )
    cache_path: str = flag(
        "",
        "folder for tokenised records, which later runs use again; default: chinese-vicuna in the user's cache folder",
    )

    def __post_init__(self) -> None:
        _at_least("--cutoff_len", self.cutoff_len, 8)
        if self.train_turns == "all":
            if self.prompt_type not in ("chat", "chat_eos"):
                raise UserError(
                    f"--train_turns all puts EOS behind every answer, which --prompt_type {self.prompt_type} does not "
                    "know; use --prompt_type chat, or --train_turns last."
                )
            self.prompt_type = "chat_eos"
        if self.test_size is not None:
            _at_least("--test_size", self.test_size, 0)


@dataclass
class LoraFlags:
    """What is trained, and the adapter."""

    train: Literal["lora", "full", "embeddings", "lora+embeddings"] = flag(
        "lora",
        "what is trained: the adapter's matrices; every weight, at --bits 16 or 32; the input embeddings and the head; "
        "the adapter's matrices and these",
    )
    lora_r: int = flag(8, "rank of the adapter")
    lora_alpha: int = flag(16, "scaling: the update is multiplied by alpha / r")
    lora_dropout: float = flag(0.05, "dropout in front of the adapter, 0 to 1")
    lora_target_modules: list[str] = flag(["q_proj", "v_proj"], "linear layers that get an adapter")

    def __post_init__(self) -> None:
        _at_least("--lora_r", self.lora_r, 1)
        _at_least("--lora_alpha", self.lora_alpha, 1)
        if not 0 <= self.lora_dropout < 1:
            raise UserError(f"--lora_dropout {self.lora_dropout} is not a probability: expected 0 <= dropout < 1.")


@dataclass
class RunFlags:
    """How long, how fast, where to."""

    output_path: str = flag(
        "lora-Vicuna", "folder for the adapter, run_args.json, loss.png, session.log and checkpoint-N/"
    )
    num_epoch: float = flag(3, "passes over the training records")
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
    optim: Literal[OPTIMIZERS] = flag("adamw_torch", "optimizer, by transformers' name")
    gradient_checkpointing: bool = flag(True, "recompute activations in the backward pass: less memory, more time")
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
    continue_schedule: str | None = flag(
        None,
        "checkpoint-N whose weights, optimizer and learning rate go on with other data, which starts at its beginning",
    )
    elastic: bool = flag(
        False, "resume on another number of devices or with another micro batch: the same rows per step"
    )
    ignore_data_skip: bool = flag(False, "on resume, begin the data anew instead of where it stopped")
    deepspeed: str | None = field(
        default=None,
        metadata={
            "help": f"DeepSpeed config file for bases that outgrow one card; bare: {DEEPSPEED_CONFIG}",
            "nargs": "?",
            "const": DEEPSPEED_CONFIG,
        },
    )
    fsdp: bool = flag(False, "cut the base in parts over several GPUs by PyTorch itself (FSDP2), at --bits 16 or 32")
    wandb: bool = flag(False, "report to Weights & Biases")
    plan_only: bool = flag(False, "check flags, records and base, print the plan and stop")
    local_rank: int | None = flag(None, "accepted and unused: torchrun sets the environment")

    def __post_init__(self) -> None:
        for name in ("total_batch", "micro_batch", "log_steps", "save_total_limit"):
            _at_least(f"--{name}", getattr(self, name), 1)
        for name in ("eval_steps", "save_steps", "seed", "weight_decay", "max_grad_norm"):
            _at_least(f"--{name}", getattr(self, name), 0)
        for name in ("num_epoch", "learning_rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"--{name} {getattr(self, name)} must be above 0, and finite.")
        _seed(self.seed)
        self._check_warmup()
        self._check_pairs()

    def _check_pairs(self) -> None:
        if self.continue_schedule and (self.resume_from_checkpoint or self.lora_remote_checkpoint):
            raise UserError(
                "--continue_schedule goes on with other data, --resume_from_checkpoint with the same; give one of them."
            )
        if self.continue_schedule and (self.deepspeed or self.fsdp):
            other = "--deepspeed" if self.deepspeed else "--fsdp"
            raise UserError(f"--continue_schedule does not work with {other}; leave one of them out.")
        if self.fsdp and self.deepspeed:
            raise UserError("--fsdp and --deepspeed are two ways to cut a base in parts; give one of them.")

    def _check_warmup(self) -> None:
        if self.warmup_ratio is not None and self.warmup_steps is not None:
            raise UserError("--warmup_steps and --warmup_ratio are two ways to say the same; give one of them.")
        if self.warmup_ratio is not None and not 0 <= self.warmup_ratio < 1:
            raise UserError(f"--warmup_ratio {self.warmup_ratio} is not a share of the steps: expected 0 <= ratio < 1.")
        if self.warmup_steps is not None:
            _at_least("--warmup_steps", self.warmup_steps, 0)


@dataclass
class AskFlags:
    """One question at a time."""

    lora_path: str = flag("", "adapter: a folder or a hub id; empty for the base alone")
    text: str | None = flag(None, "answer this, print the answer and nothing else, and end")
    input: str = flag("", "the record's second field, with --text")
    show_beam: bool = flag(True, "show all beams while they grow")


@dataclass
class ChatFlags:
    """Conversations."""

    lora_path: list[str] = flag(
        [],
        "adapters to choose from on the page, each a folder or a hub id; the first is in use until another is chosen",
    )
    max_memory: int = flag(2048, "most tokens of a conversation that the model is shown")
    show_beam: bool = flag(False, "show all beams while they grow")
    save_path: str = flag("", "folder that Save writes conversations to; empty: the browser downloads them only")
    cli: bool = flag(False, "chat in the terminal instead of opening the page")
    api: bool = flag(False, "serve the OpenAI routes under /v1 beside the page")
    api_key: str = flag("", "key that the routes ask for; better given as VICUNA_API_KEY")

    def __post_init__(self) -> None:
        _at_least("--max_memory", self.max_memory, 0)
        self.api_key = self.api_key or os.environ.get("VICUNA_API_KEY", "")
        if self.cli and self.api:
            raise UserError("--cli is a chat in the terminal, --api a server; give one of them.")


@dataclass
class ServeFlags:
    """What is served, and to whom."""

    prompt_type: Literal[PROMPT_TYPES] | None = flag(
        None, "template around the question; default: what the adapter was trained with, else instruct"
    )
    use_typewriter: bool = flag(True, "stream the answer; 0 shows it when it is complete")
    use_local: bool | None = switch("1: --lora_path is a folder here, never a hub id; 0: it is a hub id")
    host: str = flag("127.0.0.1", "address the page listens on")
    port: int = flag(7860, "port the page listens on")
    share_link: bool = flag(False, "also open a public link through Gradio's service")
    auth: list[str] = flag(
        [], "user:password that the page asks for, several for several users; better given as VICUNA_AUTH"
    )
    max_queue: int = flag(64, "requests that may wait for the model")
    cache_gib: float = flag(1.0, "memory for what earlier prompts have in common with the next, in GiB; 0 for none")
    gpu_layers: int | None = flag(
        None, "layers of a GGUF model to put on the GPU, 0 for none; default: all, where llama.cpp was built for one"
    )

    def __post_init__(self) -> None:
        _at_least("--max_queue", self.max_queue, 1)
        _at_least("--cache_gib", self.cache_gib, 0)
        _at_least("--gpu_layers", self.gpu_layers or 0, 0)
        if not 0 < self.port < 65536:
            raise UserError(f"--port {self.port} is not a port: expected 1 to 65535.")
        self.auth = self.auth or os.environ.get("VICUNA_AUTH", "").split()
        for n, account in enumerate(self.auth, 1):
            user, colon, password = account.partition(":")
            if not (user.strip() and colon and password):
                # Not repeated here: it may be a password.
                raise UserError(f"account {n} of --auth (or of VICUNA_AUTH) is not of the form user:password.")

    @property
    def reached_from_elsewhere(self) -> str:
        """The flag that lets other machines reach what is served; "" when only this one does."""
        if self.share_link:
            return "--share_link"
        try:
            local = ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            local = self.host == "localhost"
        return "" if local else f"--host {self.host}"


@dataclass
class DecodingFlags:
    """How tokens are chosen, by GenerationConfig's names. Unset ones come from --preset, then from the base."""

    preset: Literal[PRESETS] = flag("precise", "decoding settings to start from")
    do_sample: bool | None = switch("draw tokens at random; default: on when a temperature, top-p or top-k is given")
    num_beams: int | None = flag(None, "beams of beam search, 1 to 10")
    temperature: float | None = flag(None, "0 is greedy; higher is more random")
    top_p: float | None = flag(None, "draw from the likeliest tokens that together reach this probability")
    top_k: int | None = flag(None, "draw from this many likeliest tokens; 0 for all")
    max_new_tokens: int | None = flag(None, "longest answer in tokens; default 256")
    min_new_tokens: int | None = flag(None, "shortest answer in tokens; default 1")
    repetition_penalty: float | None = flag(None, "above 1 makes tokens already present less likely")
    seed: int | None = flag(None, "fixes what sampling draws")

    def __post_init__(self) -> None:
        bounds = {
            "num_beams": (1, 10), "temperature": (0, 10), "top_p": (0, 1), "top_k": (0, 1000),
            "max_new_tokens": (1, 32768), "min_new_tokens": (0, 32768), "repetition_penalty": (0.1, 10),
        }  # fmt: skip
        for name, (low, high) in bounds.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise UserError(f"--{name} {value} is out of range: expected {low} to {high}.")
        if self.seed is not None:
            _seed(self.seed)
        drawing = [name for name in ("temperature", "top_p", "top_k") if getattr(self, name)]
        if self.do_sample is False and drawing:
            raise UserError(
                f"--do_sample False does not draw, so --{drawing[0]} {getattr(self, drawing[0])} would have no "
                "effect; drop one."
            )
        if self.do_sample and self.temperature == 0:
            raise UserError("--temperature 0 is greedy, which --do_sample True is not; drop one of them.")


def _at_least(name: str, value: float, low: float) -> None:
    if value < low:
        raise UserError(f"{name} {value} is too small: expected {low} or more.")
    if not math.isfinite(value):
        raise UserError(f"{name} {value} is not a number to count with: expected {low} or more.")


def _seed(value: int) -> None:
    if not 0 <= value < 2**32:
        raise UserError(f"--seed {value} is out of range: expected 0 to {2**32 - 1}.")


def parse(description: str, *groups: type, argv: list[str] | None = None, **defaults: Any) -> tuple:
    """The flags of a program, one dataclass instance for each of `groups`.

    A flag that does not exist, a value of the wrong kind and a contradiction end the program with status 2 and
    a sentence. `defaults` replace the groups' own; one of them gives way to a flag that says the same differently.
    """
    parser = HfArgumentParser(
        groups,
        description=description,
        formatter_class=RawDescriptionHelpFormatter,
        usage="%(prog)s [flags]        (python %(prog)s --help lists them)",
        allow_abbrev=False,
    )
    parser.set_defaults(**{name: Words(one) if isinstance(one, list) else one for name, one in defaults.items()})
    try:
        if defaults.get("warmup_ratio") is not None and parser.parse_known_args(argv)[0].warmup_steps is not None:
            parser.set_defaults(warmup_ratio=None)
        *flags, unknown = parser.parse_args_into_dataclasses(
            args=argv, look_for_args_file=False, return_remaining_strings=True
        )
    except UserError as error:
        parser.error(str(error))
    if unknown:
        names = [f"--{one.name}" for group in groups for one in fields(group)]
        near = get_close_matches(unknown[0].split("=")[0].replace("-", "_").replace("__", "--", 1), names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"python {parser.prog} --help lists the flags."
        parser.error(f"{unknown[0]!r} is not a flag of {parser.prog}; {hint}")
    return tuple(flags)
