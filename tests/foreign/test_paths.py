"""Names that files from elsewhere give lead nowhere but into their folder, and what is no regular file is not read."""

import ast
import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from vicuna.conversion import cmedqa2
from vicuna.conversion.found import files_of
from vicuna.crawling.prompts import TOPICS
from vicuna.data.records import open_sources
from vicuna.errors import UserError
from vicuna.evaluation import answer_files, answers_page
from vicuna.exams import layouts
from vicuna.export import meta_layout
from vicuna.export.manifests import check_files
from vicuna.files.checksums import read_checksum_list
from vicuna.files.row_lines import RowLines
from vicuna.files.tensors import refuse_old_llama_cpp
from vicuna.foreign.paths import (
    copy_bounded,
    inside,
    open_regular,
    read_bounded,
    read_text,
    regular,
    regular_files,
    stays_below,
    what_stands_there,
)
from vicuna.model.base import fingerprint
from vicuna.model.model_card import is_ours
from vicuna.pages.terminal_commands import _file_errors

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def pipe(tmp_path):
    """A pipe in a folder, which nobody writes: to open it as a file is opened waits for ever."""
    os.mkfifo(tmp_path / "pipe.jsonl")
    return tmp_path / "pipe.jsonl"


def through_load(file: Path) -> None:
    with _file_errors(file), file.open(encoding="utf-8"):
        raise AssertionError("was opened")


READERS = {
    "regular": regular,
    "bounded": lambda file: read_bounded(file, 10),
    "text": read_text,
    "data": lambda file: open_sources([str(file)]),
    "published sets": lambda file: files_of([str(file)]),
    "list of hashes": read_checksum_list,
    "examination": layouts._text,
    "answers": lambda file: answer_files._read(file, str(file), "--answers"),
    "page": lambda file: answers_page.check_into([str(file)]),
    "output": lambda file: RowLines(file, "answers").read(),
    "saved chats": through_load,
}


@pytest.mark.parametrize("name", READERS)
def test_a_pipe_or_a_device_in_the_place_of_a_file_is_refused_and_never_waited_for(name, pipe, tmp_path):
    with pytest.raises(UserError, match="pipe"):
        READERS[name](pipe)
    device = tmp_path / "device.jsonl"
    device.symlink_to("/dev/zero")
    with pytest.raises(UserError, match="device"):
        READERS[name](device)


@pytest.mark.parametrize("name", [name for name in READERS if name not in ("saved chats", "published sets")])
def test_a_folder_in_the_place_of_a_file_is_refused(name, tmp_path):
    (tmp_path / "a.jsonl").mkdir()
    with pytest.raises(UserError, match="folder"):
        READERS[name](tmp_path / "a.jsonl")


def test_a_card_that_is_a_pipe_is_nobody_elses_to_read(pipe):
    assert not is_ours(pipe)


def test_what_stands_in_the_place_of_a_file_is_said(pipe, tmp_path):
    assert what_stands_there(pipe) == "is a pipe"
    assert what_stands_there(tmp_path) == "is a folder"
    assert what_stands_there(tmp_path / "none") == "does not exist"
    assert what_stands_there(Path(__file__)) == ""


def test_links_are_followed_to_regular_files_as_in_the_caches_of_hubs(tmp_path):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "1f").write_text("one", encoding="utf-8")
    (tmp_path / "snapshot").mkdir()
    link = tmp_path / "snapshot" / "a.txt"
    link.symlink_to("../blobs/1f")
    again = tmp_path / "snapshot" / "b.txt"
    again.symlink_to("a.txt")
    assert read_text(again) == "one"
    assert regular(again) == again
    (tmp_path / "snapshot" / "round").symlink_to("round")
    with pytest.raises(UserError, match="round "):
        read_text(tmp_path / "snapshot" / "round")


def test_a_pipe_that_a_shell_hands_on_is_read_where_texts_may_come_so():
    read, write = os.pipe()
    with os.fdopen(read), os.fdopen(write, "wb") as writing:
        writing.write(b"one")
        writing.close()
        assert read_text(Path(f"/dev/fd/{read}"), pipes=True) == "one"
    read, write = os.pipe()
    with os.fdopen(read), os.fdopen(write, "wb") as writing:
        writing.write(b"one")
        writing.flush()
        with pytest.raises(UserError, match="is a pipe"):
            read_text(Path(f"/dev/fd/{read}"))
        writing.close()
        with pytest.raises(UserError, match="at most 2"):
            read_bounded(Path(f"/dev/fd/{read}"), 2, pipes=True)


def test_a_list_of_hashes_may_come_from_a_command(tmp_path):
    program = "from pathlib import Path\nfrom vicuna.files.checksums import read_checksum_list\n"
    program += "print(read_checksum_list(Path('/dev/stdin')).entries[0].pattern)"
    said = f"{hashlib.sha256(b'').hexdigest()}  a.bin\n"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], input=said, env=env, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.returncode) == ("a.bin\n", 0)


def test_nothing_is_read_further_than_its_limit(tmp_path):
    file = tmp_path / "a"
    with file.open("wb") as opened:
        opened.truncate(1 << 40)  # takes no room on the disk
    with pytest.raises(UserError, match=r"1,099,511,627,776 bytes; expected at most 10\."):
        read_bounded(file, 10)
    file.write_bytes(b"0123456789")
    assert read_bounded(file, 10) == b"0123456789"
    file.write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"is no text in UTF-8 \(byte 0\)"):
        read_text(file)


@pytest.mark.parametrize(
    ("name", "stays"),
    [("a.bin", True), ("7B/a.bin", True), ("./a", True), ("a..b", True), ("..", False), ("x/../a", False),
     ("/etc/a", False), ("..\\a", False), ("\\\\host\\a", False), ("C:\\a", False), ("", False), (".", False)],
)  # fmt: skip
def test_a_name_with_folders_stays_below_its_own(name, stays):
    assert stays_below(name) is stays


@pytest.mark.parametrize("name", ["../a", "/a", "x/a", "x\\a", "C:a", "", ".", "..", "a\n", None, 5])
def test_a_name_in_an_index_has_no_folder(name, tmp_path):
    with pytest.raises(UserError, match="expected the name of a file in"):
        inside(tmp_path, name, tmp_path / "index.json")
    assert inside(tmp_path, "a-00001-of-00002.bin", tmp_path) == tmp_path / "a-00001-of-00002.bin"


@pytest.mark.parametrize(
    "form", ["{digest}  {name}\n", '{{"files": {{"{name}": {{"sha256": "{digest}", "size": 3}}}}}}']
)
@pytest.mark.parametrize("name", ["../outside.bin", "{tmp}/outside.bin", "model/../../outside.bin", "sub/outside.bin"])
def test_a_list_of_hashes_reads_no_file_outside_its_folder(tmp_path, form, name):
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "model").mkdir()
    (tmp_path / "outside.bin").write_bytes(b"one")
    (folder / "sub" / "outside.bin").write_bytes(b"two")
    name = name.format(tmp=tmp_path)
    digest = hashlib.sha256(b"two" if name.startswith("sub") else b"one").hexdigest()
    hashes = tmp_path / "list"
    hashes.write_text(form.format(digest=digest, name=name), encoding="utf-8")
    findings = check_files(folder, read_checksum_list(hashes))
    # One below the folder is compared; of another only its last part counts, and that is not in the folder itself.
    assert [finding.good for finding in findings] == ([True] if name.startswith("sub") else [False] * len(findings))
    assert not any(finding.name == name for finding in findings if not name.startswith("sub"))


def test_what_an_archive_holds_is_unpacked_up_to_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(cmedqa2, "MOST_TABLE", 100)
    for name in ("question", "answer"):
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"{name}.csv", "x" * 101)
    aside = tmp_path / "aside"
    aside.mkdir()
    with pytest.raises(UserError, match=r"question\.csv in .*question\.zip is more than 100 bytes when it is unpacked"):
        cmedqa2._table(tmp_path, "question.csv", aside)
    monkeypatch.setattr(cmedqa2, "MOST_TABLE", 101)
    assert cmedqa2._table(tmp_path, "question.csv", aside).stat().st_size == 101
    with (tmp_path / "a").open("wb") as target, open_regular(tmp_path / "question.zip") as source:
        copy_bounded(source, target, 1 << 20, "it")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "question.zip").read_bytes()


# Which open files that were made here, or were seen to be regular ones; all others go by vicuna/foreign/paths.py.
FOLDERS = ["conversion", "crawling", "exams", "evaluation", "data", "pages"]
SEEN = {
    "conversion/cmedqa2.py", "conversion/writing.py", "data/cache.py", "data/files.py", "data/pieces.py",
    "evaluation/journal.py", "evaluation/memory.py", "evaluation/verdict.py", "pages/terminal_commands.py",
    "pages/assets.py", "pages/chat_layout.py",
}  # fmt: skip


def reads_file(node: ast.AST) -> bool:
    """Whether it is a call of a path's own methods that read."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return False
    mode = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else "" if node.args else "r"
    return node.func.attr in ("read_text", "read_bytes") or (node.func.attr == "open" and str(mode).startswith("r"))


def test_files_that_somebody_names_are_opened_in_one_place():
    files = [file for folder in FOLDERS for file in (ROOT / "vicuna" / folder).rglob("*.py")]
    trees = {str(file.relative_to(ROOT / "vicuna")): ast.parse(file.read_text(encoding="utf-8")) for file in files}
    found = {name for name, tree in trees.items() if any(map(reads_file, ast.walk(tree)))}
    assert "data/pieces.py" in found
    assert found - SEEN == set()


def test_topics_are_read_from_regular_files_alone(pipe):
    sys.path.insert(0, str(ROOT))
    try:
        from tools.crawl_prompt import read_topics
    finally:
        sys.path.remove(str(ROOT))
    (pipe.parent / "pipe.txt").symlink_to(pipe)
    with pytest.raises(UserError, match=r"--topics .*pipe\.txt is a pipe; expected a file\. Expected a topic a line"):
        read_topics([str(pipe.parent / "pipe.txt")])
    assert read_topics([]) == list(TOPICS)


def test_pipes_and_folders_beside_a_models_files_are_no_part_of_it(tmp_path):
    for name in ("config.json", "model.safetensors", "tokenizer.model"):
        (tmp_path / name).write_text(name, encoding="utf-8")
    before = fingerprint(tmp_path)
    for name in ("pytorch_model.bin", "tokenizer.pipe", "more.safetensors", "consolidated.00.pth"):
        os.mkfifo(tmp_path / name)
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "zero.bin").symlink_to("/dev/zero")
    assert fingerprint(tmp_path) == before
    refuse_old_llama_cpp(tmp_path)
    assert [file.name for file in regular_files(tmp_path, "tokenizer*")] == ["tokenizer.model"]
    with pytest.raises(UserError, match="consolidated"):
        meta_layout.read_meta(tmp_path, flag="--input_dir")
