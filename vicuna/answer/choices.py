"""What can be talked to: the adapters and the base, what each is called, and the prompt type that it is asked with."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vicuna.answer.flags import ServeFlags
from vicuna.errors import UserError
from vicuna.model.found import model_run_args, run_args
from vicuna.prompt.rendering import PLAIN, Settings
from vicuna.prompt.templates import ALL_PROMPT_TYPES, BASE
from vicuna.sentences import Sentence


@dataclass(frozen=True)
class Choice:
    """What can be talked to: an adapter, or the base alone, whose name is "".

    Attributes:
        prompt_type: template of its prompts.
        trained_as: the one it was trained with, "" where nothing says.
        detail: step and rank, for the status line.
        settings: what the base's own template is rendered with, as in training.
        path: as it was typed.
    """

    name: str
    prompt_type: str
    trained_as: str = ""
    detail: str = ""
    settings: Settings = PLAIN
    path: str = ""


def adapter_names(paths: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """What the adapters are called: the last part of each path, and as many parts before it as tell them apart.

    Raises:
        UserError: an adapter that is given twice.
    """
    places = [folder.resolve() for folder in folders]
    if twice := [path for path, place in zip(paths, places, strict=True) if places.count(place) > 1]:
        raise UserError(f"--lora_path names the adapter {' and '.join(twice)} twice; give each adapter once.")
    parts = [
        Path(os.path.abspath(folder)).parts if Path(path).expanduser().is_dir() else tuple(path.split("/"))
        for path, folder in zip(paths, folders, strict=True)
    ]
    depths = [1] * len(parts)
    while True:
        names = ["/".join(part[-depth:]) for part, depth in zip(parts, depths, strict=True)]
        times = Counter(names)
        if len(times) == len(names):
            return names
        depths = [depth + (times[name] > 1) for name, depth in zip(names, depths, strict=True)]


def prompt_type_of(
    folder: Path, what: str, serve: ServeFlags, warnings: list[str], has_template: bool = False
) -> tuple[str, str]:
    """The prompt type of an adapter or a model, and the one it was trained with ("" where nothing says).

    Args:
        has_template: the base declares a chat template.
    """
    said = model_run_args(folder) if what == "model" else run_args(folder)
    return choose_type(said.get("prompt_type", ""), folder.name, what, serve, warnings, has_template)


def choose_type(
    trained_as: str, name: str, what: str, serve: ServeFlags, warnings: list[str], has_template: bool = False
) -> tuple[str, str]:
    """The prompt type of what was trained with `trained_as`, and that one; `warnings` gets what the user should know.

    Args:
        has_template: the base declares a chat template, which is taken where nothing else says.

    Raises:
        UserError: it is none of this version's, or the base's own template, and there is none.
    """
    untrained = BASE if has_template and what == "model" else "instruct"
    prompt_type = serve.prompt_type or trained_as or untrained
    if prompt_type == BASE and not has_template:
        raise UserError(
            f"--prompt_type base is the base's own chat template, and the base of {name} declares none; take another, "
            "such as instruct or chat."
        )
    if prompt_type not in ALL_PROMPT_TYPES:
        raise UserError(
            f"the {what} in {name} was trained with prompt type {prompt_type!r}, which this version does not "
            "know; name one with --prompt_type."
        )
    if trained_as and prompt_type != trained_as:
        warnings.append(
            Sentence("trained_otherwise", what=Sentence(what), name=name, trained=trained_as, prompt_type=prompt_type)
        )
    return prompt_type, trained_as
