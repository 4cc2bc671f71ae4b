"""Perplexity of models of every kind on the same text, in one table with their size, memory and speed.

    python tools/eval_ppl.py --model_path models/tiny-llama-zh --bits 32 8 4 --data my.txt
    python tools/eval_ppl.py --model_path merged merged-q4_k_m.gguf --data my.txt --json ppl.json --picture ppl.png
    python tools/eval_ppl.py --model_path base base base.gguf --lora_path - lora-Vicuna adapter.gguf --data my.jsonl

A model is a folder in Hugging Face format at any --bits, one that is stored quantised, or a GGUF file; each with an
adapter or without. Plain text is cut into windows of 2048 tokens, or of the smallest context among the models, which do
not overlap; of records with a prompt the response counts. Models are run one after the other. docs/en/tools.md
explains every column.
"""

import gc
import json
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vicuna import log
from vicuna.args import at_least, flag, parse
from vicuna.data.fields import parse_fields
from vicuna.errors import UserError, ended_by_signals, run
from vicuna.evaluation.flags import ModelsFlags
from vicuna.prompt.templates import ALL_PROMPT_TYPES

if TYPE_CHECKING:
    from vicuna.evaluation.candidates import Candidate
    from vicuna.evaluation.report import ModelResult
    from vicuna.evaluation.windows import Text, Windows

SEQLEN = 2048


@dataclass
class PplFlags(ModelsFlags):
    """Which models, on which text."""

    data: list[str] = flag([], "text to measure on, a figure for each file: what --data_path of finetune.py takes")
    prompt_type: Literal[ALL_PROMPT_TYPES] | None = flag(
        None, "template around records that have a prompt; default: what adapters and models were trained with"
    )
    count_prompts: bool = flag(False, "count the prompts of records too, not only their responses")
    by_document: bool = flag(
        False, "plain text: a window for each document, with BOS and EOS as in training, instead of one stream of all"
    )
    seqlen: int | None = flag(
        None, f"length of a window in tokens; default {SEQLEN}, or the smallest context among the models"
    )
    batch_size: int = flag(1, "windows that are run together; llama.cpp runs one at a time")
    fields: list[str] = flag([], "where the files have the fields of a known format, as in finetune.py")
    encoding: str | None = flag(None, "text encoding of the files; default: found out")
    skip_bad_rows: bool = flag(False, "leave malformed rows out instead of stopping")
    json: str = flag("", "also write everything to this file")
    picture: str = flag("", "also draw the figures into this .png, .svg or .pdf file")
    overwrite: bool = flag(False, "replace --json and --picture where they exist")

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_fields(self.fields)
        at_least("--batch_size", self.batch_size, 1)
        at_least("--seqlen", self.seqlen or 2, 2)
        if self.picture and Path(self.picture).suffix not in (".png", ".svg", ".pdf"):
            raise UserError(f"--picture {self.picture} is to be the name of a .png, .svg or .pdf file.")


def main(flags: PplFlags) -> None:
    """Check everything that needs no weights, measure, report."""
    log.set_up()
    pairs = flags.pairs()
    if not flags.data:
        raise UserError("--data is empty: name a file with text, such as a .txt, or records as finetune.py takes them.")
    outputs = [(f"--{name}", Path(file)) for name in ("json", "picture") if (file := getattr(flags, name))]
    for name, file in outputs:
        if file.is_dir() or (file.exists() and not flags.overwrite):
            raise UserError(f"{name} {file} exists; name another file, or pass --overwrite.")
    # Imported here so that --help and a mistyped flag answer at once, and so does a path, before torch.
    from vicuna.evaluation.first_look import look_at_models, look_at_outputs, look_at_texts

    look_at_models(flags)
    look_at_texts(flags.data, "--data")
    look_at_outputs([(name, file.parent) for name, file in outputs])
    from vicuna.evaluation.candidates import agreed_prompt_type, common_length, find_candidates
    from vicuna.evaluation.report import ModelResult
    from vicuna.evaluation.windows import cut_windows, read_text
    from vicuna.files.aside import made_folder

    candidates = find_candidates(pairs, flags.gpu_layers)
    how = {"skip_bad_rows": flags.skip_bad_rows, "encoding": flags.encoding, "fields": flags.fields}
    prompt_type = flags.prompt_type or partial(agreed_prompt_type, candidates)
    texts = [read_text(path, prompt_type, **how) for path in dict.fromkeys(flags.data)]
    refuse_without_effect(flags, texts)
    length = common_length(candidates, "--seqlen", flags.seqlen, SEQLEN)
    asked = (length, flags.count_prompts, flags.by_document)
    cut = [[cut_windows(one.tokenizer, text, *asked) for text in texts] for one in candidates]
    same = is_same_everywhere(cut)
    describe(candidates, texts, cut, length)
    results: list[ModelResult] = []
    with ExitStack() as stack:
        for name, file in outputs:
            stack.enter_context(made_folder(file.parent, name))
        stack.enter_context(ended_by_signals())
        try:
            for candidate, windows in zip(candidates, cut, strict=True):
                results.append(ModelResult(candidate.name, candidate.disk_bytes))
                measure(results[-1], candidate, dict(zip([one.name for one in texts], windows, strict=True)), flags)
        finally:  # what was found before a Ctrl-C is not lost
            if any(one.texts for one in results):
                report(results, cut, same, texts, length, flags)
    if problems := [one for one in results if one.problem]:
        raise UserError(f"{len(problems)} of {len(results)} models could not be measured; the reasons stand above.")


def refuse_without_effect(flags: PplFlags, texts: "list[Text]") -> None:
    """Refuse a flag that changes nothing of these texts.

    Raises:
        UserError: see above.
    """
    if flags.count_prompts and not any(text.prompt_type for text in texts):
        raise UserError("--count_prompts is for records with a prompt, of which --data has none; leave it out.")
    if flags.by_document and all(text.prompt_type for text in texts):
        raise UserError("--by_document is for plain text, of which --data has none; leave it out.")


def is_same_everywhere(cut: "list[list[Windows]]") -> bool:
    """Whether every model is given the same ids of every text."""
    return all(one.sha256 == first.sha256 for windows in cut for one, first in zip(windows, cut[0], strict=True))


def describe(candidates: "list[Candidate]", texts: "list[Text]", cut: "list[list[Windows]]", length: int) -> None:
    """Say what is counted, before it takes time; of models that are given the same ids once."""
    for number, text in enumerate(texts):
        told: set[str] = set()
        for candidate, windows in zip(candidates, cut, strict=True):
            one = windows[number]
            who = f"{text.name}, as {candidate.name} reads it" if told else text.name
            if one.sha256 not in told:
                log.log.info("%s: %s", who, count(text, one, length))
            told.add(one.sha256)


def count(text: "Text", one: "Windows", length: int) -> str:
    """What of a text counts, in words."""
    kind = f"{len(text.dialogues)} records as --prompt_type {text.prompt_type}" if text.prompt_type else "plain text"
    said = [f"{kind}, {len(one.windows)} windows of at most {length} tokens, {one.counted} tokens count"]
    said += [f"{one.cut} records lost their end"] * bool(one.cut)
    said += [f"{one.left_out} records have no room for a response"] * bool(one.left_out)
    said += [f"{one.unknown} of the tokens stand for what the tokenizer does not know"] * bool(one.unknown)
    return "; ".join(said)


def measure(result: "ModelResult", candidate: "Candidate", windows: "dict[str, Windows]", flags: PplFlags) -> None:
    """Open a model, run it on every text, and fill in what is found."""
    from vicuna.answer.stream import is_out_of_memory
    from vicuna.evaluation.memory import PeakMemory
    from vicuna.evaluation.perplexity import measure_text

    memory = PeakMemory()
    try:
        opened = candidate.open(max(len(window.ids) for one in windows.values() for window in one.windows))
        result.weights, result.memory_bytes = opened.where, opened.runner.size_bytes()
        for name, one in windows.items():
            result.texts[name] = measure_text(opened.runner, one, flags.batch_size, f"{candidate.name}, {name}")
    except UserError as error:
        result.problem = str(error)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        result.problem = "it ran out of memory: lower --batch_size, --seqlen or --bits."
    result.peak_bytes = memory.taken_bytes()


def report(
    results: "list[ModelResult]", cut: "list[list[Windows]]", same: bool, texts: "list[Text]", length: int,
    flags: PplFlags,
) -> None:  # fmt: skip
    """The table, the JSON file and the picture, of what there is."""
    from vicuna.evaluation.markdown import without_nan
    from vicuna.evaluation.report import draw, print_table
    from vicuna.files.aside import write_text
    from vicuna.train.plan import library_versions

    gc.collect()
    print_table(results)
    if not same:
        print(
            "The models' tokenizers cut the text differently, so their perplexities per token can not be compared; "
            "those per character and the bits per byte can."
        )
    if flags.json:
        about = [
            {"text": text.name, "prompt_type": text.prompt_type or None, "sha256": text.sha256,
             "windows": [{"ids_sha256": one[number].sha256, **counts(one[number])} for one in cut]}
            for number, text in enumerate(texts)
        ]  # fmt: skip
        found = [asdict(one) for one in results]
        data = {
            "window_tokens": length, "same_tokens": same, "count_prompts": flags.count_prompts, "texts": about,
            "models": found, "versions": library_versions(),
        }  # fmt: skip
        write_text(Path(flags.json), json.dumps(without_nan(data), ensure_ascii=False, indent=1) + "\n")
    if flags.picture:
        draw(results, same, Path(flags.picture))


def counts(windows: "Windows") -> dict[str, int]:
    """What a tokenizer makes of a text, in numbers."""
    names = ("counted", "characters", "size_bytes", "unknown", "cut", "left_out")
    return {"windows": len(windows.windows), **{name: getattr(windows, name) for name in names}}


if __name__ == "__main__":
    run(lambda: main(*parse(__doc__, PplFlags)))
