"""Texts to windows: what a model is given, which tokens count, and what these stand for."""

import json
from pathlib import Path

import pytest

from vicuna.errors import UserError
from vicuna.evaluation.windows import Text, cut_windows, read_text
from vicuna.prompt.templates import IGNORE_INDEX, encode
from vicuna.prompt.tokenizer import TextTokenizer

DOCUMENTS = ["春天来了，花都开了。", "小河从山上流下来。\n它去哪里？", "🦊 is a fox."]


@pytest.fixture(scope="module")
def tokenizer(tiny_base) -> TextTokenizer:
    return TextTokenizer(tiny_base)


def plain(*documents: str) -> Text:
    return Text("a.txt", [[{"role": "assistant", "content": one}] for one in documents], "", "")


def write(file: Path, *rows: dict) -> str:
    file.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    return str(file)


@pytest.mark.parametrize("length", [2, 3, 7, 16, 10_000])
def test_plain_text_is_one_stream_in_windows_that_do_not_overlap(tokenizer, length):
    stream = [tokenizer.bos_id, *tokenizer.encode("\n\n".join(DOCUMENTS))]

    found = cut_windows(tokenizer, plain(*DOCUMENTS), length)

    rest = len(stream) % length == 1  # a window of one token, of which nothing would count
    assert [i for one in found.windows for i in one.ids] == stream[: len(stream) - rest]
    assert [len(one.ids) for one in found.windows[:-1]] == [length] * (len(found.windows) - 1)
    assert found.counted == sum(len(one.ids) - 1 for one in found.windows)


@pytest.mark.parametrize("length", [3, 7, 16, 10_000])
def test_characters_and_bytes_are_those_of_the_counted_tokens(tokenizer, length):
    """Of whole characters exactly; the fox is four tokens of a byte each."""
    text = "\n\n".join(DOCUMENTS)
    found = cut_windows(tokenizer, plain(*DOCUMENTS), length)
    kept = sum(len(one.ids) for one in found.windows)
    last = [tokenizer.bos_id, *tokenizer.encode(text)][kept:]
    first = [tokenizer.decode_continuation(one.ids[:1]) for one in found.windows]

    lost = sum(len(one) for one in first) + len(tokenizer.decode_continuation(last))
    assert found.characters == len(text) - lost
    if length == 10_000:
        assert (found.characters, found.size_bytes) == (len(text), len(text.encode()))
    else:
        assert found.characters < found.size_bytes < len(text.encode())


def test_of_records_the_labels_of_training_count(tokenizer, tmp_path):
    file = write(tmp_path / "a.jsonl", {"instruction": "说出颜色。", "input": "", "output": "红色。"})
    text = read_text(file, "instruct")
    encoded = encode(tokenizer, "instruct", text.dialogues[0], 512)

    found = cut_windows(tokenizer, text, 512)
    (window,) = found.windows

    assert window.ids == encoded.input_ids
    assert [IGNORE_INDEX] * window.start + window.ids[window.start :] == encoded.labels
    assert (found.characters, found.size_bytes) == (3, 9)
    with_prompt = cut_windows(tokenizer, text, 512, count_prompts=True)
    assert with_prompt.counted == len(encoded.input_ids) - 1
    assert with_prompt.characters > 100


def test_the_template_is_that_of_the_prompt_type_and_plain_text_has_none(tokenizer, tmp_path):
    file = write(tmp_path / "a.jsonl", {"instruction": "一", "output": "二"})
    of_text = write(tmp_path / "b.jsonl", {"text": "一二三"})

    said = {kind: tokenizer.decode_continuation(cut_windows(tokenizer, read_text(file, kind), 512).windows[0].ids)
            for kind in ("instruct", "chat", "text")}  # fmt: skip

    assert "### Instruction:" in said["instruct"]
    assert "User:一" in said["chat"]
    assert said["text"].strip() == "一二"
    assert read_text(of_text, "chat").prompt_type == ""


def test_documents_can_be_windows_of_their_own(tokenizer):
    found = cut_windows(tokenizer, plain(*DOCUMENTS), 512, by_document=True)

    assert [one.ids for one in found.windows] == [
        [tokenizer.bos_id, *tokenizer.encode(one), tokenizer.eos_id] for one in DOCUMENTS
    ]
    assert found.characters == sum(map(len, DOCUMENTS))


def test_what_has_no_room_is_counted(tokenizer, tmp_path):
    rows = [{"instruction": "问" * 400, "output": "答"}, {"instruction": "问", "output": "答" * 400}]
    found = cut_windows(tokenizer, read_text(write(tmp_path / "a.jsonl", *rows), "chat"), 128)

    assert (len(found.windows), found.cut, found.left_out) == (1, 1, 1)
    with pytest.raises(UserError, match=r"leaves no token to count in windows of 128 tokens.*raise --seqlen"):
        cut_windows(tokenizer, read_text(write(tmp_path / "b.jsonl", rows[0]), "chat"), 128)


def test_a_file_that_is_no_text_is_refused_with_the_flag_of_the_tool(tmp_path):
    with pytest.raises(UserError, match=r"^--data .*gone\.txt does not exist"):
        read_text(str(tmp_path / "gone.txt"), "instruct")
    (tmp_path / "empty.txt").write_text("\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"^--data .*empty\.txt has no usable rows"):
        read_text(str(tmp_path / "empty.txt"), "instruct")
    file = write(tmp_path / "a.jsonl", {"text": "一"})
    with pytest.raises(UserError, match=r"every token counts once"):
        read_text(f"{file}:2", "instruct")
