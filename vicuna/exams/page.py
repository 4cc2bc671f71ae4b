"""What models scored, as tables and sentences; everything is in percent."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from vicuna.evaluation.markdown import table
from vicuna.exams.flags import ANY, PUBLISHED
from vicuna.exams.layouts import AGIEVAL
from vicuna.exams.scores import Figures, over_subjects

Found = Mapping[str, Figures]  # subject -> figures


def both_averages(found: Found) -> tuple[dict[str, Any], dict[str, Any]]:
    """Over subjects, as CMMLU's script has it, and over questions, as lm-eval weighs them."""
    each = list(found.values())
    names = ("score", "chance", "spread")
    of_subjects = dict(zip(names, over_subjects(each), strict=True))
    count = sum(one.questions for one in each)
    of_rows: dict[str, Any] = {
        name: math.fsum(getattr(one, name) * one.questions for one in each) / count for name in ("score", "chance")
    }
    of_rows["spread"] = math.sqrt(math.fsum((one.spread * one.questions) ** 2 for one in each)) / count
    sums = {name: sum(getattr(one, name) for one in each) for name in ("questions", "tied", "shots", "dropped")}
    one_letter = math.fsum(one.one_letter * one.questions for one in each) / count
    for one in (of_subjects, of_rows):
        one["beyond_chance"] = abs(one["score"] - one["chance"]) > one["spread"]
    return of_subjects, of_rows | sums | {"one_letter_by_subject": one_letter}


def told(about: Mapping[str, Any]) -> str:
    """What is asked, in a line."""
    split = f" ({about['split']})" if about["split"] else ""
    return (
        f"{about['suite']}{split}: {about['questions']} questions of {len(about['subjects'])} of "
        f"{about['published_subjects']} published subjects, {about['num_fewshot']} examples, style {about['style']}, "
        f"at most {about['cutoff_len']} tokens; {about['without_room']} questions have no room"
        + "".join(f", {count} are left out: {reason}" for reason, count in about["left_out"].items())
    )


def averages(names: Sequence[str], found: Sequence[Found]) -> str:
    """A row for each model."""
    heads = (
        *("model", "questions", "mean of subjects", "mean of questions", "chance", "95 % of guesses", "beyond chance"),
        *("ties", "examples dropped"),
    )
    rows = []
    for name, one in zip(names, found, strict=True):
        of_subjects, of_rows = both_averages(one)
        low, high = of_rows["chance"] - of_rows["spread"], of_rows["chance"] + of_rows["spread"]
        shown = of_rows["dropped"], of_rows["shots"] + of_rows["dropped"]
        rows.append(
            (name, str(of_rows["questions"]), f"{of_subjects['score']:.2f}", f"{of_rows['score']:.2f}",
             f"{of_rows['chance']:.2f}", f"{low:.2f} to {high:.2f}", "yes" if of_rows["beyond_chance"] else "no",
             str(of_rows["tied"]), f"{shown[0]} of {shown[1]}")
        )  # fmt: skip
    return table(heads, rows)


def written(about: Mapping[str, Any], names: Sequence[str], found: Sequence[Found]) -> str:
    """The page."""
    missing = about["published_subjects_not_asked"]
    used = f"{len(about['subjects'])} of the {about['published_subjects']} published subjects were asked"
    not_asked = (
        f"; not {', '.join(missing)}. The published average can not be reproduced from them." if missing else "."
    )
    heads = ("subject", "questions", "chance", "one letter", *names)
    rows = [
        (subject, str(one.questions), f"{one.chance:.2f}", f"{one.one_letter:.2f}",
         *(f"{of[subject].score:.2f}" for of in found))
        for subject, one in found[0].items()
    ]  # fmt: skip
    parts = [
        f"# {about['suite']}, {about['num_fewshot']} examples",
        "All figures are in percent. The mean of subjects weighs every subject alike, as CMMLU's own script does, the "
        "mean of questions every question, as lm-eval does. Chance is that of a guess, counted from the right answers; "
        "of those who guess, 95 % are in the interval beside it.",
        averages(names, found),
        f"{used}{not_asked}",
        f"{told(about)}.",
        *_remarks(about),
        "## By subject",
        "One letter is the best score of who always gives the same letter.",
        table(heads, rows),
    ]
    return "\n\n".join(parts) + "\n"


def _remarks(about: Mapping[str, Any]) -> list[str]:
    """How it was asked and counted."""
    if about["style"] == PUBLISHED:
        said = ["Asked as the benchmark's own script does, the letter right behind the question."]
        if about["suite"] == AGIEVAL:
            said = [
                "Asked in AGIEval's own words; its script lets a model write, here the letters' likelihoods decide."
            ]
    else:
        said = ["Asked as lm-eval does, with a space before the option."]
        if about["suite"] == AGIEVAL:
            said = ["Asked as lm-eval does: the likelihoods of the options' whole texts decide."]
    if about["several_right"]:
        how = "any of them counts" if about["several"] == ANY else "exactly their set counts, of all sets of options"
        said.append(f"{about['several_right']} questions have several right answers: {how}.")
    if about["without_options"]:
        said.append(f"Without options, and not asked: {', '.join(about['without_options'])}.")
    return [" ".join([*said, "Of k options that tie, each counts as 1/k."])]
