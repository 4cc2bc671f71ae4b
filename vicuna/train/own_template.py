"""The base's own chat template in training: what it is rendered with, and what a run says of that.

A template that writes the day into its prompts would have other ids tomorrow: the day of a run's beginning stays that
of the run, of its adapter and of what is exported from it.
"""

from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vicuna.data.flags import DataFlags
from vicuna.model.found import model_run_args, run_args
from vicuna.prompt.templates import BASE, own_template

if TYPE_CHECKING:
    from vicuna.model.base import Base
    from vicuna.prompt.tokenizer import TextTokenizer


def declares_template(base: "Base") -> bool:
    """Whether the base's own chat template is the default: it has one, and is not known to be trained with another."""
    return base.tokenizer.chat is not None and not model_run_args(base.path).get("prompt_type")


def with_template_settings(tokenizer: "TextTokenizer", data: DataFlags, resumed: Path | None) -> "TextTokenizer":
    """The tokenizer with the run's settings of the base's own template.

    Args:
        resumed: the checkpoint that the run goes on from, whose day stays.

    Raises:
        UserError: --prompt_type base, and the base declares no template.
    """
    if data.prompt_type != BASE:
        return tokenizer
    chat = own_template(tokenizer.chat)
    said = run_args(resumed).get("template") if resumed else None
    day = (said or {}).get("day", "") or date.today().isoformat()
    return tokenizer.with_settings(day=day if chat.takes_date else "", thinking=data.thinking or "")


def template_facts(tokenizer: "TextTokenizer", data: DataFlags, plan: dict[str, Any]) -> dict[str, Any]:
    """What run_args.json says of it: with this the adapter is asked, whoever asks it."""
    if data.prompt_type != BASE or tokenizer.chat is None:
        return {}
    settings = tokenizer.chat.settings
    learnt = settings.thinking or ("keep" if plan["rows_thinking"] else "empty")
    return {"template": {"day": settings.day, "thinking": learnt if tokenizer.chat.knows_thinking else ""}}
