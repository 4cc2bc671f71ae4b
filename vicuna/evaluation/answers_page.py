"""Answers side by side, as Markdown: figures first, then a table for each category, a question a line.

The words around them are in English and in Chinese, so that a page of each language can hold the same tables.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vicuna.errors import UserError
from vicuna.evaluation.markdown import literal, table
from vicuna.evaluation.question_files import Ask
from vicuna.foreign.paths import read_text
from vicuna.train.checkpoint import write_text

SIDE_BY_SIDE = 4  # columns of answers at most; more of them stand below each other
WORDS = {
    "en": {
        "heads": ("model", "prompt type", "settings", "answers", "empty", "repeating", "repeated 4-grams", "cut off",
                  "tokens"),
        "measures": "Repeating are answers that end in a loop (a piece said three times or more in a row) or more than "
        "half of whose character 4-grams stood in them before; beside it the mean share of such 4-grams. Cut off are "
        "those that reached `--max_new_tokens`; tokens are the mean of an answer.",
        "seed": "Seed {seed}; greedy answers do not depend on it.",
        "question": "question", "own": "settings", "model": "model", "answer": "answer", "title": "Answers",
        "others": "others", "empty": "(empty)",
    },
    "zh": {
        "heads": ("模型", "提示词模板", "解码设置", "回答数", "空回答", "重复的回答", "重复的 4 字片段", "被截断",
                  "词元数"),
        "measures": "重复的回答：以循环结尾（同一片段连说三次以上），或者一半以上的 4 字片段此前已在同一回答里出现过；"
        "旁边是这种片段的平均占比。被截断：达到 `--max_new_tokens` 的回答；词元数为每个回答的平均值。",
        "seed": "随机种子 {seed}；贪心解码的回答与它无关。",
        "question": "问题", "own": "设置", "model": "模型", "answer": "回答", "title": "回答",
        "others": "其他", "empty": "（空）",
    },
}  # fmt: skip
MARKED = re.compile(r"(<!-- answers (\w+) -->\n).*?(<!-- /answers -->)", re.DOTALL)
SHORT = {"repetition_penalty": "penalty", "max_new_tokens": "max", "max_tokens": "max", "extra_body": ""}
UNSAID = {"min_new_tokens": 1, "num_beams": 1}  # which go without saying


def page(found: Sequence[dict[str, Any]], asks: Sequence[Ask], answers: Mapping[str, list[str]], seed: int) -> str:
    """The whole page, in English."""
    return f"# {WORDS['en']['title']}\n\n{body(found, asks, answers, seed, 'en')}"


def body(
    found: Sequence[dict[str, Any]], asks: Sequence[Ask], answers: Mapping[str, list[str]], seed: int, language: str
) -> str:
    """The page without its title."""
    words = WORDS[language]
    parts = [summary_table(found, language), f"{words['measures']} {words['seed'].format(seed=seed)}"]
    for category in dict.fromkeys(one.category for one in asks):
        own = [one for one in asks if one.category == category]
        parts += [f"## {literal(category or words['others'])}", _side_by_side(own, answers, words)]
    return "\n\n".join(parts) + "\n"


def summary_table(found: Sequence[dict[str, Any]], language: str = "en") -> str:
    """A line for each model under each of the settings."""
    rows = [
        (one["model"], one["prompt_type"] or "–", settings_text(one["settings"]) or "–", str(one["answers"]),
         str(one["empty"]), str(one["repeating"]), f"{one['repetition']:.1%}", str(one["cut"]),
         "–" if one["tokens"] is None else f"{one['tokens']:.1f}")
        for one in found
    ]  # fmt: skip
    return table(WORDS[language]["heads"], rows)


def settings_text(settings: Mapping[str, Any]) -> str:
    """Decoding settings in a few words."""
    parts = []
    for name, value in settings.items():
        if isinstance(value, Mapping):
            parts.append(settings_text(value))
        elif name == "do_sample":
            parts.insert(0, "sampling" if value else "" if settings.get("num_beams", 1) > 1 else "greedy")
        elif UNSAID.get(name) != value:
            parts.append(f"{SHORT.get(name, name)} {value}")
    return ", ".join(filter(None, parts))


def _side_by_side(asks: Sequence[Ask], answers: Mapping[str, list[str]], words: Mapping[str, Any]) -> str:
    """The questions of a category; a column of settings where one of them has its own."""
    has_own = any(one.settings for one in asks)
    own = [(settings_text(one.settings),) if has_own else () for one in asks]
    heads = (words["question"], *((words["own"],) if has_own else ()))
    asked = [_question(one) for one in asks]
    said = {name: [_shown(of[one.record - 1], words) for one in asks] for name, of in answers.items()}
    if len(answers) <= SIDE_BY_SIDE:
        rows = [(question, *mine, *(of[i] for of in said.values()))
                for i, (question, mine) in enumerate(zip(asked, own, strict=True))]  # fmt: skip
        return table((*heads, *map(literal, answers)), rows, aligned=False)
    rows = [
        (asked[i] if at == 0 else "", *(own[i] if at == 0 else own[i] and ("",)), literal(name), of[i])
        for i in range(len(asks))
        for at, (name, of) in enumerate(said.items())
    ]
    return table((*heads, words["model"], words["answer"]), rows, aligned=False)


def _question(ask: Ask) -> str:
    """What was asked, with the turns before it that stand in the file."""
    parts = [literal(f"{one['role']}: {one['content']}") for one in ask.messages[:-1]]
    last = ask.messages[-1]
    parts += [literal(text) for text in (last["content"], last.get("input", "")) if text.strip()]
    return f"{'↳ ' if ask.turn else ''}{'<br>'.join(parts)}"


def _shown(answer: str, words: Mapping[str, Any]) -> str:
    return literal(answer.strip()) or words["empty"]


def check_into(files: Sequence[str]) -> None:
    """See that the tables can be put into the files.

    Raises:
        UserError: one has no place for them.
    """
    for name in files:
        try:
            places = MARKED.findall(read_text(Path(name)))
        except UserError as error:
            raise UserError(f"--into {name} can not be read: expected a Markdown file in UTF-8.") from error
        if len(places) != 1 or places[0][1] not in WORDS:
            raise UserError(
                f"--into {name} has no place for the tables: expected one line <!-- answers en --> (or zh), and behind "
                "it one <!-- /answers -->."
            )


def write_into(
    files: Sequence[str], found: Sequence[dict[str, Any]], asks: Sequence[Ask], answers: Mapping[str, list[str]],
    seed: int,
) -> None:  # fmt: skip
    """Put the tables into files that `check_into` has seen."""
    for name in files:
        text = read_text(Path(name))
        new = MARKED.sub(lambda at: f"{at[1]}\n{body(found, asks, answers, seed, at[2])}\n{at[3]}", text)
        write_text(Path(name), new)
