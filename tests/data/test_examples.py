"""Records to tokenised examples: what is cut, shortened, left out, repeated and learnt."""

import pytest

from tests.data.record_files import GOOD, numbered, write
from tests.own_bases import write_tokenizer
from vicuna.data.examples import label_spans, tokenise
from vicuna.data.records import read_records
from vicuna.errors import UserError
from vicuna.prompt.templates import BASE, encode
from vicuna.prompt.tokenizer import TextTokenizer


def test_tokenising_counts_what_is_cut_and_what_is_left_out(tiny_base, tmp_path):
    rows = [GOOD, {**GOOD, "output": "蓝色的天空" * 40}, {**GOOD, "instruction": "天" * 200}, GOOD]
    records = read_records(write(tmp_path / "a.jsonl", rows), "instruct")
    examples = tokenise(TextTokenizer(tiny_base), records, [0, 1, 2], "instruct", 64)

    assert (len(examples.lengths), examples.cut, examples.left_out) == (2, 1, 1)
    assert examples.lengths[1] == 64
    assert examples.rows["record"][:] == [0, 1]
    assert examples.supervised == sum(label != -100 for labels in examples.rows["labels"] for label in labels)


def test_a_cut_that_leaves_no_answer_at_all_is_refused(tiny_base, tmp_path):
    records = read_records(write(tmp_path / "a.jsonl", [GOOD]), "instruct")

    with pytest.raises(UserError, match="--cutoff_len 8 leaves no answer in any of the 1 records"):
        tokenise(TextTokenizer(tiny_base), records, [0], "instruct", 8)


def test_repeated_records_become_as_many_rows_that_name_their_place(tiny_base, tmp_path):
    a, b = numbered(tmp_path / "a.jsonl", 2), numbered(tmp_path / "b.jsonl", 1)
    records = read_records([f"{a}:2", b], "instruct")
    examples = tokenise(TextTokenizer(tiny_base), records, records.resample([0, 1, 2]), "instruct", 128)

    assert examples.rows["record"][:] == [0, 0, 1, 1, 2]
    assert examples.rows["source"][:] == [0, 0, 0, 0, 1]
    assert examples.rows["line"][:] == [1, 1, 2, 2, 1]
    assert examples.rows["input_ids"][0] == examples.rows["input_ids"][1]
    assert examples.supervised == sum(label != -100 for labels in examples.rows["labels"] for label in labels)


def test_rows_of_a_dialogue_are_told_apart_from_those_of_its_repetitions(tmp_path):
    """Two records of two and three answers, the first three times, and one of one answer between them."""
    write_tokenizer(tmp_path / "base", "thinking")
    turns = [[{"role": role, "content": f"{n}"} for n in range(count) for role in ("user", "assistant")]
             for count in (2, 1, 3)]  # fmt: skip
    files = [write(tmp_path / f"{i}.jsonl", [{"messages": one}]) for i, one in enumerate(turns)]
    records = read_records([f"{files[0]}:3", *map(str, files[1:])], BASE)
    options = (TextTokenizer(tmp_path / "base"), records, records.resample([0, 1, 2]), BASE, 512)
    examples = tokenise(*options, train_turns="all")

    assert examples.dialogue_rows == [2, 2, 2, 1, 3]
    assert examples.rows["record"][:] == [0] * 6 + [1] + [2] * 3
    assert examples.rows["input_ids"][0] == examples.rows["input_ids"][2] != examples.rows["input_ids"][1]
    assert tokenise(*options).dialogue_rows == []
    assert tokenise(*options, train_turns="all", pack=True).dialogue_rows == []


def test_rows_that_lost_turns_are_counted_apart_from_those_that_were_cut(tiny_base, tmp_path):
    turns = {"input": ["天空是什么颜色？"] * 9, "output": ["蓝色。"] * 9}
    rows = [turns, {**turns, "output": ["蓝色。"] * 8 + ["蓝色的天空" * 40]}, GOOD]
    records = read_records(write(tmp_path / "a.jsonl", rows), "chat")
    examples = tokenise(TextTokenizer(tiny_base), records, [0, 1, 2], "chat", 100)

    assert (examples.shortened, examples.cut, examples.left_out) == (2, 1, 0)


def test_trained_spans_are_the_runs_of_an_example(tiny_base):
    tokenizer = TextTokenizer(tiny_base)
    messages = [{"role": role, "content": role} for role in ("user", "assistant", "user", "assistant")]
    example = encode(tokenizer, "chat_eos", messages, 512, train_turns="all")
    spans = label_spans(example.input_ids, example.labels)

    assert [trained for trained, _ in spans] == [False, True, False, True]
    assert [i for _, ids in spans for i in ids] == example.input_ids[1:]
    assert all(ids[-1] == tokenizer.eos_id for trained, ids in spans if trained)
