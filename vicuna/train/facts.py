"""What run_args.json says of a run, beside an adapter and in every checkpoint."""

import os
from typing import TYPE_CHECKING, Any

from vicuna.train.flags import TrainFlags
from vicuna.train.own_template import template_facts
from vicuna.train.reporting import start_reporter
from vicuna.train.resume import StartingPoint, run_id

if TYPE_CHECKING:
    from vicuna.model.base import Base


def describe_run(
    flags: TrainFlags, start: StartingPoint, exact: dict[str, Any], base: "Base", plan: dict[str, Any]
) -> dict[str, Any]:
    """All of it; what the run is reported to is made ready with it.

    Args:
        exact: what a resumed run is compared with, beside the flags.
        plan: facts of the plan.
    """
    name = run_id(start)
    if int(os.environ.get("RANK", 0)) == 0:
        start_reporter(flags.run, name, os.environ)
    return {
        "run_id": name,
        "flags": flags.by_name(),
        "prompt_type": flags.data.prompt_type,
        **template_facts(base.tokenizer, flags.data, plan),
        "trains": flags.lora.trains,  # --train, as the spellings are meant since the embeddings can be alone
        "plan": plan,
        "base_file": base.file and base.file.name,  # a GGUF; several in one folder are common
        "exact": exact,
        # what this run has from elsewhere, and a resumed one has to take over
        "data_start": start.data_start,
        "at_least": start.min_steps,
        "inherited": {**start.inherited, **(vars(flags.lora) if start.adapter else {})},
    }
