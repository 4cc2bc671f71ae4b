"""The kind `loss`: answer loss and perplexity of models on held-out records, by category.

Every model is measured on the same records: one that has no room in the context of any of them counts for none.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm

from vicuna.answer.prediction import make_batches
from vicuna.answer.stream import is_out_of_memory
from vicuna.data.bad_row import SHOWN_BAD_ROWS, BadRow
from vicuna.data.fields import parse_fields, pick
from vicuna.data.files import read_rows
from vicuna.data.flags import ReadFlags
from vicuna.data.formats import to_messages
from vicuna.data.records import Source, check_problems, open_sources
from vicuna.errors import UserError, printable
from vicuna.evaluation.candidates import Candidate, agreed_prompt_type, common_length, find_candidates, labels
from vicuna.evaluation.flags import LossFlags, ModelsFlags, OutputFlags
from vicuna.evaluation.journal import Journal, open_journal
from vicuna.evaluation.markdown import table
from vicuna.evaluation.windows import RecordWindow, record_window
from vicuna.log import log
from vicuna.prompt.templates import Message

CUTOFF_LEN = 2048
NONE = "–"  # category of a record that names none


@dataclass
class HeldOut:
    """Records to measure on, with the file and the line of each, and what it is about."""

    sources: list[Source]
    dialogues: list[list[Message]] = field(default_factory=list)
    places: list[tuple[str, int]] = field(default_factory=list)
    categories: list[str] = field(default_factory=list)
    bad: Counter = field(default_factory=Counter)


def evaluate_loss(models: ModelsFlags, read: ReadFlags, flags: LossFlags, output: OutputFlags) -> None:
    """Measure each model on each record, and write the tables.

    Raises:
        UserError: before weights are read, models and files that can not be used; a model that fails.
        Stopped: a signal; how much is done.
    """
    if not read.data_path:
        raise UserError("--data_path is missing: name a file of held-out records, as finetune.py takes them.")
    candidates = find_candidates(models.pairs(), models.gpu_layers)
    names = labels(candidates)
    prompt_type = flags.prompt_type or agreed_prompt_type(candidates)
    held_out = read_held_out(read, prompt_type, flags.category)
    length = common_length(candidates, "--cutoff_len", flags.cutoff_len, CUTOFF_LEN)
    windows = [[record_window(one.tokenizer, prompt_type, messages, length) for messages in held_out.dialogues]
               for one in candidates]  # fmt: skip
    chosen = [i for i in range(len(held_out.dialogues)) if all(of_model[i] for of_model in windows)]
    if not chosen:
        raise UserError(f"--cutoff_len {length} leaves no record an answer: raise it, or name other records.")
    left_out = len(held_out.dialogues) - len(chosen)
    _tell(held_out, prompt_type, length, left_out, sum(one.cut for of_model in windows for one in of_model if one))
    settings = {
        "--model_path and --lora_path": names, "--prompt_type": prompt_type, "--cutoff_len": length,
        "--category": flags.category, "--fields": list(read.fields), "--skip_bad_rows": read.skip_bad_rows,
    }  # fmt: skip
    contents = {"--data_path": " ".join(one.sha256 for one in held_out.sources)}
    contents |= {name: one.sha256 for name, one in zip(names, candidates, strict=True)}
    with open_journal(output, "loss", ("model", "record"), settings, contents) as journal:
        with journal.stopping(len(names) * len(chosen), "records are measured"):
            for name, candidate, of_model in zip(names, candidates, windows, strict=True):
                _measure(name, candidate, {i: of_model[i] for i in chosen}, held_out, flags.micro_batch, journal)
        found = summarise(journal, names, chosen)
        journal.write({"prompt_type": prompt_type, "left_out": left_out, "models": found}, _page(found, held_out))
    print(_overall(found), flush=True)


def read_held_out(read: ReadFlags, prompt_type: str, category: str) -> HeldOut:
    """Read the records, and what each is about.

    Raises:
        UserError: files or rows that can not be used; no record has the field.
    """
    paths, problems = parse_fields(read.fields), []
    found = HeldOut(open_sources(read.data_path))
    for source in found.sources:
        if source.weight != 1:
            raise UserError(f"--data_path {source.path}:{source.weight:g}: every record counts once; leave the weight.")
        source.encoding, rows = read_rows(source.path, read.encoding)
        for line, row in rows:
            try:
                found.dialogues.append(to_messages(pick(row, paths), prompt_type))
            except BadRow as problem:
                problems += [f"{source.path} line {line}: {problem}"] if len(problems) < SHOWN_BAD_ROWS else []
                found.bad[problem.reason] += 1
                continue
            said = row.get(category) if isinstance(row, dict) else None
            found.categories.append(NONE if said in (None, "") else str(said))
            found.places.append((str(source.path), line))
    if not read.skip_bad_rows:
        check_problems(problems, found.bad.total(), found.bad.total() + len(found.dialogues), found.sources)
    if not found.dialogues:
        raise UserError(f"--data_path {' '.join(read.data_path)} has no usable record; expected at least one.")
    if set(found.categories) == {NONE} and category != LossFlags.category:
        raise UserError(f"--category {category}: no record has such a field; leave it out, or name another one.")
    return found


def _tell(held_out: HeldOut, prompt_type: str, length: int, left_out: int, cut: int) -> None:
    said = f"{len(held_out.dialogues)} records as --prompt_type {prompt_type}, at most {length} tokens each"
    log.info("%s", said)
    if held_out.bad:
        reasons = ", ".join(f"{count} {reason}" for reason, count in held_out.bad.most_common())
        log.warning("WARNING %d rows are left out: %s", held_out.bad.total(), reasons)
    if left_out:
        log.warning("WARNING %d records have no room for an answer, and count for no model", left_out)
    if cut:
        log.warning("WARNING %d answers lose their end", cut)


def _measure(
    name: str,
    candidate: Candidate,
    windows: Mapping[int, RecordWindow],
    held_out: HeldOut,
    micro_batch: int,
    journal: Journal,
) -> None:
    """Measure a model on the records that are not in the journal; a batch of which some are is computed as a whole."""
    pending = [i for i in windows if (name, i) not in journal]
    if not pending:
        return
    lengths = [len(one.window.ids) for one in windows.values()]
    runner = candidate.open(max(lengths)).runner
    with tqdm(total=len(windows), initial=len(windows) - len(pending), desc=printable(name), unit="record",
              disable=None, leave=False) as bar:  # fmt: skip
        for batch in make_batches(list(windows), lengths, micro_batch):
            if new := [i for i in batch if (name, i) not in journal]:
                journal.add(*_lines(name, runner, batch, set(new), windows, held_out))
                bar.update(len(new))


def _lines(
    name: str, runner: Any, batch: Sequence[int], new: set[int], windows: Mapping[int, RecordWindow], held_out: HeldOut
) -> list[dict[str, Any]]:
    try:
        found = runner.nll([windows[i].window.ids for i in batch])
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            f"{name} ran out of memory on {len(batch)} records at once: lower --micro_batch {len(batch)}, "
            "--cutoff_len or --bits; what was found stays."
        ) from error
    lines = []
    for i, nll in zip(batch, found, strict=True):
        one, (file, line) = windows[i], held_out.places[i]
        counted = nll[one.window.start - 1 :].double()
        lines.append(
            {
                "model": name, "record": i, "file": file, "line": line, "category": held_out.categories[i],
                "nll": float(counted.sum()), "tokens": one.window.counted, "characters": one.characters,
                "bytes": one.size_bytes, "cut": one.cut,
            }
        )  # fmt: skip
    return [line for line in lines if line["record"] in new]


def summarise(journal: Journal, names: Sequence[str], chosen: Sequence[int]) -> list[dict[str, Any]]:
    """Figures of each model, over all records and by category."""
    found = []
    for name in names:
        lines = [journal[name, i] for i in chosen]
        groups: dict[str, list[dict[str, Any]]] = {}
        for line in lines:
            groups.setdefault(line["category"], []).append(line)
        found.append(
            {"model": name, **_figures(lines), "categories": {one: _figures(of) for one, of in groups.items()}}
        )
    return found


def _figures(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Loss per token of the answers, EOS included, as in training; and by what stays the same whatever cuts them."""
    nll = math.fsum(math.nan if line["nll"] is None else line["nll"] for line in lines)
    tokens, characters, size = (sum(line[name] for line in lines) for name in ("tokens", "characters", "bytes"))
    loss = nll / tokens
    return {
        "records": len(lines),
        "tokens": tokens,
        "loss": loss,
        "perplexity": _exp(loss),
        "per_character": _exp(nll / characters) if characters else math.nan,
        "bits_per_byte": nll / math.log(2) / size if size else math.nan,
    }


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


def _overall(found: Sequence[dict[str, Any]]) -> str:
    heads = ("model", "records", "tokens", "loss", "change", "perplexity", "per character", "bits/byte")
    rows = [
        (one["model"], str(one["records"]), str(one["tokens"]), f"{one['loss']:.4f}", _change(one, found[0]),
         f"{one['perplexity']:.5g}", f"{one['per_character']:.5g}", f"{one['bits_per_byte']:.4f}")
        for one in found
    ]  # fmt: skip
    return table(heads, rows)


def _change(one: dict[str, Any], first: dict[str, Any]) -> str:
    return NONE if one is first else f"{one['loss'] - first['loss']:+.4f}"


def _page(found: Sequence[dict[str, Any]], held_out: HeldOut) -> str:
    files = ", ".join(f"`{source.path}`" for source in held_out.sources)
    parts = [
        f"# Answer loss on {files}",
        "Mean over all tokens of the answers, in nats; the change is against the first model.",
        _overall(found),
    ]
    if len({one["tokens"] for one in found}) > 1:
        parts.append("The models cut the text differently: compare them by character or byte, not by token.")
    categories = found[0]["categories"]
    if len(categories) > 1:
        rows = [
            (name, str(of["records"]), *(_loss_and_perplexity(one["categories"][name], of) for one in found))
            for name, of in categories.items()
        ]
        parts += ["## By category", "Loss, its change, and perplexity.",
                  table(("category", "records", *(one["model"] for one in found)), rows)]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _loss_and_perplexity(one: dict[str, Any], first: dict[str, Any]) -> str:
    change = "" if one is first else f" ({_change(one, first)})"
    return f"{one['loss']:.4f}{change}, {one['perplexity']:.4g}"
