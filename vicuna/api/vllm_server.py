"""vLLM's command line for a model of ours: python -m vicuna.api.vllm_server --model_path BASE --lora_path A -- [vLLM's]

Checks base and adapters, then becomes `vllm serve` with the template they were trained with, the adapters by name,
and whatever follows `--` as it is. scripts/serve_vllm.sh is the launcher.
"""

import hashlib
import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vicuna import log
from vicuna.answer.flags import ServeFlags
from vicuna.args import flag, parse
from vicuna.errors import UserError, run
from vicuna.files.aside import write_text
from vicuna.prompt.templates import ALL_PROMPT_TYPES, BASE

if TYPE_CHECKING:
    from vicuna.model.base import Base

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # what --max-lora-rank takes


@dataclass
class VllmFlags:
    """What vLLM is to serve."""

    model_path: str = flag("models/tiny-llama-zh", "merged model, or base: a folder, or a hub id owner/name")
    lora_path: list[str] = flag([], "adapters, each a folder or a hub id; clients name one of them, or the base")
    prompt_type: Literal[ALL_PROMPT_TYPES] | None = flag(
        None, "template; default: what model and adapters were trained with"
    )
    gpus: int = flag(1, "GPUs to spread the model over")
    port: int = flag(8000, "port to listen on")


def main(flags: VllmFlags, further: list[str]) -> None:
    """Check, and become vLLM.

    Raises:
        UserError: vLLM is not there, or can not serve this.
    """
    log.set_up()
    name = os.environ.get("VLLM") or "vllm"
    program = shutil.which(name)
    if program is None:
        raise UserError(
            f"{name} is not installed: vLLM needs an NVIDIA GPU, and an environment of its own, since it brings other "
            "versions of torch and transformers: python -m venv vllm-env && vllm-env/bin/pip install vllm. Name its "
            "program by VLLM=$PWD/vllm-env/bin/vllm."
        )
    key = os.environ.get("VICUNA_API_KEY") or os.environ.get("VLLM_API_KEY", "")
    host = _given(further, "--host")
    if host and not key and not _given(further, "--api-key") and ServeFlags(host=host).reached_from_elsewhere:
        raise UserError(f"--host {host} lets other machines in, and nothing asks who they are: set VICUNA_API_KEY.")
    argv = [name, *vllm_argv(flags), *further]
    log.log.info("%s", " ".join(argv))
    environment = {"VLLM_NO_USAGE_STATS": "1", **os.environ} | ({"VLLM_API_KEY": key} if key else {})
    os.execve(program, argv, environment)


def _given(argv: list[str], name: str) -> str:
    """The value of a flag on vLLM's command line; the last one counts there."""
    found = ""
    for word, following in zip(argv, [*argv[1:], ""], strict=False):
        if word == name:
            found = following
        elif word.startswith(f"{name}="):
            found = word.partition("=")[2]
    return found


def vllm_argv(flags: VllmFlags) -> list[str]:
    """vLLM's arguments.

    Raises:
        UserError: a base or an adapter that can not be served.
    """
    # Imported here so that a program that is missing is named at once.
    from vicuna.gguf_file.folder import refuse_file
    from vicuna.model.base import check_base
    from vicuna.model.found import adapter_folder

    base = check_base(flags.model_path)
    refuse_file(base.path, "vLLM")
    _refuse_adapter_beside(base.path)
    heads = base.config.num_attention_heads
    if flags.gpus < 1 or heads % flags.gpus:
        raise UserError(
            f"{flags.gpus} GPUs can not share the {heads} attention heads of the base; take a divisor of them."
        )
    folders = [adapter_folder(path) for path in flags.lora_path if path]
    argv = ["serve", str(base.path), "--served-model-name", base.path.name]
    argv += ["--host", ServeFlags.host, "--port", str(flags.port)]  # vLLM's own default is every address
    argv += ["--generation-config", "auto" if (base.path / "generation_config.json").is_file() else "vllm"]
    argv += _precision()
    if flags.gpus > 1:
        argv += ["--tensor-parallel-size", str(flags.gpus)]
    if prompt_type := _prompt_type(flags.prompt_type, base.path, folders):
        argv += ["--chat-template", str(_template_file(prompt_type, base, folders))]
    return argv + _adapters(base, folders)


def _refuse_adapter_beside(folder: Path) -> None:
    """Refuse a base whose folder holds an adapter too, where vLLM would take its tensors for the base's.

    Raises:
        UserError: see above.
    """
    from vicuna.api.vllm_adapters import WEIGHTS
    from vicuna.files.tensors import weight_paths

    # vLLM 0.33 reads every file of weights in a folder, but where model.safetensors.index.json names them.
    files = weight_paths(folder)
    beside = [name for name in WEIGHTS if Path(name).suffix == files[0].suffix and (folder / name).is_file()]
    if beside and not (folder / "model.safetensors.index.json").is_file():
        raise UserError(
            f"{folder} also holds {beside[0]}, whose tensors vLLM would take for the base's: move the adapter to a "
            "folder of its own, and name that one with --lora_path."
        )


def _precision() -> list[str]:
    """half on GPUs that only emulate bfloat16, for bases that were saved in it; elsewhere vLLM's own choice."""
    import torch

    from vicuna.model.base import compute_dtype, device

    return ["--dtype", "half"] if device().type == "cuda" and compute_dtype(16)[0] == torch.float16 else []


def _prompt_type(asked_for: str | None, base: Path, folders: list[Path]) -> str:
    """The template that vLLM is to be given; "" where the model's folder has the right one."""
    from vicuna.model.found import model_run_args, run_args

    if asked_for:
        return asked_for
    trained = {folder.name: run_args(folder).get("prompt_type") for folder in folders}
    known = {prompt_type for prompt_type in trained.values() if prompt_type}
    if len(known) > 1:
        each = ", ".join(f"{name} {prompt_type}" for name, prompt_type in trained.items() if prompt_type)
        raise UserError(
            f"the adapters were trained with different prompt types ({each}), and vLLM has one template for all: serve "
            "them apart, or name one with PROMPT_TYPE."
        )
    known = known or {model_run_args(base).get("prompt_type")} - {None}
    if not known:
        return "" if has_chat_template(base) else "instruct"
    (prompt_type,) = known
    if prompt_type not in ALL_PROMPT_TYPES:
        raise UserError(f"prompt type {prompt_type!r} is not known to this version; name one with PROMPT_TYPE.")
    return prompt_type if folders or not has_chat_template(base) else ""


def has_chat_template(folder: Path) -> bool:
    """Whether a model's folder says itself how its prompts are built."""
    from vicuna.prompt.tokenizer_files import read_template

    return bool(read_template(folder))


def _template_file(prompt_type: str, base: "Base", folders: list[Path]) -> Path:
    """A file with the template of a prompt type, in the user's cache folder.

    Raises:
        UserError: adapters that were trained with the base's own template, rendered otherwise.
    """
    from vicuna.data.cache import default_cache
    from vicuna.prompt.chat_template import chat_template

    text = _own_template(base, folders) if prompt_type == BASE else chat_template(prompt_type)
    name = f"base-{hashlib.sha256(text.encode()).hexdigest()[:16]}" if prompt_type == BASE else prompt_type
    file = default_cache().parent / f"chat_template-{name}.jinja"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, text)
    return file


def _own_template(base: "Base", folders: list[Path]) -> str:
    """The base's own template with the settings that the adapters were trained with."""
    from vicuna.model.adapter_files import as_trained, template_settings
    from vicuna.prompt.templates import own_template

    found = {folder.name: template_settings(folder) for folder in folders or [base.path]}
    if len(set(found.values())) > 1:
        each = "; ".join(f"{name}: day {one.day or '–'}, thinking {one.thinking or '–'}" for name, one in found.items())
        raise UserError(
            f"the adapters were trained with other settings of the base's chat template ({each}), and vLLM has one "
            "template for all: serve them apart."
        )
    own_template(base.tokenizer.chat)
    return as_trained(base.tokenizer, [*folders, base.path][0]).chat.exported()


def _adapters(base: "Base", folders: list[Path]) -> list[str]:
    if not folders:
        return []
    from vicuna.api.vllm_adapters import served_rank
    from vicuna.model.config import meta_model

    names = [folder.name for folder in folders]
    taken = [name for name in names if names.count(name) > 1 or name == base.path.name]
    if taken:
        raise UserError(f"clients could not tell {taken[0]} from another of that name: give the folder another one.")
    model = meta_model(base.config)
    rank = max(served_rank(base, model, folder) for folder in folders)
    if rank > RANKS[-1]:
        raise UserError(f"rank {rank} is more than the {RANKS[-1]} that vLLM takes: merge the adapter into the base.")
    most = next(allowed for allowed in RANKS if allowed >= rank)
    return [
        *("--enable-lora", "--max-loras", str(len(folders)), "--max-lora-rank", str(most), "--lora-modules"),
        *(_module(folder) for folder in folders),
    ]


def _module(folder: Path) -> str:
    """An adapter as --lora-modules takes it."""
    path = str(folder.resolve())
    if "=" in path or "," in path or path.startswith("{"):
        return json.dumps({"name": folder.name, "path": path}, ensure_ascii=False)
    return f"{folder.name}={path}"


if __name__ == "__main__":
    own, further = sys.argv[1:], []
    if "--" in own:
        own, further = own[: own.index("--")], own[own.index("--") + 1 :]
    run(lambda: main(*parse(__doc__, VllmFlags, argv=own), further))
