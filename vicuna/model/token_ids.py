"""Whether the files of a base agree on what begins its texts and what ends them."""

from pathlib import Path
from typing import Any

from vicuna.errors import UserError
from vicuna.files.json_files import read_json
from vicuna.prompt.templates import BASE
from vicuna.prompt.tokenizer import TextTokenizer


def check_ids(
    path: Path, config: Any, generation_config: Any, tokenizer: TextTokenizer, by_template: bool = False
) -> None:
    """Refuse ids of BOS and EOS that the tokenizer does not have.

    Early 2023's most common failure is a config with bos 0 and eos 1 beside a tokenizer with 1 and 2. Another is no
    mistake: chat models that end their turns with a token of their own.

    Args:
        by_template: the base is asked by its own chat template, which says what ends an answer.

    Raises:
        UserError: see above; or a tokenizer with more pieces than the base.
    """
    for source, holder in (("config.json", config), ("generation_config.json", generation_config)):
        for name, own in (("bos_token_id", tokenizer.bos_id), ("eos_token_id", tokenizer.eos_id)):
            declared = getattr(holder, name, None)
            ids = declared if isinstance(declared, list) else [declared]
            if declared is None or own in ids:
                continue
            if own not in tokenizer.beginning and name == "bos_token_id":
                continue  # no text begins with it, whichever it is
            said = f"{path / source} says {name} {declared}, but {tokenizer.source.name} beside it says {own}: "
            # Nothing that ends a turn, whichever file is right.
            mistaken = {tokenizer.bos_id, tokenizer.unk_id}
            if name == "bos_token_id":
                raise UserError(
                    f"{said}prompts would not begin as in its training. Correct {name} in {source} if the tokenizer is "
                    "the right one."
                )
            if all(one in mistaken or one not in range(config.vocab_size) for one in ids):
                raise UserError(
                    f"{said}answers would not end. Correct {name} in {source} if the tokenizer is the right one."
                )
            if not by_template:
                raise UserError(said + _another_end(path, ids, tokenizer))
    if tokenizer.size > config.vocab_size:
        raise UserError(
            f"{tokenizer.source} has {tokenizer.size} pieces, but the base's vocab_size is {config.vocab_size}: "
            "the tokenizer belongs to another base."
        )


def ends_of(
    config: Any, generation_config: Any, tokenizer: TextTokenizer, by_template: bool = False
) -> int | list[int]:
    """Every id that ends an answer.

    Of a base that is asked `by_template`, its own, that is what config.json and generation_config.json name, which
    disagree in published copies (Llama 3.0 Instruct, Qwen2.5), the tokenizer's EOS, and what the template writes behind
    an answer. Of others it is what generation_config.json names, or else the tokenizer's EOS.
    """
    named = generation_config.eos_token_id
    if not by_template:
        return tokenizer.eos_id if named is None else named
    ends: list[int] = []
    for found in (named, getattr(config, "eos_token_id", None), tokenizer.eos_id, tokenizer.answer_end(BASE)):
        ends += [one for one in (found if isinstance(found, list) else [found]) if one is not None and one not in ends]
    return ends[0] if len(ends) == 1 else ends


def _another_end(path: Path, ids: list[int], tokenizer: TextTokenizer) -> str:
    """What to do about a base that ends its turns with another token than its tokenizer ends texts with."""
    names = added_tokens(path) | tokenizer.markers
    shown = [f"{one} ({names[one]})" if one in names else str(one) for one in ids]
    own = tokenizer.eos_id
    both = ", ".join(map(str, [*ids, own]))
    return (
        f"its turns end with {' or '.join(shown)}, and training here ends answers with {own} "
        f"({names.get(own, 'EOS')}). With one written for the other answers would run on: name all of them, "
        f'"eos_token_id": [{both}], in config.json and in generation_config.json, and any of them ends an answer.'
    )


def added_tokens(folder: Path) -> dict[int, str]:
    """The tokens that a folder's JSON files name beside the pieces of its tokenizer, by id."""
    found: dict[int, str] = {}
    for name, number in read_json(folder / "added_tokens.json").items():
        if isinstance(number, int):
            found[number] = name
    decoder = read_json(folder / "tokenizer_config.json").get("added_tokens_decoder")
    listed = read_json(folder / "tokenizer.json").get("added_tokens")
    for number, token in decoder.items() if isinstance(decoder, dict) else ():
        if isinstance(token, dict) and str(number).isdecimal():
            found[int(number)] = str(token.get("content", ""))
    for token in listed if isinstance(listed, list) else ():
        if isinstance(token, dict) and isinstance(token.get("id"), int):
            found[token["id"]] = str(token.get("content", ""))
    return found
