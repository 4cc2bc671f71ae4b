"""Write a model in Hugging Face format, or an adapter for one, as a GGUF file for llama.cpp, Ollama and chat.py.

    python tools/export_gguf.py --model_path merged --out_path merged-q4_k_m.gguf --type q4_k_m
    python tools/export_gguf.py --model_path models/tiny-llama-zh --lora_path lora-Vicuna --out_path adapter.gguf

Reads the folder tensor by tensor; writes the file, aside first, and beside a model a Modelfile for Ollama. Prints the
type that each tensor really got. Of a LLaMA f32, f16, bf16 and q8_0 need only the package gguf, which is installed with
everything else; the other types need llama.cpp's own library, and every other architecture llama.cpp's own converter.
bash scripts/install_cpp.sh installs both.
"""

import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vicuna import log
from vicuna.args import flag, parse
from vicuna.errors import UserError, run
from vicuna.files import aside, outputs
from vicuna.gguf_file.types import PLAIN_TYPES, QUANTISED_TYPES
from vicuna.prompt.templates import ALL_PROMPT_TYPES

if TYPE_CHECKING:
    from vicuna.model.base import Base

TYPES = (*PLAIN_TYPES, *QUANTISED_TYPES)


@dataclass
class ExportFlags:
    """What becomes which file."""

    model_path: str = flag("models/tiny-llama-zh", "the model: a folder in Hugging Face format, or a hub id")
    out_path: str = flag("", "the .gguf file to write")
    type: str = flag("", f"one of {', '.join(TYPES)}; default f16, and f32 for an adapter")
    lora_path: str = flag("", "write only this adapter, trained on --model_path, for a GGUF of that base")
    prompt_type: str = flag("", "template it was trained with; default: what run_args.json in the folder says")
    ignore_fingerprint: bool = flag(
        False,
        "export --lora_path although it was trained on other files than those of --model_path, such as a copy of it in "
        "another format",
    )
    strict: bool = flag(False, "fail where a tensor can not have the type asked for, instead of naming it")
    overwrite: bool = flag(False, "replace --out_path where it exists")
    plan_only: bool = flag(False, "check what can be checked without reading weights, and stop there")

    def __post_init__(self) -> None:
        self.type = self.type.lower() or ("f32" if self.lora_path else "f16")
        if not self.out_path.endswith(".gguf"):
            raise UserError(f"--out_path {self.out_path or '(missing)'} is to be the name of a .gguf file.")
        if self.prompt_type not in ("", *ALL_PROMPT_TYPES):
            raise UserError(
                f"--prompt_type {self.prompt_type} is unknown; expected one of {', '.join(ALL_PROMPT_TYPES)}."
            )
        if self.type not in TYPES:
            raise UserError(f"--type {self.type} is unknown; expected one of {', '.join(TYPES)}.")
        if self.lora_path and self.type not in PLAIN_TYPES:
            raise UserError(
                f"--type {self.type} is too coarse for an adapter; take f32, f16 or bf16. It fits a base of any type."
            )


def main(flags: ExportFlags) -> None:
    """Check, write aside, report, move into place."""
    log.set_up()
    # Imported here so that --help and a mistyped flag answer at once.
    from vicuna.model.found import look_at_paths

    refuse_existing(Path(flags.out_path), flags.overwrite)
    look_at_paths(flags.model_path, [flags.lora_path] if flags.lora_path else [])
    with aside.made_folder(Path(flags.out_path).parent, "--out_path"):
        pass
    from vicuna.gguf import library, model_file
    from vicuna.gguf.writer import PACKED, undivided_tensors
    from vicuna.gguf_file import reader
    from vicuna.model.base import check_base
    from vicuna.model.found import adapter_folder, model_run_args, run_args
    from vicuna.train import checkpoint

    reader.optional_package("gguf")
    if flags.type in QUANTISED_TYPES and flags.type != PACKED:
        library.load_llama_cpp()
    base = check_base(flags.model_path)
    model_file.check_exportable(base, bool(flags.lora_path))
    if flags.type == PACKED and not model_file.needs_no_library(base, flags.type):
        library.load_llama_cpp()
    if settings := getattr(base.config, "quantization_config", None):
        bits = 8 if settings.get("load_in_8bit") else 4
        log.log.warning("WARNING %s is kept at %d bits: what that lost stays lost in the GGUF.", base.path, bits)
    folder = adapter_folder(flags.lora_path) if flags.lora_path else base.path
    if flags.lora_path:
        checkpoint.check_adapter_folder(folder, base, flags.ignore_fingerprint)
    said = run_args(folder) if flags.lora_path else model_run_args(folder)
    prompt_type = flags.prompt_type or said.get("prompt_type", "")
    if flags.plan_only:
        if not flags.lora_path:
            model_file.check_vocabulary(base)
        return
    if flags.strict and not flags.lora_path:
        refuse_other_types(base, flags.type)
    out = Path(flags.out_path)
    with outputs.atomic_file(out, "--out_path") as made:
        refuse_existing(out, flags.overwrite)  # another run may have ended since
        lost = write(flags, base, folder, made, prompt_type)
        with outputs.kept_if_lost(made, out, "--out_path"):
            written = reader.read_gguf(str(made), "--out_path")
            _report(written.types)
            warn_of_other_types(undivided_tensors(written.shapes, flags.type), written.types, flags.type)
    describe(flags, base, folder, prompt_type, lost)


def write(flags: ExportFlags, base: "Base", folder: Path, file: Path, prompt_type: str) -> list[int]:
    """Write the file, and warn of what llama.cpp does otherwise.

    Returns:
        Ids that end an answer, and that llama.cpp's own programs do not end at.
    """
    from vicuna.gguf import ends, lora, model_file

    if flags.lora_path:
        lora.write_gguf_adapter(base, folder, file, flags.type, prompt_type)
        return []
    model_file.write_model(base, file, flags.type, prompt_type, chat_template(base, prompt_type))
    warn_of_other_ids(file, base)
    lost, said = ends.describe_ends(file, base, ends.ordered_ends(base, prompt_type))
    if lost:
        log.log.warning("WARNING %s", said)
    elif said:
        log.log.info("%s", said)
    return lost


def describe(flags: ExportFlags, base: "Base", folder: Path, prompt_type: str, lost: list[int]) -> None:
    """Say what was made of what, beside the file and on the terminal, and what to do with it."""
    from vicuna.files.aside import write_text
    from vicuna.gguf import modelfile, writer
    from vicuna.model.model_card import export_card, write_card

    out, adapter = Path(flags.out_path), bool(flags.lora_path)
    suppressed = base.generation_config.suppress_tokens or []
    made_of = {"base" if adapter else "model": base.path.name, "type": flags.type}
    made_of |= {"adapter": folder.name} if adapter else {}
    made_of |= {"prompt type": prompt_type or "not known"}
    what = "an adapter as a GGUF file" if adapter else "a model as a GGUF file"
    write_card(out.parent, export_card(out.name, what, base.path, made_of))
    if suppressed:
        log.log.info(
            "the base never generates the ids %s: this toolkit's programs keep to that, other programs do not.",
            ", ".join(map(str, suppressed)),
        )
    if not prompt_type and not base.tokenizer.files.template:
        log.log.info("no prompt type is known, so there is no template: name it with --prompt_type if it was trained.")
    size = f"{out} ({out.stat().st_size / 2**20:.1f} MiB)"
    if adapter:
        print(f"in llama.cpp's own server: {modelfile.adapter_command('BASE.gguf', str(out))}")
        print(f"wrote {size}; talk to it: python chat.py --model_path BASE.gguf --lora_path {out}")
        return
    beside = modelfile.modelfile_path(out)
    names = [base.tokenizer.markers[number] for number in lost if number in base.tokenizer.markers]
    text = modelfile.modelfile(out.name, prompt_type, writer.context_of(base), suppressed, names)
    write_text(beside, text)
    print(f"wrote {size} and {beside}; talk to it: python chat.py --model_path {out}")


def refuse_existing(out: Path, overwrite: bool) -> None:
    """Refuse to write over what is there.

    Raises:
        UserError: see above.
    """
    if out.is_dir():
        raise UserError(f"--out_path {out} is a folder; name a file in it.")
    if out.exists() and not overwrite:
        raise UserError(f"--out_path {out} exists; name another file, or pass --overwrite.")


def chat_template(base: "Base", prompt_type: str) -> str:
    """The model's chat template: the one in its folder, else the one that its prompt type stands for; "" for none."""
    from vicuna.prompt.chat_template import chat_template
    from vicuna.prompt.replaced_templates import kept_as_written
    from vicuna.prompt.tokenizer_files import CHAT_TEMPLATE_FILE
    from vicuna.prompt.wordings import TEMPLATES

    if (base.path / CHAT_TEMPLATE_FILE).is_file() or prompt_type not in TEMPLATES:
        return kept_as_written(base.tokenizer.files.template)
    return chat_template(prompt_type)


def _report(types: dict[str, str]) -> None:
    """A line for each kind of tensor: its types, and in which blocks."""
    kinds: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name, kind in types.items():
        block = re.match(r"blk\.(\d+)\.", name)
        kinds[re.sub(r"^blk\.\d+\.", "blk.*.", name)][kind].append(block[1] if block else "")
    for name, found in kinds.items():
        several = len(found) > 1
        shown = [f"{kind} ({' '.join(blocks)})" if several else kind for kind, blocks in found.items()]
        print(f"{name:<32} {', '.join(shown)}")


def refuse_other_types(base: "Base", kind: str) -> None:
    """Refuse, under --strict, before anything is written.

    Raises:
        UserError: tensors that can not have the type.
    """
    from vicuna.gguf.model_file import is_written_here
    from vicuna.gguf.writer import plan_tensors, undivided_tensors
    from vicuna.model.base_tensors import read_base_tensors

    weights = read_base_tensors(base.path, base.config)
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if is_written_here(base):
        shapes = {one.name: one.shape for one in plan_tensors(base, weights, "")}
    if names := undivided_tensors(shapes, kind):
        raise UserError(f"{_undivided(names, kind)}. Nothing was written; take another --type, or leave --strict out.")


def warn_of_other_types(names: list[str], types: dict[str, str], kind: str) -> None:
    """Name the tensors that llama.cpp gave another type than was asked for, and the type."""
    if names:
        log.log.warning("WARNING %s.", _undivided([f"{name} {types[name]}" for name in names], kind))


def warn_of_other_ids(file: Path, base: "Base") -> None:
    """Say where llama.cpp's own tokenizer reads texts otherwise than training did."""
    from vicuna.gguf import foreign_ids

    other = foreign_ids.describe_other_ids(file, base.tokenizer), foreign_ids.describe_stripping(base.tokenizer)
    for differs in filter(None, other):
        log.log.warning("WARNING %s", differs)
    if composes := foreign_ids.describe_composing(base.tokenizer):
        log.log.info("%s", composes)


def _undivided(names: list[str], kind: str) -> str:
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return f"{len(names)} tensors have rows that {kind} can not divide into its blocks: {shown}"


if __name__ == "__main__":
    run(lambda: main(*parse(__doc__, ExportFlags)))
