"""The kind `answers`: a file of questions answered by each model, under each of the settings, laid side by side.

An answer is on the disk as it comes, and depends on nothing that an interruption changes: batches are made of all
questions, whichever are answered already, and each question has a seed of its own.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from vicuna.answer.flags import DecodingFlags
from vicuna.data.flags import ReadFlags
from vicuna.errors import UserError, printable
from vicuna.evaluation.answers_page import check_into, page, summary_table, write_into
from vicuna.evaluation.flags import AnswersFlags, DecodingTableFlags, ModelsFlags, OutputFlags
from vicuna.evaluation.journal import Journal, open_journal
from vicuna.evaluation.question_files import Ask, conversation, read_asks, with_own
from vicuna.evaluation.repetition import ends_in_loop, repeated_share
from vicuna.evaluation.respondents import NO_ROOM, Answered, Asked, Respondent, find_respondents
from vicuna.log import log

MOSTLY = 0.5  # share of repeated 4-grams from which an answer counts as repeating itself


@dataclass(frozen=True)
class Column:
    """A model under some settings: what stands side by side.

    Attributes:
        name: of the model, and what tells the settings from the others.
        chosen: by record, the settings that it is asked with.
    """

    name: str
    respondent: Respondent
    chosen: Mapping[int, dict[str, Any]]


def evaluate_answers(
    models: ModelsFlags, read: ReadFlags, flags: AnswersFlags, decoding: DecodingTableFlags, output: OutputFlags
) -> None:
    """Have every question answered by each model under each of the settings, and write the tables.

    Raises:
        UserError: before weights are read, models and files that can not be used; a model that fails.
        Stopped: a signal; how much is done.
    """
    if not read.data_path:
        raise UserError("--data_path is missing: name a file of questions, such as sample/questions/zh.jsonl.")
    check_into(flags.into)
    sources, asks = read_asks(read)
    respondents = find_respondents(models, flags)
    columns = _columns(respondents, decoding.variants(), asks)
    log.info(
        "%d questions, %d turns, each for %d columns", len({one.question for one in asks}), len(asks), len(columns)
    )
    settings = {
        "--model_path, --lora_path and --names": [one.name for one in respondents],
        "--prompt_type": [one.prompt_type for one in respondents],
        **_compared(columns, asks),
        "--seed": decoding.seed, "--fields": list(read.fields), "--skip_bad_rows": read.skip_bad_rows,
    }  # fmt: skip
    contents = {"--data_path": " ".join(one.sha256 for one in sources)}
    contents |= {one.name: one.sha256 for one in respondents if one.sha256}
    with open_journal(output, "answers", ("model", "record"), settings, contents) as journal:
        with journal.stopping(len(columns) * len(asks), "answers are there"):
            for respondent in respondents:
                own = [one for one in columns if one.respondent is respondent]
                _ask(respondent, own, asks, decoding.seed, journal)
        found = [summarise(one, asks, journal) for one in columns]
        answers = {one.name: [journal[one.name, ask.record]["answer"] for ask in asks] for one in columns}
        journal.write({"seed": decoding.seed, "models": found}, page(found, asks, answers, decoding.seed))
        write_into(flags.into, found, asks, answers, decoding.seed)
    print(summary_table(found), flush=True)


def _columns(
    respondents: Sequence[Respondent], variants: Mapping[str, DecodingFlags], asks: Sequence[Ask]
) -> list[Column]:
    """Every model under each of the settings.

    Raises:
        UserError: a question that a model can not be asked, or settings that it does not have.
    """
    columns = []
    for respondent in respondents:
        for ask in asks:
            if ask.turn == 0 and (problem := respondent.check(ask.messages)):
                raise UserError(f"{ask.place} has {problem}: {respondent.name} can not be asked that.")
        for label, decoding in variants.items():
            chosen = {ask.record: respondent.settings(with_own(decoding, ask)) for ask in asks}
            name = f"{respondent.name}, {label}" if label else respondent.name
            columns.append(Column(name, respondent, chosen))
    return columns


def _general(column: Column, asks: Sequence[Ask]) -> dict[str, Any]:
    """The settings of questions that have none of their own; {} where all have."""
    return next((column.chosen[one.record] for one in asks if not one.settings), {})


def _compared(columns: Sequence[Column], asks: Sequence[Ask]) -> dict[str, Any]:
    """The settings by their flags; a list where columns differ."""
    of_columns = [_general(one, asks) for one in columns]
    found = {}
    for name in dict.fromkeys(name for of in of_columns for name in of):
        values = [of.get(name) for of in of_columns]
        found[f"--{name}"] = values if any(one != values[0] for one in values) else values[0]
    return found


def _ask(respondent: Respondent, columns: Sequence[Column], asks: Sequence[Ask], seed: int, journal: Journal) -> None:
    """Ask a model all that is not in the journal: first turns, then those that need their answers."""
    keys = [(column.name, ask.record) for column in columns for ask in asks]
    done = sum(key in journal for key in keys)
    if done == len(keys):
        return
    with tqdm(
        total=len(keys), initial=done, desc=printable(respondent.name), unit="answer", disable=None, leave=False
    ) as bar:
        for column in columns:
            for turn in range(1 + max(ask.turn for ask in asks)):
                for settings, asked in _groups(column, [one for one in asks if one.turn == turn], asks, journal):
                    known = {one.record for one in asked if (column.name, one.record) in journal}
                    for answered in respondent.answer(asked, settings, seed, known):
                        journal.add(_line(column, asks[answered.record - 1], answered, settings))
                        bar.update()
    respondent.close()


def _groups(
    column: Column, now: Sequence[Ask], asks: Sequence[Ask], journal: Journal
) -> Iterator[tuple[dict[str, Any], list[Asked]]]:
    """Conversations of the same settings."""
    groups: dict[str, list[Asked]] = {}
    for ask in now:
        turns = asks[ask.question - 1 : ask.record]
        before = [journal[column.name, one.record]["answer"] for one in turns[:-1]]
        key = json.dumps(column.chosen[ask.record], sort_keys=True)
        groups.setdefault(key, []).append(Asked(ask.record, conversation(turns, before)))
    for asked in groups.values():
        yield column.chosen[asked[0].record], asked


def _line(column: Column, ask: Ask, answered: Answered, settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "model": column.name, "record": ask.record, "question": ask.question, "turn": ask.turn, "place": ask.place,
        "category": ask.category, "messages": ask.messages, "reference": ask.reference, "answer": answered.text,
        "finish_reason": answered.finish_reason, "prompt_tokens": answered.prompt_tokens,
        "completion_tokens": answered.tokens, "forgotten_turns": answered.forgotten, "settings": settings,
        "empty": not answered.text.strip(), "loop": ends_in_loop(answered.text),
        "repetition": repeated_share(answered.text),
    }  # fmt: skip


def summarise(column: Column, asks: Sequence[Ask], journal: Journal) -> dict[str, Any]:
    """Figures of a model under some settings."""
    lines = [journal[column.name, one.record] for one in asks]
    tokens = [one["completion_tokens"] for one in lines if one["completion_tokens"] is not None]
    said = [one for one in lines if not one["empty"]]
    return {
        "model": column.name,
        "prompt_type": column.respondent.prompt_type,
        "settings": _general(column, asks),
        "answers": len(lines),
        "empty": len(lines) - len(said),
        "repeating": sum(one["loop"] or one["repetition"] >= MOSTLY for one in said),
        "repetition": sum(one["repetition"] for one in said) / len(said) if said else 0.0,
        "cut": sum(one["finish_reason"] == "length" for one in lines),
        "no_room": sum(one["finish_reason"] == NO_ROOM for one in lines),
        "tokens": sum(tokens) / len(tokens) if tokens else None,
    }
