"""How like its reference an answer is: BLEU, chrF, ROUGE and exact match, for Chinese too, all from 0 to 100.

BLEU and chrF are sacrebleu's, ROUGE is rouge-score's. Both libraries cut words at spaces unless told otherwise, which
leaves of a Chinese text nothing that could match: sacrebleu is given its own tokenizer for Chinese, rouge-score ours.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from vicuna.errors import UserError

NEEDS = "sacrebleu and rouge-score are not installed: bash scripts/install_eval.sh."
ROUGE = ("rouge1", "rouge2", "rougeL")
METRICS = ("bleu", "chrf", *ROUGE, "exact")
# Signs that are written without spaces between words: Chinese characters and Japanese kana.
SIGN = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
TOKEN = re.compile(rf"[{SIGN}]|[^\W_{SIGN}]+")


class CharacterTokenizer:
    """What rouge-score calls a tokenizer: each Chinese character, and each other word in small letters.

    Punctuation is left out, as rouge-score's own tokenizer leaves it out; of English both make the same.
    """

    def tokenize(self, text: str) -> list[str]:
        return TOKEN.findall(text.lower())


@dataclass(frozen=True)
class Summary:
    """What a model's answers are worth together.

    Attributes:
        means: metric -> mean over the rows that have it.
        corpus_bleu: of all answers at once, as papers state it.
        empty: answers without a sign; one_token: rows without ROUGE-2, for their reference has no two tokens.
    """

    rows: int
    means: dict[str, float]
    corpus_bleu: float
    empty: int
    one_token: int


@cache
def _scorers() -> tuple[Any, Any, Any]:
    try:
        from rouge_score.rouge_scorer import RougeScorer
        from sacrebleu.metrics import BLEU, CHRF
    except ImportError as error:
        raise UserError(NEEDS) from error
    # Without effective_order a text of less than four tokens scores 0 against itself.
    return BLEU(tokenize="zh", effective_order=True), CHRF(), RougeScorer(ROUGE, tokenizer=CharacterTokenizer())


def check_libraries() -> None:
    """See that the libraries are there, before anything is asked.

    Raises:
        UserError: how to install them.
    """
    _scorers()


def signatures() -> dict[str, str]:
    """How sacrebleu names what was computed, for who wants to compute it again."""
    bleu, chrf, _ = _scorers()
    bleu.corpus_score(["a"], [["a"]])  # a signature knows the number of references only then
    chrf.corpus_score(["a"], [["a"]])
    return {"bleu": str(bleu.get_signature()), "chrf": str(chrf.get_signature())}


def score_text(answer: str, reference: str) -> dict[str, float | None]:
    """Metric -> score of an answer; an empty one has 0 in all.

    Args:
        reference: with at least one sign.

    Returns:
        ROUGE-2 is None where the reference has no two tokens.
    """
    bleu, chrf, rouge = _scorers()
    found: dict[str, float | None] = {
        "bleu": bleu.sentence_score(answer, [reference]).score,
        "chrf": chrf.sentence_score(answer, [reference]).score,
        **{name: 100 * one.fmeasure for name, one in rouge.score(reference, answer).items()},
        "exact": 100.0 * (answer.strip() == reference.strip()),
    }
    if len(CharacterTokenizer().tokenize(reference)) < 2:
        found["rouge2"] = None
    return found


def summarise(answers: Sequence[str], references: Sequence[str], scores: Sequence[dict[str, float | None]]) -> Summary:
    """What rows are worth together.

    Args:
        scores: of each row, by `score_text`.
    """
    columns = {name: [one[name] for one in scores if one[name] is not None] for name in METRICS}
    return Summary(
        rows=len(answers),
        means={name: sum(column) / len(column) for name, column in columns.items() if column},
        corpus_bleu=_scorers()[0].corpus_score(list(answers), [list(references)]).score,
        empty=sum(not answer.strip() for answer in answers),
        one_token=sum(one["rouge2"] is None for one in scores),
    )
