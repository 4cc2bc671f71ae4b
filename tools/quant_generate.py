"""Ask a quantised model by the original's command line: a folder, or a bare checkpoint of GPTQ-for-LLaMa.

    python tools/quant_generate.py --quant_path tiny-4bit --text "the mean of life is"
    python tools/quant_generate.py --model_path llama-7b --quant_path llama7b-4bit-128g.pt --wbits 4 --groupsize 128
    python tools/quant_generate.py --model_path llama-7b --quant_path llama7b-4bit-128g.pt --gradio --save llama-4bit

A bare checkpoint has no config and no tokenizer: --model_path names the folder of the model that it was made of, whose
weights are not read. It becomes a folder for the time of the program, or under --save for good. Then generate.py runs.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vicuna import log
from vicuna.args import at_least, flag, parse
from vicuna.errors import UserError, ended_by_signals, run
from vicuna.prompt.templates import ALL_PROMPT_TYPES

GENERATE = Path(__file__).resolve().parent.parent / "generate.py"


@dataclass
class QuantGenerateFlags:
    """Which model, and what it is asked."""

    model_path: str = flag("", "the model that --quant_path was made of, where that is a bare checkpoint")
    quant_path: str = flag("", "the quantised model: a folder, or a .pt or .safetensors of GPTQ-for-LLaMa")
    wbits: Literal[2, 3, 4, 8] | None = flag(None, "bits that it must have; default: what it has")
    groupsize: int | None = flag(None, "group that it must have, -1 for whole rows; default: what it has")
    text: str = flag("the mean of life is", "what it continues")
    min_length: int = flag(10, "shortest answer in tokens, --text counted")
    max_length: int = flag(256, "longest answer in tokens, --text counted")
    top_p: float = flag(0.95, "draw from the likeliest tokens that together reach this probability")
    temperature: float = flag(0.1, "0 is greedy; higher is more random")
    repetition_penalty: float = flag(2.0, "above 1 makes tokens already present less likely")
    gradio: bool = flag(False, "open the page instead")
    prompt_type: Literal[ALL_PROMPT_TYPES] = flag("text", "template around --text; text is none, as in the original")
    save: str = flag("", "keep what a bare checkpoint becomes in this new folder")

    def __post_init__(self) -> None:
        if not self.quant_path:
            raise UserError("--quant_path is empty: name a quantised model, such as llama7b-4bit-128g.pt.")
        at_least("--min_length", self.min_length, 0)
        if self.max_length < self.min_length:
            raise UserError(f"--max_length {self.max_length} is below --min_length {self.min_length}: raise it.")
        if self.save and Path(self.quant_path).is_dir():
            raise UserError(f"--save {self.save} is for a bare checkpoint, and {self.quant_path} is a folder already.")


def main(flags: QuantGenerateFlags) -> None:
    """Find or make the folder, then have generate.py answer."""
    log.set_up()
    with ended_by_signals(), quantised_folder(flags) as folder:
        check_asked(flags, folder)
        status = subprocess.call([sys.executable, str(GENERATE), *arguments(flags, folder)])
    sys.exit(status)


@contextmanager
def quantised_folder(flags: QuantGenerateFlags) -> Iterator[Path]:
    """The folder of the model, which is made where --quant_path is a bare checkpoint."""
    from vicuna.files.aside import aside_folder
    from vicuna.files.outputs import atomic_folder, check_disk_space, check_new_folder
    from vicuna.model.found import local_folder

    path = Path(flags.quant_path).expanduser()
    if path.is_dir():
        yield path
        return
    if not path.is_file():
        raise UserError(f"--quant_path {flags.quant_path} does not exist; expected a folder or a checkpoint.")
    if not flags.model_path:
        raise UserError(
            f"--quant_path {path} is a bare checkpoint, without config and tokenizer: name the folder of the model "
            "that it was made of with --model_path."
        )
    model = local_folder(flags.model_path, "--model_path", ["*.json", "tokenizer.model"])
    if flags.save:
        check_new_folder(flags.save, "--save")
    from vicuna.quantise.bare import write_folder  # imports torch: what is not there is told before

    if flags.save:
        with atomic_folder(flags.save, "--save") as folder:
            write_folder(path, model, folder)
        yield Path(flags.save)
        return
    with aside_folder() as aside:
        check_disk_space(aside, path.stat().st_size)
        folder = aside / path.stem
        folder.mkdir()
        write_folder(path, model, folder)
        log.log.info("%s was made a folder for this once; --save keeps it for generate.py, chat.py, finetune.py", path)
        yield folder


def check_asked(flags: QuantGenerateFlags, folder: Path) -> None:
    """Refuse bits or a group that the weights do not have.

    Raises:
        UserError: with what they have.
    """
    from vicuna.model.config import quantization_method, read_config
    from vicuna.model.gptq import KERNELS

    config = read_config(folder)
    if quantization_method(config) not in KERNELS:
        raise UserError(f"--quant_path {folder} is not quantised by GPTQ or AWQ: ask it with generate.py.")
    has = config.quantization_config
    for name, asked, found in (
        ("wbits", flags.wbits, has.get("bits", 4)),
        ("groupsize", flags.groupsize, has.get("group_size", 128)),
    ):
        if asked is not None and asked != found:
            raise UserError(f"--{name} {asked}: the weights of {flags.quant_path} have {found}; leave the flag out.")


def arguments(flags: QuantGenerateFlags, folder: Path) -> list[str]:
    """The same for generate.py, which counts new tokens alone."""
    from vicuna.prompt.templates import prompt_ids
    from vicuna.prompt.tokenizer import TextTokenizer

    ids = prompt_ids(TextTokenizer(folder), flags.prompt_type, [{"role": "user", "content": flags.text}])
    room = flags.max_length - len(ids)
    if room < 1:
        raise UserError(f"--text has {len(ids)} tokens, --max_length is {flags.max_length}: raise --max_length.")
    drawn = {"temperature": flags.temperature}
    drawn |= {"top_p": flags.top_p} if flags.temperature else {}
    settings = {
        "model_path": folder, "prompt_type": flags.prompt_type, "repetition_penalty": flags.repetition_penalty,
        "max_new_tokens": room, "min_new_tokens": max(0, min(room, flags.min_length - len(ids))), **drawn,
        **({} if flags.gradio else {"text": flags.text}),
    }  # fmt: skip
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]


if __name__ == "__main__":
    run(lambda: main(*parse(__doc__, QuantGenerateFlags)))
