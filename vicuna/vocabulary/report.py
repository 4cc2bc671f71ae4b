"""What a larger vocabulary does to texts: tokens a character, English that is cut otherwise, pieces out of reach.

And whether the tokenizer.json beside it says the same, for the programs that read only this one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vicuna.prompt.tokenizer import read_sentencepiece, without_dummy_prefix
from vicuna.vocabulary.merging import SPACE, Merge, is_chinese
from vicuna.vocabulary.writing import TOKENIZER_MODEL


@dataclass(frozen=True)
class Effect:
    """What became of some lines.

    Attributes:
        tokens_before, tokens_after: of the Chinese lines; characters: of these, too.
        english_lines: those with a Latin letter and no Chinese character; english_changed: those with other tokens.
        json_differs: lines of any kind to which tokenizer.json gives other tokens than SentencePiece.
    """

    lines: int
    chinese_lines: int
    characters: int
    tokens_before: int
    tokens_after: int
    english_lines: int
    english_changed: int
    json_differs: int

    def told(self) -> list[str]:
        """The same in words, a line each."""
        told = []
        if self.characters:
            before, after = (one / self.characters for one in (self.tokens_before, self.tokens_after))
            told.append(
                f"tokens a character on {self.chinese_lines:,} Chinese lines: {before:.3f} before, {after:.3f} after "
                f"({1 - after / before:.0%} fewer)"
            )
        if self.english_lines:
            told.append(f"English lines that get other tokens: {self.english_changed:,} of {self.english_lines:,}")
        told.append(f"lines to which tokenizer.json gives other tokens: {self.json_differs:,} of {self.lines:,}")
        return told


def measure(before: Path, after: Path, lines: Sequence[str]) -> Effect:
    """Compare two tokenizers on lines of text.

    Args:
        before: a SentencePiece model; after: the folder of another one, with its tokenizer.json.
    """
    old, new = (read_sentencepiece(file)[1].encode(list(lines)) for file in (before, after / TOKENIZER_MODEL))
    chinese = [i for i, line in enumerate(lines) if is_chinese(line)]
    english = [i for i, line in enumerate(lines) if not is_chinese(line) and _has_latin(line)]
    return Effect(
        lines=len(lines),
        chinese_lines=len(chinese),
        characters=sum(len(lines[i]) for i in chinese),
        tokens_before=sum(len(old[i]) for i in chinese),
        tokens_after=sum(len(new[i]) for i in chinese),
        english_lines=len(english),
        english_changed=sum(old[i] != new[i] for i in english),
        json_differs=sum(one != other for one, other in zip(new, _by_json(after, lines), strict=True)),
    )


def unreachable(merge: Merge) -> list[str]:
    """New pieces that no text is ever cut into, because the pairs on the way to them are no pieces."""
    processor = without_dummy_prefix(merge.proto)
    texts = [piece.replace(SPACE, " ") for piece in merge.new_pieces]
    found = processor.encode(texts)
    return [
        piece
        for i, (piece, ids) in enumerate(zip(merge.new_pieces, found, strict=True))
        if ids != [merge.first_new + i]
    ]


def _by_json(folder: Path, lines: Sequence[str]) -> list[list[int]]:
    from tokenizers import Tokenizer

    tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.encode_special_tokens = True  # a `</s>` in a text is text
    return [one.ids for one in tokenizer.encode_batch(list(lines), add_special_tokens=False)]


def _has_latin(line: str) -> bool:
    return any(sign.isascii() and sign.isalpha() for sign in line)
