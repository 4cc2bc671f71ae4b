"""How a question is put, and what may follow: as the benchmark's own script has it, or as lm-eval's tasks do.

The two differ in words and in the space before the option, and so in their figures: they are never mixed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from vicuna.exams.flags import EXACT, PUBLISHED
from vicuna.exams.layouts import AGIEVAL, CEVAL, CMMLU

SHOT_END = "\n\n"
# Files of AGIEval that are asked in English; the others are Chinese.
ENGLISH = ("lsat-", "sat-", "aqua-rat", "logiqa-en", "gaokao-english")


@dataclass(frozen=True)
class Style:
    """How the questions of a subject are put.

    Attributes:
        suite: its benchmark; published: by the benchmark's own script.
        english: of AGIEval, the words around the question.
        by_sets: what may follow are sets of options, closed by the end of the line.
    """

    suite: str
    published: bool
    english: bool = False
    by_sets: bool = False

    @property
    def delimiter(self) -> str:
        """What stands between the question and the option."""
        return "" if self.published else " "

    @property
    def by_letters(self) -> bool:
        """Whether the letters are compared; else the options' own text, as lm-eval does with AGIEval."""
        return self.suite != AGIEVAL or self.published or self.by_sets

    def text(self, doc: Mapping[str, Any]) -> str:
        """The question, up to where the option follows."""
        if self.suite == AGIEVAL:
            return self._agieval(doc)
        options = "".join(
            f"\n{letter}. {option}" for letter, option in zip(doc["letters"], doc["options"], strict=True)
        )
        if self.suite == CMMLU and self.published:
            return f"题目：{doc['stem']}{options}\n答案是："
        return f"{doc['stem']}{options}\n答案："

    def _agieval(self, doc: Mapping[str, Any]) -> str:
        last, options = max(doc["letters"]), " ".join(doc["options"])
        if self.english:
            asked = f"Q: {doc['stem']} Answer Choices: {options}\nA: Among A through {last}, the answer is"
        else:
            asked = f"问题：{doc['stem']} 选项：{options}\n答案：从A到{last}, 我们应选择"
        return f"{doc['passage']}{asked}"

    def choices(self, doc: Mapping[str, Any]) -> list[str]:
        """What may follow, without what stands before it."""
        if self.by_sets:
            return [f"{one}\n" for one in letter_sets(doc["letters"])]
        return list(doc["letters"] if self.by_letters else doc["options"])

    def right(self, doc: Mapping[str, Any]) -> list[int]:
        """Places among `choices` of the right ones."""
        if self.by_sets:
            return [letter_sets(doc["letters"]).index(doc["right"])]
        return [place for place, letter in enumerate(doc["letters"]) if letter in doc["right"]]

    def answer(self, doc: Mapping[str, Any]) -> str:
        """What follows an example."""
        return doc["right"] if self.by_letters else self.choices(doc)[self.right(doc)[0]]


def style_of(suite: str, subject: str, style: str, several: str, has_several: bool) -> Style:
    """How a subject is asked.

    Args:
        has_several: some of its questions have several right answers.
    """
    english = suite == AGIEVAL and subject.startswith(ENGLISH)
    return Style(suite, style == PUBLISHED, english, several == EXACT and has_several)


def letter_sets(letters: Sequence[str]) -> list[str]:
    """Every set of options but the empty one, each in the order of the letters: A, B, …, AB, …, ABCD."""
    ordered = sorted(letters)
    return ["".join(one) for size in range(1, len(ordered) + 1) for one in combinations(ordered, size)]


def introduction(suite: str, published: bool, subject: str, known: Mapping[str, str]) -> str:
    """What stands before the examples.

    Args:
        known: subjects -> how lm-eval introduces each; a subject of the user's own goes by the name of its file.
    """
    if suite == AGIEVAL:
        return ""
    before, behind = _AROUND[suite]
    said = known.get(subject) or f"{before}{subject}{behind}"
    return said.replace(_CHOICE, f"考试{_CHOICE}", 1) if suite == CEVAL and published else said


_CHOICE = "的单项选择题"
_AROUND = {
    CMMLU: ("以下是关于", f"{_CHOICE}，请直接给出正确答案的选项。\n\n"),
    CEVAL: ("以下是中国关于", f"{_CHOICE}，请选出其中的正确答案。\n\n"),
}
