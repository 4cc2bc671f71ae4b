"""What of a model's folder goes on to others: files of known names, without code and without what names any.

Some programs take copies of a base's files along; some libraries run a folder's code whatever they are told
(GPTQModel 7.6, llama.cpp's converters), so they are given a folder that has none.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vicuna.files.aside import aside_folder
from vicuna.files.json_files import read_json
from vicuna.files.tensors import weight_paths
from vicuna.log import log

# JSON that may name code: Python beside it or on the hub, and compiled code of the hub.
SETTINGS_FILES = ("config.json", "tokenizer_config.json", "generation_config.json", "special_tokens_map.json")
_SHOWN = (
    *("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "added_tokens.json", "chat_template.jinja"),
    *("model.safetensors.index.json", "pytorch_model.bin.index.json"),
)
_CODE = ("auto_map", "custom_pipelines", "custom_generate")
_WAYS = ("attn_implementation", "experts_implementation")  # end the names of how they are computed
# Ways of transformers itself. The others are compiled, or fetched from the hub where the package kernels is installed:
# flash_attention_2 too, where flash_attn is not.
_OWN_WAYS = ("eager", "sdpa", "grouped_mm", "batched_mm")


def without_code(settings: Any) -> Any:
    """Settings without what names code, at any depth."""
    if isinstance(settings, Mapping):
        return {
            key: without_code(value)
            for key, value in settings.items()
            if key not in _CODE and not (_is_way(key) and foreign_ways(value, True))
        }
    return [without_code(one) for one in settings] if isinstance(settings, list) else settings


def foreign_ways(settings: Any, is_way: bool = False) -> list[str]:
    """What settings name, at any depth, as ways of computing attention and experts that are not transformers' own.

    Args:
        is_way: `settings` is the value of such a field.
    """
    if isinstance(settings, Mapping):
        return [way for key, value in settings.items() for way in foreign_ways(value, is_way or _is_way(key))]
    return [str(settings)] if is_way and settings not in (None, *_own_ways()) else []


def _is_way(key: str) -> bool:
    return key.removesuffix("_internal").endswith(_WAYS)


def _own_ways() -> tuple[str, ...]:
    from transformers.utils import is_flash_attn_2_available

    return (*_OWN_WAYS, *["flash_attention_2"] * is_flash_attn_2_available())


def copy_known(source: Path, folder: Path, names: Sequence[str]) -> None:
    """Copy those of a model's files that are there, by their names.

    What a link names is copied where it is a file of the same name, or one of the stores of the hub's cache and of
    git-annex, which are made of links: a stranger's link may lead to a file of the user's.
    """
    for file in [source / name for name in names]:
        if not file.is_file():
            continue
        there = file.resolve()
        if there.name != file.name and not _is_store(there, source.resolve()):
            log.warning("%s is a link to %s, which is not taken along", file, there)
            continue
        copy = folder / file.relative_to(source)
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, copy)


def _is_store(file: Path, source: Path) -> bool:
    """Whether a file lies in what keeps files by their hashes, for the folder `source`."""
    annexes = (folder / ".git/annex/objects" for folder in (source, *source.parents))
    return file.parent == source.parent.parent / "blobs" or any(annex in file.parents for annex in annexes)


@contextmanager
def shown(folder: Path, weights: bool = True) -> Iterator[Path]:
    """A folder with what other programs may see of a model's folder, under the same name, as long as the block lasts:
    links to its weights, and copies of the files of its config and tokenizer.
    """
    with aside_folder() as aside:
        place = aside / "model"
        place.mkdir()
        for name in SETTINGS_FILES:
            if (folder / name).is_file():
                (place / name).write_text(json.dumps(without_code(read_json(folder / name))), encoding="utf-8")
        copy_known(folder, place, [name for name in _SHOWN if weights or not name.endswith(".index.json")])
        for file in weight_paths(folder) if weights else ():
            (place / file.name).symlink_to(file.resolve())
        yield place
