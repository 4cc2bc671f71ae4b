"""What a base declares of its decoding, checked before transformers reads it."""

from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from vicuna.foreign.libraries import refusals
from vicuna.foreign.typed import is_absent, read_typed
from vicuna.log import log
from vicuna.model.base_files import DeclaredDecoding

# Settings of generation_config.json for ways of decoding that transformers no longer has itself.
CODE_OF_THE_HUB = ("penalty_alpha", "dola_layers", "num_beam_groups", "constraints", "force_words_ids")


def read_generation_config(path: Path, config: Any) -> GenerationConfig:
    """generation_config.json of a base, or what its config.json says of decoding where there is none.

    Raises:
        UserError: it can not be read, or has a value that no decoding takes.
    """
    file = path / "generation_config.json"
    if is_absent(file):
        return GenerationConfig.from_model_config(config)
    read_typed(file, DeclaredDecoding)
    with refusals(lambda said: f"{file} can not be read ({said})."):
        found = GenerationConfig.from_pretrained(path)
    if named := [name for name in CODE_OF_THE_HUB if getattr(found, name, None) not in (None, 1)]:
        log.info("%s: %s is left out, whose code would come from the hub", file, named[0])
        found.update(**dict.fromkeys(named))
    return found
