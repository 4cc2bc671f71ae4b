"""What the tests of quantised models share: one made by the tool, and its losses on a text."""

from pathlib import Path

import torch
from certificate_bounds import tool

from vicuna.model.base import check_base, load_base

quant_llama = tool("quant_llama")
TEXT = Path(__file__).resolve().parents[2] / "sample/text/knowledge.txt"
SMALL = {"groupsize": 32, "nsamples": 8, "seqlen": 128}  # enough to see an effect
KINDS = {
    "gptq 8": {"wbits": 8},
    "gptq 4": {"wbits": 4},
    "gptq 3": {"wbits": 3},
    "gptq 2": {"wbits": 2},
    "awq 4": {"awq": True, "nsamples": 2, "seqlen": 64},
}


def quantise(base: Path, out: Path, dataset: Path | str = TEXT, **flags: object) -> Path:
    """A base quantised by the tool, called as a function."""
    settings = {**SMALL, **flags}
    quant_llama.main(quant_llama.QuantiseFlags(model_path=str(base), dataset=str(dataset), save=str(out), **settings))
    return out


@torch.inference_mode()
def mean_loss(model: torch.nn.Module, rows: list[list[int]]) -> float:
    """Of every token but the first of each row."""
    losses = [model(ids := torch.tensor([row]), labels=ids).loss.item() * (len(row) - 1) for row in rows]
    return sum(losses) / sum(len(row) - 1 for row in rows)


def loss_of(folder: Path, rows: list[list[int]]) -> float:
    """The same of a folder, computed in float32."""
    return mean_loss(load_base(check_base(str(folder)), 32).eval(), rows)


def rows_of(folder: Path, text: str, length: int = 120) -> list[list[int]]:
    """A text cut into rows by a model's own tokenizer."""
    tokenizer = check_base(str(folder)).tokenizer
    ids = [tokenizer.bos_id, *tokenizer.encode(text)]
    return [row for at in range(0, len(ids), length) if len(row := ids[at : at + length]) > 1]
