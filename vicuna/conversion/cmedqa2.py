"""cMedQA2: a table of questions, one of answers, and lists of candidates that say which question is in which part.

The answers of a question are found in a database on the disk, because they stand anywhere in their table.
"""

import shutil
import sqlite3
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from vicuna.conversion.found import Found, Options
from vicuna.data.bad_row import BadRow
from vicuna.data.files import read_rows
from vicuna.data.values import message
from vicuna.errors import UserError
from vicuna.foreign.paths import copy_bounded

QUESTIONS, ANSWERS = ("question_id", "content"), ("ans_id", "question_id", "content")
# The part to train on pairs right answers with wrong ones; the others list a hundred answers with their `label`, and
# their place in that list as `cnt`.
TRAIN, LISTED = ("question_id", "pos_ans_id", "neg_ans_id"), ("question_id", "ans_id", "cnt", "label")
MOST_TABLE = 2 << 30  # bytes; the published ones have 40 million
SPLITS = ("train", "dev", "test")


def read_cmedqa2(paths: Sequence[str], options: Options) -> Iterator[Found]:
    """The questions in the order of their table, each with all of its answers."""
    with tempfile.TemporaryDirectory(prefix="cmedqa2-") as aside:
        for name in paths:
            folder = Path(name).expanduser()
            if not folder.is_dir():
                raise UserError(
                    f"--data_path {name} is no folder; expected the one with question.csv, answer.csv and "
                    "train_candidates.txt, dev_candidates.txt, test_candidates.txt, as published or as .zip."
                )
            database = Path(aside) / "answers.sqlite"
            database.unlink(missing_ok=True)
            with closing(sqlite3.connect(database)) as rows:
                yield from _read_folder(folder, Path(aside), rows, options)


def _read_folder(folder: Path, aside: Path, rows: sqlite3.Connection, options: Options) -> Iterator[Found]:
    rows.executescript(
        "create table question (id text primary key, line integer, content text);"
        "create table answer (id text primary key, question text, line integer, content text);"
        "create table part (question text primary key);"
    )
    questions, answers = (_table(folder, f"{name}.csv", aside) for name in ("question", "answer"))
    yield from _store(questions, QUESTIONS, rows, "question", "a question's id twice", options)
    yield from _store(answers, ANSWERS, rows, "answer", "an answer's id twice", options)
    rows.execute("create index of_question on answer (question)")
    if options.split != "all":
        yield from _store_part(_table(folder, f"{options.split}_candidates.txt", aside), rows, options)
    for one in rows.execute(
        "select id, line, question from answer where question not in (select id from question) order by rowid"
    ):
        problem = f"is answer {one[0]} to question {one[2]}, which {questions.name} does not have"
        yield Found(answers, one[1], one[1], BadRow(problem, "an answer without its question"))
    yield from _merged(questions, rows, options)


def _merged(file: Path, rows: sqlite3.Connection, options: Options) -> Iterator[Found]:
    chosen = "" if options.split == "all" else "where id in (select question from part)"
    for number, line, asked in rows.execute(f"select id, line, content from question {chosen} order by rowid"):
        of_it = "select content from answer where question = ? order by rowid"
        # The same words under two ids are one answer.
        answers = list(dict.fromkeys(content.strip() for (content,) in rows.execute(of_it, (number,))))
        if not answers:
            yield Found(
                file, line, line, BadRow(f"is question {number}, which has no answer", "a question without an answer")
            )
            continue
        for answer in merge_answers(answers, options.answers):
            yield Found(file, line, line, [message("user", asked, "content"), message("assistant", answer, "content")])


def merge_answers(answers: Sequence[str], how: str) -> list[str]:
    """What is learnt of the answers to a question: all of them as one numbered list, the first, or each."""
    if how == "numbered":
        return ["\n".join(f"{number}. {answer}" for number, answer in enumerate(answers, 1))]
    return list(answers[:1] if how == "first" else answers)


def _store(
    file: Path, columns: tuple[str, ...], rows: sqlite3.Connection, table: str, twice: str, options: Options
) -> Iterator[Found]:
    """Put a table into the database; what can not be used of it comes out."""
    places = ", ".join("?" * (len(columns) + 1))
    for line, row in read_rows(file, options.encoding)[1]:
        try:
            values = _values(row, columns, file)
            message("user", values[-1], columns[-1])
        except BadRow as problem:
            yield Found(file, line, line, problem)
            continue
        try:
            rows.execute(f"insert into {table} values ({places})", (*values[:-1], line, values[-1]))
        except sqlite3.IntegrityError:
            problem = f"has {columns[0]} {values[0]}, which an earlier line has; the earlier one is kept"
            yield Found(file, line, line, BadRow(problem, twice))


def _store_part(file: Path, rows: sqlite3.Connection, options: Options) -> Iterator[Found]:
    columns = TRAIN if options.split == "train" else LISTED
    for line, row in read_rows(file, options.encoding)[1]:
        try:
            values = dict(zip(columns, _values(row, columns, file), strict=True))
        except BadRow as problem:
            yield Found(file, line, line, problem)
            continue
        if values.get("label", "1") == "1":
            rows.execute("insert or ignore into part values (?)", (values["question_id"],))
    unknown = "select question from part where question not in (select id from question) order by rowid"
    for at, (number,) in enumerate(rows.execute(unknown).fetchall(), 1):
        problem = f"lists question {number}, which question.csv does not have"
        yield Found(file, 0, -at, BadRow(problem, "a candidate without its question"))


def _values(row: dict | BadRow, columns: tuple[str, ...], file: Path) -> list[str]:
    if isinstance(row, BadRow):
        raise row
    if missing := [name for name in columns if name not in row]:
        raise UserError(
            f"--data_path {file} has the columns {', '.join(row)}; expected {', '.join(columns)}, without "
            f"{missing[0]} it is none of cMedQA2's."
        )
    return [row[name] if name == "content" else row[name].strip() for name in columns]


def _table(folder: Path, name: str, aside: Path) -> Path:
    """A table of the folder, as a .csv; one that is packed, or whose ending is another, is put aside."""
    file, packed = folder / name, folder / Path(name).with_suffix(".zip")
    if not file.is_file() and not packed.is_file():
        raise UserError(f"--data_path {folder} has no {name}, nor {packed.name}; expected the files of cMedQA2.")
    if file.suffix == ".csv" and file.is_file():
        return file
    table = aside / f"{Path(name).stem}.csv"
    if file.is_file():
        shutil.copyfile(file, table)
        return table
    try:
        with zipfile.ZipFile(packed) as archive, table.open("wb") as whole:
            inside = next((one for one in archive.namelist() if Path(one).name == name), None)
            if inside is None:
                raise UserError(f"--data_path {packed} holds no {name}; expected it as cMedQA2 is published.")
            with archive.open(inside) as part:
                copy_bounded(part, whole, MOST_TABLE, f"{name} in {packed}")
    # Beside its own error it raises these for a member that is locked, packed otherwise, cut off or damaged.
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError, zlib.error) as error:
        raise UserError(f"--data_path {packed} is not a whole zip file: {error}. Copy it again.") from error
    return table
