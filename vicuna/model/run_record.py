"""run_args.json: what training or merging wrote of itself beside an adapter or a model, read with bounds.

The file travels with adapters of strangers, so that nothing is taken from it but what is used, of the type it has.
"""

import math
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from vicuna.foreign.typed import Count, Foreign, Name, Names, is_absent, opens, read_typed

MOST_VALUES = 10_000  # in a list or an object that a flag has


def _flag_value(value: Any) -> Any:
    """What a flag can be: nothing, a switch, a number, a text, a list of these; and names with such, as versions."""
    parts = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else [value]
    if len(parts) > MOST_VALUES or not all(one is None or isinstance(one, bool | int | float | str) for one in parts):
        raise ValueError("a number, a text, true, false, null, or a list or an object of these")
    if not all(math.isfinite(one) for one in parts if isinstance(one, float)):
        raise ValueError("a finite number")
    return value


def _texts(*names: str) -> AfterValidator:
    """Some of the values of an object are texts."""

    def check(values: dict[str, Any]) -> dict[str, Any]:
        for name in names:
            if not isinstance(values.get(name), str | None):
                raise ValueError(f"an object whose {name} is a text")
        return values

    return AfterValidator(check)


Values = Annotated[dict[Name, Annotated[Any, AfterValidator(_flag_value)]], Field(max_length=10_000)]


class PlanFacts(Foreign):
    """What is used of the facts of a plan."""

    steps: Count | None = None
    warmup_steps: Count | None = None
    dialogues_train: Count | None = None


class TemplateFacts(Foreign):
    """What the base's own chat template was rendered with."""

    day: Name | None = None
    thinking: Name | None = None


@opens(
    {
        **{"prompt_type": "chat", "run_id": "ab12", "step": 5, "eval_loss": 1.5, "trains": ["lora"]},
        **{"flags": {"train": "lora", "lr_scheduler": "linear"}, "exact": {"base_fingerprint": "cd34"}},
        **{"plan": {"steps": 9, "warmup_steps": 2, "dialogues_train": 0}, "data_start": 0, "at_least": 0},
        **{"inherited": {"learning_rate": 1e-4}, "template": {"day": "2026-01-01", "thinking": "keep"}},
        "merged": {"base": "tiny", "adapters": ["out"]},
    }
)
class RunRecord(Foreign):
    """What is used of a run_args.json."""

    prompt_type: Name | None = None
    run_id: Name | None = None
    step: Count | None = None
    eval_loss: float | None = None
    trains: Names | None = None
    flags: Annotated[Values, _texts("train", "lr_scheduler")] = Field(default_factory=dict)
    exact: Annotated[Values, _texts("base_fingerprint")] = Field(default_factory=dict)
    plan: PlanFacts = Field(default_factory=PlanFacts)
    data_start: Count = 0
    at_least: Count = 0
    inherited: Values = Field(default_factory=dict)
    template: TemplateFacts | None = None
    merged: dict[Name, Any] | None = None


def read_run_record(file: Path) -> dict[str, Any]:
    """What a run_args.json says of that which is used; {} where there is none.

    Raises:
        UserError: it can not be read, or a value is none of its kind.
    """
    if is_absent(file):
        return {}
    found = read_typed(file, RunRecord).model_dump(exclude_unset=True)
    return {name: value for name, value in found.items() if value is not None}
