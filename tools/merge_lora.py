"""Merge adapters into their base: a model that any program opens, in Hugging Face format or as Meta's .pth shards.

    python tools/merge_lora.py --model_path models/tiny-llama-zh --lora_path lora-Vicuna --out_path merged
    python tools/merge_lora.py --model_path B --lora_path A1 A2 --out_path merged-pth --format pth --num_shards 2

Several adapters are merged in the order given: what each adds is added up, and of embeddings and heads that they
bring the last ones count. Everything is added up in float32 and rounded once, one tensor at a time from files that
are mapped, not loaded: a base of any size needs little more memory than its largest tensor. --out_path gets the
weights, the tokenizer, generation_config.json, run_args.json with the template's name, and the template itself as
chat_template.jinja.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vicuna import log
from vicuna.args import flag, parse
from vicuna.errors import UserError, run
from vicuna.prompt.chat_template import CHAT_TEMPLATE_FILE as CHAT_TEMPLATE
from vicuna.prompt.chat_template import chat_template
from vicuna.prompt.templates import PROMPT_TYPES

if TYPE_CHECKING:
    from vicuna.export.merge import MergedTensor
    from vicuna.export.updates import AdapterUpdate
    from vicuna.model.base import Base


@dataclass
class MergeFlags:
    """What is merged into what, and what becomes of it."""

    model_path: str = flag(
        "models/tiny-llama-zh", "base model: a folder in Hugging Face format, or a hub id owner/name; not changed"
    )
    lora_path: list[str] = flag(
        ["lora-Vicuna"], "adapters, folders or hub ids, merged one after the other in this order"
    )
    out_path: str = flag("", "new folder for the merged model")
    format: Literal["hf", "pth"] = flag("hf", "hf: Hugging Face's .safetensors; pth: Meta's consolidated.*.pth")
    num_shards: int | None = flag(
        None, "consolidated.*.pth files, with --format pth; default: as many as Meta published for this depth, else 1"
    )
    dtype: Literal["base", "float32", "float16", "bfloat16"] = flag(
        "base", "precision of the merged weights; base: each as it is in the base"
    )
    prompt_type: Literal[PROMPT_TYPES] | None = flag(
        None, "template that the merged model is asked in; default: the one its last adapter was trained with"
    )
    ignore_fingerprint: bool = flag(
        False, "merge although an adapter was trained on other files than those of this base, such as a copy of it in "
        "another format, or the base with the adapters before it"
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.num_shards is not None and self.format != "pth":
            raise UserError(f"--num_shards {self.num_shards} is for --format pth; .safetensors are cut at 2 GiB.")


def main(flags: MergeFlags) -> None:
    """Check everything, then write."""
    log.set_up()
    if not flags.lora_path:
        raise UserError("--lora_path is empty; name one or more adapters.")
    import torch

    from vicuna.export.manifests import check_input
    from vicuna.export.merge import merge
    from vicuna.export.updates import read_updates
    from vicuna.files.outputs import atomic_folder
    from vicuna.model.base import check_base
    from vicuna.model.base_tensors import read_base_tensors
    from vicuna.model.config import quantization_method

    with atomic_folder(flags.out_path, "--out_path") as folder:
        base = check_base(flags.model_path)
        updates = read_updates(flags.lora_path, base, flags.ignore_fingerprint)
        for path in (base.path, *(one.folder for one in updates)):
            check_input(path)
        dtype = None if flags.dtype == "base" else getattr(torch, flags.dtype)
        tensors = merge(read_base_tensors(base.path, base.config), updates, dtype)
        if quantization_method(base.config):
            log.log.warning(
                "%s is quantised: what that took from its weights is not given back. Merge into the model that it was "
                "made of, if you have it.", flags.model_path,
            )  # fmt: skip
        tokenizer = next((one.folder for one in reversed(updates) if one.grows), base.path)
        describe(folder, tokenizer, base, updates, flags)
        if flags.format == "pth":
            write_pth(folder, tensors, base, updates, flags.num_shards)
        else:
            write_hf(folder, tensors, base, updates)
    used = ", ".join(f"all {one.count} tensors of {one.folder.name}" for one in updates)
    print(f"merged {used} into {base.path.name}: {flags.out_path}")


def write_hf(folder: Path, tensors: dict[str, "MergedTensor"], base: "Base", updates: list["AdapterUpdate"]) -> None:
    """config.json, generation_config.json, and the weights."""
    from vicuna.export.merge import stays_tied
    from vicuna.files.tensors import dtype_name, main_dtype, write_model

    config = json.loads((base.path / "config.json").read_text(encoding="utf-8"))
    head, embedding = tied_names(base)
    if head:
        config["tie_word_embeddings"] = stays_tied(tensors[head], tensors[embedding])
        if config["tie_word_embeddings"]:
            del tensors[head]
        else:
            log.log.info("the adapters tell the head from the embeddings, which the base ties: both are written")
    config.pop("quantization_config", None)
    config.pop("torch_dtype", None)
    config["vocab_size"] = updates[-1].vocab
    config["dtype"] = dtype_name(main_dtype(tensors))
    (folder / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    generation = base.path / "generation_config.json"
    if generation.is_file():
        shutil.copyfile(generation, folder / generation.name)
    else:
        base.generation_config.save_pretrained(folder)
    write_model(folder, tensors)


def write_pth(
    folder: Path, tensors: dict[str, "MergedTensor"], base: "Base", updates: list["AdapterUpdate"], count: int | None
) -> None:
    """params.json and the shards."""
    from dataclasses import replace

    from vicuna.export.meta_layout import write_meta
    from vicuna.export.meta_params import PARAMS_FILE, LlamaShape, check_shard_count, default_shard_count, make_params

    shape = replace(LlamaShape.from_config(base.config, base.path / "config.json"), vocab=updates[-1].vocab)
    count = default_shard_count(shape) if count is None else count
    check_shard_count(count, shape, "--num_shards")
    (folder / PARAMS_FILE).write_text(json.dumps(make_params(base.config, shape)), encoding="utf-8")
    write_meta(folder, shape, tensors, count)


def describe(folder: Path, tokenizer: Path, base: "Base", updates: list["AdapterUpdate"], flags: MergeFlags) -> None:
    """The tokenizer, run_args.json, and the template that the model was trained with."""
    from vicuna.model.adapter_files import RUN_ARGS
    from vicuna.model.model_card import export_card, write_card
    from vicuna.prompt.tokenizer_json import match_training_ids
    from vicuna.train.trainable import copy_tokenizer

    copy_tokenizer(tokenizer, folder)
    if notice := match_training_ids(folder, base.context):
        log.log.warning("%s.", notice)
    recorded = [one.prompt_type for one in updates]
    prompt_type = flags.prompt_type or recorded[-1]
    if flags.prompt_type and recorded[-1] not in ("", flags.prompt_type):
        log.log.warning("the last adapter was trained with --prompt_type %s, not %s", recorded[-1], flags.prompt_type)
    facts: dict[str, Any] = {"merged": {"base": base.path.name, "adapters": [one.folder.name for one in updates]}}
    if not prompt_type:
        log.log.warning(
            "nothing says which template the last adapter was trained with, so the merged model has none: pass "
            "--prompt_type, such as instruct or chat."
        )
    elif prompt_type not in PROMPT_TYPES:
        raise UserError(
            f"{updates[-1].folder} was trained with the prompt type {prompt_type!r}, which this version does not know: "
            "name one with --prompt_type."
        )
    else:
        facts["prompt_type"] = prompt_type
        (folder / CHAT_TEMPLATE).write_text(chat_template(prompt_type), encoding="utf-8")
        drop_own_template(folder / "tokenizer_config.json")
    (folder / RUN_ARGS).write_text(json.dumps(facts, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    made_of = {"base": base.path.name, **{f"adapter {i}": one.folder.name for i, one in enumerate(updates, 1)}}
    made_of |= {"prompt type": prompt_type or "not known", "dtype": flags.dtype}
    write_card(
        folder, export_card(Path(flags.out_path).name, "a base with adapters merged into it", base.path, made_of)
    )


def drop_own_template(file: Path) -> None:
    """A base's own template in tokenizer_config.json would be a second one beside the adapter's."""
    from vicuna.files.json_files import read_json

    if "chat_template" in (settings := read_json(file)):
        del settings["chat_template"]
        file.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def tied_names(base: "Base") -> tuple[str, str]:
    """The head that a base ties to its embeddings, and these; "" twice where it ties none."""
    from vicuna.model.config import meta_model

    if not base.config.tie_word_embeddings:
        return "", ""
    return next(iter(meta_model(base.config).all_tied_weights_keys.items()), ("", ""))


if __name__ == "__main__":
    run(lambda: main(*parse(__doc__, MergeFlags)))
