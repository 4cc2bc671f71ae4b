"""Flags of what evaluates models: which ones, and where what is found goes; then those of each kind.

A kind combines the small dataclasses, so a flag means the same in each.
"""

import re
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path
from typing import Literal

from vicuna.answer.flags import PRESETS, DecodingFlags
from vicuna.args import at_least, check_seed, flag, switch
from vicuna.errors import UserError
from vicuna.prompt.templates import ALL_PROMPT_TYPES

BITS = (4, 8, 16, 32)
NO_ADAPTER = "-"
# What the flags of generate.py mean, of which here several values may be given.
_MEANT = {one.name: one.metadata["help"].removesuffix(" (default: %(default)s)") for one in fields(DecodingFlags)}


@dataclass
class ModelsFlags:
    """Which models, side by side."""

    model_path: list[str] = flag(
        ["models/tiny-llama-zh"], "models: folders in Hugging Face format, hub ids or .gguf files"
    )
    lora_path: list[str] = flag(
        [],
        "an adapter for each model, - for none; a single one is put on every model. A * in quotes stands for every "
        "folder that it fits, such as 'lora-Vicuna/checkpoint-*', in the order of their steps; for models, too",
    )
    bits: list[int] = flag(
        [16], "precision of each model that is stored in 16 or 32 bits: 4, 8, 16 or 32; a single one counts for all"
    )
    gpu_layers: int | None = flag(None, "layers of GGUF models on the GPU; default: all, where llama.cpp has one")

    def __post_init__(self) -> None:
        if odd := [one for one in self.bits if one not in BITS]:
            raise UserError(f"--bits {odd[0]} is unknown; expected {', '.join(map(str, BITS))}.")
        at_least("--gpu_layers", self.gpu_layers or 0, 0)

    def pairs(self) -> list[tuple[str, str, int]]:
        """Model, adapter ("" for none) and bits of each model that is to be looked at.

        Raises:
            UserError: lists whose lengths do not go together; a pattern that fits nothing.
        """
        columns = {
            "--model_path": _spread("--model_path", self.model_path),
            "--lora_path": _spread("--lora_path", self.lora_path) or [NO_ADAPTER],
            "--bits": self.bits,
        }
        count = max(map(len, columns.values()))
        for name, values in columns.items():
            if len(values) not in (1, count):
                longest = next(one for one, of_it in columns.items() if len(of_it) == count)
                raise UserError(
                    f"{name} names {len(values)}, {longest} {count}: expected 1, which then counts for all, or {count}"
                    f"{f' ({NO_ADAPTER} for a model without an adapter)' if name == '--lora_path' else ''}."
                )
        rows = zip(*(values * (count // len(values)) for values in columns.values()), strict=True)
        return [(model, "" if lora == NO_ADAPTER else lora, bits) for model, lora, bits in rows]


@dataclass
class DecodingTableFlags:
    """How tokens are chosen, as in generate.py; of several values of a flag each gets an answer of its own."""

    preset: list[str] = flag(["precise"], _MEANT["preset"])
    do_sample: bool | None = switch(_MEANT["do_sample"])
    num_beams: list[int] = flag([], _MEANT["num_beams"])
    temperature: list[float] = flag([], _MEANT["temperature"])
    top_p: list[float] = flag([], _MEANT["top_p"])
    top_k: list[int] = flag([], _MEANT["top_k"])
    max_new_tokens: list[int] = flag([], _MEANT["max_new_tokens"])
    min_new_tokens: list[int] = flag([], _MEANT["min_new_tokens"])
    repetition_penalty: list[float] = flag([], _MEANT["repetition_penalty"])
    seed: int = flag(42, "fixes what sampling draws")

    def __post_init__(self) -> None:
        if odd := [one for one in self.preset if one not in PRESETS]:
            raise UserError(f"--preset {odd[0]} is unknown; expected {', '.join(PRESETS)}.")
        check_seed(self.seed)
        self.variants()

    def variants(self) -> dict[str, DecodingFlags]:
        """What tells it from the others, "" where there is one -> settings, for every combination of the values.

        Raises:
            UserError: a value that is out of bounds, or contradicts another.
        """
        columns = {
            one.name: list(dict.fromkeys(getattr(self, one.name)))
            for one in fields(self)
            if isinstance(getattr(self, one.name), list) and getattr(self, one.name)
        }
        found = {}
        for values in product(*columns.values()):
            chosen = dict(zip(columns, values, strict=True))
            differing = [f"{name} {value}" for name, value in chosen.items() if len(columns[name]) > 1]
            found[", ".join(differing)] = DecodingFlags(do_sample=self.do_sample, seed=self.seed, **chosen)
        return found


@dataclass
class AnswersFlags:
    """What is asked, and what becomes of the answers."""

    names: list[str] = flag([], "what the models are called in the tables, in their order; default: their paths")
    prompt_type: Literal[ALL_PROMPT_TYPES] | None = flag(
        None, "template around the questions; default: what each model was trained with, else what the others were"
    )
    micro_batch: int = flag(8, "questions that are answered at once; lower it when memory runs out")
    jobs: int = flag(4, "questions at a time to a model that is an address")
    timeout: float = flag(120.0, "seconds that such a model may take for an answer")
    retries: int = flag(6, "times that it is asked again after a rate limit, a server's error or a timeout")
    key_variable: str = flag("OPENAI_API_KEY", "environment variable that holds the key of such a model")
    into: list[str] = flag(
        [],
        "Markdown files that get the tables too, between a line <!-- answers en --> (or zh) and one <!-- /answers -->",
    )

    def __post_init__(self) -> None:
        for name in ("micro_batch", "jobs"):
            at_least(f"--{name}", getattr(self, name), 1)
        at_least("--retries", self.retries, 0)
        at_least("--timeout", self.timeout, 0.1)


@dataclass
class OutputFlags:
    """Where what is found goes."""

    output_path: str = flag(
        "", "folder for results.json, results.md and rows.jsonl; the same command goes on with what is there"
    )
    overwrite: bool = flag(False, "begin anew where --output_path holds the results of another command")

    def __post_init__(self) -> None:
        if not self.output_path:
            raise UserError("--output_path is missing: name a folder for the results, such as evaluation.")
        if Path(self.output_path).expanduser().is_file():
            raise UserError(f"--output_path {self.output_path} is a file; expected a folder, new or begun.")


@dataclass
class LossFlags:
    """What of the records counts."""

    category: str = flag("category", "field of a record that says what it is about; each value gets figures of its own")
    prompt_type: Literal[ALL_PROMPT_TYPES] | None = flag(
        None, "template around the records; default: what adapters and models were trained with"
    )
    cutoff_len: int | None = flag(
        None, "longest record in tokens; default 2048, or the smallest context among the models"
    )
    micro_batch: int = flag(8, "records that are run together; llama.cpp runs one at a time")

    def __post_init__(self) -> None:
        at_least("--cutoff_len", self.cutoff_len or 8, 8)
        at_least("--micro_batch", self.micro_batch, 1)


def is_address(model_path: str) -> bool:
    """Whether a model is asked over HTTP."""
    return model_path.startswith(("http://", "https://"))


def _spread(name: str, given: list[str]) -> list[str]:
    """The names as given, a pattern among them as the folders that it fits, by the numbers in them."""
    found = []
    for one in given:
        if "*" not in one or is_address(one) or Path(one).exists():
            found.append(one)
            continue
        path = Path(one).expanduser()
        fitting = [str(path) for path in Path(path.anchor).glob(str(path.relative_to(path.anchor)))]
        if not fitting:
            raise UserError(f"{name} {one} fits nothing here; expected such as 'lora-Vicuna/checkpoint-*'.")
        found += sorted(fitting, key=lambda path: [int(part) for part in re.findall(r"\d+", path)] + [path])
    return found
