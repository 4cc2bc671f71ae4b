"""Look at data files before training on them: formats, malformed and suspicious rows, duplicates, lengths in tokens.

    python tools/check_data.py sample/chat/data_sample.jsonl my.jsonl
    python tools/check_data.py my.jsonl --model_path models/tiny-llama-zh --prompt_type chat --cutoff_len 512 --show 3

Reads the files; with --model_path also the base's tokenizer. Writes nothing. Ends with status 1 when a file can not be
read, or a row is malformed and --skip_bad_rows is not given.
"""

import os
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

from vicuna import log
from vicuna.args import Fallback, at_least, flag, parse
from vicuna.data.bad_row import SHOWN_BAD_ROWS, BadRow, told_once
from vicuna.data.examples import label_spans, tokenise
from vicuna.data.files import read_rows
from vicuna.data.fills import check_fills, fill, parse_fills
from vicuna.data.flags import CHAT_CUTOFF_LEN, DataFlags
from vicuna.data.formats import detect_format, to_messages
from vicuna.data.records import Records, Source, open_sources, refusal
from vicuna.errors import PlainOutput, UserError, printable, run
from vicuna.prompt.rendering import BASE

BARS = 10  # of the histogram
BAR_WIDTH = 40  # characters of its longest bar


@dataclass
class CheckFlags:
    """What is measured and shown beside the rows themselves."""

    model_path: str = flag("", "base whose tokenizer measures the rows: a folder or a hub id; empty for none")
    show: int = flag(3, "rows of every file to show with what is trained on in ⟦ ⟧; needs --model_path")
    row: int | None = flag(None, "show the record on this line of every file instead; needs --model_path")

    def __post_init__(self) -> None:
        if self.show < 0:
            raise UserError(f"--show {self.show} is too small: expected 0 or more.")
        at_least("--row", 1 if self.row is None else self.row, 1)
        if self.row and not self.model_path:
            raise UserError(f"--row {self.row} is shown as the base's tokenizer has it: give --model_path too.")


@dataclass
class Report:
    """What one file holds.

    Attributes:
        formats: format -> rows; bad: reason -> each place and what is wrong there.
        suspicious: kind -> each place and its beginning, of rows that are good.
        repeated: which line holds the same dialogue as which earlier one, of any file.
        contradicted: which line answers the same question otherwise than which earlier one.
    """

    source: Source
    formats: Counter = field(default_factory=Counter)
    bad: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    suspicious: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    repeated: list[str] = field(default_factory=list)
    contradicted: list[str] = field(default_factory=list)


def main(flags: CheckFlags, data: DataFlags) -> None:
    """Report each file, then measure all good rows together."""
    log.set_up()
    tokenizer, data = open_base(flags.model_path, data)
    data = as_trained_by_default(data, sys.argv[1:])
    records, seen, filled, unread, empty, malformed = Records(), {}, set(), 0, 0, 0
    for name in data.data_path:
        try:
            report = read(open_sources([name])[0], data, records, seen, filled, tokenizer)
        except UserError as error:
            print(f"{name}\n  can not be read: {error}\n")
            unread += 1
            continue
        malformed += sum(map(len, report.bad.values()))
        empty += not report.source.rows
        print_report(report)
    if tokenizer and records.dialogues:
        measure(records, flags, data, tokenizer)
    sys.stdout.flush()
    check_fills(data.fill, filled)
    count, refused = len(data.data_path), malformed and not data.skip_bad_rows
    parts = [f"{unread} of {count} files can not be read"] if unread else []
    parts += [f"{empty} of {count} files have no usable row"] if empty else []
    parts += [f"{malformed} {'row is' if malformed == 1 else 'rows are'} malformed"] if refused else []
    if parts:
        also = " Malformed rows can also be left out with --skip_bad_rows." if refused else ""
        raise UserError(f"{', '.join(parts)}: see above. Training would refuse that: mend it.{also}")
    files = f"{count} {'file' if count == 1 else 'files'}"
    print(f"\nnothing stands in the way of training: {len(records.dialogues)} good rows in {files}.")


def read(
    source: Source, data: DataFlags, records: Records, seen: dict[str, dict[str, str]], filled: set[str], tokenizer: Any
) -> Report:
    """Read a file row by row; its good rows are added to `records`, and to `seen` with their places.

    Args:
        filled: takes the placeholders of --fill that are there.
    """
    report, fills = Report(source), parse_fills(data.fill)
    refuse = refusal(tokenizer, data.prompt_type) if tokenizer else None
    source.encoding, rows = read_rows(source.path, data.encoding, data.fields)
    records.sources.append(source)
    for line, row in rows:
        try:
            report.formats[detect_format(row, own=data.prompt_type == BASE).name] += 1
            messages = to_messages(fill(row, fills, filled), data.prompt_type)
            if refuse and (why := refuse(messages)):
                raise BadRow(why, "does not fit the base's chat template")
        except BadRow as problem:
            report.bad[problem.reason].append(f"line {line}: {problem}")
            continue
        place = f"{source.path} line {line}"
        # Each question with the first place of each of its answers.
        answers = seen.setdefault(repr(messages[:-1]), {}) if len(messages) > 1 else seen.setdefault("", {})
        answer = repr(messages[-1])
        if answer in answers:
            report.repeated.append(f"line {line} is {answers[answer]} again")
        elif answers and len(messages) > 1:
            report.contradicted.append(f"line {line} answers otherwise than {next(iter(answers.values()))}")
        answers.setdefault(answer, place)
        for kind, where in records.add(messages, line).items():
            report.suspicious[kind].append(f"line {line}: {where!r}")
    return report


def print_report(report: Report) -> None:
    """One file: encoding, formats, rows malformed by reason or suspicious by kind with their places, and duplicates."""
    source, bad = report.source, sum(map(len, report.bad.values()))
    kinds = ", ".join(f"{name} {count}" for name, count in report.formats.most_common()) or "none"
    print(f"{source.path}\n  encoding    {source.encoding}\n  formats     {kinds}")
    print(f"  rows        {source.rows + bad}: {source.rows} good, {bad} malformed")
    for reason, places in sorted(report.bad.items(), key=lambda item: -len(item[1])):
        print(f"  malformed   {len(places)} ({reason})")
        print_some(places)
    for kind, places in sorted(report.suspicious.items(), key=lambda item: -len(item[1])):
        print(f"  suspicious  {len(places)} ({kind})")
        print_some(places)
    print(f"  duplicates  {len(report.repeated)}")
    print_some(report.repeated)
    if report.contradicted:
        print(f"  contradict  {len(report.contradicted)} (the same question, another answer)")
        print_some(report.contradicted)
    if not source.rows:
        print("  unusable    training refuses a file without a usable row")
    print()


def print_some(lines: Sequence[str]) -> None:
    """The first ten lines, and how many more there are; what all of them expect once."""
    if lines:
        print(told_once(lines, "    "))
    if len(lines) > SHOWN_BAD_ROWS:
        print(f"    … and {len(lines) - SHOWN_BAD_ROWS} more")


def open_base(model_path: str, data: DataFlags) -> tuple[Any, DataFlags]:
    """The base's tokenizer, None where no base is named, and the flags with the prompt type that training takes."""
    if not model_path:
        return None, data.named(has_template=False)
    from vicuna.train.first_look import open_tokenizer
    from vicuna.train.own_template import with_template_settings

    _, tokenizer, declares_template = open_tokenizer(model_path)
    data = data.named(declares_template)
    return with_template_settings(tokenizer, data, None), data


def measure(records: Records, flags: CheckFlags, data: DataFlags, tokenizer: Any) -> None:
    """Lengths in tokens, what the cut does, and some rows as they are trained on."""
    everything = range(len(records.dialogues))
    options = (data.train_on_inputs, data.train_turns)
    whole = tokenise(tokenizer, records, everything, data.prompt_type, sys.maxsize, *options)
    characters = sum(len(message["content"]) for messages in records.dialogues for message in messages)
    tokens = sum(
        len(tokenizer.encode_continuation(message["content"])) for messages in records.dialogues for message in messages
    )
    lengths = sorted(whole.lengths)
    print(f"all {len(lengths)} good rows with prompt type {data.prompt_type}, tokens of {flags.model_path}")
    print(f"  tokens      {sum(lengths):,}; median {median(lengths):g}, longest {lengths[-1]}")
    print(f"  density     {tokens / characters:.2f} tokens a character, {whole.unknown / sum(lengths):.1%} unknown")
    print_histogram(lengths)
    try:
        cut = tokenise(tokenizer, records, everything, data.prompt_type, data.cutoff_len, *options)
    except UserError as error:
        raise UserError(f"no row can be trained on: {error}") from error
    for name, count in (("cut", cut.cut), ("shortened", cut.shortened), ("left out", cut.left_out)):
        print(f"  {name:<11} {count} ({count / len(lengths):.1%}) at --cutoff_len {data.cutoff_len}")
    for row in chosen_rows(cut.rows, flags):
        print(f"\n{records.sources[row['source']].path} line {row['line']}, {len(row['input_ids'])} tokens")
        print_marked(marked(tokenizer, row))


def chosen_rows(rows: Any, flags: CheckFlags) -> list[dict[str, Any]]:
    """The first --show rows of every file, or those that stand on line --row."""
    chosen, shown = [], Counter()
    for place, (source, line) in enumerate(zip(rows["source"], rows["line"], strict=True)):
        if line == flags.row if flags.row else shown[source] < flags.show:
            shown[source] += 1
            chosen.append(place)
    if flags.row and not chosen:
        print(f"\nno file has a record on line {flags.row} that is trained on")
    return [rows[place] for place in chosen]


def print_marked(text: str) -> None:
    """A row; on a terminal what is trained on is green, unless NO_COLOR is set."""
    stream = sys.stdout.stream if isinstance(sys.stdout, PlainOutput) else sys.stdout
    text = printable(text)
    if stream.isatty() and not os.environ.get("NO_COLOR"):
        text = text.replace("⟦", "\x1b[32m⟦").replace("⟧", "⟧\x1b[0m")
    print(text, file=stream)


def print_histogram(lengths: Sequence[int]) -> None:
    """Rows by length, in bars of equal width; `lengths` is sorted."""
    width = -(-(lengths[-1] + 1) // BARS)
    rows = Counter(length // width for length in lengths)
    for bar in range(lengths[-1] // width + 1):
        sign = "█" * -(-rows[bar] * BAR_WIDTH // max(rows.values()))
        print(f"    {bar * width:>6} to {(bar + 1) * width - 1:>6}  {rows[bar]:>7}  {sign}".rstrip())


def marked(tokenizer: Any, row: dict[str, Any]) -> str:
    """A row's text with what is trained on in ⟦ ⟧, the end written by its name."""
    parts = []
    for trained, ids in label_spans(row["input_ids"], row["labels"], len(tokenizer.beginning)):
        text = tokenizer.decode_continuation(ids)
        text += tokenizer.token_name(ids[-1]) if ids[-1] in tokenizer.controls else ""
        parts.append(f"⟦{text}⟧" if trained else text)
    return "".join(parts)


def as_trained_by_default(data: DataFlags, argv: Sequence[str]) -> DataFlags:
    """The flags with the cut of the program that trains such a prompt type, where none is given."""
    given = any(word.split("=")[0].replace("-", "_") == "__cutoff_len" for word in argv)
    is_chat = data.prompt_type in ("chat", "chat_eos")
    return replace(data, cutoff_len=CHAT_CUTOFF_LEN) if is_chat and not given else data


def with_files(argv: list[str]) -> list[str]:
    """Files that stand first, without a flag, are --data_path."""
    return ["--data_path", *argv] if argv and not argv[0].startswith("-") else argv


if __name__ == "__main__":
    run(
        lambda: main(
            *parse(__doc__, CheckFlags, DataFlags, argv=with_files(sys.argv[1:]), prompt_type=Fallback("instruct"))
        )
    )
