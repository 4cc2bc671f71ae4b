"""Merge adapters into their base: a model that any program opens, in Hugging Face format or as Meta's .pth shards.

    python tools/merge_lora.py --model_path models/tiny-llama-zh --lora_path lora-Vicuna --out_path merged
    python tools/merge_lora.py --model_path B --lora_path A1 A2 --out_path merged-pth --format pth --num_shards 2
    python tools/merge_lora.py --base_model B --lora_model A1,A2 --output_type pth --output_dir merged-pth

Several adapters are merged in the order given: what each adds is added up, and of embeddings and heads that they
bring the last ones count. Everything is added up in float32 and rounded once, one tensor at a time from files that
are mapped, not loaded: a base of any size needs little more memory than its largest tensor. --out_path gets the
weights, the tokenizer, generation_config.json, run_args.json with the template's name, and the template itself as
chat_template.jinja.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vicuna import log
from vicuna.args import flag, parse
from vicuna.errors import UserError, run
from vicuna.prompt.templates import ALL_PROMPT_TYPES

if TYPE_CHECKING:
    from vicuna.export.merge import MergedTensor
    from vicuna.export.updates import AdapterUpdate
    from vicuna.model.base import Base


PUBLISHED = ("base_model", "lora_model", "output_type", "output_dir")  # Chinese-LLaMA-Alpaca's names of flags
DEFAULTS = {"model_path": "models/tiny-llama-zh", "lora_path": ["lora-Vicuna"], "format": "hf", "out_path": ""}


@dataclass
class MergeFlags:
    """What is merged into what, and what becomes of it."""

    model_path: str = flag(
        DEFAULTS["model_path"],
        "base model: a folder in Hugging Face format, a hub id owner/name, or a .gguf file; not changed",
    )
    lora_path: list[str] = flag(
        DEFAULTS["lora_path"], "adapters, folders or hub ids, merged one after the other in this order"
    )
    out_path: str = flag("", "new folder for the merged model")
    format: Literal["hf", "pth"] = flag("hf", "hf: Hugging Face's .safetensors; pth: Meta's consolidated.*.pth")
    num_shards: int | None = flag(
        None, "consolidated.*.pth files, with --format pth; default: as many as Meta published for this depth, else 1"
    )
    dtype: Literal["base", "float32", "float16", "bfloat16"] = flag(
        "base", "precision of the merged weights; base: each as it is in the base"
    )
    base_model: str = flag("", "Chinese-LLaMA-Alpaca's spelling of --model_path")
    lora_model: str = flag("", "its spelling of --lora_path: adapters with commas between them")
    output_type: Literal["huggingface", "pth"] | None = flag(None, "its spelling of --format hf and --format pth")
    output_dir: str = flag("", "its spelling of --out_path")
    prompt_type: Literal[ALL_PROMPT_TYPES] | None = flag(
        None, "template that the merged model is asked in; default: the one its last adapter was trained with"
    )
    ignore_fingerprint: bool = flag(
        False, "merge although an adapter was trained on other files than those of this base, such as a copy of it in "
        "another format, or the base with the adapters before it"
    )  # fmt: skip

    def __post_init__(self) -> None:
        meant = {
            "model_path": self.base_model,
            "lora_path": [name.strip() for name in self.lora_model.split(",") if name.strip()],
            "format": {"huggingface": "hf"}.get(self.output_type, self.output_type),
            "out_path": self.output_dir,
        }
        for (name, value), other in zip(meant.items(), PUBLISHED, strict=True):
            if value and getattr(self, name) not in (value, DEFAULTS[name]):
                raise UserError(f"--{other} is another spelling of --{name}, and both are given; drop one of them.")
            if value:
                setattr(self, name, value)
        if self.num_shards is not None and self.format != "pth":
            raise UserError(f"--num_shards {self.num_shards} is for --format pth; .safetensors are cut at 2 GiB.")


def main(flags: MergeFlags) -> None:
    """Check everything, then write."""
    log.set_up()
    if not flags.lora_path:
        raise UserError("--lora_path is empty; name one or more adapters.")
    # Imported here so that --help and a mistyped flag answer at once, and so do paths, before torch.
    from vicuna.files.outputs import atomic_folder, check_new_folder
    from vicuna.model.found import look_at_paths

    check_new_folder(flags.out_path, "--out_path")
    look_at_paths(flags.model_path, flags.lora_path)
    import torch

    from vicuna.export.manifests import check_input
    from vicuna.export.merge import merge
    from vicuna.export.merged import describe, write_hf
    from vicuna.export.updates import read_updates
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
        describe(folder, base, updates, Path(flags.out_path), flags.prompt_type, flags.dtype)
        if flags.format == "pth":
            write_pth(folder, tensors, base, updates, flags.num_shards)
        else:
            write_hf(folder, tensors, base, updates)
    used = ", ".join(f"all {one.count} tensors of {one.folder.name}" for one in updates)
    print(f"merged {used} into {base.path.name}: {flags.out_path}")


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


if __name__ == "__main__":
    run(lambda: main(*parse(__doc__, MergeFlags)))
