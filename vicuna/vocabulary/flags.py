"""Flags of the texts that a vocabulary is trained or measured on."""

from dataclasses import dataclass

from vicuna.args import flag
from vicuna.data.fields import parse_fields
from vicuna.errors import UserError

SAMPLE = ["sample/text/knowledge.txt", "sample/text/stories.txt", "sample/text/dialogue_and_code.txt"]


@dataclass
class TextFlags:
    """Which texts."""

    data_path: list[str] = flag(
        SAMPLE,
        "texts: .txt, or .json, .jsonl, .csv, .tsv or .parquet of records in any known format, of which every message "
        "counts; all but .parquet also as .gz or .zst",
    )
    fields: list[str] = flag([], "where a file with names of its own has the fields of a known format")
    skip_bad_rows: bool = flag(False, "leave malformed records out instead of stopping")
    encoding: str | None = flag(None, "text encoding of the files; default: found out among UTF-8, UTF-16 and GB18030")

    def __post_init__(self) -> None:
        parse_fields(self.fields)
        if not self.data_path:
            raise UserError("--data_path names no file; expected one or more texts.")
