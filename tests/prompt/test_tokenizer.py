"""Token ids are SentencePiece's own, continuations keep their spaces, and no half character is ever shown."""

import shutil
from itertools import islice
from pathlib import Path

import pytest
from sentencepiece import SentencePieceProcessor

from vicuna.errors import UserError
from vicuna.prompt.tokenizer import TextTokenizer

TEXTS = [
    "春风吹来，河边的柳树绿了。",
    "The quick brown fox, it's 12:30.",
    "def f(x):\n    return {'a': x[1:], \"b\": 0x1F}\n",
    "🦙👨‍👩‍👧 a𠮷野家 é ñ",
    "a  b   c     d" + " " * 33 + "e",
    "   begins with spaces",
    "ends with spaces   ",
    "\ttab\t\ttabs\r\n\n\nlines",
    "###  Instruction:\n\nUser:你好 Assistant:",
    "\u3000 \u00a0 \ufeff",
    "",
    " ",
]
# What the tests below read of ../shared/data/text and the records: a few thousand lines of each kind.
SHARED_TEXTS = [
    "text/wiki_demo.txt",
    "text/wikitext-2/valid.txt",
    "instruct/llama-factory/alpaca_zh_demo.json",
    "instruct/llama-factory/alpaca_en_demo.json",
    "lora/poem-zh-lora-generated/eval_texts.json",
]
SHARED_TOKENIZERS = [
    "tokenizers/llama",
    "tokenizers/chinese-llama-merged",
    "tokenizers/chinese-llama-2",
    "models/babyllama-tok105-hf",
    "models/poem-zh-750k-hf",
    "models/stories260K-hf",
]


@pytest.fixture(scope="module")
def tokenizer(tiny_base) -> TextTokenizer:
    return TextTokenizer(tiny_base)


@pytest.fixture(scope="module")
def json_only(tiny_base, tmp_path_factory) -> TextTokenizer:
    """The tiny base's tokenizer without its tokenizer.model."""
    folder = tmp_path_factory.mktemp("json-only")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_base / name, folder)
    return TextTokenizer(folder)


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory) -> TextTokenizer:
    """A GPT-2-like tokenizer.json, whose pieces are bytes without a name of their own."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(["a b"], trainers.BpeTrainer(initial_alphabet=alphabet, show_progress=False))
    made.add_special_tokens([AddedToken(name, special=True) for name in ("<s>", "</s>")])
    folder = tmp_path_factory.mktemp("byte-level")
    PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>").save_pretrained(folder)
    return TextTokenizer(folder)


@pytest.fixture(scope="session")
def lines(shared: Path) -> list[str]:
    """Chinese, English, code and JSON, whole lines of at most 2,000 characters."""
    found = []
    for name in SHARED_TEXTS:
        with (shared / name).open(encoding="utf-8") as file:
            found += [line.rstrip("\n")[:2000] for line in islice(file, 800)]
    assert len(found) > 2000
    return found


def processor(folder: Path) -> SentencePieceProcessor:
    return SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


@pytest.mark.parametrize("text", [*TEXTS, "▁ a▁b"])
def test_ids_are_those_of_sentencepiece(tiny_base, tokenizer, text):
    assert tokenizer.encode(text) == processor(tiny_base).encode(text)


@pytest.mark.parametrize("name", SHARED_TOKENIZERS)
def test_ids_are_those_of_sentencepiece_for_a_real_tokenizer(shared, lines, name):
    tokenizer, expected = TextTokenizer(shared / name), processor(shared / name)

    different = [line for line in [*lines, *TEXTS] if tokenizer.encode(line) != expected.encode(line)]

    assert different == []


def test_the_ids_of_bos_eos_and_unk_are_the_tokenizers_own(tokenizer):
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id, tokenizer.size) == (1, 2, 0, 1800)


@pytest.mark.parametrize("text", TEXTS)
def test_a_continuation_decodes_to_itself(tokenizer, text):
    assert tokenizer.decode_continuation(tokenizer.encode_continuation(text)) == text


@pytest.mark.parametrize("name", ["tokenizers/llama", "tokenizers/chinese-llama-merged", "tokenizers/chinese-llama-2"])
def test_a_continuation_decodes_to_itself_with_a_real_tokenizer(shared, lines, name):
    tokenizer = TextTokenizer(shared / name)

    different = [
        line
        for line in [*lines[::5], *TEXTS]
        if tokenizer.decode_continuation(tokenizer.encode_continuation(line)) != line
    ]

    assert different == []


def test_decoding_a_continuation_keeps_its_leading_spaces(tokenizer):
    ids = tokenizer.encode_continuation("a  b")

    assert tokenizer.decode_continuation(ids[1:]) == "  b"


def test_decoding_a_continuation_leaves_control_ids_out(tokenizer):
    ids = tokenizer.encode_continuation("你好")

    assert tokenizer.decode_continuation([tokenizer.bos_id, *ids, tokenizer.eos_id]) == "你好"


def test_ids_that_the_tokenizer_does_not_have_are_not_text(tokenizer):
    """A base's vocab_size may be padded above its tokenizer."""
    ids = tokenizer.encode_continuation("你好")

    assert tokenizer.decode_continuation([*ids, tokenizer.size, tokenizer.size + 7]) == "你好"
    assert tokenizer.drop_partial_character([*ids, tokenizer.size]) == [*ids, tokenizer.size]


def byte_ids(folder: Path, text: str) -> list[int]:
    """`text` spelled in byte pieces only."""
    return [processor(folder).piece_to_id(f"<0x{value:02X}>") for value in text.encode()]


def whole_characters(data: bytes) -> str:
    """The longest text that `data` begins with."""
    return next(data[:end].decode() for end in range(len(data), -1, -1) if _is_text(data[:end]))


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


@pytest.mark.parametrize("text", ["好🦙a𠮷", "🦙", "a", "é", "好好", "𠮷\n好", "\ufffd好", ""])
def test_a_prefix_in_byte_pieces_loses_only_its_incomplete_character(tiny_base, tokenizer, text):
    ids = byte_ids(tiny_base, text)
    for end in range(len(ids) + 1):
        kept = tokenizer.drop_partial_character(ids[:end])

        assert kept == ids[: len(kept)]
        assert tokenizer.decode_continuation(kept) == whole_characters(text.encode()[:end])


@pytest.mark.parametrize("text", ["好🦙a𠮷", "春风🦙 吹来 é", "x𠮷y𠮷"])
def test_a_prefix_in_any_pieces_loses_only_its_incomplete_character(tokenizer, text):
    ids = tokenizer.encode_continuation(text)
    shown = [tokenizer.decode_continuation(tokenizer.drop_partial_character(ids[:end])) for end in range(len(ids) + 1)]

    assert all(text.startswith(part) for part in shown)
    assert shown == sorted(shown, key=len)
    assert shown[-1] == text


@pytest.mark.parametrize("text", ["好🦙a𠮷", "春风🦙 吹来 é", "a\ufffd", "\ufffd好"])
def test_a_byte_level_tokenizer_loses_only_its_incomplete_character(byte_level, text):
    ids = byte_level.encode_continuation(text)
    assert len(ids) == len(text.encode())
    for end in range(len(ids) + 1):
        kept = byte_level.drop_partial_character(ids[:end])

        assert byte_level.decode_continuation(kept) == whole_characters(text.encode()[:end])


@pytest.mark.parametrize("value", ["<0xFF>", "<0x80>", "<0xC0>"])
def test_a_byte_that_no_character_begins_with_is_not_waited_for(tiny_base, tokenizer, value):
    ids = [*tokenizer.encode_continuation("a"), processor(tiny_base).piece_to_id(value)]

    assert tokenizer.drop_partial_character(ids) == ids


def test_a_tokenizer_json_alone_is_read_from_it(json_only):
    assert json_only.source.name == "tokenizer.json"
    assert (json_only.bos_id, json_only.eos_id, json_only.unk_id, json_only.size) == (1, 2, 0, 1800)


@pytest.mark.parametrize("text", [*TEXTS, "</s>", "a<s>b<unk>"])
def test_a_tokenizer_json_alone_gives_the_ids_of_its_tokenizer_model(tokenizer, json_only, text):
    assert json_only.encode(text) == tokenizer.encode(text)
    assert json_only.encode_continuation(text) == tokenizer.encode_continuation(text)
    assert json_only.decode_continuation(json_only.encode_continuation(text)) == text


def test_a_tokenizer_json_alone_gives_the_ids_of_its_tokenizer_model_on_real_text(tokenizer, json_only, lines):
    different = [line for line in lines if json_only.encode(line) != tokenizer.encode(line)]

    assert different == []


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")

    with pytest.raises(
        UserError, match=r"has no tokenizer: expected tokenizer\.model or tokenizer\.json, found config"
    ):
        TextTokenizer(tmp_path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a Git LFS pointer"),
        (b"\x00" * 100, "begins with nothing but zeros"),
        (b"\x01\x02\x03" * 40, "is not a SentencePiece model .*Copy the file again"),
    ],
)
def test_a_broken_tokenizer_model_is_refused(tmp_path, content, says):
    (tmp_path / "tokenizer.model").write_bytes(content)

    with pytest.raises(UserError, match=rf"tokenizer\.model {says}"):
        TextTokenizer(tmp_path)


def test_a_truncated_tokenizer_model_is_refused(tmp_path, tiny_base):
    whole = (tiny_base / "tokenizer.model").read_bytes()
    (tmp_path / "tokenizer.model").write_bytes(whole[: len(whole) // 2])

    with pytest.raises(UserError, match=r"tokenizer\.model is not a SentencePiece model"):
        TextTokenizer(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "{}", "[]"])
def test_a_broken_tokenizer_json_is_refused(tmp_path, tiny_base, content):
    shutil.copy(tiny_base / "tokenizer_config.json", tmp_path)
    (tmp_path / "tokenizer.json").write_text(content, encoding="utf-8")

    with pytest.raises(
        UserError, match=r"tokenizer\.json( is empty| is not JSON|: model is missing|: the whole is \[\];)"
    ):
        TextTokenizer(tmp_path)


def test_a_model_that_came_in_another_file_is_read_without_a_folder(tmp_path, tiny_base, tokenizer):
    file = tmp_path / "x.gguf"
    inside = TextTokenizer(file, (tiny_base / "tokenizer.model").read_bytes())

    assert inside.source == file
    assert (inside.bos_id, inside.eos_id, inside.unk_id, inside.size) == (1, 2, 0, 1800)
    for text in TEXTS:
        assert inside.encode(text) == tokenizer.encode(text)
        assert inside.encode_continuation(text) == tokenizer.encode_continuation(text)
    with pytest.raises(UserError, match=r"x\.gguf is not a SentencePiece model"):
        TextTokenizer(file, b"\x00" * 100)


def test_a_tokenizer_without_eos_is_refused(tmp_path, tiny_base):
    from transformers import PreTrainedTokenizerFast

    PreTrainedTokenizerFast(tokenizer_file=str(tiny_base / "tokenizer.json"), bos_token="<s>").save_pretrained(tmp_path)

    with pytest.raises(UserError, match="declares bos id 1 and eos id None: both are needed"):
        TextTokenizer(tmp_path)


def test_a_tokenizer_json_whose_tokens_have_no_names_is_refused_with_what_to_write(tiny_base, tmp_path):
    shutil.copy(tiny_base / "tokenizer.json", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(
        '{"bos_token": "", "eos_token": "", "tokenizer_class": "LlamaTokenizer", "unk_token": ""}', encoding="utf-8"
    )
    with pytest.raises(UserError, match=r"tokenizer_config\.json beside it names no bos_token or eos_token"):
        TextTokenizer(tmp_path)
