"""Flags of what evaluates models: which ones, and where what is found goes; then those of each kind.

A kind combines the small dataclasses, so a flag means the same in each.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vicuna.args import at_least, flag
from vicuna.errors import UserError
from vicuna.prompt.templates import PROMPT_TYPES

BITS = (4, 8, 16, 32)
NO_ADAPTER = "-"


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
    prompt_type: Literal[PROMPT_TYPES] | None = flag(
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
