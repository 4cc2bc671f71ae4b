"""What is written when its process is killed, or its terminal closed, before any of the changes that it makes to files:
what stood before stands, what stands is whole, and the next run leaves nothing else.
"""

import os
import shutil
import signal
import traceback
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.killed_at import watch
from vicuna.data import cache
from vicuna.data.flags import DataFlags
from vicuna.data.records import open_sources
from vicuna.errors import Stopped, UserError, ended_by_signals
from vicuna.files.outputs import atomic_file, atomic_folder
from vicuna.files.row_lines import held_lines
from vicuna.pages.saved_chats import write_chat
from vicuna.prompt.tokenizer import TextTokenizer

MOST = 200  # changes of one of these acts
KEPT = 77  # a status of our own


def write_folder(place: Path) -> None:
    with atomic_folder(str(place / "merged"), "--out_path") as folder:
        (folder / "config.json").write_text("{}", encoding="utf-8")
        (folder / "more").mkdir()
        (folder / "more" / "weights").write_bytes(bytes(10**6))


def write_file(place: Path) -> None:
    with atomic_file(place / "model.gguf", "--out_path") as file:
        file.write_bytes(bytes(10**6))


def save_chat(place: Path) -> None:
    write_chat(str(place), "someone", "a talk", "{}\n" * 10**5)


def add_rows(place: Path) -> None:
    with held_lines(place / "rows.jsonl", "--output") as lines:
        lines.read()
        lines.begin({})
        for row in (2, 1):
            lines.append([{"row": row}] if row not in lines else [])
        lines.sort()


ACTS = {"folder": write_folder, "file": write_file, "chat": save_chat, "rows": add_rows}


def contents(place: Path) -> dict[str, bytes]:
    return {str(file.relative_to(place)): file.read_bytes() for file in place.rglob("*") if file.is_file()}


def hidden(place: Path) -> list[str]:
    return [path.name for path in place.iterdir() if path.name[0] == "."]


def remove_visible(place: Path) -> None:
    for path in [path for path in place.iterdir() if path.name[0] != "." and path.name != "before"]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def fill(disk: Path, size: int) -> None:
    with suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
        for _ in range(size // 2**12):
            filler.write(bytes(2**12))


def status_of(act: Callable[[], None]) -> int:
    """How a process ends that only does this."""
    if not (child := os.fork()):
        status = 0
        try:
            act()
        except Stopped as ending:
            status = ending.status
        except UserError as error:
            status = KEPT if "is complete, and is kept as" in str(error) else 1
        except BaseException:
            traceback.print_exc()
            status = 1
        os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def end_at_each_change(act: Callable[[Path], None], place: Path, number: int, goes_on: bool = False) -> int:
    """End the act before each of its changes in turn, and see to it that what stands is what stood or what is to stand.
    Then let it come to its end. How many changes it makes.

    Args:
        goes_on: it goes on with what stands.
    """
    place.mkdir()
    (place / "before").write_text("stands", encoding="utf-8")
    assert status_of(lambda: act(place)) == 0
    whole = contents(place)
    assert not hidden(place)

    for nth in range(1, MOST):
        remove_visible(place)
        if (status := status_of(lambda nth=nth: ended(act, place, nth, number))) == 0:
            break
        assert status in (-number, 128 + number, KEPT), nth
        found = {name: content for name, content in contents(place).items() if name[0] != "."}
        assert found.pop("before") == b"stands"
        if status == KEPT:
            found = {name.replace("-kept", ""): content for name, content in found.items()}
        if not goes_on:
            assert found in ({}, {name: content for name, content in whole.items() if name != "before"}), nth
        assert status == -number or not hidden(place), nth  # a signal that can be heard leaves nothing at all
        if goes_on:
            assert status_of(lambda: act(place)) == 0
            assert contents(place) == whole, nth
    assert contents(place) == whole
    assert not hidden(place)
    return nth - 1


def ended(act: Callable[[Path], None], place: Path, nth: int, number: int) -> None:
    with ExitStack() as stack:
        if number != signal.SIGKILL:
            stack.enter_context(ended_by_signals())  # as every program does
        watch(place, nth, number)
        act(place)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP])
@pytest.mark.parametrize("act", ACTS.values(), ids=list(ACTS))
def test_an_output_that_is_cut_off_at_any_change(tmp_path, act, number):
    assert end_at_each_change(act, tmp_path / "place", number, act is add_rows) >= 5


@pytest.fixture(scope="module")
def tokenise(tiny_base, tmp_path_factory) -> Callable[[Path], None]:
    """Put some records into a cache."""
    folder = tmp_path_factory.mktemp("tokenised")
    file = folder / "records.jsonl"
    file.write_text('{"instruction": "问题", "output": "回答"}\n' * 8, encoding="utf-8")
    tokenizer = TextTokenizer(tiny_base)

    def tokenise(place: Path) -> None:
        flags = DataFlags(data_path=[str(file)], cache_path=str(place), test_size=2)
        cache.load_or_tokenise(flags, open_sources(flags.data_path), tokenizer, True)

    tokenise(folder / "first")  # reads what the processes below then have in common
    return tokenise


def test_the_cache_when_it_is_cut_off_at_any_change(tokenise, tmp_path):
    assert end_at_each_change(tokenise, tmp_path / "place", signal.SIGKILL) > 10


def test_the_cache_on_a_full_disk(tokenise, small_disk):
    fill(small_disk, 2**22)
    with pytest.raises(OSError, match="No space left"):
        tokenise(small_disk)
    assert [path.name for path in small_disk.iterdir()] == ["filler"]
    (small_disk / "filler").unlink()
    tokenise(small_disk)
    assert not hidden(small_disk)


@pytest.mark.parametrize("filled", [0, 2**22 - 2**17, 2**22])
@pytest.mark.parametrize("act", [write_folder, write_file, save_chat])
def test_a_full_disk_leaves_what_stood(small_disk, act, filled):
    (small_disk / "before").write_text("stands", encoding="utf-8")
    fill(small_disk, filled)
    before = contents(small_disk)
    if filled:
        with pytest.raises((OSError, UserError), match="No space left"):
            act(small_disk)
        assert contents(small_disk) == before
        assert len(list(small_disk.iterdir())) == 2
    else:
        act(small_disk)
        assert not hidden(small_disk)
        assert len(list(small_disk.iterdir())) == 3
