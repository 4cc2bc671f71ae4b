"""Encodings: what is found out has to be plausible, else it is refused with --encoding named."""

from pathlib import Path

import pytest

from vicuna.data.encodings import ENOUGH, decode_text, frequent_share
from vicuna.errors import UserError

FILE = Path("a.txt")
SIMPLIFIED = (
    "春天来了，公园里的花都开了。孩子们在草地上放风筝，老人坐在长椅上晒太阳。请把这句话翻译成英文，并说明理由。"
)
TRADITIONAL = (
    "春天來了，公園裡的花都開了。孩子們在草地上放風箏，老人坐在長椅上曬太陽。請把這句話翻譯成英文，並說明理由。"
)
JAPANESE = (
    "春になって、公園の花がすべて咲きました。子供たちは芝生で凧を揚げ、老人は長椅子に座って日光浴をしています。"
    "次の文章を英語に翻訳し、選んだ単語の理由を説明してください。機械翻訳を使わず、辞書で確認すること。"
)
KOREAN = "봄이 와서 공원의 꽃이 모두 피었습니다. 아이들은 잔디밭에서 연을 날리고 노인들은 벤치에 앉아 햇볕을 쬡니다."
RUSSIAN = "Пришла весна, и в парке расцвели все цветы. Дети запускают змеев на лужайке, а старики сидят на скамейках."
GERMAN = "Der Frühling ist da, und im Park blühen alle Blumen. Kinder lassen auf der Wiese Drachen steigen, Grüße!"
ENGLISH = "Don\x92t worry, it\x92s what you\x92d expect: they\x92re here. " * 8


@pytest.mark.parametrize(
    "text", [SIMPLIFIED, TRADITIONAL, "蓝", "葡萄", "葡萄牙", "蜻蜓", "——“”", "café – naïve", "ひらがな"]
)
@pytest.mark.parametrize("around", ["", "plain text\n" * 50])
def test_gb18030_is_found_out(text, around):
    assert decode_text((around + text).encode("gb18030"), FILE) == (around + text, "gb18030")


@pytest.mark.parametrize(
    ("text", "encoding", "named"),
    [
        (TRADITIONAL, "big5", "big5"),
        (TRADITIONAL, "cp950", "big5"),
        (JAPANESE, "cp932", "cp932"),
        (JAPANESE, "euc_jp", "euc_jp"),
        (KOREAN, "euc_kr", "cp949"),
        (RUSSIAN, "koi8-r", ""),
        (RUSSIAN, "cp1251", ""),
        (GERMAN, "cp1252", ""),
        (ENGLISH, "latin-1", ""),
        (SIMPLIFIED, "utf-16-le", "utf-16-le"),
        (SIMPLIFIED, "utf-16-be", "utf-16-be"),
        (SIMPLIFIED, "utf-32-le", "utf-32-le"),
        ("plain text", "utf-16-le", "utf-16-le"),
        (SIMPLIFIED, "hz", "hz"),
        (JAPANESE, "iso2022_jp", "iso2022_jp"),
        (KOREAN, "iso2022_kr", "iso2022_kr"),
    ],
)
def test_another_encoding_is_refused_with_the_flag_and_what_it_looks_like(text, encoding, named):
    raw = f"{text}\n".encode(encoding)

    with pytest.raises(UserError, match="--encoding") as refused:
        decode_text(raw, FILE)
    assert (f"looks like {named}" if named else "name its encoding with --encoding") in str(refused.value)
    if named:
        assert decode_text(raw, FILE, named)[0].strip("\n") == text


def test_a_refusal_says_how_it_was_judged():
    with pytest.raises(
        UserError, match=r"no plausible Chinese \(\d+% of \d+ characters are frequent ones; it is not UTF-8"
    ):
        decode_text(TRADITIONAL.encode("big5"), FILE)


@pytest.mark.parametrize("encodings", [("gb18030", "utf-8"), ("utf-8", "gb18030")])
def test_parts_in_two_encodings_are_refused_with_a_line_of_each(encodings):
    raw = b"".join(f"{SIMPLIFIED}\n".encode(encoding) for encoding in encodings)
    first = encodings.index("utf-8") + 1

    with pytest.raises(
        UserError, match=rf"of two encodings: line {first} is UTF-8, but it is not UTF-8 from line {3 - first}"
    ):
        decode_text(raw, FILE)


@pytest.mark.parametrize("lost", [1, 2])
def test_a_file_that_breaks_off_within_a_character_is_refused_by_its_last_line(lost):
    raw = f"{SIMPLIFIED}\n{SIMPLIFIED[:9]}".encode()[:-lost]

    with pytest.raises(UserError, match="breaks off within a character of UTF-8, at its end in line 2: copy it again"):
        decode_text(raw, FILE)


def test_utf_32_with_a_byte_order_mark_is_no_utf_16():
    assert decode_text(SIMPLIFIED.encode("utf-32"), FILE) == (SIMPLIFIED, "utf-32")


def test_zero_bytes_that_a_file_was_padded_with_are_no_encoding():
    raw = f"{SIMPLIFIED}\n".encode() + bytes(64)
    assert decode_text(raw, FILE) == (raw.decode(), "utf-8")


def test_signs_of_hz_in_a_program_are_no_encoding():
    assert decode_text(b"a = ~{b} # ~{ c ~}", FILE)[1] == "utf-8"


def test_every_real_file_of_records_is_read_as_gb18030_too(shared):
    files = [file for kind in ("instruct", "law", "med", "chat") for file in (shared / kind).rglob("*.json*")]
    checked = 0
    for file in files:
        text = file.read_bytes().decode()
        assert decode_text(file.read_bytes(), file) == (text.removeprefix("\ufeff"), "utf-8")
        raw = text.encode("gb18030", "ignore")
        if not raw.isascii() and file.stat().st_size < 4_000_000:
            assert decode_text(raw, file)[1] == "gb18030", file
            checked += 1
    assert checked > 500


def test_half_of_the_characters_of_real_text_are_frequent(shared):
    for name in ("instruct/llama-factory/alpaca_zh_demo.json", "law/lawyer-llama/zixun_gpt4.json"):
        assert frequent_share((shared / name).read_text(encoding="utf-8"))[0] > 0.5
    for text, encoding in ((TRADITIONAL, "big5"), (JAPANESE, "cp932"), (KOREAN, "euc_kr")):
        assert frequent_share(text.encode(encoding).decode("gb18030", "ignore"))[0] < ENOUGH / 2
