"""BLEU, chrF, ROUGE and exact match of Chinese answers, and what the libraries do when they are not told of Chinese."""

import pytest

from vicuna.evaluation.text_metrics import METRICS, NEEDS, CharacterTokenizer, score_text, signatures, summarise

sacrebleu = pytest.importorskip("sacrebleu", reason=NEEDS)
rouge_scorer = pytest.importorskip("rouge_score.rouge_scorer", reason=NEEDS)


ZH = "今天天气很好，我们去公园散步。"


def test_the_libraries_own_tokenizers_give_a_chinese_text_nothing_for_itself():
    """Why they are not used; `trg_lang="ZH"` is one of them without a word."""
    assert sacrebleu.BLEU().corpus_score([ZH], [[ZH]]).score == 0
    assert sacrebleu.BLEU(trg_lang="ZH").corpus_score([ZH], [[ZH]]).score == 0
    assert rouge_scorer.RougeScorer(["rouge1"]).score(ZH, ZH)["rouge1"].fmeasure == 0


@pytest.mark.parametrize(
    "text", [ZH, "是的", "好", "The cat isn't here.", "用 Python 写 3 个函数", "今天 Hello，世界！"]
)
def test_a_text_compared_with_itself_has_all_there_is(text):
    found = score_text(text, text)

    assert set(found) == set(METRICS)
    assert {round(score, 6) for score in found.values() if score is not None} == {100}
    assert (found["rouge2"] is None) == (text == "好")


@pytest.mark.parametrize("answer", ["", " \n", "。", "🙂"])
def test_an_answer_without_anything_of_the_reference_has_nothing(answer):
    assert set(score_text(answer, "没有可比之处").values()) == {0}


def test_an_answer_said_ten_times_is_worth_less():
    """rouge-chinese counts an n-gram once, and gives it ROUGE-1 1.0."""
    found = score_text(ZH * 10, ZH)

    assert found["rouge1"] == pytest.approx(100 * 2 * 0.1 * 1 / 1.1)
    assert found["bleu"] < 12
    assert found["exact"] == 0


def test_the_order_of_chinese_characters_counts():
    own, mixed = score_text("我们去公园", "我们去公园"), score_text("园公去们我", "我们去公园")

    assert (own["rouge1"], mixed["rouge1"]) == (100, 100)
    assert mixed["rougeL"] == pytest.approx(20)
    assert (mixed["rouge2"], mixed["exact"]) == (0, 0)


@pytest.mark.parametrize("text", ["The cat isn't here, 3.5 times!", "Plain words", "a-b_c d2"])
def test_english_is_scored_as_the_libraries_score_it(text):
    other = "The dog isn't there, 3.5 plain words d2 a"
    plain = rouge_scorer.RougeScorer(["rouge1", "rougeL"]).score(other, text)
    found = score_text(text, other)

    assert found["rouge1"] == pytest.approx(100 * plain["rouge1"].fmeasure)
    assert found["rougeL"] == pytest.approx(100 * plain["rougeL"].fmeasure)
    assert found["bleu"] == sacrebleu.BLEU(effective_order=True).sentence_score(text, [other]).score


def test_tokens_are_signs_of_chinese_and_words_of_the_rest():
    tokens = CharacterTokenizer().tokenize("用Python3写“你好”，𠮷さん，naïve café！")
    assert tokens == ["用", "python3", "写", "你", "好", "𠮷", "さ", "ん", "naïve", "café"]


def test_a_summary_counts_what_is_left_out():
    answers, references = [ZH, "", "好"], [ZH, ZH, "好"]
    rows = [score_text(*pair) for pair in zip(answers, references, strict=True)]
    found = summarise(answers, references, rows)

    assert (found.rows, found.empty, found.one_token) == (3, 1, 1)
    assert found.means["exact"] == pytest.approx(200 / 3)
    assert found.means["rouge2"] == pytest.approx(50)  # of two rows
    assert 0 < found.corpus_bleu < 100
    assert "tok:zh" in signatures()["bleu"]
