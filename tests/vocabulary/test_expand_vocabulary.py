"""tools/expand_vocabulary.py: a base with rows for more pieces, old ones bit by bit, and what llama.cpp reads of it."""

import copy
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from tests.gguf.gguf_models import INSTALL, export, make_model
from vicuna.model.base import check_base
from vicuna.model.new_rows import read_new_rows, write_new_rows
from vicuna.prompt.tokenizer import TextTokenizer, read_sentencepiece
from vicuna.vocabulary.expansion import NewPieces, grown_config
from vicuna.vocabulary.merging import merge_models

TOOL = "tools/expand_vocabulary.py"
EMBEDDINGS, HEAD = "model.embed_tokens.weight", "lm_head.weight"
OLD = 1800


@pytest.fixture(scope="module")
def larger(tiny_base, sample_model, tmp_path_factory) -> Path:
    """The tiny base's tokenizer.model with the new pieces of another one and a padding piece behind; nothing beside."""
    base, _ = read_sentencepiece(tiny_base / "tokenizer.model")
    folder = tmp_path_factory.mktemp("larger")
    (folder / "tokenizer.model").write_bytes(merge_models(base, sample_model, pad="[PAD]").proto.SerializeToString())
    return folder


@pytest.fixture(scope="module")
def expanded(program, tiny_base, tied_base, larger, tmp_path_factory):
    """The tiny base, or the tied one, enlarged with rows begun in some way; once for each."""
    made: dict[tuple[str, str], Path] = {}

    def expand(init: str, which: str = "tiny") -> Path:
        if (init, which) not in made:
            folder = tmp_path_factory.mktemp("expanded") / "base"
            base = tiny_base if which == "tiny" else tied_base
            done = program(
                *(TOOL, "--model_path", base, "--tokenizer_path", larger, "--output_path", folder, "--init", init),
                timeout=120,
            )
            assert done.returncode == 0, done.stderr
            made[init, which] = folder
        return made[init, which]

    return expand


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("init", ["subpieces", "mean", "normal"])
def test_old_rows_and_all_other_tensors_stay_bit_by_bit(tiny_base, expanded, init):
    before, after = tensors(tiny_base), tensors(expanded(init))

    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name][:OLD]) for name, tensor in before.items())
    grown = {name for name in before if before[name].shape != after[name].shape}
    assert grown == {EMBEDDINGS, HEAD}
    assert all(after[name].isfinite().all() and after[name].dtype is before[name].dtype for name in after)


def test_new_rows_begin_as_the_means_of_what_their_text_was_made_of(tiny_base, expanded):
    folder, before = expanded("subpieces"), tensors(tiny_base)
    old, proto = TextTokenizer(tiny_base), read_sentencepiece(folder / "tokenizer.model")[0]
    number = next(i for i in range(OLD, len(proto.pieces)) if len(proto.pieces[i].piece) > 2)
    parts = old.encode_continuation(proto.pieces[number].piece.replace("▁", " "))
    assert len(parts) > 1

    for name in (EMBEDDINGS, HEAD):
        after = tensors(folder)[name]
        torch.testing.assert_close(after[number], before[name][parts].mean(0))
        torch.testing.assert_close(after[-1], before[name].mean(0))  # [PAD], which has no text


def test_the_other_ways_to_begin(tiny_base, expanded):
    before, mean, normal = tensors(tiny_base), tensors(expanded("mean")), tensors(expanded("normal"))

    for name in (EMBEDDINGS, HEAD):
        torch.testing.assert_close(mean[name][OLD:], before[name].mean(0).expand(len(mean[name]) - OLD, -1))
        assert normal[name][OLD:].std().item() == pytest.approx(0.2, rel=0.05)  # the base's initializer_range
        assert normal[name][OLD:].mean().abs() < 0.01


def test_configs_tokenizer_and_the_record_of_new_rows_go_with_the_tables(tiny_base, expanded):
    folder = expanded("subpieces")
    before, after = (json.loads((one / "config.json").read_text(encoding="utf-8")) for one in (tiny_base, folder))
    size = TextTokenizer(folder).size
    record = json.loads((folder / "new_rows.json").read_text(encoding="utf-8"))

    assert after == {**before, "vocab_size": size, "pad_token_id": size - 1}
    assert (folder / "generation_config.json").read_bytes() == (tiny_base / "generation_config.json").read_bytes()
    assert (record["rows"], record["init"], record["base"]) == ([[OLD, size]], "subpieces", "tiny")
    assert read_new_rows(folder, size) == list(range(OLD, size))
    theirs = AutoTokenizer.from_pretrained(folder)
    assert theirs("你好，世界")["input_ids"] == [1, *TextTokenizer(folder).encode("你好，世界")]
    assert (theirs.pad_token_id, theirs.model_max_length) == (size - 1, 512)
    assert sorted(file.name for file in folder.iterdir()) == [
        *("config.json", "generation_config.json", "model.safetensors", "new_rows.json"),
        *("tokenizer.json", "tokenizer.model", "tokenizer_config.json"),
    ]


def test_old_text_gives_the_same_logits_and_new_pieces_finite_ones(tiny_base, expanded):
    ids = torch.tensor([[1, 300, 500, 700]])
    models = [AutoModelForCausalLM.from_pretrained(one).eval() for one in (tiny_base, expanded("subpieces"))]
    with torch.no_grad():
        before, after = (model(ids).logits for model in models)
        new = models[1](torch.tensor([[1, OLD, OLD + 5]])).logits

    torch.testing.assert_close(before, after[..., :OLD])
    assert new.isfinite().all()


def test_a_tied_head_stays_one_tensor(tied_base, expanded):
    folder = expanded("subpieces", "tied")
    before, after = tensors(tied_base), tensors(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)

    assert HEAD not in after
    assert torch.equal(after[EMBEDDINGS][:OLD], before[EMBEDDINGS])
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert model.lm_head.weight.shape[0] == TextTokenizer(folder).size


def test_parts_and_precision_of_the_weights_do_not_matter(program, tiny_base, larger, tmp_path):
    base = Path(shutil.copytree(tiny_base, tmp_path / "base"))
    model = LlamaForCausalLM.from_pretrained(tiny_base, dtype=torch.bfloat16)
    (base / "model.safetensors").unlink()
    model.save_pretrained(base, max_shard_size="60KB")
    assert len(list(base.glob("*.safetensors"))) == 3

    done = program(TOOL, "--model_path", base, "--tokenizer_path", larger, "--output_path", tmp_path / "out")

    assert done.returncode == 0, done.stderr
    after = tensors(tmp_path / "out")
    assert {tensor.dtype for tensor in after.values()} == {torch.bfloat16}
    assert all(torch.equal(tensor, after[name][: len(tensor)]) for name, tensor in model.state_dict().items())


def test_rows_that_no_piece_had_are_taken_first(program, tiny_base, tmp_path, larger):
    base = Path(shutil.copytree(tiny_base, tmp_path / "base"))
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    (base / "config.json").write_text(json.dumps({**config, "vocab_size": OLD + 200}), encoding="utf-8")
    weights = tensors(tiny_base)
    for name in (EMBEDDINGS, HEAD):
        weights[name] = torch.cat([weights[name], torch.full((200, 32), 7.0)])
    save_file(weights, base / "model.safetensors", {"format": "pt"})

    done = program(TOOL, "--model_path", base, "--tokenizer_path", larger, "--output_path", tmp_path / "out")

    assert done.returncode == 0, done.stderr
    after, size = tensors(tmp_path / "out"), TextTokenizer(larger).size
    assert len(after[EMBEDDINGS]) == max(size, OLD + 200)
    assert torch.equal(after[HEAD][:OLD], weights[HEAD][:OLD])
    assert not (after[EMBEDDINGS][:size] == 7).all(1).any()


def test_transformers_changes_the_callers_config_and_this_does_not(tiny_base):
    model = LlamaForCausalLM.from_pretrained(tiny_base)
    theirs = model.config
    model.resize_token_embeddings(1850)
    assert theirs.vocab_size == 1850

    config = check_base(str(tiny_base)).config
    before = copy.deepcopy(config)
    assert grown_config(config, NewPieces(OLD, [[5]] * 50)).vocab_size == 1850
    assert config.to_dict() == before.to_dict()


@pytest.mark.parametrize("mode", ["ranked", "compat"])
def test_llama_cpp_reads_sentencepieces_ids_out_of_the_enlarged_base(
    program, shared, merged, real_texts, tmp_path, mode
):
    """On the published vocabularies: no line differs, whichever the mode."""
    llama = pytest.importorskip("llama_cpp", reason=INSTALL).Llama
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    make_model(tmp_path / "base", shared / "tokenizers/llama/tokenizer.model", dtype=torch.float16, **small)
    done = program(
        *(TOOL, "--model_path", tmp_path / "base", "--tokenizer_path", merged(mode)[0]),
        *("--output_path", tmp_path / "out", "--init", "mean"),
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert f"vocabulary 32,000 before, {'49,306' if mode == 'ranked' else '49,954'} after" in done.stdout

    file = export(tmp_path / "out", tmp_path / "model.gguf", "f16")

    own = read_sentencepiece(tmp_path / "out/tokenizer.model")[1]
    engine = llama(str(file), vocab_only=True, verbose=False)
    try:
        lines = [*real_texts["chinese"], *real_texts["english"][:500]]
        found = [engine.tokenize(line.encode(), add_bos=False, special=False) for line in lines]
    finally:
        engine.close()
    assert sum(one != other for one, other in zip(found, own.encode(lines), strict=True)) == 0


# --- words for a tokenizer.json alone ---------------------------------------------------------------------------------


def json_base(tiny_base: Path, folder: Path) -> Path:
    """The tiny base without its tokenizer.model."""
    shutil.copytree(tiny_base, folder)
    (folder / "tokenizer.model").unlink()
    return folder


def qwen_base(folder: Path, text: list[str]) -> Path:
    """A small Qwen2, tied, whose folder is as Qwen publishes it, with rows that no piece has."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import Qwen2Config, Qwen2ForCausalLM

    made = Tokenizer(models.BPE())
    made.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+"), "isolated")
    bytes_alone = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_alone])
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(text, trainers.BpeTrainer(vocab_size=700, initial_alphabet=alphabet, show_progress=False))
    made.add_special_tokens(
        [AddedToken(name, special=True, normalized=False) for name in ("<|endoftext|>", "<|im_end|>")]
    )
    folder.mkdir()
    made.save(str(folder / "tokenizer.json"))
    made.model.save(str(folder))
    end = made.token_to_id("<|im_end|>")
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    named = {str(i): {"content": one.content, **flags} for i, one in made.get_added_tokens_decoder().items()}
    settings = {"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": named, "eos_token": "<|im_end|>"}
    (folder / "tokenizer_config.json").write_text(
        json.dumps(settings | {"bos_token": "<|endoftext|>"}), encoding="utf-8"
    )
    torch.manual_seed(0)
    config = Qwen2Config(
        **{"vocab_size": 720, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1},
        **{"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True},
        **{"bos_token_id": end - 1, "eos_token_id": end},
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["llama", "qwen"])
def test_words_become_tokens_that_begin_as_their_pieces(program, tiny_base, sample_lines, tmp_path, kind):
    base = json_base(tiny_base, tmp_path / "b") if kind == "llama" else qwen_base(tmp_path / "b", sample_lines)
    words = tmp_path / "words.txt"
    words.write_text("冠状动脉粥样硬化\r\n\r\n的\nmetformin\n冠状动脉粥样硬化\n", encoding="utf-8")

    done = program(TOOL, "--model_path", base, "--add_tokens", words, "--output_path", tmp_path / "out")

    assert done.returncode == 0, done.stderr
    assert "1 of the 3 words are tokens already" in done.stderr
    old, new = TextTokenizer(base), TextTokenizer(tmp_path / "out")
    first, rows = old.size, len(tensors(base)[EMBEDDINGS])
    assert f"2 new pieces, ids {first:,} to {first + 1:,}" in done.stdout
    text = "吃metformin治冠状动脉粥样硬化。"
    assert [i for i in new.encode_continuation(text) if i >= first] == [first + 1, first]
    assert new.decode_continuation(new.encode_continuation(text)) == text
    assert [new.encode(line) for line in sample_lines[:100]] == [old.encode(line) for line in sample_lines[:100]]
    before, after = tensors(base)[EMBEDDINGS], tensors(tmp_path / "out")[EMBEDDINGS]
    assert len(after) == max(rows, first + 2)
    assert torch.equal(after[:first], before[:first])
    torch.testing.assert_close(after[first + 1], before[old.encode_continuation("metformin")].mean(0))
    assert read_new_rows(tmp_path / "out", len(after)) == [first, first + 1]
    assert torch.equal(after[first + 2 :], before[first + 2 :])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "expected one of --tokenizer_path, a larger tokenizer, and --add_tokens"),
        (["--tokenizer_path", "{larger}", "--add_tokens", "{words}"], "expected one of --tokenizer_path"),
        (["--tokenizer_path", "{base}"], "has the 1800 pieces of the base's own, and no more"),
        (["--tokenizer_path", "{other}"], r"does not begin with the pieces of .*: id \d+ is .* there, .* here"),
        (
            ["--tokenizer_path", "{named}", "--model_path", "{named}"],
            r"has tokens of its own behind the 1800 .*'<x>' wi",
        ),
        (["--add_tokens", "{words}"], "has a tokenizer.model, into which pieces are merged"),
        (["--add_tokens", "none.txt"], "--add_tokens none.txt does not exist"),
        (["--add_tokens", "{empty}", "--model_path", "{json}"], "holds no word; expected one a line"),
        (
            ["--add_tokens", "{known}", "--model_path", "{json}"],
            "each of the 1 words of --add_tokens is a token already",
        ),
        (["--tokenizer_path", "{larger}", "--model_path", "{json}"], r"has a tokenizer.json only, .*--add_tokens FILE"),
        (["--tokenizer_path", "{larger}", "--model_path", "{quantised}"], "the base is quantised with bitsandbytes"),
        (["--tokenizer_path", "{larger}", "--output_path", "{base}"], "nothing is ever written over"),
    ],
)
def test_what_does_not_go_together_is_refused_and_nothing_left(
    refused, tiny_base, larger, sample_model, tmp_path, flags, message
):
    places = {
        name: tmp_path / "in" / name for name in ("words", "empty", "known", "json", "other", "named", "quantised")
    }
    (tmp_path / "in").mkdir()
    for name, text in (("words", "高血压\n"), ("empty", "\n \n"), ("known", "的\n")):
        places[name].write_text(text, encoding="utf-8")
    words = " ".join(flags)
    if "{json}" in words:
        json_base(tiny_base, places["json"])
    if "{other}" in words:
        places["other"].write_bytes(sample_model.SerializeToString())
    if "{named}" in words:
        shutil.copytree(tiny_base, places["named"])
        (places["named"] / "added_tokens.json").write_text('{"<x>": 1800}', encoding="utf-8")
        shutil.copy(larger / "tokenizer.model", places["named"] / "larger.model")
        flags = ["--tokenizer_path", str(places["named"] / "larger.model"), *flags[2:]]
    if "{quantised}" in words:
        shutil.copytree(tiny_base, places["quantised"])
        file = places["quantised"] / "config.json"
        settings = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}
        file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **settings}), encoding="utf-8")
    values = [word.format(base=tiny_base, larger=larger, **places) for word in flags]
    usual = {"--model_path": tiny_base, "--output_path": tmp_path / "out" / "base"}

    argv = [*(word for pair in usual.items() if pair[0] not in values for word in pair), *values]
    said = refused("expand_vocabulary", "ExpandFlags", argv=argv)

    assert re.search(message, said), said
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("rows", [[0, 1, 2], [5], [3, 4, 9, 10, 11], list(range(7, 12))])
def test_the_record_of_new_rows_is_read_as_it_was_written(tmp_path, rows):
    write_new_rows(tmp_path, rows)

    assert read_new_rows(tmp_path, 12) == rows
