"""What the tests of tools/convert_data.py share: one call of it, and what it wrote."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.program_flags import tool
from vicuna.args import parse
from vicuna.conversion.flags import ConvertFlags


@dataclass
class Converted:
    rows: list[dict]
    skipped: list[dict]
    said: str


class Converter:
    """Runs the tool in this process, into a new file each time."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture):
        self.folder, self.capsys, self.calls = folder, capsys, 0

    def __call__(self, *argv: object) -> Converted:
        self.calls += 1
        output = self.folder / f"out{self.calls}.jsonl"
        (flags,) = parse("test", ConvertFlags, argv=[*map(str, argv), "--output_path", str(output)])
        tool("convert_data", "main")(flags)
        skipped = output.with_suffix(".skipped.jsonl")
        assert {file.name for file in self.folder.iterdir() if file.name.startswith(".")} == set()
        return Converted(lines(output), lines(skipped) if skipped.exists() else [], self.capsys.readouterr().out)


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
