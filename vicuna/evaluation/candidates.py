"""Models that are to be run beside each other: a base of any kind, and an adapter on it or none.

Everything that needs no weights is checked when a candidate is made, so a wrong name costs no time.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vicuna.answer.flags import ServeFlags
from vicuna.answer.loading import load_assistant
from vicuna.errors import UserError
from vicuna.evaluation.flags import is_address
from vicuna.evaluation.runners import HFRunner, LlamaCppRunner, Runner
from vicuna.files.tensors import weight_paths
from vicuna.gguf_file import reader
from vicuna.model.adapter_files import as_trained, check_compatible, model_sha256, read_adapter
from vicuna.model.adapter_kinds import uses_at
from vicuna.model.base import check_base, device
from vicuna.model.config import meta_model
from vicuna.model.flags import ModelFlags
from vicuna.model.found import adapter_file, adapter_folder, model_run_args, run_args
from vicuna.model.stored import use_as_stored
from vicuna.prompt.templates import ALL_PROMPT_TYPES, BASE
from vicuna.prompt.tokenizer import TextTokenizer


@dataclass(frozen=True)
class Opened:
    """A model in memory: what runs it, and its precision and device in words."""

    runner: Runner
    where: str


class Candidate(ABC):
    """A model that can be opened.

    Attributes:
        name: as the user typed it, with its adapter.
        precision: what tells it from the same model at other bits.
        context: longest row, in tokens.
        disk_bytes: of the files with its weights, and the adapter's.
        trained_as: prompt type that the adapter was trained with, or the model; "" where nothing says.
    """

    name: str
    precision: str
    tokenizer: TextTokenizer
    context: int
    disk_bytes: int
    trained_as: str

    @property
    @abstractmethod
    def sha256(self) -> str:
        """Of the files that it is made of, as `vicuna.model.base.fingerprint` reads them."""

    @abstractmethod
    def open(self, context: int) -> Opened:
        """Load it, for rows of at most `context` tokens.

        Raises:
            UserError: weights that can not be loaded.
        """


class HFCandidate(Candidate):
    """A folder in Hugging Face format, at 4, 8, 16 or 32 bits or as it is stored, and an adapter of PEFT."""

    def __init__(self, model_path: str, lora_path: str, bits: int):
        self.base = check_base(model_path)
        self.flags = use_as_stored(self.base.path, self.base.config, ModelFlags(model_path, bits))
        self.precision = f"{self.flags.bits} bit"
        self.context = self.base.context
        files, folder = weight_paths(self.base.path), None
        if lora_path:
            folder = adapter_folder(lora_path)
            uses = uses_at(self.base.config, self.flags.bits, device().type)
            check_compatible(read_adapter(folder, *uses)[0], meta_model(self.base.config), model_path)
            files = [*files, adapter_file(folder)]
        self.lora_path, self.folder = lora_path, folder
        self.tokenizer = as_trained(self.base.tokenizer, folder or self.base.path)
        self.name = f"{model_path} + {lora_path}" if lora_path else model_path
        self.disk_bytes = _size(files)
        said = run_args(folder) if folder else {}
        self.trained_as = said.get("prompt_type") or model_run_args(self.base.path).get("prompt_type", "")

    @property
    def sha256(self) -> str:
        return model_sha256(self.base.path, [self.folder] if self.folder else [])

    def open(self, context: int) -> Opened:
        serve = ServeFlags(prompt_type="text", cache_gib=0)  # rows come as ids: no prompt is made
        assistant = load_assistant(self.flags, serve, [self.lora_path])
        return Opened(HFRunner(assistant.engine.model), assistant.where)


class GGUFCandidate(Candidate):
    """A GGUF file in llama.cpp, and an adapter of that kind."""

    def __init__(self, model_path: str, lora_path: str, gpu_layers: int | None):
        from vicuna.answer.llama_cpp_engine import declared_prompt_type, resolve_gpu_layers
        from vicuna.gguf.library import load_llama_cpp

        self.file, self.precision = reader.read_gguf_model(model_path), "as stored"
        self.tokenizer, self.context = self.file.tokenizer(), min(self.file.context, reader.MAX_CONTEXT)
        self.lora = reader.read_gguf_adapter(lora_path, self.file) if lora_path else None
        self.gpu_layers = resolve_gpu_layers(self.file, gpu_layers, load_llama_cpp().llama_supports_gpu_offload())
        self.name = f"{model_path} + {lora_path}" if lora_path else model_path
        self.disk_bytes = _size([self.file.path, *([self.lora.path] if self.lora else [])])
        declared = declared_prompt_type(self.lora) if self.lora else ""
        self.trained_as = declared or declared_prompt_type(self.file)

    @property
    def sha256(self) -> str:
        return model_sha256(self.file.path, [self.lora.path] if self.lora else [])

    def open(self, context: int) -> Opened:
        from vicuna.answer.llama_cpp_engine import describe_model

        runner = LlamaCppRunner(self.file, context, self.lora, self.gpu_layers)
        return Opened(runner, describe_model(self.file, self.gpu_layers))


def find_candidate(model_path: str, lora_path: str, bits: int, gpu_layers: int | None = None) -> Candidate:
    """What `model_path` names, checked as far as that goes without weights.

    Args:
        lora_path: an adapter of the same kind, "" for none.
        bits: of a base that is not stored quantised; a GGUF has its own.

    Raises:
        UserError: what can not be opened, or does not fit together.
    """
    if is_address(model_path):
        raise UserError(
            f"--model_path {model_path} is an address, and this needs the model itself: name a folder in Hugging Face "
            "format or a .gguf file."
        )
    if reader.in_llama_cpp(model_path, [lora_path]):
        return GGUFCandidate(model_path, lora_path, gpu_layers)
    return HFCandidate(model_path, lora_path, bits)


def find_candidates(pairs: Sequence[tuple[str, str, int]], gpu_layers: int | None) -> list[Candidate]:
    """The models, each checked; one that --bits does not change comes once.

    Args:
        pairs: from `ModelsFlags.pairs`.

    Raises:
        UserError: one that can not be opened; layers for a GPU, and nothing that has them.
    """
    if gpu_layers is not None and not any(reader.in_llama_cpp(model, [lora]) for model, lora, _ in pairs):
        raise UserError(f"--gpu_layers {gpu_layers} is for GGUF files, of which --model_path names none; leave it out.")
    found: dict[tuple[str, str], Candidate] = {}
    for model, lora, bits in pairs:
        one = find_candidate(model, lora, bits, gpu_layers)
        found.setdefault((one.name, one.precision), one)
    return list(found.values())


def agreed_prompt_type(candidates: Sequence[Candidate]) -> str:
    """The prompt type that models and adapters were trained with; where none says, base if all bases declare a chat
    template, else instruct.

    Raises:
        UserError: they differ, so that the same text can not be right for all.
    """
    trained = {one.trained_as: one.name for one in candidates if one.trained_as}
    if len(trained) > 1:
        said = ", ".join(f"{name} with {kind}" for kind, name in trained.items())
        raise UserError(f"the models were trained with different prompt types ({said}): name one with --prompt_type.")
    own = BASE if all(one.tokenizer.chat for one in candidates) else "instruct"
    found = next(iter(trained), own)
    if found not in ALL_PROMPT_TYPES:
        raise UserError(
            f"{trained[found]} was trained with prompt type {found!r}: name a known one with --prompt_type."
        )
    return found


def labels(candidates: Sequence[Candidate]) -> list[str]:
    """What each is called in tables: its name, and its precision where the name alone is another's too."""
    names = [one.name for one in candidates]
    return [f"{one.name} ({one.precision})" if names.count(one.name) > 1 else one.name for one in candidates]


def common_length(candidates: Sequence[Candidate], flag: str, asked: int | None, most: int | None = None) -> int:
    """Tokens of a row that all candidates have room for.

    Args:
        flag: the one that says `asked`.
        most: where nothing is asked; None for the smallest context.

    Raises:
        UserError: more are asked for than the smallest context has.
    """
    least = min(candidates, key=lambda one: one.context)
    if asked and asked > least.context:
        raise UserError(
            f"{flag} {asked} is longer than the context of {least.name}, {least.context} tokens: lower it, or leave it "
            "out."
        )
    return asked or min(most or least.context, least.context)


def _size(files: list[Path]) -> int:
    return sum(file.stat().st_size for file in files)
