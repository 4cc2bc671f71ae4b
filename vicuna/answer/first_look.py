"""What can be told of a base and its adapters before torch is read: whether they are there, and of one kind.

`vicuna.answer.loading` begins with the same check; a program that calls it before it imports that tells a mistake at
once.
"""

from collections.abc import Sequence
from pathlib import Path

from vicuna.answer.choices import prompt_type_of
from vicuna.answer.flags import PredictFlags, ServeFlags
from vicuna.data.questions import read_questions
from vicuna.data.records import Source, open_sources, quick_to_read
from vicuna.errors import UserError
from vicuna.files.aside import made_folder
from vicuna.gguf_file import reader
from vicuna.model.found import base_folder, look_at_paths
from vicuna.prompt.tokenizer import TextTokenizer


def look_first(model_path: str, serve: ServeFlags, lora_paths: Sequence[str] = ()) -> list[Path]:
    """The folders of adapters in PEFT's format; none where llama.cpp answers.

    Raises:
        UserError: a base or an adapter that is not there, or holds none; adapters of two kinds; --gpu_layers without
            llama.cpp.
    """
    lora_paths = [path for path in lora_paths if path]
    if reader.in_llama_cpp(model_path, lora_paths):
        file = reader.read_gguf_model(model_path)
        for path in lora_paths:
            reader.read_gguf_adapter(path, file)
        return []
    if serve.gpu_layers is not None:
        why = f"which {model_path} is not"
        if reader.names_gguf(model_path):
            why = f"and {model_path} is opened in transformers, for an adapter in PEFT's format"
        raise UserError(f"--gpu_layers {serve.gpu_layers} is for a GGUF file in llama.cpp, {why}; leave it out.")
    if mixed := [path for path in lora_paths if reader.names_gguf(path) and reader.names_gguf(model_path)]:
        raise UserError(
            f"--lora_path {mixed[0]} is a GGUF adapter, for llama.cpp, and others of --lora_path are in PEFT's format, "
            "for transformers: name adapters of one kind."
        )
    return look_at_paths(model_path, lora_paths, serve.use_local)


def look_at_folder(name: str, flag: str) -> None:
    """See that a folder that is written to later can be made; "" is none.

    Raises:
        UserError: it can not.
    """
    if name:
        with made_folder(Path(name).expanduser(), flag):
            pass


def look_at_questions(model_path: str, serve: ServeFlags, lora_path: str, flags: PredictFlags) -> None:
    """The same, and the files whose records are answered.

    Raises:
        UserError: an --output_path whose folder can not be made; or, of files that are not large, rows that can not be
            used.
    """
    sources = open_questions(flags.data_path)
    with made_folder(Path(flags.output_path).expanduser().parent, "--output_path"):
        folders = look_first(model_path, serve, [lora_path])
    if reader.names_gguf(model_path) or not quick_to_read(sources):
        return
    base = base_folder(model_path)
    has_template = TextTokenizer(base).chat is not None
    folder, what = (folders[0], "adapter") if folders else (base, "model")
    prompt_type, _ = prompt_type_of(folder, what, serve, [], has_template)
    # Whether a prompt fits the context is seen later, with the base's config.
    read_questions(sources, prompt_type, lambda messages: None, flags.encoding, flags.fields, flags.skip_bad_rows)


def open_questions(paths: Sequence[str]) -> list[Source]:
    """The files of --data_path whose records are answered.

    Raises:
        UserError: see `open_sources`; or one that is named twice, or with a weight.
    """
    if len({Path(path).resolve() for path in paths}) < len(paths):
        raise UserError(f"--data_path {' '.join(paths)} names a file twice; name it once.")
    sources = open_sources(paths)
    for source in sources:
        if source.weight != 1:
            raise UserError(
                f"--data_path {source.path}:{source.weight:g} has a weight, which is for training: every record is "
                "answered once. Leave it out."
            )
    return sources
