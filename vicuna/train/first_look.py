"""What can be told of a run before torch is read: the base, what it begins from, where it writes, and its rows.

Every check here is one that a later stage makes too, by the same functions; here a mistake costs no wait.
"""

from collections.abc import Mapping
from pathlib import Path

from vicuna.data.records import Source, open_sources, quick_to_read, read_records, refusal
from vicuna.gguf_file.reader import PROMPT_TYPE, is_gguf, read_gguf_model
from vicuna.log import log
from vicuna.model.found import base_folder, existing_folder, model_run_args
from vicuna.prompt.tokenizer import TextTokenizer
from vicuna.train.earlier_runs import check_output
from vicuna.train.flags import TrainFlags
from vicuna.train.own_template import with_template_settings
from vicuna.train.replacing import finish_replacing

SAMPLE = Path(__file__).resolve().parents[2] / "sample"


def look_first(flags: TrainFlags, environ: Mapping[str, str]) -> list[Source]:
    """The data files, with their hashes; what no run can be made of is refused.

    Args:
        environ: with what a launcher says of the processes; the first of each host reads the rows.

    Raises:
        UserError: no such file, base or checkpoint; an --output_path with something that is not to be replaced; or, of
            files that are not large, rows that can not be used.
    """
    sources = open_sources(flags.data.data_path)
    if ours := [str(source.path) for source in sources if source.path.resolve().is_relative_to(SAMPLE)]:
        log.info(
            "%s is sample data of this repository; --data_path, or DATA_PATH of a launcher, names yours",
            " ".join(ours),
        )
    run = flags.run
    if not int(environ.get("RANK", 0)) and not run.plan_only:
        finish_replacing(Path(run.output_path))
    base, tokenizer, declares_template = open_tokenizer(flags.model.model_path)
    begins = {
        "--resume_from_checkpoint": run.resume_from_checkpoint,
        "--lora_remote_checkpoint": run.lora_remote_checkpoint,
        "--continue_schedule": run.continue_schedule,
    }
    begins = {flag: place for flag, place in begins.items() if place}
    for flag, place in begins.items():
        if place != "auto" and len(begins) == 1:  # of two, the one that exists is taken
            existing_folder(place, flag)
    if not begins and not run.plan_only:
        check_output(Path(run.output_path), base, None, run.overwrite)
    if not int(environ.get("LOCAL_RANK", 0)) and quick_to_read(sources):
        data = flags.data.named(declares_template)
        refuse = refusal(with_template_settings(tokenizer, data, None), data.prompt_type)
        read_records(
            data.data_path, data.prompt_type, data.skip_bad_rows, data.encoding, data.fields, None, data.fill, refuse
        )
    return sources


def open_tokenizer(model_path: str) -> tuple[Path, TextTokenizer, bool]:
    """Where a base lies, its tokenizer, and whether its own chat template is the default for it.

    Raises:
        UserError: there is no such base, or its tokenizer can not be read.
    """
    if is_gguf(model_path):
        file = read_gguf_model(model_path)
        base, tokenizer, known = file.path, file.tokenizer(), file.keys.get(PROMPT_TYPE)
    else:
        base = base_folder(model_path)
        tokenizer, known = TextTokenizer(base), model_run_args(base).get("prompt_type")
    return base, tokenizer, tokenizer.chat is not None and not known
