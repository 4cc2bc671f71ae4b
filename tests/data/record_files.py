"""Files of records as the tests write them."""

import json
from pathlib import Path

GOOD = {"instruction": "天空是什么颜色？", "input": "", "output": "蓝色。"}


def write(file: Path, rows: list, encoding: str = "utf-8") -> Path:
    """A .jsonl of `rows`; a row that is text already is written as it is."""
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    file.write_bytes("".join(f"{line}\n" for line in lines).encode(encoding))
    return file


def numbered(file: Path, count: int, encoding: str = "utf-8") -> str:
    return str(write(file, [{"instruction": f"{file.stem} {i}", "output": "好"} for i in range(count)], encoding))
