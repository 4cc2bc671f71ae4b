"""Files to the windows of ids that a model is run on, and which of their tokens count.

Plain text is one stream, its documents with a blank line between them, cut into windows that do not overlap, as GPTQ's
evaluation cuts it: BOS once, in front, and of each window every token but the first counts. A record with a prompt is
a window of its own, of which the response counts, with the EOS behind it; so is, where asked for, a document.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from vicuna.data.records import Records, read_records
from vicuna.errors import UserError
from vicuna.prompt.templates import IGNORE_INDEX, Message, encode, prompt_ids, render
from vicuna.prompt.tokenizer import TextTokenizer

BETWEEN_DOCUMENTS = "\n\n"


@dataclass(frozen=True)
class Text:
    """A data file as it is read, before a tokenizer sees it.

    Attributes:
        prompt_type: template around its records; "" for plain text.
    """

    name: str
    dialogues: list[list[Message]]
    prompt_type: str
    sha256: str


@dataclass(frozen=True)
class Window:
    """Ids that a model is given at once; those from `start` on count."""

    ids: list[int]
    start: int = 1

    @property
    def counted(self) -> int:
        return len(self.ids) - self.start


@dataclass(frozen=True)
class Windows:
    """A text as one tokenizer sees it.

    Attributes:
        characters, size_bytes: of what the counted tokens stand for, in UTF-8.
        unknown: counted tokens that are the tokenizer's unk.
        cut, left_out: records whose response lost its end, or all of it, to the length of a window.
    """

    windows: list[Window]
    characters: int
    size_bytes: int
    unknown: int
    cut: int = 0
    left_out: int = 0

    @property
    def counted(self) -> int:
        return sum(window.counted for window in self.windows)

    @cached_property
    def sha256(self) -> str:
        """Of all ids, and which of them count."""
        digest = hashlib.sha256()
        for window in self.windows:
            digest.update(repr((window.start, window.ids)).encode())
        return digest.hexdigest()


def read_text(path: str, prompt_type: str | Callable[[], str], **how: object) -> Text:
    """Read a data file; one that holds nothing but plain text has no template around it.

    Args:
        prompt_type: of records with a prompt, or what tells it once there are some.
        how: further arguments of `read_records`.

    Raises:
        UserError: see `read_records`.
    """
    try:
        records = read_records(path, "text", **how)
        is_plain = all(len(dialogue) == 1 for dialogue in records.dialogues)
        kind = "" if is_plain else prompt_type if isinstance(prompt_type, str) else prompt_type()
        if kind not in ("", "text"):
            records = read_records(path, kind, **how)
    except UserError as error:
        raise UserError(str(error).replace("--data_path", "--data")) from error
    return _text(records, kind)


def _text(records: Records, prompt_type: str) -> Text:
    (source,) = records.sources
    if source.weight != 1:
        raise UserError(f"--data {source.path}:{source.weight:g}: every token counts once; name the file alone.")
    return Text(str(source.path), records.dialogues, prompt_type, source.sha256)


def cut_windows(
    tokenizer: TextTokenizer, text: Text, length: int, count_prompts: bool = False, by_document: bool = False
) -> Windows:
    """The windows of a text, each of at most `length` tokens.

    Args:
        count_prompts: of records count every token but the first.
        by_document: of plain text every document is a window of its own, as training has it, with BOS and EOS.

    Raises:
        UserError: not one token counts.
    """
    if text.prompt_type or by_document:
        found = _records(tokenizer, text, length, count_prompts)
    else:
        found = _stream(tokenizer, text, length)
    if not found.counted:
        raise UserError(
            f"--data {text.name} leaves no token to count in windows of {length} tokens: name a longer text"
            f"{', or raise --seqlen' if found.left_out else ''}."
        )
    return found


def _stream(tokenizer: TextTokenizer, text: Text, length: int) -> Windows:
    joined = BETWEEN_DOCUMENTS.join(message["content"] for (message,) in text.dialogues)
    ids = [*prompt_ids(tokenizer, "text", []), *tokenizer.encode(joined)]
    windows = [Window(ids[at : at + length]) for at in range(0, len(ids), length)]
    if windows and not windows[-1].counted:
        joined = _without_last(tokenizer, joined, windows.pop())
    given = [_size(tokenizer, window.ids[:1]) for window in windows]
    characters = len(joined) - sum(one for one, _ in given)
    size = len(joined.encode()) - sum(one for _, one in given)
    return Windows(windows, characters, size, _unknown(tokenizer, windows))


def _without_last(tokenizer: TextTokenizer, joined: str, last: Window) -> str:
    """The text without that of a last window of one token, of which nothing counts."""
    return joined[: len(joined) - _size(tokenizer, last.ids)[0]]


@dataclass(frozen=True)
class RecordWindow:
    """A record as a window of its own; characters and bytes are those of what counts."""

    window: Window
    characters: int
    size_bytes: int
    cut: bool


def record_window(
    tokenizer: TextTokenizer, kind: str, dialogue: list[Message], length: int, count_prompts: bool = False
) -> RecordWindow | None:
    """A record in a window of at most `length` tokens; None where it has no room for one that counts.

    Args:
        kind: prompt type.
    """
    one = encode(tokenizer, kind, dialogue, length, count_prompts)
    if one is None:
        return None
    window = Window(one.input_ids, _first_label(one.labels))
    whole = f"{render(kind, dialogue[:-1], tokenizer.chat) if count_prompts else ''}{dialogue[-1]['content']}"
    lost = one.cut or (count_prompts and one.shortened)
    size = _size(tokenizer, window.ids[window.start :]) if lost else (len(whole), len(whole.encode()))
    return RecordWindow(window, *size, bool(one.cut))


def _records(tokenizer: TextTokenizer, text: Text, length: int, count_prompts: bool) -> Windows:
    kind = text.prompt_type or "text"
    found = [record_window(tokenizer, kind, dialogue, length, count_prompts) for dialogue in text.dialogues]
    fitting = [one for one in found if one]
    windows = [one.window for one in fitting]
    return Windows(
        windows,
        characters=sum(one.characters for one in fitting),
        size_bytes=sum(one.size_bytes for one in fitting),
        unknown=_unknown(tokenizer, windows),
        cut=sum(one.cut for one in fitting),
        left_out=len(found) - len(fitting),
    )


def _first_label(labels: Sequence[int]) -> int:
    """Where what counts begins; all that follows counts, for of a dialogue the last response is learnt."""
    return max(1, next((at for at, label in enumerate(labels) if label != IGNORE_INDEX), len(labels)))


def _size(tokenizer: TextTokenizer, ids: list[int]) -> tuple[int, int]:
    """Characters and bytes of ids that follow other text; a byte of a character that is not whole is one of each."""
    said = tokenizer.decode_continuation(ids)
    return len(said), len(said.replace("\ufffd", "?").encode())


def _unknown(tokenizer: TextTokenizer, windows: Sequence[Window]) -> int:
    return sum(window.ids[window.start :].count(tokenizer.unk_id) for window in windows)
