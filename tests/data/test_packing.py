"""--pack: documents behind each other in rows of one length; no token is lost, none is learnt twice."""

import json
import random

import pytest

from vicuna.data.examples import tokenise
from vicuna.data.flags import DataFlags
from vicuna.data.packing import Packer
from vicuna.data.records import read_records
from vicuna.errors import UserError
from vicuna.prompt.templates import IGNORE_INDEX, encode
from vicuna.prompt.tokenizer import TextTokenizer


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    """Documents of all lengths with newlines of their own, in a .txt and a .jsonl."""
    draw, folder = random.Random(0), tmp_path_factory.mktemp("texts")
    texts = [
        "\n".join("春眠不觉晓，处处闻啼鸟。 a  b"[: draw.randint(1, 17)] for _ in range(draw.choice((1, 2, 9))))
        for _ in range(60)
    ]
    (folder / "a.txt").write_text("\n\n".join(texts[:40]) + "\n", encoding="utf-8")
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in texts[40:]]
    (folder / "b.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return texts, read_records([str(folder / "a.txt"), str(folder / "b.jsonl")], "text")


@pytest.mark.parametrize("length", [8, 9, 37, 64, 1000])
def test_every_token_is_there_and_is_learnt_once(tiny_base, documents, length):
    texts, records = documents
    tokenizer = TextTokenizer(tiny_base)
    alone = [encode(tokenizer, "text", messages, 10**6) for messages in records.dialogues]
    packed = tokenise(tokenizer, records, range(len(texts)), "text", length, pack=True)

    assert packed.documents == len(texts)
    assert (packed.cut, packed.left_out) == (0, 0)
    assert packed.supervised == sum(len(one.input_ids) - 1 for one in alone)
    found: dict[int, list[int]] = {}
    for row in packed.rows:
        ends = [*row["starts"][1:], len(row["input_ids"])]
        for start, end, document in zip(row["starts"], ends, row["record"], strict=True):
            part, labels = row["input_ids"][start:end], row["labels"][start:end]
            assert labels == [IGNORE_INDEX, *part[1:]]
            if document in found:  # begins behind the token that its last part ended with
                assert part[0] == found[document][-1]
                part = part[1:]
            found.setdefault(document, []).extend(part)
    assert [found[number] for number in range(len(texts))] == [one.input_ids for one in alone]
    assert [tokenizer.decode_continuation(one)[1:] for one in found.values()] == texts
    assert all(ids[-1] == tokenizer.eos_id for ids in found.values())
    assert packed.lengths == [len(ids) for ids in packed.rows["input_ids"]]
    assert all(length - 1 <= count <= length for count in packed.lengths[:-1])


def test_a_document_longer_than_many_rows_and_one_that_just_fits():
    packer = Packer(8)
    long = list(range(1, 30))
    rows = [
        *packer.add(0, long, [IGNORE_INDEX, *long[1:]]),
        *packer.add(1, [1, 2, 3], [IGNORE_INDEX, 2, 3]),
        *packer.end(),
    ]
    assert [row.input_ids for row in rows] == [
        [*range(1, 9)], [*range(8, 16)], [*range(15, 23)], [*range(22, 30)], [1, 2, 3],
    ]  # fmt: skip
    assert [row.documents for row in rows] == [[0], [0], [0], [0], [1]]


def test_a_packed_record_is_found_where_it_stands(tiny_base, documents):
    texts, records = documents
    packed = tokenise(TextTokenizer(tiny_base), records, range(len(texts)), "text", 64, pack=True)
    assert [packed.place(number) for number in (0, 39, 40, 59)] == [
        (records.source_ids[number], records.lines[number]) for number in (0, 39, 40, 59)
    ]
    assert packed.place(41) == (1, 2)


def test_records_that_are_no_documents_are_not_packed():
    with pytest.raises(
        UserError, match="--pack puts documents behind each other, which records of --prompt_type instr"
    ):
        DataFlags(pack=True)
