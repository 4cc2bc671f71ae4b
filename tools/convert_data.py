"""Turn published data sets into files of instructions or dialogues, or several of them into a known mix.

    python tools/convert_data.py --from cmedqa2 --to instruct --data_path cMedQA2 --output_path medical.jsonl
    python tools/convert_data.py --from lawyer-llama --to chat --data_path legal_advice.json --output_path legal.jsonl
    python tools/convert_data.py --mix belle_guanaco --data_path belle=b.json guanaco=g.json --output_path merge.jsonl

Reads the files of the sets from the disk, a piece at a time, and writes --output_path. Rows that can not be used are
counted by their reasons, and each is explained in a .skipped.jsonl beside it. The same seed gives the same file.
"""

import os
import tempfile
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from random import Random

from tqdm import tqdm

from vicuna import log
from vicuna.args import parse
from vicuna.conversion.flags import ConvertFlags
from vicuna.conversion.found import Options
from vicuna.conversion.sets import MIXES, SETS, Part
from vicuna.conversion.writing import RowFile, Tally, Writing, drawn, write_rows
from vicuna.errors import UserError, ended_by_signals, printable, run
from vicuna.files.outputs import kept_if_lost, made_folder


def main(flags: ConvertFlags) -> None:
    """Convert every set, then write what was drawn of them, in one go."""
    log.set_up()
    output = Path(flags.output_path).expanduser()
    skipped = output.with_suffix(".skipped.jsonl")
    for file in (output, skipped):
        if file.exists():
            raise UserError(f"--output_path {output}: {file} exists; nothing is ever written over: name a new file.")
    with ExitStack() as stack:
        stack.enter_context(ended_by_signals())
        stack.enter_context(made_folder(output.parent, "--output_path"))
        aside = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f".{output.stem}-", dir=output.parent)))
        tallies = convert(flags, aside)
        print_tallies(tallies)
        if not any(tally.written for tally in tallies):
            raise UserError(f"no row could be made of {', '.join(flags.data_path)}: see above. Nothing is written.")
        if sum(map(skipped_rows, tallies)):
            os.replace(aside / skipped.name, skipped)
            print(f"why each was left out: {skipped}")
        with kept_if_lost(aside / output.name, output, "--output_path"):
            os.replace(aside / output.name, output)
    print(f"wrote {sum(tally.written for tally in tallies):,} rows: {output}")


def convert(flags: ConvertFlags, aside: Path) -> list[Tally]:
    """Put the rows of all sets, and what could not be used of them, into files of the output's names in a folder."""
    name = Path(flags.output_path).name
    parts = MIXES[flags.mix].parts if flags.mix else {flags.source: Part(flags.rows, flags.language)}
    options = Options(flags.encoding, flags.answers, flags.split, flags.drop_laws, flags.direction)
    draw, sets, tallies = Random(flags.seed), [], []
    with (aside / Path(name).with_suffix(".skipped.jsonl")).open("wb") as skipped:
        for known, paths in flags.paths_by_set().items():
            tally, rows = Tally(known), RowFile(aside / f"{known}.rows")
            how = (flags.prompts, asked_as(known, flags), parts[known].language, flags.drop_system, flags.category)
            found = SETS[known].read(paths, options)
            with closing(rows):
                for _ in tqdm(
                    write_rows(found, rows, skipped, tally, Writing(flags.to, *how), draw),
                    desc=printable(known),
                    unit="row",
                    disable=None,
                ):
                    pass
            sets.append((rows, drawn(tally.usable, parts[known].rows, draw)))
            tally.written = len(sets[-1][1])
            tallies.append(tally)
        skipped.flush()
        os.fsync(skipped.fileno())
    write_output(aside / name, sets, draw if flags.mix else None)
    return tallies


def asked_as(known: str, flags: ConvertFlags) -> object:
    """How the questions of a set are asked, with what the flags say in place of its own."""
    asked = SETS[known].asked
    if asked is None:
        return None
    own = replace(asked, instructions=tuple(flags.instruction)) if flags.instruction else asked
    return own if flags.asker is None else replace(own, asker=flags.asker)


def write_output(file: Path, sets: list[tuple[RowFile, list[int]]], draw: Random | None) -> None:
    """Write the chosen rows of the sets, one behind the other, or in an order that is drawn."""
    with file.open("wb") as opened:
        if draw is None:
            for rows, chosen in sets:
                opened.writelines(rows.lines(chosen))
        else:
            order = [number for number, (_, chosen) in enumerate(sets) for _ in chosen]
            draw.shuffle(order)
            lines = [rows.lines(chosen) for rows, chosen in sets]
            opened.writelines(next(lines[number]) for number in order)
        opened.flush()
        os.fsync(opened.fileno())


def skipped_rows(tally: Tally) -> int:
    return sum(tally.skipped.values())


def print_tallies(tallies: list[Tally]) -> None:
    """What became of each set, by reasons."""
    for tally in tallies:
        print(f"{tally.name}\n  read      {tally.found:,} rows\n  usable    {tally.usable:,}")
        if tally.written != tally.usable:
            print(f"  drawn     {tally.written:,}")
        for what, count in tally.mended.most_common():
            print(f"  mended    {count:,} ({what})")
        for reason, count in tally.skipped.most_common():
            print(f"  left out  {count:,} ({reason})")


if __name__ == "__main__":
    run(lambda: main(*parse(__doc__, ConvertFlags)))
