"""Files larger than memory: read in pieces, dialogues and rows on disk, and every row as when they are read at once."""

import gzip
import json
import random
import subprocess
import sys
from pathlib import Path

import pyarrow
import pytest

from vicuna.data import pieces
from vicuna.data.bad_row import BadRow
from vicuna.data.cache import load_or_tokenise
from vicuna.data.files import read_rows
from vicuna.data.flags import DataFlags
from vicuna.data.records import open_sources, read_records
from vicuna.data.spilled import spilled_dialogues
from vicuna.errors import UserError
from vicuna.prompt.tokenizer import TextTokenizer

ROOT = Path(__file__).resolve().parent.parent.parent
DOCUMENTS = ["春眠不觉晓，\n处处闻啼鸟。", "a", "一行很长的文字" * 9, "夜来风雨声", "🦙\r\n花落知多少？"]


def text_file(file: Path, end: str) -> Path:
    draw = random.Random(0)
    parts = [draw.choice(DOCUMENTS) + draw.choice(("\n\n", "\n\n\n", "\n \t\n", "\n\n")) for _ in range(60)]
    file.write_bytes(("\ufeff" + "".join(parts)).replace("\r\n", "\n").replace("\n", end).encode())
    return file


def json_file(file: Path, end: str) -> Path:
    draw, lines = random.Random(1), []
    for number in range(60):
        row = {"text": f"{number} {draw.choice(DOCUMENTS[:3])}", "more": {"a": [1, {}]}}
        indent = draw.choice((None, None, 1))
        lines.append(json.dumps(row, ensure_ascii=False, indent=indent))
        if draw.random() < 0.1:
            lines.append(
                draw.choice(('{"text": 1,}', '{"text": "a",', "no JSON", "", '[{"text": "x"}, {"text": "y"}]'))
            )
    file.write_bytes("\n".join(lines).replace("\n", end).encode())
    return file


def rows(file: Path, encoding: str | None = None) -> list[tuple]:
    name, found = read_rows(file, encoding)
    return [name, *((line, str(row) if isinstance(row, BadRow) else row) for line, row in found)]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("piece", [1, 40, 200, 1000])
def test_a_file_in_pieces_has_the_rows_of_the_whole_one(tmp_path, monkeypatch, end, piece):
    for file in (text_file(tmp_path / "a.txt", end), json_file(tmp_path / "a.jsonl", end)):
        whole = rows(file)
        with monkeypatch.context() as changed:
            changed.setattr(pieces, "PIECE", piece)
            assert len(list(pieces.pieces(file, file.suffix, "utf-8"))) > 2
            assert rows(file) == whole


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
@pytest.mark.parametrize(("encoding", "given"), [("utf-8", False), ("utf-16", False), ("gb18030", True)])
def test_compressed_files_and_other_encodings_are_read_in_pieces_too(tmp_path, monkeypatch, ending, encoding, given):
    for file in (text_file(tmp_path / "a.txt", "\r\n"), json_file(tmp_path / "a.jsonl", "\n")):
        kind = file.suffix + ending
        raw = file.read_text("utf-8-sig").encode(encoding)
        there = tmp_path / f"b{kind}"
        there.write_bytes({"": bytes, ".gz": gzip.compress, ".zst": zstandard}[ending](raw))
        asked = encoding if given else None
        whole = rows(there, asked)
        assert whole[0] == encoding
        with monkeypatch.context() as changed:
            changed.setattr(pieces, "PIECE", 1000)
            assert pieces.large_encoding(there, kind, asked) == encoding
            assert len(list(pieces.pieces(there, kind, encoding))) > 2
            assert rows(there, asked) == whole


def zstandard(raw: bytes) -> bytes:
    return pyarrow.compress(raw, codec="zstd", asbytes=True)


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_a_large_compressed_file_that_breaks_off_is_named(tmp_path, monkeypatch, ending):
    raw = "".join(f"第{n}段，{random.Random(n).random()}。\n\n" for n in range(2000)).encode()
    file = tmp_path / f"a.txt{ending}"
    file.write_bytes((gzip.compress if ending == ".gz" else zstandard)(raw)[:-2000])
    monkeypatch.setattr(pieces, "PIECE", 1000)
    with pytest.raises(UserError, match=r"is not a whole (gzip|Zstandard) file: .* Make or copy it again"):
        read_rows(file)


@pytest.mark.parametrize("encoding", ["utf-8", "base64", "no-such"])
def test_what_is_in_no_such_encoding_is_read_at_once(tmp_path, monkeypatch, encoding):
    monkeypatch.setattr(pieces, "PIECE", 10)
    file = tmp_path / "a.txt"
    file.write_text("春天来了，花都开了。\n\n" * 40, encoding="gb18030")
    assert pieces.large_encoding(file, ".txt", encoding) is None


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("piece", [7, 1000])
def test_gb18030_is_found_out_and_read_in_pieces(tmp_path, monkeypatch, ending, piece):
    text = "".join(f"第{n}段：春天来了，花都开了，我们去看看。\n\n" for n in range(80))
    file = tmp_path / f"a.txt{ending}"
    raw = text.encode("gb18030")
    file.write_bytes(gzip.compress(raw) if ending else raw)
    whole = rows(file)
    assert (whole[0], len(whole)) == ("gb18030", 81)
    monkeypatch.setattr(pieces, "PIECE", piece)
    assert pieces.large_encoding(file, f".txt{ending}", None) == "gb18030"
    assert rows(file) == whole


CHINESE = "春天来了，花都开了，我们去看看。\n\n" * 40
NO_GB18030 = {
    "a line of UTF-8": CHINESE.encode("gb18030") + "我们的国家有人".encode() + b"\n\n" + CHINESE.encode("gb18030"),
    "its last line of UTF-8": CHINESE.encode("gb18030") + "我们的国家有人".encode(),
    "Big5": "春天來了，花都開了，我們去看看。\n\n".encode("big5") * 40,
    "EUC-JP": "春が来て、花が咲きました。\n\n".encode("euc_jp") * 40,
    "UTF-16": CHINESE.encode("utf-16-le"),
    "breaks off": CHINESE.encode()[:-4],
}


@pytest.mark.parametrize("raw", NO_GB18030.values(), ids=list(NO_GB18030))
@pytest.mark.parametrize("piece", [7, 100])
def test_what_is_not_surely_gb18030_is_told_as_before(tmp_path, monkeypatch, raw, piece):
    file = tmp_path / "a.txt"
    file.write_bytes(raw)
    with pytest.raises(UserError) as whole:
        rows(file)
    monkeypatch.setattr(pieces, "PIECE", piece)
    assert pieces.large_encoding(file, ".txt", None) is None
    with pytest.raises(UserError) as again:
        rows(file)
    assert str(again.value) == str(whole.value)


def test_dialogues_on_disk_are_those_of_a_list(tmp_path):
    file = tmp_path / "a.jsonl"
    lines = [{"instruction": f"问{n}", "input": "文" * (n % 3), "output": f"答{n}"} for n in range(30)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    listed = read_records(str(file), "instruct")
    with spilled_dialogues(tmp_path) as dialogues:
        spilled = read_records(str(file), "instruct", dialogues=dialogues)
        assert list(spilled.dialogues) == listed.dialogues
        assert spilled.dialogues[7] == listed.dialogues[7]
        assert len(spilled.dialogues) == 30
        assert list(spilled.lines) == listed.lines
    assert list(tmp_path.iterdir()) == [file]


MEASURED = """
import resource, sys
from pathlib import Path
from vicuna.data import pieces
from vicuna.data.cache import load_or_tokenise
from vicuna.data.flags import DataFlags
from vicuna.data.records import open_sources
from vicuna.prompt.tokenizer import TextTokenizer
import datasets, pyarrow.ipc
pieces.PIECE = 1 << 18
base, small, large, cache = sys.argv[1:]
used = []
for file in (small, large):
    flags = DataFlags(data_path=[file], prompt_type="text", pack=True, cutoff_len=512, cache_path=cache, test_size=0)
    load_or_tokenise(flags, open_sources(flags.data_path), TextTokenizer(Path(base)), True)
    used.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10)
print(used[1] - used[0])
"""


def test_a_file_eight_times_as_large_takes_little_more_memory(tiny_base, tmp_path):
    text = (ROOT / "sample/text/stories.txt").read_text(encoding="utf-8") + "\n\n"
    sizes = []
    for name, times in (("small.txt", 30), ("large.txt", 240)):
        (tmp_path / name).write_text(text * times, encoding="utf-8")
        sizes.append((tmp_path / name).stat().st_size)
    argv = [tiny_base, tmp_path / "small.txt", tmp_path / "large.txt", tmp_path / "cache"]
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *map(str, argv)], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    # Read at once, it takes some thirty times its size.
    assert int(done.stdout) < 4 * (sizes[1] - sizes[0])


def test_what_is_mapped_from_the_cache_is_what_is_kept_in_memory(tiny_base, tmp_path):
    from vicuna.data.examples import tokenise

    tokenizer = TextTokenizer(tiny_base)
    flags = DataFlags(
        data_path=[str(ROOT / "sample/text/stories.txt")], prompt_type="text", pack=True, cutoff_len=64,
        cache_path=str(tmp_path), test_size=0,
    )  # fmt: skip
    found = load_or_tokenise(flags, open_sources(flags.data_path), tokenizer, True).train
    records = read_records(flags.data_path, "text")
    expected = tokenise(tokenizer, records, range(len(records.lines)), "text", 64, pack=True)
    assert found.rows[:] == expected.rows[:]
    assert (found.sha256, found.lengths, found.documents) == (expected.sha256, expected.lengths, expected.documents)


ARRAYS = {
    "compact": lambda rows: json.dumps(rows),
    "indented": lambda rows: json.dumps(rows, indent=2),
    "with a mark": lambda rows: "\ufeff \n" + json.dumps(rows, indent=1),
    "commas apart": lambda rows: "[\n" + "\n,\n".join(map(json.dumps, rows)) + "\n]\n",
    "lines": lambda rows: "\n".join(map(json.dumps, rows)),
    "joined": lambda rows: json.dumps(rows) + "\n" + json.dumps(rows, indent=1),
    "of lists": lambda rows: json.dumps([[row] for row in rows], indent=1),
    "of numbers": lambda rows: json.dumps([1234567, {"a": 1}] * 30),
    "a field twice": lambda rows: json.dumps(rows)[:-1] + ',{"a": 1, "a": 2},{"b": 1}]',
    "broken off": lambda rows: json.dumps(rows, indent=1)[:-30],
    "broken in the middle": lambda rows: json.dumps(rows, indent=1).replace('"b"', "b", 30).replace("b:", '"b":', 29),
    "a comma too many": lambda rows: json.dumps(rows)[:-1] + ",]",
    "empty": lambda rows: "[]",
}


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_in_pieces_has_the_rows_of_the_whole_one(tmp_path, monkeypatch, name):
    draw = random.Random(1)
    made = [{"a": "x" * draw.randrange(50), "b": [{"c": "},\n{"}, ["q"]]} for _ in range(60)]
    file = tmp_path / "a.json"
    file.write_bytes(ARRAYS[name](made).encode())
    packed = tmp_path / "a.json.gz"
    packed.write_bytes(gzip.compress(file.read_bytes()))
    whole = rows(file)

    for piece in (1, 40, 1000):
        monkeypatch.setattr(pieces, "PIECE", piece)
        assert rows(file) == rows(packed) == whole


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("piece", [5, 20])
def test_a_large_table_is_read_row_by_row(tmp_path, monkeypatch, encoding, piece):
    file = tmp_path / "a.csv"
    file.write_bytes('q,a\r\n1,"看，\n图"\r\n2\r\n3,4\r\n'.encode(encoding))
    whole = rows(file)
    monkeypatch.setattr(pieces, "PIECE", piece)

    assert pieces.large_encoding(file, ".csv", None)
    assert rows(file) == whole
    assert [line for line, *_ in whole[1:]] == [2, 4, 5]
