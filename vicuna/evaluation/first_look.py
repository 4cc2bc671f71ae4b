"""What can be told of an evaluation before torch is read: its models, the files that it reads, and where it writes.

Every check here is one that a later stage makes too, by the same functions; here a mistake costs no wait.
"""

from collections.abc import Sequence
from pathlib import Path

from vicuna.data.records import open_sources
from vicuna.errors import UserError
from vicuna.evaluation.flags import ModelsFlags, is_address
from vicuna.files.aside import made_folder
from vicuna.gguf_file.reader import in_llama_cpp, read_gguf_model
from vicuna.model.found import look_at_paths


def look_at_models(flags: ModelsFlags) -> None:
    """See that models and adapters are there.

    Raises:
        UserError: one is not.
    """
    for model_path, lora_path, _ in flags.pairs():
        if in_llama_cpp(model_path, [lora_path]):
            read_gguf_model(model_path)
        elif not is_address(model_path):
            look_at_paths(model_path, [lora_path] if lora_path else [])


def look_at_outputs(outputs: Sequence[tuple[str, Path]]) -> None:
    """See that what is written to can be made.

    Args:
        outputs: the flag and the folder of each.

    Raises:
        UserError: one can not.
    """
    for flag, folder in outputs:
        with made_folder(folder.expanduser(), flag):
            pass


def look_at_texts(paths: Sequence[str], flag: str) -> None:
    """See that data files are there, of kinds that are read.

    Raises:
        UserError: one is not.
    """
    try:
        for path in dict.fromkeys(paths):
            open_sources(path)
    except UserError as error:
        raise UserError(str(error).replace("--data_path", flag)) from error
