"""tools/merge_tokenizers.py: pieces behind LLaMA's, the published files byte by byte, and what others make of it."""

import hashlib
import json
import re
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
from sentencepiece import SentencePieceProcessor
from transformers import AutoTokenizer, LlamaTokenizer

from vicuna.errors import UserError
from vicuna.prompt.tokenizer import read_sentencepiece
from vicuna.vocabulary.flags import TextFlags
from vicuna.vocabulary.merging import merge_models
from vicuna.vocabulary.report import measure, unreachable
from vicuna.vocabulary.texts import Texts
from vicuna.vocabulary.training import train_sentencepiece

TOOL = "tools/merge_tokenizers.py"
PUBLISHED = "e2676d4ca29ca1750f6ff203328d73b189321dc5776ceede037cbd36541d70c0"
PUBLISHED_WITH_PAD = "2d967e855b1213a439df6c8ce2791f869c84b4f3b6cfacf22b86440b8192a2f8"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def facts(folder: Path) -> dict:
    return json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def real(shared):
    """The two published models."""
    files = ("llama/tokenizer.model", "chinese_sp/chinese_sp.model")
    return [read_sentencepiece(shared / "tokenizers" / file)[0] for file in files]


@pytest.fixture(scope="module")
def small(tiny_base, sample_model):
    """The tiny base's model, and one of more pieces from the sample's text."""
    return read_sentencepiece(tiny_base / "tokenizer.model")[0], sample_model


def test_compat_is_the_published_file_byte_by_byte(real, shared):
    merge = merge_models(*real, mode="compat")
    file = merge.proto.SerializeToString()

    assert (len(merge.proto.pieces), sha256(file)) == (49953, PUBLISHED)
    assert file == (shared / "tokenizers/chinese-llama-merged/tokenizer.model").read_bytes()
    assert len(merge.new_pieces) == 17953
    assert merge.duplicates == {
        "single Chinese characters": 699,
        "other single characters": 512,
        "of several characters": 833,
        "control or byte pieces": 3,
    }
    assert merge.duplicates.total() == 2047
    assert len(unreachable(merge)) == 345
    assert {"越来越", "意大利", "俱乐部"} <= set(unreachable(merge))


def test_compat_with_padding_is_the_published_alpaca_tokenizer(merged):
    folder, done = merged("compat")
    digest = sha256((folder / "tokenizer.model").read_bytes())

    assert digest == PUBLISHED_WITH_PAD
    assert facts(folder)["pieces"] == 49954
    assert facts(folder)["sha256"]["merged"] == digest
    assert facts(folder)["sha256"]["base"] == "9e556afd44213b6bd1be2b850ebbbd98f5481437a8021afaf58ee7fb1818d347"
    assert "49,954 pieces = 32,000 + 17,953 new + [PAD]" in done.stdout
    assert SentencePieceProcessor(model_file=str(folder / "tokenizer.model")).id_to_piece(49953) == "[PAD]"


def test_ranked_goes_on_with_llamas_order_and_leaves_ascii_out(real):
    merge = merge_models(*real, pad="[PAD]")
    pieces, scores = merge.proto.pieces, [piece.score for piece in merge.proto.pieces]

    assert list(pieces[:32000]) == list(real[0].pieces)
    assert (len(pieces), merge.left_out) == (49306, {"ASCII": 648})
    assert scores[32000:32003] == [-31741, -31742, -31743]
    assert all(later < earlier for earlier, later in pairwise(scores[32000:-1]))
    assert len(unreachable(merge)) == 337
    processor = SentencePieceProcessor(model_proto=merge.proto.SerializeToString())
    assert (processor.pad_id(), processor.is_control(49305)) == (49305, True)
    assert 49305 not in processor.encode("[PAD]")


def test_ascii_can_be_kept(real):
    merge = merge_models(*real, keep_ascii=True)

    assert len(merge.proto.pieces) == 49953
    assert merge.left_out == {}
    assert len(unreachable(merge)) == 344


def test_ranked_means_the_same_to_every_program_and_leaves_english_alone(merged):
    folder, done = merged("ranked")

    assert facts(folder)["effect"]["json_differs"] == 0
    assert "lines to which tokenizer.json gives other tokens: 0 of 7,478" in done.stdout
    assert "English lines that get other tokens: 0 of 2,738" in done.stdout
    assert "tokens a character on 4,671 Chinese lines: 1.374 before, 0.641 after (53% fewer)" in done.stdout
    assert "vocabulary.json" not in done.stdout
    assert "tokenizer.json, as transformers" not in done.stderr


def test_compat_says_on_how_many_lines_others_differ(merged):
    folder, done = merged("compat")

    assert facts(folder)["effect"]["json_differs"] == 2339
    assert "2339 of 7478 lines have other tokens in programs that read tokenizer.json" in done.stderr
    assert "English lines that get other tokens: 1,787 of 2,738" in done.stdout
    assert "tokens a character on 4,671 Chinese lines: 1.374 before, 0.620 after (55% fewer)" in done.stdout


@pytest.mark.parametrize("beside_config", [False, True])
def test_what_is_written_opens_by_auto_tokenizer_with_bos_and_sentencepieces_ids(
    merged, real_texts, tmp_path, beside_config
):
    folder = Path(shutil.copytree(merged("ranked")[0], tmp_path / "tokenizer"))
    if beside_config:
        (folder / "config.json").write_text('{"model_type": "llama", "vocab_size": 49306}', encoding="utf-8")
    theirs, own = AutoTokenizer.from_pretrained(folder), read_sentencepiece(folder / "tokenizer.model")[1]
    declared = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    lines = ["  a  b", "\n你好", " " * 40 + "x", *real_texts["chinese"][:300]]

    assert [theirs(line)["input_ids"] for line in lines] == [[1, *own.encode(line)] for line in lines]
    assert (theirs.pad_token, theirs.pad_token_id, len(theirs)) == ("[PAD]", 49305, 49306)
    assert (declared["tokenizer_class"], declared["add_bos_token"]) == ("PreTrainedTokenizerFast", True)


# --- transformers 5.23: why none of its own ways to open a tokenizer.model will do ------------------------------------


@pytest.fixture(scope="module")
def published(shared, tmp_path_factory) -> Path:
    """A folder with nothing but the published merged tokenizer.model."""
    folder = tmp_path_factory.mktemp("published")
    shutil.copy(shared / "tokenizers/chinese-llama-merged/tokenizer.model", folder)
    return folder


def test_their_llama_tokenizer_merges_in_the_order_of_ids(published, real_texts):
    theirs, own = LlamaTokenizer.from_pretrained(published), read_sentencepiece(published / "tokenizer.model")[1]
    lines = real_texts["chinese"]
    found, expected = theirs(lines, add_special_tokens=False)["input_ids"], own.encode(lines)

    assert len(lines) == 5388
    assert sum(one != other for one, other in zip(found, expected, strict=True)) == 1648


def test_their_published_recipe_makes_a_tokenizer_of_three_tokens(published):
    theirs = LlamaTokenizer(vocab_file=str(published / "tokenizer.model"))

    assert len(theirs) == 3
    assert theirs("你好 world", add_special_tokens=False)["input_ids"] == []


def test_their_auto_tokenizer_drops_the_first_space_of_every_line(shared, real_texts, tmp_path):
    shutil.copy(shared / "tokenizers/llama/tokenizer.model", tmp_path)
    theirs, own = AutoTokenizer.from_pretrained(tmp_path), read_sentencepiece(tmp_path / "tokenizer.model")[1]
    lines = [line for line in real_texts["chinese"] if line[0] != " "][:500]

    assert (theirs.tokenize("你好 x"), own.encode("你好 x", out_type=str)) == (
        ["你", "好", "▁x"],
        ["▁", "你", "好", "▁x"],
    )
    assert all(theirs(line, add_special_tokens=False)["input_ids"] != own.encode(line) for line in lines)


# --- small models ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["ranked", "compat"])
def test_old_ids_stay_and_what_is_new_keeps_its_order(small, mode):
    base, other = small
    merge = merge_models(base, other, mode)
    have, new = {piece.piece for piece in base.pieces}, merge.new_pieces

    assert list(merge.proto.pieces[: len(base.pieces)]) == list(base.pieces)
    assert new == [piece.piece for piece in other.pieces if piece.piece not in have and piece.piece in set(new)]
    assert len({piece.piece for piece in merge.proto.pieces}) == len(merge.proto.pieces)
    assert len(other.pieces) == len(new) + merge.duplicates.total() + merge.left_out.total()
    assert len(new) > 300


def test_pieces_of_merged_pairs_stay_within_reach(small, tmp_path):
    merge = merge_models(*small)

    assert len(unreachable(merge)) < 0.02 * len(merge.new_pieces)


def test_a_merge_on_the_sample_needs_no_more_than_the_two_models(program, tiny_base, small, tmp_path):
    (tmp_path / "zh").mkdir()
    (tmp_path / "zh" / "mine.model").write_bytes(small[1].SerializeToString())

    done = program(
        *(TOOL, "--llama_tokenizer_dir", tiny_base, "--chinese_sp_model_file", tmp_path / "zh"),
        *("--output_dir", tmp_path / "out"),
        timeout=120,
    )

    assert done.returncode == 0, done.stderr
    assert "gives other tokens: 0 of 28" in done.stdout
    assert not re.search(r"lines: ([\d.]+) before, \1 after", done.stdout)
    effect = measure(tiny_base / "tokenizer.model", tmp_path / "out", list(Texts(TextFlags())))
    assert effect.tokens_after < effect.tokens_before


@pytest.mark.parametrize("what", ["unigram base", "nothing new", "padding twice", "no order"])
def test_what_can_not_be_merged_is_refused(small, what):
    base, other = small
    if what == "unigram base":
        unigram = type(base).FromString(train_sentencepiece(list(Texts(TextFlags())), 1800, model_type="unigram"))
        with pytest.raises(UserError, match="does not merge pairs"):
            merge_models(unigram, other)
    elif what == "nothing new":
        with pytest.raises(UserError, match="there is nothing to add"):
            merge_models(base, base)
    elif what == "padding twice":
        with pytest.raises(UserError, match="--pad </s> is a piece already"):
            merge_models(base, other, pad="</s>")
    else:
        odd = type(base)()
        odd.CopyFrom(base)
        odd.pieces[-1].score = -1e9
        with pytest.raises(UserError, match=r"lowest score is -1e\+09, below which there is no room"):
            merge_models(odd, other)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--llama_tokenizer_dir", "none"], "--llama_tokenizer_dir none does not exist"),
        (["--chinese_sp_model_file", "{json}"], r"has a tokenizer.json only.*--add_tokens"),
        (
            ["--chinese_sp_model_file", "{empty}"],
            r"holds no SentencePiece model: expected tokenizer.model, found nothi",
        ),
        (["--chinese_sp_model_file", "README.md"], r"README.md is a text, which begins with"),
        (["--output_dir", "{empty}"], "nothing is ever written over"),
        (["--pad", ""], "--pad is empty"),
    ],
)
def test_files_that_are_no_models_are_refused_before_anything_is_written(refused, tiny_base, tmp_path, flags, message):
    (tmp_path / "json").mkdir()
    shutil.copy(tiny_base / "tokenizer.json", tmp_path / "json")
    (tmp_path / "empty").mkdir()
    values = [word.format(json=tmp_path / "json", empty=tmp_path / "empty") for word in flags]
    usual = {"--llama_tokenizer_dir": tiny_base, "--chinese_sp_model_file": tiny_base, "--output_dir": tmp_path / "out"}

    argv = [*(word for pair in usual.items() if pair[0] not in flags for word in pair), *values]
    said = refused("merge_tokenizers", "MergeFlags", "TextFlags", argv=argv)

    assert re.search(message, said), said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "json"]
