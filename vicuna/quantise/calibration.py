"""The text that a model is quantised on: a local file, or one of the sets that the papers used, as rows of ids."""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from vicuna.data.records import open_sources
from vicuna.errors import UserError, first_line
from vicuna.evaluation.windows import Text, cut_windows, read_text
from vicuna.files.proxies import check_proxies
from vicuna.foreign.odd_files import NEVER_RUN
from vicuna.prompt.tokenizer import TextTokenizer

SHORTEST = 11  # tokens; GPTQModel drops shorter rows, whatever its settings say
HELD_OUT = 10  # one in so many rows is kept from the quantisation where --eval measures on them


class NamedSet(NamedTuple):
    """A set of the hub.

    Attributes:
        repo, config, revision, files: which of its files; the parts to quantise and to measure on; field: of the text.
    """

    repo: str
    config: str | None
    revision: str | None
    field: str
    parts: tuple[str, str]
    files: dict[str, str] | None = None


NAMED = {
    "wikitext2": NamedSet("Salesforce/wikitext", "wikitext-2-raw-v1", None, "text", ("train", "test")),
    # Only as the hub converted it: its own files are read by code of theirs, which is never run.
    "ptb": NamedSet("ptb-text-only/ptb_text_only", None, "refs/convert/parquet", "sentence", ("train", "test")),
    "c4": NamedSet(
        *("allenai/c4", None, None, "text", ("train", "validation")),
        files={
            "train": "en/c4-train.00000-of-01024.json.gz",
            "validation": "en/c4-validation.00000-of-00008.json.gz",
        },
    ),
}


@dataclass(frozen=True)
class Calibration:
    """Rows of ids that a model is quantised on.

    Attributes:
        held_out: rows of the same text that it is not quantised on.
        source: what they are made of; sha256: of that text; prompt_type: around its records, "" for plain text.
        too_short: rows that were left out.
    """

    rows: list[list[int]]
    held_out: list[list[int]]
    source: str
    sha256: str
    prompt_type: str
    too_short: int

    @property
    def tokens(self) -> int:
        return sum(map(len, self.rows))

    @property
    def ids_sha256(self) -> str:
        """Of all ids of the rows, in their order."""
        return hashlib.sha256(repr(self.rows).encode()).hexdigest()

    def as_json(self) -> dict[str, Any]:
        """What is written of it beside the weights."""
        return {
            "dataset": Path(self.source).name, "sha256": self.sha256, "ids_sha256": self.ids_sha256,
            "rows": len(self.rows), "tokens": self.tokens, "prompt_type": self.prompt_type,
        }  # fmt: skip


def read_calibration(
    dataset: str, tokenizer: TextTokenizer, prompt_type: str, count: int, length: int, seed: int, hold_out: bool
) -> Calibration:
    """Rows drawn from a text, of at most `length` tokens each.

    Plain text is cut into rows; a record is a row, in the model's template, with its answer.

    Args:
        count: most rows.
        hold_out: keep some of the text back.

    Raises:
        UserError: a text that can not be had, or has no row that is long enough.
    """
    texts = _named(dataset, hold_out) if dataset in NAMED else [_local(dataset, prompt_type)]
    found = [_rows(tokenizer, text, length) for text in texts]
    held: list[list[int]] = []
    rows = found[0]
    if hold_out and len(found) > 1:
        held = found[1]
    elif hold_out:
        held, rows = rows[::HELD_OUT], [row for at, row in enumerate(rows) if at % HELD_OUT]
    enough = [row for row in rows if len(row) >= SHORTEST]
    if not enough or (hold_out and not held):
        raise UserError(
            f"DATASET {dataset} has {len(enough)} rows of {SHORTEST} or more tokens"
            f"{f', and {len(held)} to measure on' if hold_out else ''}: name a longer text."
        )
    drawn = random.Random(seed).sample(enough, min(count, len(enough)))
    text = texts[0]
    return Calibration(drawn, held, dataset, text.sha256, text.prompt_type, len(rows) - len(enough))


def check_dataset(dataset: str) -> None:
    """See that a text is there; nothing is asked of the hub.

    Raises:
        UserError: there is no such file.
    """
    if dataset in NAMED:
        return
    try:
        open_sources(dataset)
    except UserError as error:
        raise _not_there(error) from error


def _not_there(error: UserError) -> UserError:
    said = str(error).replace("--data_path ", "DATASET ").replace("--data ", "DATASET ")
    return UserError(f"{said} A set of the hub is one of {', '.join(NAMED)}.")


def _rows(tokenizer: TextTokenizer, text: Text, length: int) -> list[list[int]]:
    try:
        return [window.ids for window in cut_windows(tokenizer, text, length, count_prompts=True).windows]
    except UserError as error:
        raise UserError(str(error).replace("--data ", "DATASET ")) from error


def _local(path: str, prompt_type: str) -> Text:
    try:
        return read_text(path, prompt_type)
    except UserError as error:
        raise _not_there(error) from error


def _named(name: str, both: bool) -> list[Text]:
    """A set of the hub: the part to quantise on, and the one to measure on."""
    from datasets import load_dataset

    chosen = NAMED[name]
    check_proxies()
    texts = []
    for part in chosen.parts[: 1 + both]:
        files = {"data_files": {part: chosen.files[part]}} if chosen.files else {}
        try:
            found = load_dataset(chosen.repo, chosen.config, split=part, revision=chosen.revision, **files, **NEVER_RUN)
        except Exception as error:  # a dozen libraries' own, from the network to a broken file
            raise UserError(
                f"DATASET {name} is {chosen.repo} on the hub, which did not give it ({first_line(error)}). Name a "
                "local file of text or records instead: the model's own language suits it better."
            ) from error
        texts.append(_text(f"{name} ({part})", found[chosen.field]))
    return texts


def _text(name: str, documents: Sequence[str]) -> Text:
    kept = [one for one in documents if one.strip()]
    digest = hashlib.sha256("\n\n".join(kept).encode())
    return Text(name, [[{"role": "assistant", "content": one}] for one in kept], "", digest.hexdigest())
