"""What --model_path and --lora_path name: the folders, and whether they hold what is looked for in them.

Nothing here imports torch, so that a path that is mistyped is told at once.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vicuna.errors import UserError, first_line, listing
from vicuna.files.proxies import check_proxies
from vicuna.foreign.typed import is_absent
from vicuna.gguf_file.link import stands_for
from vicuna.gguf_file.reader import PROMPT_TYPE, is_gguf, read_gguf, read_gguf_model
from vicuna.model.flags import ModelFlags
from vicuna.model.run_record import read_run_record

BASE_FILES = ["*.json", "*.safetensors", "tokenizer.model"]
EMBEDDED_BASE = ModelFlags.model_path
# Today's name first, then the two that the original wrote.
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin", "pytorch_model.bin")
ADAPTER_CONFIG = "adapter_config.json"
RUN_ARGS = "run_args.json"  # what training or merging wrote of itself
# A finished run's files on their way into the place of an earlier run's, and in it what goes with that one.
REPLACING, FORMER = "replacing", "former.txt"
HUB_FILES = [*ADAPTER_FILES, ADAPTER_CONFIG, RUN_ARGS]


def existing_folder(name: str, flag: str) -> Path | None:
    """The folder that `name` means as a path; None for a hub id, of which nothing is asked.

    What starts with `.`, `/` or `~`, or lies in a folder that exists, is a path.

    Raises:
        UserError: no such folder, or one whose files are partly of one training and partly of another.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        if (path / REPLACING / FORMER).is_file():
            raise UserError(
                f"{flag} {name} is half replaced: {path / REPLACING} holds the rest of a finished training. Run that "
                "command again, which puts it in its place; or wait, if it is still at it."
            )
        return path
    if path.is_file():
        raise UserError(f"{flag} {name} is a file; expected the folder that holds it.")
    if name == EMBEDDED_BASE:
        raise UserError(
            f"{flag} {name} does not exist yet: make it with python tools/make_tiny_llama.py --output_path {name}."
        )
    if name.startswith((".", "/", "~")) or name.count("/") != 1 or path.parent.is_dir():
        raise UserError(f"{flag} {name} does not exist: no such folder here, and no hub id of the form owner/name.")
    return None


def local_folder(name: str, flag: str, allow_patterns: list[str]) -> Path:
    """The folder that `name` means: a path here, or a hub id owner/name, which is then downloaded to the cache.

    Raises:
        UserError: see `existing_folder`; or a hub id that can not be had.
    """
    if (path := existing_folder(name, flag)) is not None:
        return path
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    check_proxies()
    try:
        return Path(snapshot_download(name, allow_patterns=allow_patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = first_line(error).split(". ")[0]
        raise UserError(
            f"{flag} {name} is no folder here, and the hub did not give it ({reason}). Check the spelling, or the "
            "network."
        ) from error


def base_folder(name: str) -> Path:
    """The folder of a base in Hugging Face format, a path or a hub id.

    Raises:
        UserError: see `local_folder`; or one of another layout.
    """
    path = local_folder(name, "--model_path", BASE_FILES)
    if not (path / "config.json").is_file():
        if any(path.glob("consolidated.*.pth")):
            raise UserError(
                f"--model_path {name} is in Meta's layout: convert it first, python tools/convert_llama.py --input_dir "
                f"{name} --output_dir {path.name}-hf."
            )
        raise UserError(
            f"--model_path {name} has no config.json, found {listing(path)}; expected a model in Hugging Face format."
        )
    return path


def adapter_folder(name: str, use_local: bool | None = None) -> Path:
    """The folder of `--lora_path`: a path, or a hub id. `use_local` forbids the one or the other."""
    if use_local and not Path(name).expanduser().is_dir():
        raise UserError(f"--lora_path {name} does not exist here, and --use_local 1 forbids asking the hub.")
    if use_local is False and Path(name).is_dir():
        raise UserError(f"--lora_path {name} is a folder here, but --use_local 0 means a hub id; drop --use_local.")
    return local_folder(name, "--lora_path", HUB_FILES)


def adapter_file(folder: Path) -> Path:
    """The adapter weights in `folder`.

    Raises:
        UserError: none of the known names is there.
    """
    for name in ADAPTER_FILES:
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"{folder} has no adapter: expected one of {', '.join(ADAPTER_FILES)}, found {listing(folder)}.")


def look_at_paths(model_path: str, lora_paths: Sequence[str] = (), use_local: bool | None = None) -> list[Path]:
    """See that a base, a folder or a GGUF file, and adapters in PEFT's format are there; the adapters' folders.

    Raises:
        UserError: one is not, or holds none.
    """
    if is_gguf(model_path):
        read_gguf_model(model_path)
    else:
        base_folder(model_path)
    folders = [adapter_folder(path, use_local) for path in lora_paths]
    for folder in folders:
        adapter_file(folder)
    return folders


def holds_adapter(folder: Path) -> bool:
    """Whether an adapter lies in a model's folder, beside the model's own weights."""
    return (folder / ADAPTER_CONFIG).is_file()


def run_args(folder: Path) -> dict[str, Any]:
    """What training wrote beside the adapter, or beside the checkpoint's parent; {} for an adapter from elsewhere."""
    for file in (folder / RUN_ARGS, folder.parent / RUN_ARGS):
        if not is_absent(file) and (file.parent == folder or folder.name.startswith("checkpoint-")):
            return read_run_record(file)
    return {}


def model_run_args(folder: Path) -> dict[str, Any]:
    """What training or merging wrote beside a model; {} where it wrote of an adapter that lies in the same folder."""
    if file := stands_for(folder):
        said = read_gguf(str(file), "--model_path").keys.get(PROMPT_TYPE)
        return {"prompt_type": said} if said else {}
    found = run_args(folder)
    return found if "merged" in found or not holds_adapter(folder) else {}
