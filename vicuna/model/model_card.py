"""README.md beside an adapter or an export: what it is, what it was made from and how, for whoever gets it.

It says nothing of the machine: names and hashes of files, no path of a user, no login. A README.md that somebody wrote
is left alone.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import metadata_load

CARD = "README.md"
MARK = "<!-- Written by chinese-vicuna; without this line it is never written over. -->"
LICENCE_FIELDS = ("license", "license_name", "license_link")
# Flags that make the result what it is, in this order.
RECIPE = (
    *("prompt_type", "train", "train_turns", "train_on_inputs", "bits", "cutoff_len", "num_epoch", "max_steps"),
    *(
        "total_batch",
        "learning_rate",
        "lr_scheduler",
        "optim",
        "weight_decay",
        "max_grad_norm",
        "seed",
        "early_stopping",
    ),
    *("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules"),
)


def training_card(facts: dict[str, Any], base: Path, history: Sequence[dict[str, Any]], step: int) -> str:
    """The card of what a run has trained.

    Args:
        facts: as in run_args.json; base: its folder; history: the Trainer's, up to `step`.
    """
    flags, exact, plan = facts["flags"], facts["exact"], facts["plan"]
    what = "a model with every weight trained" if flags["train"] == "full" else f"an adapter ({flags['train']})"
    name = Path(flags["output_path"]).absolute().name
    unused = "max_steps" if flags.get("max_steps") is None else "num_epoch"
    recipe = {key: flags[key] for key in RECIPE if key in flags and key != unused}
    recipe |= {key: plan[key] for key in ("steps", "warmup_steps", "compute_dtype") if key in plan}
    rows = [["step", step], ["base", base.name], ["base fingerprint", exact["base_fingerprint"]]]
    rows += [[key, " ".join(map(str, value)) if isinstance(value, list) else value] for key, value in recipe.items()]
    rows += [[f"version of {package}", number] for package, number in exact["versions"].items()]
    files = [[Path(file["path"]).name, file.get("rows", ""), file.get("sha256", "")] for file in plan["files"]]
    return (
        "\n\n".join(
            [
                _front_matter(base, ["lora"] * (flags["train"] != "full"), "peft" * (flags["train"] != "full")),
                MARK,
                f"# {name}",
                f"This is {what} on the base {base.name}, after step {step} of a run of chinese-vicuna.",
                "## Data",
                _table(["file", "rows", "SHA-256"], files),
                f"{plan['rows_train']} records were trained on, {plan['rows_eval']} held out. "
                f"All of them as the run read them: {exact['data_sha256']}.",
                "## Recipe",
                _table(["", ""], rows),
                "## Losses",
                _losses(history),
                "## Licence",
                _licence(base)
                + " The licences of the data files are not known to the program that wrote this: add them.",
                "## Certificate",
                "None: it was not exported. `python tools/verify_export.py` compares an export with base and adapter.",
            ]
        )
        + "\n"
    )


def export_card(name: str, what: str, base: Path, made_of: dict[str, str]) -> str:
    """The card of a merged or exported model.

    Args:
        what: it is, in words; base: folder of the base, or of the model that was exported.
        made_of: subject -> what is known of it.
    """
    return (
        "\n\n".join(
            [
                _front_matter(base, [], "transformers" * (not name.endswith(".gguf"))),
                MARK,
                f"# {name}",
                f"This is {what}, written by chinese-vicuna.",
                "## Made of",
                _table(["", ""], [[key, value] for key, value in made_of.items()]),
                "## Licence",
                _licence(base) + " That of an adapter's data comes to it: add it.",
                "## Certificate",
                "`certificate.json`, if it lies beside this file: `python tools/verify_export.py` writes it after "
                "a comparison with what this was made of.",
            ]
        )
        + "\n"
    )


def write_card(folder: Path, text: str) -> None:
    """Write README.md, unless there is one that somebody else wrote."""
    if is_ours(folder / CARD):
        (folder / CARD).write_text(text, encoding="utf-8")


def is_ours(card: Path) -> bool:
    """Whether `card` is not there, or was written here."""
    return not card.exists() or (card.is_file() and MARK in card.read_text(encoding="utf-8", errors="replace"))


def _front_matter(base: Path, tags: list[str], library: str) -> str:
    fields: dict[str, Any] = {"base_model": base.name, "pipeline_tag": "text-generation", **_licence_fields(base)}
    fields |= {"library_name": library} if library else {}
    fields |= {"tags": tags} if tags else {}
    return f"---\n{yaml.safe_dump(fields, allow_unicode=True, sort_keys=True)}---"


def _licence_fields(base: Path) -> dict[str, str]:
    """What the base's own card says of its licence."""
    try:
        known = metadata_load(base / CARD) or {}
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return {key: str(known[key]) for key in LICENCE_FIELDS if key in known}


def _licence(base: Path) -> str:
    fields = _licence_fields(base)
    if not fields:
        return f"The folder of the base {base.name} names no licence: add it."
    return f"The base's: {', '.join(fields.values())}."


def _losses(history: Sequence[dict[str, Any]]) -> str:
    training = [entry for entry in history if "loss" in entry]
    evaluations = [entry for entry in history if "eval_loss" in entry]
    rows = [["training, first step", training[0]["step"], f"{training[0]['loss']:.4f}"]] if training else []
    rows += [["training, last step", training[-1]["step"], f"{training[-1]['loss']:.4f}"]] if training else []
    if evaluations:
        best = min(evaluations, key=lambda entry: entry["eval_loss"])
        rows += [["evaluation, best", best["step"], f"{best['eval_loss']:.4f}"]]
        rows += [["evaluation, last", evaluations[-1]["step"], f"{evaluations[-1]['eval_loss']:.4f}"]]
    return _table(["loss per supervised token", "step", "value"], rows)


def _table(head: list[str], rows: list[list[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', '/') for cell in line)} |" for line in lines)
