"""Look at data files before training on them: formats, malformed and suspicious rows, duplicates, lengths in tokens.

    python tools/check_data.py sample/chat/data_sample.jsonl my.jsonl
    python tools/check_data.py my.jsonl --model_path models/tiny-llama-zh --prompt_type chat --cutoff_len 512 --show 3

Reads the files; with --model_path also the base's tokenizer. Writes nothing. Ends with status 1 when a file can not be
read, or a row is malformed and --skip_bad_rows is not given.
"""

import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from vicuna import log
from vicuna.args import Fallback, flag, parse
from vicuna.data.bad_row import BadRow
from vicuna.data.examples import label_spans, tokenise
from vicuna.data.files import read_rows
from vicuna.data.fills import check_fills, fill, parse_fills
from vicuna.data.flags import DataFlags
from vicuna.data.formats import detect_format, to_messages
from vicuna.data.records import SHOWN_BAD_ROWS, Records, Source, open_sources, refusal
from vicuna.errors import UserError, run
from vicuna.prompt.rendering import BASE

BARS = 10  # of the histogram
BAR_WIDTH = 40  # characters of its longest bar


@dataclass
class CheckFlags:
    """What is measured and shown beside the rows themselves."""

    model_path: str = flag("", "base whose tokenizer measures the rows: a folder or a hub id; empty for none")
    show: int = flag(3, "rows to show with what is trained on in ⟦ ⟧; needs --model_path")

    def __post_init__(self) -> None:
        if self.show < 0:
            raise UserError(f"--show {self.show} is too small: expected 0 or more.")


@dataclass
class Report:
    """What one file holds.

    Attributes:
        formats: format -> rows; bad: reason -> each place and what is wrong there.
        suspicious: kind -> each place and its beginning, of rows that are good.
        repeated: which line holds the same dialogue as which earlier one, of any file.
    """

    source: Source
    formats: Counter = field(default_factory=Counter)
    bad: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    suspicious: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    repeated: list[str] = field(default_factory=list)


def main(flags: CheckFlags, data: DataFlags) -> None:
    """Report each file, then measure all good rows together."""
    log.set_up()
    tokenizer, data = open_base(flags.model_path, data)
    records, seen, filled, unread, malformed = Records(), {}, set(), 0, 0
    for name in data.data_path:
        try:
            report = read(open_sources([name])[0], data, records, seen, filled, tokenizer)
        except UserError as error:
            print(f"{name}\n  can not be read: {error}\n")
            unread += 1
            continue
        malformed += sum(map(len, report.bad.values()))
        print_report(report)
    if tokenizer and records.dialogues:
        measure(records, flags, data, tokenizer)
    sys.stdout.flush()
    check_fills(data.fill, filled)
    if unread or (malformed and not data.skip_bad_rows):
        raise UserError(
            f"{unread} of {len(data.data_path)} files can not be read, {malformed} rows are malformed: see above. Mend "
            "them; malformed rows can also be left out with --skip_bad_rows."
        )


def read(
    source: Source, data: DataFlags, records: Records, seen: dict[str, str], filled: set[str], tokenizer: Any
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
        if (first := seen.setdefault(repr(messages), place)) is not place:
            report.repeated.append(f"line {line} is {first} again")
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
    print()


def print_some(lines: Sequence[str]) -> None:
    """The first ten lines, and how many more there are."""
    for line in lines[:SHOWN_BAD_ROWS]:
        print(f"    {line}")
    if len(lines) > SHOWN_BAD_ROWS:
        print(f"    … and {len(lines) - SHOWN_BAD_ROWS} more")


def open_base(model_path: str, data: DataFlags) -> tuple[Any, DataFlags]:
    """The base's tokenizer, None where no base is named, and the flags with the prompt type that training takes."""
    if not model_path:
        return None, data.named(has_template=False)
    from vicuna.model.base import check_base
    from vicuna.train.own_template import declares_template, with_template_settings

    base = check_base(model_path)
    data = data.named(declares_template(base))
    return with_template_settings(base.tokenizer, data, None), data


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
    for row in cut.rows.select(range(min(flags.show, len(cut.rows)))):
        print(f"\n{records.sources[row['source']].path} line {row['line']}, {len(row['input_ids'])} tokens")
        print(marked(tokenizer, row))


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


def with_files(argv: list[str]) -> list[str]:
    """Files that stand first, without a flag, are --data_path."""
    return ["--data_path", *argv] if argv and not argv[0].startswith("-") else argv


if __name__ == "__main__":
    run(
        lambda: main(
            *parse(__doc__, CheckFlags, DataFlags, argv=with_files(sys.argv[1:]), prompt_type=Fallback("instruct"))
        )
    )
