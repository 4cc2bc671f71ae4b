"""What a GGUF file says: its keys, its tensors' types and shapes, and the tokenizer inside it. No weight is read.

The tokenizer is SentencePiece itself or the library tokenizers, made of the file's pieces: llama.cpp's own never sees
a text, for it takes typed `</s>` for the end of an answer, and ends the process where a character has no piece.
"""

import importlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from vicuna.errors import UserError
from vicuna.foreign.odd_files import describe_odd_file
from vicuna.foreign.paths import shortened
from vicuna.foreign.typed import parse
from vicuna.gguf_file.header import MAGIC, Header, read_header
from vicuna.gguf_file.keys import check_keys
from vicuna.gguf_file.vocabulary import end_ids, token_id, tokenizer_files
from vicuna.prompt.tokenizer import TextTokenizer

# Keys of our own, beside the public ones of `gguf.Keys`.
PROMPT_TYPE = "vicuna.prompt_type"  # what the model or adapter was trained with
GENERATION = "vicuna.generation_config"  # JSON of GenerationConfig: suppressed tokens, every eos id, declared settings
STEP = "vicuna.step"  # of the training of an adapter

# Tokens: keys and values of longer contexts would take more memory than most machines have left.
MAX_CONTEXT = 4096
INSTALL_COMMAND = "bash scripts/install_cpp.sh"  # what installs the packages for GGUF
ARCHITECTURE = "llama"  # of the files that our own writer makes
REQUIRED_KEYS = ("context_length", "block_count")  # keys without which nothing can be said of a model
_OLD_MAGIC = {b"lmgg": "ggml", b"fmgg": "ggmf", b"tjgg": "ggjt", b"algg": "ggla"}  # of 2023, before GGUF


def optional_package(name: str) -> Any:
    """An optional package: `gguf`, `llama_cpp` or a part of them.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError, OSError) as error:  # the last two: compiled for another machine
        raise UserError(
            f"GGUF needs packages that are not installed ({error}); install them: {INSTALL_COMMAND}"
        ) from error


@dataclass(frozen=True)
class GGUFFile:
    """A GGUF file whose head was read and checked against its size.

    Attributes:
        keys: values by key, lists among them.
        types: tensor name -> type, such as F16 or Q4_K; shapes: tensor name -> (rows, columns), or (n,);
            begins: tensor name -> where its bytes begin in the file.
    """

    path: Path
    keys: dict[str, Any]
    types: dict[str, str]
    shapes: dict[str, tuple[int, ...]]
    begins: dict[str, int]

    @property
    def is_adapter(self) -> bool:
        return self.keys.get("general.type") == "adapter"

    @property
    def architecture(self) -> str:
        """As llama.cpp names it, such as llama or qwen2."""
        return str(self.keys.get("general.architecture", ""))

    @property
    def context(self) -> int:
        """Longest sequence the model was made for, in tokens."""
        return self.keys[f"{self.architecture}.context_length"]

    @property
    def blocks(self) -> int:
        """How many layers it has."""
        return self.keys[f"{self.architecture}.block_count"]

    @cached_property
    def generation(self) -> dict[str, Any]:
        """What the model declares of its decoding, by GenerationConfig's names; {} for a file from elsewhere.

        Raises:
            UserError: our key does not hold it.
        """
        found = parse(self.keys.get(GENERATION, "{}").encode(), f"{GENERATION} in {self.path}")
        if not isinstance(found, dict):
            raise UserError(f"{GENERATION} in {self.path} is no JSON of settings; export it again.")
        return {name: value for name, value in found.items() if _is_setting(value)}

    @property
    def ends(self) -> list[int]:
        """Every id that ends an answer: those that the file declares, else those at which llama.cpp ends it."""
        declared = self.generation.get("eos_token_id")
        if declared is None:
            return end_ids(self.keys)
        turn = token_id(self.keys, "eot")
        ids = [*(declared if isinstance(declared, list) else [declared]), *([] if turn is None else [turn])]
        pieces = len(self.keys.get("tokenizer.ggml.tokens") or [])
        if odd := [one for one in ids if type(one) is not int or not 0 <= one < pieces]:
            raise UserError(
                f"{GENERATION} in {self.path} ends answers at the token {shortened(odd[0])}, and its vocabulary has "
                f"{pieces:,} pieces; export it again."
            )
        return list(dict.fromkeys(ids))

    def tokenizer(self) -> TextTokenizer:
        """Text to the ids this file was made with.

        Raises:
            UserError: see `vicuna.gguf_file.vocabulary.tokenizer_files`.
        """
        return TextTokenizer(tokenizer_files(self.keys, self.path))


def _is_setting(value: Any) -> bool:
    """A number, a switch, or ids."""
    values = value if isinstance(value, list) else [value]
    return all(isinstance(one, int | float) and abs(one) < math.inf for one in values)


def names_gguf(name: str) -> bool:
    """Whether a `--model_path` or `--lora_path` means a file, GGUF or its predecessor, rather than a folder."""
    return name.endswith(".gguf") or Path(name).expanduser().is_file()


def is_gguf(name: str) -> bool:
    """Whether a `--model_path` means a GGUF file, by its ending or by its first bytes."""
    path = Path(name).expanduser()
    if name.endswith(".gguf") or not path.is_file():
        return name.endswith(".gguf")
    with path.open("rb") as opened:
        return opened.read(4) == MAGIC


def in_llama_cpp(model_path: str, lora_paths: Iterable[str] = ()) -> bool:
    """Whether llama.cpp is what answers: a GGUF file, and no adapter in PEFT's format on it.

    With such an adapter the file is opened as a base, its weights dequantised, in transformers.
    """
    return names_gguf(model_path) and all(names_gguf(path) for path in lora_paths if path)


def read_gguf(name: str, flag: str) -> GGUFFile:
    """Read what `flag` names, up to the weights.

    Raises:
        UserError: not a GGUF file, or a broken one.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        raise UserError(f"{flag} {name} is a folder; expected a GGUF file, or a folder whose name is not that of one.")
    if not path.is_file():
        raise UserError(f"{flag} {name} does not exist.")
    with path.open("rb") as opened:
        magic = opened.read(4)
    if magic in _OLD_MAGIC:
        raise UserError(
            f"{flag} {name} is a {_OLD_MAGIC[magic]} file from before GGUF, which llama.cpp reads no longer. Make it "
            "again from the model's Hugging Face folder: python tools/export_gguf.py --model_path FOLDER --out_path "
            f"{path.with_suffix('.gguf').name} --type q4_0"
        )
    if magic != MAGIC and path.suffix == ".gguf" and (odd := describe_odd_file(path)):
        raise UserError(f"{flag} {name} {odd}")
    if magic != MAGIC:
        raise UserError(f"{flag} {name} is a file, but not a GGUF one; expected a .gguf, or a Hugging Face folder.")
    header, types = _read_head(path, f"{flag} {name}")
    if (found := header.keys.get("general.architecture")) not in optional_package("gguf").MODEL_ARCH_NAMES.values():
        raise UserError(f"{flag} {name} is for the architecture {str(found)[:60]}, which llama.cpp does not know.")
    check_keys(header.keys, f"{flag} {name}")
    shapes = {tensor: one.shape for tensor, one in header.tensors.items()}
    begin = path.stat().st_size - header.data
    return GGUFFile(
        path, header.keys, types, shapes, {tensor: begin + one.offset for tensor, one in header.tensors.items()}
    )


def _read_head(path: Path, source: str) -> tuple[Header, dict[str, str]]:
    """The head of a file and the types of its tensors, which must all be in it."""
    gguf = optional_package("gguf")
    try:
        header = read_header(path)
        kinds = {name: gguf.GGMLQuantizationType(tensor.kind) for name, tensor in header.tensors.items()}
    except (ValueError, OverflowError, MemoryError) as error:
        raise UserError(f"{source} is broken or incomplete ({error}). Copy or export it again.") from error
    for tensor, one in header.tensors.items():
        values, size = gguf.GGML_QUANT_SIZES[kinds[tensor]]
        if one.shape[-1] % values:
            raise UserError(f"{source} is broken: {tensor[:80]} of {one.shape} is no {kinds[tensor].name}.")
        if one.offset + math.prod(one.shape) // values * size > header.data:
            raise UserError(f"{source} is incomplete: it ends within {tensor}. Copy or export it again.")
    return header, {tensor: kind.name for tensor, kind in kinds.items()}


def read_gguf_model(name: str, flag: str = "--model_path") -> GGUFFile:
    """The GGUF model that `flag` names.

    Raises:
        UserError: see `read_gguf`; or an adapter, or a vocabulary alone.
    """
    file = read_gguf(name, flag)
    if file.is_adapter:
        raise UserError(f"{flag} {name} is an adapter: pass it as --lora_path, and its base as --model_path.")
    lacking = [key for key in (f"{file.architecture}.{what}" for what in REQUIRED_KEYS) if key not in file.keys]
    if lacking or not file.types:
        what = lacking[0] if lacking else "weights"
        raise UserError(f"{flag} {name} is no model: it has no {what}. Copy or export it again.")
    return file


def read_gguf_adapter(name: str, model: GGUFFile) -> GGUFFile:
    """The adapter GGUF of `--lora_path`, which must fit `model`.

    Raises:
        UserError: see `read_gguf`; or not an adapter, or one for another base.
    """
    file = read_gguf(name, "--lora_path")
    if not file.is_adapter or file.keys.get("adapter.type") != "lora":
        raise UserError(f"--lora_path {name} is a whole model, not a LoRA adapter: pass it as --model_path.")
    for tensor, shape in file.shapes.items():
        target, _, kind = tensor.rpartition(".")
        expected = model.shapes.get(target)
        axis = {"lora_a": 1, "lora_b": 0}.get(kind)
        if axis is None or expected is None or shape[axis] != expected[axis]:
            raise UserError(
                f"--lora_path {name} was made for another base: its {tensor} is {shape}, and {model.path.name} has "
                f"{f'{target} of {expected}' if expected else f'no {target}'}."
            )
    return file
