"""Lines of rows: each whole or not there, none twice, and nothing of the user's written over."""

import json
import math
import os
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest

from vicuna.errors import UserError
from vicuna.files.row_lines import FACTS, RowLines, held_lines, to_json_line

ROOT = Path(__file__).resolve().parent.parent.parent
FLAG = "--output_path"
WRITE = """
import resource, sys
from pathlib import Path
from vicuna.files.row_lines import held_lines
with held_lines(Path(sys.argv[1]), "--output_path") as lines:
    lines.read()
    lines.begin({"n": 1})
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
    for row in range(1, 100):
        lines.append([{"row": row, "answer": "x" * 40}])
"""


def line(row: int) -> dict:
    return {"row": row, "answer": "答" * row}


def opened(file: Path) -> RowLines:
    lines = RowLines(file, FLAG)
    lines.read()
    return lines


def written(file: Path, *rows: int) -> Path:
    lines = opened(file)
    lines.begin({"n": 1})
    lines.append([line(row) for row in rows])
    lines.close()
    return file


def test_lines_are_gone_on_with_and_put_in_order_at_the_end(tmp_path):
    file = written(tmp_path / "a.jsonl", 3, 1)
    lines = opened(file)
    assert (lines.done, lines.facts["n"], 3 in lines, 2 in lines) == ([3, 1], 1, True, False)

    lines.begin({"n": 2})
    lines.append([line(2)])
    lines.sort()
    lines.close()

    assert [json.loads(one) for one in file.read_text(encoding="utf-8").splitlines()] == [line(1), line(2), line(3)]
    assert opened(file).facts["n"] == 1  # what it was begun with
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a.jsonl", f"a.jsonl{FACTS}"]


def test_of_a_line_that_a_kill_cut_nothing_counts(tmp_path):
    file = written(tmp_path / "a.jsonl", 1, 2)
    whole = file.read_bytes()
    second = whole.splitlines(keepends=True)[1]
    for cut in range(1, len(second)):
        file.write_bytes(whole[: len(whole) - cut])
        lines = opened(file)
        assert file.read_bytes() == whole[: len(whole) - cut]  # looked at, not touched
        assert lines.done == ([1, 2] if cut == 1 else [1])
        lines.begin({})
        lines.append([line(2)] if cut > 1 else [])
        lines.close()
        assert file.read_bytes() == whole


def test_a_file_whose_blocks_a_power_cut_lost_goes_on_behind_its_whole_lines(tmp_path):
    file = written(tmp_path / "a.jsonl", 1)
    with file.open("ab") as more:
        more.write(b"\0" * 300)
    lines = opened(file)
    lines.begin({})
    lines.close()
    assert lines.done == [1]
    assert file.read_bytes() == to_json_line(line(1))


def test_a_disk_that_is_full_leaves_whole_lines_and_the_rest_of_one(tmp_path):
    file = tmp_path / "a.jsonl"
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", WRITE, file], env=environ, capture_output=True, text=True)
    assert "File too large" in done.stderr
    assert file.stat().st_size == 1000

    lines = opened(file)
    assert lines.done == list(range(1, len(lines.done) + 1))
    assert 10 < len(lines.done) < 99
    lines.begin({})
    lines.append([line(len(lines.done) + 1)])
    lines.close()
    assert opened(file).done == lines.done


def test_what_was_not_begun_here_is_never_touched(tmp_path):
    file, facts = tmp_path / "a.jsonl", tmp_path / f"a.jsonl{FACTS}"
    file.write_text('{"mine": 1}', encoding="utf-8")
    with pytest.raises(UserError, match=r"a\.jsonl exists, and no a\.jsonl\.run_args\.json beside it says"):
        opened(file)
    for own in ('{"mine": 1}', "[1]", "no JSON"):
        facts.write_text(own, encoding="utf-8")
        for there in (True, False):
            if not there:
                file.unlink()
            with pytest.raises(UserError, match="was not written by this program, or was changed"):
                opened(file)
            file.write_text('{"mine": 1}', encoding="utf-8")
        assert facts.read_text(encoding="utf-8") == own
    assert file.read_text(encoding="utf-8") == '{"mine": 1}'


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ('{"row": 1}\n', "line 3 is a second one of row 1"),
        ("nonsense\n", "line 3 is no line of this program"),
        ('{"row": "3"}\n', "line 3 is no line"),
        ("[3]\n", "line 3 is no line"),
        ('{"row": true}\n', "line 3 is no line"),
        ("\n", "line 3 is no line"),
        ('{"row": 3\n{"row": 4}\n', "line 3 is no line"),
    ],
)
def test_lines_that_someone_changed_are_refused_and_stay(tmp_path, more, says):
    file = written(tmp_path / "a.jsonl", 1, 2)
    with file.open("a", encoding="utf-8") as changed:
        changed.write(more)
    before = file.read_bytes()
    with pytest.raises(UserError, match=f"{says}.*it was changed since"):
        opened(file)
    assert file.read_bytes() == before


def test_an_empty_file_and_one_that_only_has_facts_are_new(tmp_path):
    (tmp_path / "a.jsonl").touch()
    assert opened(written(tmp_path / "a.jsonl", 1)).done == [1]
    (tmp_path / "a.jsonl").unlink()
    lines = opened(tmp_path / "a.jsonl")
    assert lines.done == []
    lines.begin({"n": 5})
    lines.close()
    assert opened(tmp_path / "a.jsonl").facts["n"] == 5


def test_a_link_stays_one_and_rights_stay_as_they_are(tmp_path):
    real, link = tmp_path / "real.jsonl", tmp_path / "a.jsonl"
    real.touch()
    real.chmod(0o640)
    link.symlink_to(real)
    written(link, 2, 1)
    lines = opened(link)
    lines.sort()
    assert link.is_symlink()
    assert [json.loads(one)["row"] for one in real.read_text(encoding="utf-8").splitlines()] == [1, 2]
    assert real.stat().st_mode & 0o777 == 0o640


def test_a_second_process_is_refused_and_a_folder_too(tmp_path):
    file = tmp_path / "new/a.jsonl"
    with held_lines(file, FLAG):
        with pytest.raises(UserError, match=rf"a\.jsonl is in use by process {os.getpid()}, which writes it: wait"):
            held_lines(file, FLAG).__enter__()
        with held_lines(tmp_path / "new/b.jsonl", FLAG):
            pass
    assert not file.parent.exists()
    with pytest.raises(UserError, match="is a folder; expected a file, new or begun"):
        held_lines(tmp_path, FLAG).__enter__()
    with pytest.raises(UserError, match="is no folder that can be written to"):
        held_lines(Path("/proc/none/a.jsonl"), FLAG).__enter__()


def test_a_line_is_json_whatever_a_record_holds():
    value = {"nan": math.nan, "list": [math.inf, 1.5], "date": date(2026, 1, 2), "half": "\ud83d", "text": "行\u2028\n"}
    raw = to_json_line(value)
    assert raw.count(b"\n") == 1
    assert "行".encode() in raw
    found = json.loads(raw.decode("utf-8"), parse_constant=pytest.fail)
    assert found == {"nan": None, "list": [None, 1.5], "date": "2026-01-02", "half": "\ud83d", "text": "行\u2028\n"}
