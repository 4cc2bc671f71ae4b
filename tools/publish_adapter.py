"""Write an adapter that was trained on an enlarged base as one for the original, as Chinese-LLaMA-Alpaca published its.

    python tools/publish_adapter.py --model_path llama-7b-zh --original_path llama-7b --lora_path outs/pretrain_stage2 \
        --out_path chinese-llama-lora-7b

--out_path gets adapter_config.json, adapter_model.safetensors with both tables, the enlarged tokenizer, run_args.json
and SHA256.json. Merged into the original base it gives the same model as the adapter merged into the enlarged one, bit
by bit, alone and before another such adapter: python tools/merge_lora.py --model_path llama-7b --lora_path
chinese-llama-lora-7b chinese-alpaca-lora-7b --out_path merged
"""

import json
from dataclasses import dataclass

from vicuna import log
from vicuna.args import flag, parse
from vicuna.errors import UserError, run


@dataclass
class PublishFlags:
    """What is written, and for which base."""

    model_path: str = flag("", "base that the adapter was trained on, enlarged by tools/expand_vocabulary.py")
    original_path: str = flag("", "base that it was enlarged from")
    lora_path: str = flag("lora-Vicuna", "adapter: a folder or a hub id")
    out_path: str = flag("", "new folder for the adapter")
    ignore_fingerprint: bool = flag(False, "take an adapter that was trained on other files than those of this base")

    def __post_init__(self) -> None:
        for name in ("model_path", "original_path"):
            if not getattr(self, name):
                raise UserError(f"--{name} is empty; name the base.")


def main(flags: PublishFlags) -> None:
    """Check everything, then write."""
    log.set_up()
    from vicuna.files.outputs import atomic_folder, check_new_folder
    from vicuna.model.found import look_at_paths

    check_new_folder(flags.out_path, "--out_path")
    look_at_paths(flags.original_path)
    look_at_paths(flags.model_path, [flags.lora_path])
    from safetensors.torch import save_file

    from vicuna.export.manifests import MANIFEST_FILE, write_manifest
    from vicuna.export.publishing import facts, published
    from vicuna.export.updates import read_updates
    from vicuna.model.base import check_base
    from vicuna.model.found import ADAPTER_FILES, RUN_ARGS, run_args
    from vicuna.model.openable import copy_tokenizer

    with atomic_folder(flags.out_path, "--out_path") as folder:
        base, original = check_base(flags.model_path), check_base(flags.original_path)
        (update,) = read_updates([flags.lora_path], base, flags.ignore_fingerprint)
        tensors, config = published(base, original, update)
        save_file({name: one.contiguous() for name, one in tensors.items()}, folder / ADAPTER_FILES[0])
        config.save_pretrained(folder)
        copy_tokenizer(base.path, folder)
        said = facts(base, original, run_args(update.folder))
        (folder / RUN_ARGS).write_text(json.dumps(said, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        write_manifest(folder, folder / MANIFEST_FILE)
    print(f"{update.folder.name} is an adapter for {original.path.name} in {flags.out_path}: {len(tensors)} tensors")


if __name__ == "__main__":
    run(lambda: main(*parse(__doc__, PublishFlags)))
