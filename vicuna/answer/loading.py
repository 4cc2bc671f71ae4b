"""A base and its adapters, found, checked against each other, and loaded as an `Assistant`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from vicuna.answer.assistant import Assistant
from vicuna.answer.choices import Choice, adapter_names, choose_type, prompt_type_of
from vicuna.answer.decoding import generation_kwargs
from vicuna.answer.first_look import look_first
from vicuna.answer.flags import DecodingFlags, ServeFlags
from vicuna.answer.hf_engine import HFEngine
from vicuna.answer.worker import Worker
from vicuna.errors import UserError
from vicuna.files.tensors import dtype_name
from vicuna.gguf_file import reader
from vicuna.model.adapter import load_adapter, read_plain_adapter, vocabulary_modules
from vicuna.model.adapter_files import as_trained, check_compatible, read_adapter, template_settings
from vicuna.model.adapter_kinds import uses_at
from vicuna.model.adapters_together import Arrangement, arrange, replacing
from vicuna.model.base import Base, check_base, device, load_base
from vicuna.model.config import meta_model
from vicuna.model.cpu_rounding import four_bit_warning
from vicuna.model.flags import ModelFlags
from vicuna.model.found import run_args
from vicuna.model.stored import loaded_precision, use_as_stored
from vicuna.prompt.tokenizer import TextTokenizer
from vicuna.sentences import Sentence


def check_beams(model_path: str, decoding: DecodingFlags, lora_paths: Sequence[str] = ()) -> None:
    """Refuse beam search where llama.cpp answers.

    Raises:
        UserError: see above.
    """
    beams = generation_kwargs(decoding, GenerationConfig())["num_beams"]
    if beams > 1 and reader.in_llama_cpp(model_path, lora_paths):
        flag, other = (
            (f"--num_beams {beams}", "1")
            if decoding.num_beams
            else (f"--preset {decoding.preset}", "precise or balanced")
        )
        raise UserError(f"{flag} is beam search, which llama.cpp does not have: take {other} with a GGUF.")


@dataclass(frozen=True)
class Checked:
    """A base and its adapters that passed every check which needs no weights.

    Attributes:
        tokenizer, context, generation_config: the base's.
        prompt_type: template of the first choice's prompts.
        trained_as: the one that it was trained with, "" where nothing says.
        path, adapters: where they lie.
        bits: of the base's weights; None where its file says.
        load: reads the weights.
    """

    tokenizer: TextTokenizer
    context: int
    generation_config: GenerationConfig
    prompt_type: str
    trained_as: str
    path: Path
    adapters: list[Path]
    bits: int | None
    load: Callable[[], Assistant]


def load_assistant(model_flags: ModelFlags, serve: ServeFlags, lora_paths: Sequence[str] = ()) -> Assistant:
    """Check everything that needs no weights, then load base and adapters.

    Raises:
        UserError: see `check_assistant`, `load_base` and `vicuna.model.adapter.load_adapter`.
    """
    return check_assistant(model_flags, serve, lora_paths).load()


def check_assistant(model_flags: ModelFlags, serve: ServeFlags, lora_paths: Sequence[str] = ()) -> Checked:
    """Check everything that needs no weights.

    Raises:
        UserError: see `check_base` and `vicuna.model.adapter_files.check_compatible`.
    """
    lora_paths = [path for path in lora_paths if path]
    folders = look_first(model_flags.model_path, serve, lora_paths)
    if reader.in_llama_cpp(model_flags.model_path, lora_paths):
        return _check_gguf(model_flags, serve, lora_paths)
    base = check_base(model_flags.model_path, model_flags.context)
    model_flags = use_as_stored(base.path, base.config, model_flags)
    names = adapter_names(lora_paths, folders)
    arrangement, read = _read_adapters(base, model_flags, names, folders)
    warnings: list[str] = []
    has_template = base.tokenizer.chat is not None
    prompt_types = [prompt_type_of(folder, "adapter", serve, warnings, has_template) for folder in folders]
    of_base, trained_as = prompt_type_of(base.path, "model", serve, warnings, has_template)
    if prompt_types and not trained_as:  # the base alone, beside adapters, is asked as the first of them is
        of_base = prompt_types[0][0]
    warnings += filter(None, [four_bit_warning(base.config, model_flags.bits, device())])

    def load() -> Assistant:
        model = load_base(base, model_flags.bits, spread=True)
        inside = {name: f"adapter{number}" for number, name in enumerate(names)}  # PEFT takes no full stop
        for number in arrangement.order:
            settings = {"name": inside[names[number]], "whole": arrangement.whole, "read": read[number]}
            model, warning = load_adapter(model, folders[number], model_flags.model_path, **settings)
            warnings.extend([warning] if warning else [])
        choices, typed = {}, dict(zip(names, lora_paths, strict=True))
        for name, folder, (prompt_type, adapter_trained_as) in zip(names, folders, prompt_types, strict=True):
            detail = _describe_adapter(run_args(folder), model.peft_config[inside[name]].r, model_flags.bits)
            settings = template_settings(folder)
            choices[name] = Choice(name, prompt_type, adapter_trained_as, detail, settings, typed[name])
        model.eval()
        choices[""] = Choice("", of_base, trained_as, "", template_settings(base.path), model_flags.model_path)
        gpus = len(set(getattr(model, "hf_device_map", {"": 0}).values()))
        placed = f"{f'{gpus} × ' if gpus > 1 else ''}{device().type.upper()}"
        weights = loaded_precision(base.config, model_flags.bits, model.dtype)
        where = Sentence("on_device", weights=weights, dtype=dtype_name(model.dtype), device=placed)
        if base.file is not None:
            where = Sentence("gguf_in_transformers", where=where)
        engine = HFEngine(base, model, inside, serve.cache_gib)
        return Assistant(engine, base.path.name, where, choices, warnings, Worker(serve.max_queue))

    first = prompt_types[0] if prompt_types else (of_base, trained_as)
    known = as_trained(base.tokenizer, [*folders, base.path][0]), base.context, base.generation_config, *first
    return Checked(*known, base.path, folders, model_flags.bits, load)


def _describe_adapter(known: dict[str, Any], rank: int, bits: int) -> str:
    """What the status line says of an adapter; `known` is its run_args.json, {} for none."""
    detail, trained_at = Sentence("rank", rank=rank), known.get("flags", {}).get("bits", bits)
    if known.get("step"):
        detail = Sentence("at_step", step=known["step"], detail=detail)
    return detail if trained_at == bits else Sentence("trained_at", detail=detail, bits=trained_at)


def _check_gguf(model_flags: ModelFlags, serve: ServeFlags, lora_paths: Sequence[str]) -> Checked:
    """The same for a GGUF file, and adapters of that kind, in llama.cpp."""
    from vicuna.answer import llama_cpp_engine

    names = adapter_names(lora_paths, [Path(path).expanduser() for path in lora_paths])
    given = dict(zip(names, lora_paths, strict=True))
    file, adapters, gpu_layers = llama_cpp_engine.read_files(model_flags.model_path, given, serve)
    context = llama_cpp_engine.context_of(file, model_flags.context)
    choices: dict[str, Choice] = {}
    warnings: list[str] = []
    has_template = file.tokenizer().chat is not None
    for name, one in adapters.items():
        declared = llama_cpp_engine.declared_prompt_type(one)
        types = choose_type(declared, name, "adapter", serve, warnings, has_template)
        choices[name] = Choice(name, *types, llama_cpp_engine.describe_adapter(one), path=given[name])
    of_base, trained_as = choose_type(
        llama_cpp_engine.declared_prompt_type(file), file.path.name, "model", serve, warnings, has_template
    )
    if choices and not trained_as:
        of_base = next(iter(choices.values())).prompt_type
    choices[""] = Choice("", of_base, trained_as, path=model_flags.model_path)
    first = next(iter(choices.values()))

    def load() -> Assistant:
        engine = llama_cpp_engine.LlamaCppEngine(file, adapters, serve.cache_gib > 0, gpu_layers, context)
        where = llama_cpp_engine.describe_model(file, gpu_layers)
        return Assistant(engine, file.path.name, where, choices, warnings, Worker(serve.max_queue))

    known = file.tokenizer(), context, GenerationConfig.from_dict(file.generation), first.prompt_type, first.trained_as
    return Checked(*known, file.path, [one.path for one in adapters.values()], None, load)


def _read_adapters(
    base: Base, flags: ModelFlags, names: Sequence[str], folders: Sequence[Path]
) -> tuple[Arrangement, list[tuple]]:
    """How adapters go onto the base together, and each as `read_plain_adapter` gives it.

    Raises:
        UserError: before the model is loaded, what does not fit the base, or not beside the others, or at these bits.
    """
    bare = meta_model(base.config)
    uses = uses_at(base.config, flags.bits, device().type, several=len(folders) > 1)
    for folder in folders:  # all of them, before one is converted, which takes longer
        check_compatible(read_adapter(folder, *uses)[0], bare, flags.model_path)
    read = [read_plain_adapter(folder, bare, base.path, flags.model_path) for folder in folders]
    found = [tensors for tensors, _, _ in read]
    arrangement = arrange(found)
    if base.config.tie_word_embeddings and len(own := replacing(found, arrangement, vocabulary_modules(bare))) > 1:
        raise UserError(
            f"the adapters {' and '.join(names[number] for number in own)} each have embeddings of their own, and "
            f"{base.path.name} uses its embeddings as its head too: they can not share it. Give one of them with "
            "--lora_path."
        )
    return arrangement, read
