"""How a model is quantised: what was asked, whether it fits the model, and the same in GPTQModel's words.

GPTQModel drops settings that it does not know without a word, so they are named here one by one, and what it wrote is
compared with what was asked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from vicuna.errors import UserError
from vicuna.model.config import linear_layers
from vicuna.model.gptq import AWQ, GPTQ, INSTALL, WORD

WHOLE_ROW = -1
GROUPS = (32, 64, 128)


@dataclass(frozen=True)
class Settings:
    """What is asked of the quantisation.

    Attributes:
        group: columns that share a scale; `WHOLE_ROW` for all of a row.
        act_order: the columns that matter most are rounded first.
        true_sequential: within a block, a layer sees what those before it became.
        symmetric: zero lies in the middle of the range; else each group has a zero point of its own.
        damp: share of the Hessian's mean diagonal that is added to it.
    """

    method: str
    bits: int
    group: int
    act_order: bool = False
    true_sequential: bool = False
    symmetric: bool = True
    damp: float = 0.01

    def as_library(self, device: str, offload: Path) -> dict[str, Any]:
        """Arguments of GPTQModel's QuantizeConfig.

        Args:
            offload: an empty folder for blocks that are done.
        """
        common = {
            "method": self.method, "bits": self.bits, "group_size": self.group, "sym": self.symmetric,
            "true_sequential": self.true_sequential, "lm_head": False, "device": device,
            "offload_to_disk": True, "offload_to_disk_path": str(offload),
        }  # fmt: skip
        if self.method == AWQ:
            return {**common, "format": "gemm", "desc_act": False}
        # Groups in the order of what they matter, which costs nothing later; a whole row has none to put in order.
        aware = not self.act_order and self.group != WHOLE_ROW
        return {
            **common, "format": "gptq", "desc_act": self.act_order, "act_group_aware": aware, "damp_percent": self.damp
        }  # fmt: skip

    def differences(self, written: Mapping[str, Any]) -> list[str]:
        """What a written config says otherwise than asked."""
        meta = written.get("meta") or {}
        wanted = {
            "quant_method": self.method, "bits": self.bits, "group_size": self.group, "desc_act": self.act_order
        }  # fmt: skip
        wanted |= {"zero_point": not self.symmetric} if self.method == AWQ else {"sym": self.symmetric}
        found = {name: written.get(name) for name in wanted}
        wanted["true_sequential"], found["true_sequential"] = self.true_sequential, meta.get("true_sequential")
        if self.method == GPTQ:
            wanted["damp_percent"], found["damp_percent"] = self.damp, meta.get("damp_percent")
        return [f"{name} {found[name]} instead of {value}" for name, value in wanted.items() if found[name] != value]

    def describe(self) -> str:
        """In words, for the plan and the model card."""
        group = "whole rows" if self.group == WHOLE_ROW else f"groups of {self.group}"
        more = [
            word for word, said in (("act-order", self.act_order), ("true-sequential", self.true_sequential)) if said
        ]
        zero = "symmetric" if self.symmetric else "with zero points"
        return ", ".join([f"{self.method.upper()} {self.bits} bits", group, zero, *more])


def check_shapes(settings: Settings, config: Any, path: Path) -> None:
    """Check that a model's rows divide into the groups.

    Raises:
        UserError: they do not, naming the groups that do.
    """
    layers = linear_layers(config)
    works = working_groups([columns for columns, _ in layers.values()], settings.method)
    if settings.method == AWQ and (odd := [rows for _, rows in layers.values() if rows % WORD]):
        raise UserError(f"{path} has layers of {odd[0]} rows, and AWQ packs {WORD} together: take GPTQ, without --awq.")
    if settings.group in works:
        return
    name, columns = next((name, columns) for name, (columns, _) in layers.items() if columns % settings.group)
    if not works:
        raise UserError(
            f"--awq: {name} in {path} has rows of {columns}, which no group of {', '.join(map(str, GROUPS))} divides: "
            "take GPTQ with --groupsize -1, without --awq."
        )
    raise UserError(
        f"--groupsize {settings.group} does not divide the rows of {name} in {path}, which have {columns} columns; "
        f"what works here: --groupsize {' or '.join(map(str, works))}."
    )


def working_groups(columns: Sequence[int], method: str) -> list[int]:
    """Groups that divide every row, of those that are offered."""
    fitting = [group for group in GROUPS if not any(width % group for width in columns)]
    return fitting if method == AWQ else [WHOLE_ROW, *fitting]


def weights_dtype(settings: Settings, stored: torch.dtype) -> torch.dtype:
    """The dtype that a model is quantised in, which what is not quantised keeps.

    AWQ's kernels know no float32, and bfloat16 is too coarse for its scales.
    """
    return torch.float16 if settings.method == AWQ else stored


def check_library() -> None:
    """Check that GPTQModel is installed.

    Raises:
        UserError: it is not, or not with what transformers opens its folders with.
    """
    if missing := [name for name in ("gptqmodel", "optimum") if find_spec(name) is None]:
        raise UserError(f"quantising needs the package {missing[0]}: {INSTALL} installs it.")
