"""tools/train_tokenizer.py, and the facts of SentencePiece 0.2.3 for which it is more than a call."""

import hashlib
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer, sentencepiece_model_pb2

from vicuna.errors import UserError
from vicuna.vocabulary.flags import TextFlags
from vicuna.vocabulary.texts import Texts
from vicuna.vocabulary.training import LONGEST_LINE, cut_line, draw_lines, train_sentencepiece

TOOL = "tools/train_tokenizer.py"
MARKS = "，！？（）２"


def by_sentencepiece(lines: list[str], **settings: object) -> bytes:
    """A model with SentencePiece's own defaults but for `settings`."""
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, minloglevel=2, **{"vocab_size": 1800, **settings}
    )
    return model.getvalue()


def proto(model: bytes):
    return sentencepiece_model_pb2.ModelProto.FromString(model)


def test_two_processes_on_other_numbers_of_cores_write_the_same_bytes(program, tmp_path):
    for name, env in (("one", None), ("two", {"OMP_NUM_THREADS": "2", "PYTHONHASHSEED": "7"})):
        done = program(
            TOOL, "--vocab_size", 1500, "--sample_lines", 150, "--output_path", tmp_path / name, env=env, timeout=120
        )
        assert done.returncode == 0, done.stderr
    written = [(tmp_path / name / "tokenizer.model").read_bytes() for name in ("one", "two")]
    facts = json.loads((tmp_path / "two" / "vocabulary.json").read_text(encoding="utf-8"))

    assert written[0] == written[1]
    assert f"sha256 of tokenizer.model: {facts['sha256']}" in done.stdout
    assert "1,500 pieces (bpe) of 150 of 281 lines" in done.stdout
    assert facts["sha256"] == hashlib.sha256(written[0]).hexdigest()
    assert (facts["lines"], facts["lines_used"], facts["cuts"]) == (281, 150, 0)
    assert [file["lines"] for file in facts["files"]] == [93, 40, 148]
    assert all(file["sha256"] for file in facts["files"])


def test_a_model_has_llamas_settings_and_takes_the_text_as_it_is(sample_lines):
    model = train_sentencepiece(sample_lines, 1800)
    tokenizer = SentencePieceProcessor(model_proto=model)
    text = f"你好{MARKS}  x\u3000y"

    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.normalize(text) == "▁" + text.replace(" ", "▁")
    assert tokenizer.decode(tokenizer.encode("𠮷🦙")) == "𠮷🦙"
    assert [piece for piece in tokenizer.encode("2026", out_type=str) if piece.isdigit()] == ["2", "0", "2", "6"]
    assert proto(model).trainer_spec.model_type == proto(model).trainer_spec.BPE
    assert proto(model).trainer_spec.model_prefix == ""


def test_the_default_normaliser_makes_ascii_of_chinese_marks_and_one_of_many_spaces(sample_lines):
    tokenizer = SentencePieceProcessor(model_proto=by_sentencepiece(sample_lines))

    assert tokenizer.normalize(f"你好{MARKS}  x") == "▁你好,!?()2▁x"


def test_a_default_model_opened_as_llamas_loses_every_chinese_mark(sample_lines, tmp_path):
    from transformers import LlamaTokenizer

    (tmp_path / "tokenizer.model").write_bytes(by_sentencepiece(sample_lines))
    theirs = LlamaTokenizer.from_pretrained(tmp_path)

    assert theirs.decode(theirs("你好，世界！好吗？", add_special_tokens=False)["input_ids"]) == "你好世界好吗"


def test_threads_are_stored_and_change_the_scores_of_a_unigram_model(sample_lines):
    bpe = [proto(by_sentencepiece(sample_lines, model_type="bpe", num_threads=count)) for count in (1, 4)]
    unigram = [proto(by_sentencepiece(sample_lines, model_type="unigram", num_threads=count)) for count in (1, 4)]

    assert [one.trainer_spec.num_threads for one in bpe] == [1, 4]
    assert list(bpe[0].pieces) == list(bpe[1].pieces)
    assert bpe[0].SerializeToString() != bpe[1].SerializeToString()
    assert {p.piece: p.score for p in unigram[0].pieces} != {p.piece: p.score for p in unigram[1].pieces}


def test_unigram_is_the_same_each_time(sample_lines):
    models = [train_sentencepiece(sample_lines, 1800, model_type="unigram", byte_fallback=False) for _ in range(2)]

    assert models[0] == models[1]
    assert proto(models[0]).trainer_spec.model_type == proto(models[0]).trainer_spec.UNIGRAM


def test_sentencepiece_draws_another_sample_in_every_process_whatever_its_seed(tmp_path):
    file = tmp_path / "lines.json"
    file.write_text(json.dumps([f"{chr(0x4E00 + n % 400)}{chr(0x5000 + n % 397)}{n}" for n in range(4000)]))
    code = (
        "import hashlib, io, json, sys, sentencepiece as sp; sp.set_random_generator_seed(7); m = io.BytesIO();"
        "sp.SentencePieceTrainer.train(sentence_iterator=iter(json.load(open(sys.argv[1]))), model_writer=m,"
        "vocab_size=1500, model_type='bpe', num_threads=1, minloglevel=2, input_sentence_size=400);"
        "print(hashlib.sha256(m.getvalue()).hexdigest())"
    )

    digests = {
        subprocess.run(
            [sys.executable, "-c", code, file], capture_output=True, text=True, check=True, timeout=60
        ).stdout
        for _ in range(3)
    }

    assert len(digests) == 3


def test_a_sample_is_fixed_by_its_seed_and_keeps_the_order():
    every = [str(number) for number in range(1000)]
    drawn, count = draw_lines(iter(every), 100, 42)

    assert (len(drawn), count) == (100, 1000)
    assert drawn == sorted(drawn, key=int)
    assert drawn == draw_lines(iter(every), 100, 42)[0]
    assert drawn != draw_lines(iter(every), 100, 43)[0]
    assert 400 < sum(map(int, drawn)) / 100 < 600
    assert draw_lines(iter(every), 0, 42) == (every, 1000)


def test_a_line_that_sentencepiece_passes_over_is_cut_and_nothing_of_it_lost(sample_lines):
    longest = LONGEST_LINE // 3
    assert longest == 1397
    known = {}
    for count in (longest, longest + 1):
        model = by_sentencepiece(
            [*sample_lines, "龘" * count], model_type="bpe", character_coverage=1.0, vocab_size=2000
        )
        known[count] = SentencePieceProcessor(model_proto=model).unk_id() not in SentencePieceProcessor(
            model_proto=model
        ).encode("龘")
    assert known == {1397: True, 1398: False}

    long = "一句话，" * 400 + "龘" * 3000
    parts = cut_line(long)

    assert "".join(parts) == long
    assert [len(part) for part in parts] == [1396, 204, 1397, 1397, 206]
    assert all(len(part.encode()) <= LONGEST_LINE for part in parts)
    ours = SentencePieceProcessor(
        model_proto=train_sentencepiece([*sample_lines, *parts], 2000, character_coverage=1.0)
    )
    assert ours.decode(ours.encode("龘")) == "龘"
    assert all(not ours.is_byte(i) for i in ours.encode("龘"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--vocab_size", 1000, "--character_coverage", 1],
            r"--vocab_size 1000 is too small: the text's characters al",
        ),
        (["--vocab_size", 99999], r"--vocab_size 99999 is too large: the text has no more than \d+ pieces, so take at"),
        (["--vocab_size", 200], r"--vocab_size 200 is too small: expected 260 or more"),
        (["--character_coverage", 99.95], r"--character_coverage 99.95 is out of range: expected 0.9 to 1"),
        (["--data_path", "sample/text/stories.txt:2"], r"stories.txt:2 has a weight, which counts in training only"),
        (["--data_path", "sample/text/none.txt"], r"none.txt does not exist"),
    ],
)
def test_what_can_not_be_trained_is_refused(refused, tmp_path, flags, message):
    said = refused("train_tokenizer", "TrainFlags", "TextFlags", argv=[*flags, "--output_path", tmp_path / "out"])

    assert re.search(message, said), said
    assert list(tmp_path.iterdir()) == []


def test_an_output_is_never_written_over(program, tmp_path):
    done = program(TOOL, "--vocab_size", 1500, "--output_path", tmp_path, timeout=120)

    assert done.returncode == 1
    assert "exists; nothing is ever written over" in done.stderr


def test_every_message_of_a_record_counts(tmp_path):
    file = Path(tmp_path / "a.jsonl")
    file.write_text(
        '{"instruction": "一", "input": "二\\n\\n三", "output": "四"}\n{"text": "五\\n六"}\n', encoding="utf-8"
    )
    texts = Texts(TextFlags(data_path=[str(file)]))

    assert list(texts) == ["一", "二", "三", "四", "五", "六"]
    assert [(one.lines, one.characters) for one in texts.files] == [(6, 6)]


def test_an_error_of_the_reader_is_told_as_it_is():
    def broken():
        yield "一"
        raise UserError("line 2 is odd")

    with pytest.raises(UserError, match="line 2 is odd"):
        train_sentencepiece(broken(), 300)
