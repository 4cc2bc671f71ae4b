"""Records that are to be answered: the messages to ask, and the record's own response, where it has one, beside them.

They are read as records to train on are. What lacks there is its last answer, and what only says how answers are learnt
does not count.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from vicuna.data.bad_row import SHOWN_BAD_ROWS, BadRow
from vicuna.data.fields import parse_fields, pick
from vicuna.data.files import read_rows
from vicuna.data.formats import FORMATS, TEXT, check_alternation, detect_format
from vicuna.data.marks import CALLS, unmarked
from vicuna.data.readers import FROM_VALUE, ROLE_CONTENT, SPEAKERS, TURNS
from vicuna.data.records import Source, check_problems
from vicuna.data.values import blank
from vicuna.errors import UserError
from vicuna.prompt.templates import BASE, Message, unsupported

# Question and answer of records that have one of each, in the order in which they are looked for.
PAIRS = (("instruction", "output"), ("query", "response"), ("input", "target"), ("prompt", "completion"))
CONVERSATIONS = ("conversations", "messages", "conversation")
UNANSWERED = "…"  # in the place of an answer while a row is read


@dataclass(frozen=True)
class Question:
    """A record to answer.

    Attributes:
        row: its number over all files, from 1; those that are left out count.
        source, line: index of its file, and where it begins there.
        record: as it stands in the file.
        messages: the last of them the user's.
        reference: the record's own response.
    """

    row: int
    source: int
    line: int
    record: Any
    messages: list[Message]
    reference: str | None


@dataclass
class Questions:
    """What files hold to answer.

    Attributes:
        rows: how many there are, usable or not; bad: reason -> how many were left out for it.
    """

    sources: list[Source]
    rows: int = 0
    asked: list[Question] = field(default_factory=list)
    bad: Counter = field(default_factory=Counter)


def read_questions(
    sources: Sequence[Source],
    prompt_type: str,
    check: Callable[[list[Message]], None],
    encoding: str | None = None,
    fields: Sequence[str] = (),
    skip_bad_rows: bool = False,
) -> Questions:
    """Read files of questions.

    Args:
        check: raises a `BadRow` for messages that can not be asked.

    Raises:
        UserError: rows that can not be used, unless `skip_bad_rows`; nothing to answer; see `read_rows`.
    """
    from tqdm import tqdm

    found, problems = Questions(list(sources)), []
    paths = parse_fields(fields)
    for number, source in enumerate(sources):
        source.encoding, rows = read_rows(source.path, encoding)
        for line, record in tqdm(rows, desc="Reading", unit="record", disable=None, leave=False):
            found.rows += 1
            try:
                messages, reference = to_question(pick(record, paths, asked=True), prompt_type)
                check(messages)
            except BadRow as problem:
                problems += [f"{source.path} line {line}: {problem}"] if len(problems) < SHOWN_BAD_ROWS else []
                found.bad[problem.reason] += 1
            else:
                found.asked.append(Question(found.rows, number, line, record, messages, reference))
                source.rows += 1
    if not skip_bad_rows:
        check_problems(problems, sum(found.bad.values()), found.rows, sources)
    if not found.asked:
        raise UserError(f"--data_path {' '.join(str(source.path) for source in sources)} has no record to answer.")
    return found


def to_question(row: Any, prompt_type: str) -> tuple[list[Message], str | None]:
    """The messages to ask of a row, and its own answer to them.

    Raises:
        BadRow: what is wrong with the row.
    """
    own = prompt_type == BASE
    row, filled = _with_answer(unmarked(row, own))
    form = detect_format(row, own)
    messages = form.messages(row, prompt_type)
    if form is TEXT:
        return [{"role": "user", "content": messages[0]["content"]}], None
    reference = None
    if check_alternation(messages, prompt_type)[-1]["role"] == "assistant":
        *messages, last = messages
        reference = None if filled else last["content"]
    if problem := unsupported(prompt_type, messages):
        raise BadRow(f"has {problem}", "does not fit the prompt type")
    return messages, reference


def _with_answer(row: Any) -> tuple[Any, bool]:
    """The row as one to learn from, and whether the last answer in it is not its own."""
    if isinstance(row, list):
        return _last_with_answer(row, PAIRS)
    if not isinstance(row, dict):
        return row, False
    for name in CONVERSATIONS:
        if isinstance(row.get(name), list):
            turns, filled = _last_with_answer(row[name], TURNS)
            return {**row, name: turns}, filled
    form = next((one for one in FORMATS if one.matches(row)), None)
    if form is not None and "instruction" not in row and not any(answer in row for _, answer in PAIRS):
        return row, False  # a text, say
    return _filled(row, PAIRS)


def _last_with_answer(rows: list, pairs: Sequence[tuple[str, str]]) -> tuple[list, bool]:
    """Turns, records or messages, the last of which may lack its answer."""
    if rows and isinstance(rows[-1], dict):
        if _says_nothing(rows[-1]):
            return rows[:-1], False
        last, filled = _filled(rows[-1], pairs)
        return [*rows[:-1], last], filled
    if len(rows) == 2 and all(isinstance(item, str) for item in rows) and blank(rows[1]):
        return [rows[0], UNANSWERED], True
    return rows, False


def _filled(row: dict, pairs: Sequence[tuple[str, str]]) -> tuple[dict, bool]:
    """A question with something in the place of an answer that it lacks; one with an answer of another name is none."""
    if any(answer in row and not blank(row[answer]) for _, answer in pairs):
        return row, False
    for question, answer in pairs:
        if question in row:
            messages = question == "prompt" and isinstance(row[question], list)
            return {**row, answer: [{"role": "assistant", "content": UNANSWERED}] if messages else UNANSWERED}, True
    return row, False


def _says_nothing(item: dict) -> bool:
    """Whether this is the place of an answer that is to come."""
    return not any(item.get(name) for name in CALLS) and any(
        SPEAKERS.get(str(item.get(speaker)).strip().lower()) == "assistant" and said in item and blank(item[said])
        for speaker, said in (FROM_VALUE, ROLE_CONTENT)
    )
