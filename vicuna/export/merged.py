"""A merged model as a folder: its weights in Hugging Face format, its tokenizer, and what is said about it."""

import json
from pathlib import Path
from typing import Any

from vicuna.errors import UserError
from vicuna.export.merge import MergedTensor, stays_tied
from vicuna.export.updates import AdapterUpdate
from vicuna.files.json_files import read_json
from vicuna.files.tensors import dtype_name, main_dtype, write_model
from vicuna.log import log
from vicuna.model.adapter_files import as_trained, template_settings
from vicuna.model.base import Base
from vicuna.model.config import meta_model
from vicuna.model.found import RUN_ARGS
from vicuna.model.known_files import copy_known
from vicuna.model.model_card import export_card, write_card
from vicuna.model.openable import copy_tokenizer, make_openable
from vicuna.prompt.chat_template import chat_template
from vicuna.prompt.templates import ALL_PROMPT_TYPES, BASE
from vicuna.prompt.tokenizer_files import CHAT_TEMPLATE_FILE
from vicuna.prompt.tokenizer_json import match_training_ids


def write_hf(folder: Path, tensors: dict[str, MergedTensor], base: Base, updates: list[AdapterUpdate]) -> None:
    """config.json, generation_config.json, and the weights."""
    config = json.loads((base.path / "config.json").read_text(encoding="utf-8"))
    head, embedding = tied_names(base)
    if head:
        config["tie_word_embeddings"] = stays_tied(tensors[head], tensors[embedding])
        if config["tie_word_embeddings"]:
            del tensors[head]
        else:
            log.info("the adapters tell the head from the embeddings, which the base ties: both are written")
    config.pop("quantization_config", None)
    config.pop("torch_dtype", None)
    config["vocab_size"] = updates[-1].vocab
    config["dtype"] = dtype_name(main_dtype(tensors))
    (folder / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    generation = base.path / "generation_config.json"
    if generation.is_file():
        copy_known(base.path, folder, [generation.name])
    else:
        base.generation_config.save_pretrained(folder)
    make_openable(folder)
    write_model(folder, tensors)


def describe(
    folder: Path, base: Base, updates: list[AdapterUpdate], out: Path, prompt_type: str | None, dtype: str
) -> None:
    """The tokenizer, run_args.json, and the template that the model was trained with.

    Args:
        out: the name that the folder is going to have.
        prompt_type: in place of what the last adapter was trained with.
        dtype: of the weights, in words.

    Raises:
        UserError: a prompt type that is not known.
    """
    tokenizer = next((one.folder for one in reversed(updates) if one.grows), base.path)
    copy_tokenizer(tokenizer, folder)
    if notice := match_training_ids(folder, base.context):
        log.warning("%s.", notice)
    recorded = [one.prompt_type for one in updates]
    if prompt_type and recorded[-1] not in ("", prompt_type):
        log.warning("the last adapter was trained with --prompt_type %s, not %s", recorded[-1], prompt_type)
    prompt_type = prompt_type or recorded[-1]
    facts: dict[str, Any] = {"merged": {"base": base.path.name, "adapters": [one.folder.name for one in updates]}}
    if not prompt_type:
        log.warning(
            "nothing says which template the last adapter was trained with, so the merged model has none: pass "
            "--prompt_type, such as instruct or chat."
        )
    elif prompt_type not in ALL_PROMPT_TYPES:
        raise UserError(
            f"{updates[-1].folder} was trained with the prompt type {prompt_type!r}, which this version does not know: "
            "name one with --prompt_type."
        )
    else:
        facts["prompt_type"] = prompt_type
        text, settings = own_or_written(base, prompt_type, updates[-1].folder)
        facts |= settings
        (folder / CHAT_TEMPLATE_FILE).write_text(text, encoding="utf-8")
        drop_own_template(folder / "tokenizer_config.json")
    (folder / RUN_ARGS).write_text(json.dumps(facts, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    made_of = {"base": base.path.name, **{f"adapter {i}": one.folder.name for i, one in enumerate(updates, 1)}}
    made_of |= {"prompt type": prompt_type or "not known", "dtype": dtype}
    write_card(folder, export_card(out.name, "a base with adapters merged into it", base.path, made_of))


def own_or_written(base: Base, prompt_type: str, adapter: Path) -> tuple[str, dict[str, Any]]:
    """The template of a merged model as Jinja, and what run_args.json says of it beside the prompt type.

    Raises:
        UserError: it is the base's own, and the base declares none.
    """
    if prompt_type != BASE:
        return chat_template(prompt_type), {}
    if base.tokenizer.chat is None:
        raise UserError(f"--prompt_type base is the base's own chat template, and {base.path} declares none.")
    settings = {name: one for name, one in vars(template_settings(adapter)).items() if one}
    return as_trained(base.tokenizer, adapter).chat.exported(), {"template": settings} if settings else {}


def drop_own_template(file: Path) -> None:
    """A base's own template in tokenizer_config.json would be a second one beside the adapter's."""
    if "chat_template" in (settings := read_json(file)):
        del settings["chat_template"]
        file.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def tied_names(base: Base) -> tuple[str, str]:
    """The head that a base ties to its embeddings, and these; "" twice where it ties none."""
    if not base.config.tie_word_embeddings:
        return "", ""
    return next(iter(meta_model(base.config).all_tied_weights_keys.items()), ("", ""))
