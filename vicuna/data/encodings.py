"""A data file's bytes -> text.

Which encoding a file is in is found out, but that bytes can be decoded is no proof: nearly every file of Big5,
Shift-JIS or EUC-KR is also GB18030, of characters that make no sense. So text that is taken for GB18030 has to look
like Chinese.
"""

import codecs
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from vicuna.errors import UserError

BYTE_ORDER_MARKS = {
    b"\xff\xfe\0\0": "utf-32",
    b"\0\0\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
# Three quarters of the Chinese characters of simplified text are among these, and half of those of traditional text; of
# text in another encoding that is read as GB18030 at most an eighth. Counted in instructions, dialogues, medicine, law,
# examinations, encyclopaedias and poems; see docs/log.md.
FREQUENT = frozenset(
    "的是一和以有在人可中个用不为法能行生要了方于这年出定如时成我对国下理来他作发上性数大分子应学关会过地"
    "或动使等们并体同提到据自您进物者解现最果其与因种需产多化主通确合工后文当情电么制家力婚之更经公实程影"
    "机将表本间得民些高度重问而保建第相量面你业意事所它系题加该常日离部务新此好何正代类件式什明助全列无变"
    "入小计语品女决议包任名结具被导项说规给由律块然户求开心内根条权月天利色活外还查术处及病道水供前特也起"
    "期目从感信治位知设美三向演员就标都字疗请原哪证平长创组奖点器安算效别手述技但型选持两素例乐习金形义十"
    "取况流受气交状专检接则调单司比院案记音管少括社二共想基统帮资存片养获歌里没患展风客斯论质指息立协改准"
    "已细传序首政教考角很回非护着网食句症服复未典值收辑那看区张直商示源某场曲节响身编财格市词诉适强识反致"
    "断己造费元支达去智吗医写构次言球世测线功先视试认运科见白转模验车注佳样观否推每空环容放千减图双增她让"
    "符血母满男总山必德属海界书师象做西承输配神台只五价岁且维际参引约施清夫思四完口除判真话集率联育克步告"
    "像光游门再按择析够父零房王消态照采健预登找执故策益优境速描各快置积周销华庭许头错险路虑备尔排史失整评"
)
ENOUGH, ENOUGH_BESIDE_KANA = 0.25, 0.4
# Fewer characters prove nothing by their frequency, and still fewer nothing at all.
FEW = 64
FEWEST = 4
LONGEST_LINE = 64 << 20  # bytes of a line that is looked at in parts of a file


def decode_text(raw: bytes, path: Path, encoding: str | None = None) -> tuple[str, str]:
    """The text of a data file's bytes and its encoding, which is found out where none is given.

    Raises:
        UserError: an unknown encoding, one that the file is not in, or none that is plausible.
    """
    encoding = encoding or marked_encoding(raw)
    if encoding is not None:
        return _decode(raw, path, encoding), encoding
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        if error.end == len(raw) and error.start >= len(raw) - 3 and frequent_share(raw[: error.start].decode())[1]:
            raise UserError(
                f"{path} breaks off within a character of UTF-8, at its end in line {line}: copy it again, or remove "
                "what is behind the last whole row."
            ) from None
        return _chinese(raw, path, f"it is not UTF-8 from line {line} on"), "gb18030"
    if name := _in_ascii(raw, text):
        raise UserError(f"{path} looks like {name}; name its encoding with --encoding {name}, or save it as UTF-8.")
    return text, "utf-8"


def marked_encoding(raw: bytes) -> str | None:
    """The encoding that a byte order mark of UTF-16 or UTF-32 names."""
    return next((name for mark, name in BYTE_ORDER_MARKS.items() if raw.startswith(mark)), None)


def _decode(raw: bytes, path: Path, encoding: str) -> str:
    try:
        return raw.decode("utf-8-sig" if encoding == "utf-8" else encoding)
    except UnicodeDecodeError:
        raise UserError(
            f"{path} is not text in {encoding}; name its encoding with --encoding, or save it as UTF-8."
        ) from None
    except LookupError:
        raise UserError(f"--encoding {encoding} is not a known text encoding; try utf-8, utf-16 or gb18030.") from None


def _chinese(raw: bytes, path: Path, problem: str) -> str:
    """The bytes as GB18030, if that makes sense.

    Raises:
        UserError: it does not, or a part of the file is UTF-8.
    """
    if line := _utf8_line(raw):
        raise UserError(
            f"{path} is of two encodings: line {line} is UTF-8, but {problem}. Save all of its parts as UTF-8 before "
            "joining them."
        )
    name = _wide(raw)
    try:
        text = raw.decode("gb18030")
    except UnicodeDecodeError:
        if name := name or _likely(raw):
            raise UserError(f"{path} looks like {name}: pass --encoding {name}, or save it as UTF-8.") from None
        raise UserError(
            f"{path} is not text in UTF-8, UTF-16 with a byte order mark or GB18030 ({problem}); name its encoding "
            "with --encoding, or save it as UTF-8."
        ) from None
    if name or not _plausible(text, raw):
        share, count = frequent_share(text)
        name = name or _likely(raw)
        guess = f"it looks like {name}: pass --encoding {name}" if name else "name its encoding with --encoding"
        raise UserError(
            f"{path} can be read as GB18030, but gives no plausible Chinese ({share:.0%} of {count} characters are "
            f"frequent ones; {problem}); {guess}, or --encoding gb18030 if it is right."
        )
    return text


def is_surely_gb18030(blocks: Iterable[bytes]) -> bool:
    """Whether bytes that are no UTF-8 are taken for GB18030, told a block at a time.

    Returns:
        False where they are not, and where it takes all of them at once to say so, or to say why not.
    """
    decoder, counts, line = codecs.getincrementaldecoder("gb18030")(), Counter(), b""
    try:
        for block in blocks:
            *whole, line = (line + block).rsplit(b"\n", 1)
            if b"\0" in block or len(line) > LONGEST_LINE or (whole and _utf8_line(whole[0])):
                return False
            counts.update(decoder.decode(block))
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return not _utf8_line(line) and _is_plausible(counts)


def frequent_share(text: str | Counter[str]) -> tuple[float, int]:
    """Share of the frequent ones among the Chinese characters, those that mean nothing included, and their number.

    Args:
        text: or how often it has each character.
    """
    counts = {char: count for char, count in Counter(text).items() if _is_chinese(char)}
    total = sum(counts.values())
    return sum(count for char, count in counts.items() if char in FREQUENT) / max(1, total), total


def _is_plausible(counts: Counter[str]) -> bool:
    """Whether a text that has each character so often looks like Chinese, or has none."""
    share, count = frequent_share(counts)
    # Kana have the same codes in EUC-JP, and the characters beside them other ones.
    kana = sum(times for char, times in counts.items() if "\u3041" <= char <= "\u30ff")
    return share >= (ENOUGH_BESIDE_KANA if kana > 0.2 * (kana + count) else ENOUGH) or not count


def _plausible(text: str, raw: bytes) -> bool:
    if _is_plausible(counts := Counter(text)):
        return True
    if frequent_share(counts)[1] >= FEW:
        return False
    return all(_in_use(char) for char in text if _is_chinese(char)) and not _likely(raw)


def _in_use(char: str) -> bool:
    """Whether a Chinese character is used today: those of GB 2312, and those that Big5 lists as common."""
    simplified, traditional = char.encode("gb2312", "ignore"), char.encode("big5", "ignore")
    return bool(simplified) or (bool(traditional) and traditional[0] <= 0xC6)


def _is_chinese(char: str) -> bool:
    """Whether a character is a Chinese one, or means nothing."""
    return "\u3400" <= char <= "\u9fff" or unicodedata.category(char) in ("Co", "Cn")


def _utf8_line(raw: bytes) -> int:
    """The first line that is plausible Chinese in UTF-8, from 1; 0 for none."""
    for number, line in enumerate(raw.split(b"\n"), 1):
        if not line.isascii():
            try:
                share, count = frequent_share(line.decode("utf-8"))
            except UnicodeDecodeError:
                continue
            if share >= ENOUGH and count > 1:
                return number
    return 0


def _in_ascii(raw: bytes, text: str) -> str:
    """The encoding of a file that is UTF-8 only by chance: one that writes all in bytes of ASCII; "" for none."""
    if name := _wide(raw):
        return name
    if text.isascii():
        for sign, name in (("\x1b$)C", "iso2022_kr"), ("\x1b$", "iso2022_jp_2"), ("~{", "hz")):
            if sign in text:
                try:
                    found = raw.decode(name)
                except UnicodeDecodeError:
                    continue
                share, count = frequent_share(found)
                if name != "hz" or (count and share >= ENOUGH):
                    return name
    return ""


def _wide(raw: bytes) -> str:
    """UTF-16 or UTF-32 without a byte order mark, told by the zero bytes of ASCII in it; "" for none."""
    if b"\0" not in raw:
        return ""
    for name in ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be"):
        try:
            text = raw.decode(name)
        except UnicodeDecodeError:
            continue
        # Zero bytes that a file was padded with would be zero characters.
        if "\0" not in text and any(sign in text for sign in '\n "{'):
            return name
    return ""


def _likely(raw: bytes) -> str:
    """The encoding of the region that a file seems to be in; "" where none stands out."""
    for name in ("cp932", "euc_jp", "cp949", "big5"):
        try:
            text = raw.decode(name)
        except UnicodeDecodeError:
            continue
        letters = [char for char in text if ord(char) > 127 and char.isalpha()]
        kana = sum("\u3041" <= char <= "\u30ff" for char in letters)
        hangul = sum("\uac00" <= char <= "\ud7a3" and len(char.encode("euc_kr", "ignore")) == 2 for char in letters)
        share, _ = frequent_share(text)
        found = {"big5": share >= ENOUGH, "cp949": hangul > 0.8 * len(letters)}
        if len(letters) >= FEWEST and found.get(name, kana > 0.2 * len(letters)):
            return name
    return ""
