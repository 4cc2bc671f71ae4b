"""What a row or a file costs grows as its text does: no two characters of it are compared with each other.

Python's own steps are counted. Patterns take theirs out of sight: the texts for these are so long that what is
quadratic would go on for hours.
"""

import sys
from types import SimpleNamespace

import pytest

from vicuna.conversion import html_text, speakers
from vicuna.crawling import replies
from vicuna.data import calls, readers, suspicions
from vicuna.data.encodings import decode_text
from vicuna.data.files import _table
from vicuna.data.formats import to_messages
from vicuna.data.parsing import parse_rows
from vicuna.data.pieces import array_pieces, lines, pieces
from vicuna.exams import layouts
from vicuna.files import checksums
from vicuna.prompt import own_template

SHORT, LONG = 300, 1_000_000
ASKED = [{"role": "user", "content": "q"}, {"role": "tool", "content": "x"}, {"role": "assistant", "content": "a"}]
CALL = {"role": "function_call", "content": '{"name": "f"}'}
CODE_FILES = ("/vicuna/", "html/parser.py", "_markupbase.py")


def rows_of(text: str, ending: str = ".jsonl") -> list:
    return list(parse_rows(text, ending))


def suspect(text: str) -> dict:
    return suspicions.suspicions([{"role": "user", "content": text}])


# What is read, and the text of a size: both counted steps and long texts.
COUNTED = {
    "broken objects": lambda n: rows_of("{ x\n" * n + "}\n" * n + "5"),
    "objects on a line": lambda n: rows_of('{"a":1}' * n),
    "objects on many lines": lambda n: rows_of('{"a":\n1}' * n),
    "lists behind empty lines": lambda n: rows_of("\n" * n + '[["a","b"]]\n' * n),
    "lists on a line": lambda n: rows_of('[["a","b"]]' * n),
    "arrays on a line": lambda n: rows_of('[{"a":1}]' * n, ".json"),
    "an array": lambda n: rows_of("[" + '{"a":1},' * n + "]", ".json"),
    "documents": lambda n: rows_of("a\n\n" * n, ".txt"),
    "a table": lambda n: list(_table(["a,b\n", *['"x,y\n'] * n], "excel")),
    "turns": lambda n: to_messages([["a", "b"]] * n, "chat"),
    "calls": lambda n: to_messages({"messages": [ASKED[0], *[CALL] * n, *ASKED[1:]]}, "base"),
    "opened lists of HTML": lambda n: html_text.to_markdown("<ul><li>" * n),
    "rows of HTML": lambda n: html_text.to_markdown("a" * n + "<tr>" * n),
    "speakers": lambda n: speakers.turns_of("System: a\n" * n + "Human: b"),
    "wrapped replies": lambda n: replies.read_reply('{"a": [' * n + "{"),
    "broken replies": lambda n: replies.read_reply('{"a" x}, ' * n),
    "checksums": lambda n: list(checksums._parse_tables("|a.bin|b|\n" + "|abcdefabcdef|x|\n" * n)),
}
PATTERNS = {
    "blanks in MOSS": lambda n: readers._unmarked(f"a{' ' * n}b", "x"),
    "blanks behind a brace": lambda n: replies.read_reply(f"{{a }}{' ' * n}x"),
    "blanks in what a function said": lambda n: calls.read_tool_message(
        {"content": f"<tool_response>a{' ' * n}b"}, "tool", "content", "x"
    ),
    "blanks before a thought": lambda n: own_template._BLOCK.match(" " * n + "x"),
    "blanks before an option": lambda n: layouts._PRINTED.match(" " * n),
    "blanks in a cell": lambda n: checksums._BREAK.split(f"a{' ' * n}b"),
    "dots in a heading": lambda n: checksums._file_in(".bi" * n),
    "questions within a text": lambda n: suspect("User: a\n" * (n // 4)),
    "elements that are not closed": lambda n: suspect("<p>a" * (n // 4)),
    "quotes that are escaped": lambda n: rows_of('{"a": "' + '\\"' * n + "\n5"),
    "blanks in HTML": lambda n: html_text.to_markdown(f"<p>a{' ' * n}b</p>"),
    "blanks before a line of HTML": lambda n: html_text.to_markdown(f"<p>a{' ' * n}b\nc</p>"),
    "comments that are not closed": lambda n: html_text.to_markdown("<p>" + "<!--" * (n // 10)),
    "ends that are not closed": lambda n: html_text.to_markdown("<p>" + "</a" * (n // 10)),
}


def steps(work, size: int) -> int:
    """Lines of Python's own that were run."""
    count = 0

    def line(frame, event, argument):
        nonlocal count
        count += 1
        return line

    before = sys.gettrace()
    sys.settrace(lambda frame, *_: line if any(one in frame.f_code.co_filename for one in CODE_FILES) else None)
    try:
        work(size)
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("name", COUNTED)
def test_four_times_the_text_takes_four_times_the_steps(name):
    assert steps(COUNTED[name], 4 * SHORT) < 4.2 * steps(COUNTED[name], SHORT) + 100


@pytest.mark.parametrize("name", PATTERNS)
def test_a_text_of_a_million_characters_is_read(name):
    PATTERNS[name](LONG)


def read_in_blocks(monkeypatch, tmp_path, cut, ending: str, text: str) -> tuple[str, int]:
    """(what the pieces of a file are together, the characters that were looked at for where to cut), in tiny blocks."""
    from vicuna.data import pieces as module

    looked = SimpleNamespace(at=0)
    real = module.decode

    def counted(decoder, text, at):
        looked.at += len(text) - at
        return real(decoder, text, at)

    monkeypatch.setattr(module, "decode", counted)
    monkeypatch.setattr(module, "PIECE", 64)
    file = tmp_path / f"a{ending}"
    file.write_text(text, encoding="utf-8")
    return "".join(cut(file, ending, "utf-8")), looked.at


def test_an_element_of_many_blocks_is_not_read_again_with_each(monkeypatch, tmp_path):
    for count in (1000, 4000):
        text = '[{"a": "' + "x" * (16 * count) + '"},\n{"a": 1}]'
        found, looked = read_in_blocks(monkeypatch, tmp_path, array_pieces, ".json", text)
        assert [row for _, row in parse_rows(found, ".json")][-1] == {"a": 1}
        assert looked < 4 * len(text)


@pytest.mark.parametrize(("cut", "ending"), [(pieces, ".jsonl"), (lines, ".csv")])
def test_a_file_without_rows_is_cut_from_its_text_alone(monkeypatch, tmp_path, cut, ending):
    text = "x" * 500 + "\r\n" + "}" * 63 + "\r\n{" + "y" * 300
    assert read_in_blocks(monkeypatch, tmp_path, cut, ending, text)[0] == text


def test_a_large_text_of_another_encoding_is_recognised_from_each_character_once(tmp_path):
    assert decode_text(("的是一" * 100_000).encode("gb18030"), tmp_path)[1] == "gb18030"
