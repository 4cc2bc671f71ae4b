"""Files of records answered, each answer on disk as soon as it is there; what was interrupted goes on with the others.

An answer depends on nothing that an interruption changes: records are answered in the same batches, each by a seed of
its own, and nothing is kept of the prompts before them.
"""

import hashlib
import json
import secrets
from array import array
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from vicuna import __version__
from vicuna.answer.assistant import Assistant
from vicuna.answer.decoding import derive_seed, generation_kwargs
from vicuna.answer.first_look import open_questions
from vicuna.answer.flags import DecodingFlags, PredictFlags, ServeFlags
from vicuna.answer.loading import Checked, check_assistant
from vicuna.answer.stream import Update, is_out_of_memory
from vicuna.data.bad_row import BadRow
from vicuna.data.questions import Question, Questions, read_questions
from vicuna.data.records import Source
from vicuna.errors import UserError
from vicuna.files.row_lines import ROW, RowLines, held_lines, to_json_line, told_when_stopped
from vicuna.log import log
from vicuna.model.adapter_files import adapter_sha256
from vicuna.model.base import fingerprint
from vicuna.model.flags import ModelFlags
from vicuna.prompt.own_template import SplitAnswer
from vicuna.prompt.templates import Message, prompt_ids

One = TypeVar("One")
# What two runs are compared by, and what it is called where they differ.
COMPARED = {
    "model": "--model_path",
    "bits": "--bits",
    "context": "--context",
    "adapter": "--lora_path",
    "prompt_type": "--prompt_type",
    "declared": "the base's generation_config.json",
    "seed": "--seed",
    "data": "--data_path",
    "fields": "--fields",
    "encoding": "--encoding",
    "decoding": "",  # each setting by its own flag
}
HASHED = {"model", "adapter", "data", "declared"}  # of which two values say nothing to who reads them
ASKED = "asked"  # records and prompts
READING = {"fields", "encoding"}  # which count where they make other ones of the same data


class Measure:
    """Looks at each prompt before there is a model: how long it is, and a digest of all.

    Attributes:
        lengths: of those that fit, in tokens.
    """

    def __init__(self, checked: Checked):
        self.checked, self.lengths = checked, []
        self.digest = hashlib.sha256()

    def __call__(self, messages: list[Message]) -> None:
        ids = prompt_ids(self.checked.tokenizer, self.checked.prompt_type, messages)
        if len(ids) >= self.checked.context:
            raise BadRow(
                f"has a prompt of {len(ids)} tokens, the base's context is {self.checked.context}",
                "prompt longer than the context",
            )
        self.lengths.append(len(ids))
        self.digest.update(len(ids).to_bytes(8, "little") + array("I", ids).tobytes())


def answer_files(
    model_flags: ModelFlags, lora_path: str, serve: ServeFlags, decoding: DecodingFlags, flags: PredictFlags
) -> None:
    """Answer the records of --data_path into --output_path, or those that are not answered there yet.

    Raises:
        UserError: before weights are read, files that can not be used, or answers of another run; see `load_assistant`.
        Stopped: a signal; how many are answered.
    """
    sources = open_questions(flags.data_path)
    with held_lines(Path(flags.output_path).expanduser(), "--output_path") as lines:
        lines.read()
        checked = check_assistant(model_flags, replace(serve, cache_gib=0), [lora_path])
        measure = Measure(checked)
        questions = read_questions(
            sources, checked.prompt_type, measure, flags.encoding, flags.fields, flags.skip_bad_rows
        )
        chosen = generation_kwargs(decoding, checked.generation_config)
        for one in questions.asked:
            measure.digest.update(to_json_line([one.row, one.record, one.reference]))
        compared = _compared(checked, questions, chosen, decoding.seed, flags.fields, lines)
        compared[ASKED] = measure.digest.hexdigest()
        _check_same(lines, compared)
        _tell(questions, measure.lengths, lines, chosen["max_new_tokens"], checked.context)
        if any(one.row not in lines for one in questions.asked):
            typed = {"model_path": model_flags.model_path, "lora_path": lora_path, "data_path": list(flags.data_path)}
            with told_when_stopped(lines, len(questions.asked)):
                lines.begin({"version": __version__, **typed, "compared": compared})
                assistant = checked.load()
                for warning in assistant.warnings:
                    log.warning("WARNING %s", warning)
                size = flags.micro_batch if assistant.engine.answers_together(chosen) else 1
                batches = make_batches(questions.asked, measure.lengths, size)
                _answer(assistant, batches, chosen, compared["seed"], lines, questions.sources)
        lines.sort()
        log.info("%d records are answered in %s", len(lines.done), lines.file)


def make_batches(asked: Sequence[One], lengths: Sequence[int], size: int) -> list[list[One]]:
    """What is about the same length side by side, the longest first: what does not fit shows at once."""
    order = sorted(range(len(asked)), key=lambda i: (-lengths[i], i))
    return [[asked[i] for i in order[begin : begin + size]] for begin in range(0, len(order), size)]


def _compared(
    checked: Checked,
    questions: Questions,
    chosen: dict[str, Any],
    seed: int | None,
    fields: Sequence[str],
    lines: RowLines,
) -> dict[str, Any]:
    """What the answers depend on. Without --seed one is drawn, and a run that goes on has the one it began with."""
    if seed is None and chosen["do_sample"]:
        begun_with = lines.facts.get("compared", {}).get("seed") if lines.done else None
        seed = secrets.randbelow(1 << 32) if begun_with is None else begun_with
    declared = checked.generation_config.to_diff_dict()
    facts = {
        "model": fingerprint(checked.path),
        "bits": checked.bits,
        "context": checked.context,
        "adapter": [one for adapter in checked.adapters for one in adapter_sha256(adapter)],
        "prompt_type": checked.prompt_type,
        "declared": {name: value for name, value in declared.items() if name != "transformers_version"},
        "seed": seed if chosen["do_sample"] else None,
        "data": [source.sha256 for source in questions.sources],
        "fields": sorted(fields),
        "encoding": [source.encoding for source in questions.sources],
        "decoding": chosen,
    }
    return json.loads(json.dumps(facts, default=str))  # as it will be read


def _check_same(lines: RowLines, compared: dict[str, Any]) -> None:
    """Refuse to go on with answers that came about otherwise.

    Raises:
        UserError: what is another one.
    """
    if not lines.done:
        return
    before = lines.facts.get("compared", {})
    same = READING if before.get(ASKED) == compared[ASKED] else set()
    found = []
    for name, flag in COMPARED.items():
        old, new = before.get(name), compared[name]
        if name in HASHED:
            found += [f"{flag} is another one"] if old != new else []
        elif name == "decoding":
            found += _changed({f"--{one}": value for one, value in (old or {}).items()},
                              {f"--{one}": value for one, value in new.items()})  # fmt: skip
        elif name not in same and not (name == "seed" and None in (old, new)):  # one that draws nothing has none
            found += _changed({flag: old}, {flag: new})
    if not found and before.get(ASKED) != compared[ASKED]:
        found.append("other prompts are made of the records")
    if found:
        raise UserError(
            f"{lines.flag} {lines.file} has {len(lines.done)} answers that came about otherwise: {'; '.join(found)}. "
            "Go on as it was begun, or name a new file."
        )


def _changed(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return [f"{name} was {_shown(old.get(name))}, now {_shown(new.get(name))}" for name in names]


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def _tell(questions: Questions, lengths: Sequence[int], lines: RowLines, max_new_tokens: int, context: int) -> None:
    """What is going to be done."""
    files = " ".join(str(source.path) for source in questions.sources)
    done = f", {len(lines.done)} of them answered already" if lines.done else ""
    log.info("%d records to answer in %s%s; prompts of at most %d tokens", len(lengths), files, done, max(lengths))
    if questions.bad:
        reasons = ", ".join(f"{count} {reason}" for reason, count in questions.bad.most_common())
        log.warning("WARNING %d records are left out: %s", questions.bad.total(), reasons)
    if short := sum(length + max_new_tokens > context for length in lengths):
        log.warning(
            "WARNING behind %d of the prompts the base's context of %d leaves less than --max_new_tokens %d",
            short, context, max_new_tokens,
        )  # fmt: skip


def _answer(
    assistant: Assistant,
    batches: Sequence[Sequence[Question]],
    chosen: dict[str, Any],
    seed: int | None,
    lines: RowLines,
    sources: Sequence[Source],
) -> None:
    """Answer batch after batch. One of which a kill left some answers is computed as a whole: as it was before."""
    from tqdm import tqdm

    total = sum(map(len, batches))
    with tqdm(total=total, initial=len(lines.done), desc="Answering", unit="record", disable=None, leave=False) as bar:
        for batch in batches:
            new = [one for one in batch if one.row not in lines]
            if not new:
                continue
            prompts = [assistant.prompt_ids(one.messages) for one in batch]
            try:
                updates = assistant.answer(prompts, chosen, [derive_seed(seed, one.row - 1) for one in batch])
            except UserError as error:
                if error.__cause__ is None or not is_out_of_memory(error.__cause__) or len(batch) == 1:
                    raise
                raise UserError(
                    f"out of memory while answering {len(batch)} records at once: lower --micro_batch {len(batch)}; "
                    f"the {len(lines.done)} that are answered in {lines.file} stay."
                ) from error
            answers = zip(batch, prompts, updates, strict=True)
            lines.append([
                _line(one, ids, update, assistant.split(one.messages, update.text), sources)
                for one, ids, update in answers
                if one.row not in lines
            ])  # fmt: skip
            bar.update(len(new))


def _line(
    one: Question, ids: Sequence[int], update: Update, said: SplitAnswer, sources: Sequence[Source]
) -> dict[str, Any]:
    file = {"file": str(sources[one.source].path)} if len(sources) > 1 else {}
    return {
        ROW: one.row,
        **file,
        "line": one.line,
        "record": one.record,
        "reference": one.reference,
        "answer": said.content,
        **({"reasoning_content": said.thought} if said.thought else {}),
        "prompt_tokens": len(ids),
        "completion_tokens": update.tokens,
        "finish_reason": update.finish_reason,
    }
