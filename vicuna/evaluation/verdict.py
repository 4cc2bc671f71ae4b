"""The kind `verdict`: whether a model is better than before, from two results on the same questions.

With d_i = after_i - before_i of question i (turned round where less is better), and [low, high] the 95 % interval of
their mean by the paired bootstrap of `vicuna.evaluation.bootstrap`, a model is

    better where low > floor, worse where high < -floor, and in every other case it can not be told.

The floor is a difference that counts as nothing: a number, or what two results of the same model are apart, of which
the further end of their own interval is taken. Source of the bootstrap: Koehn, EMNLP 2004.
"""

import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vicuna.errors import UserError, printable
from vicuna.evaluation.bootstrap import Difference, Scores, paired_difference
from vicuna.evaluation.journal import RESULTS, ROWS
from vicuna.evaluation.markdown import without_nan
from vicuna.evaluation.score_flags import METRIC_NAMES, VerdictFlags
from vicuna.log import log
from vicuna.train.checkpoint import write_text

BETTER, WORSE, USAGE, CANNOT_TELL = 0, 1, 2, 3  # exit statuses
FEWEST = 10  # questions: of fewer, a difference is chance as often as not
WORDS = {BETTER: "better", WORSE: "worse", CANNOT_TELL: "cannot tell"}
# What tells a question within results; and what is the same of one in both, where both have it.
KEYS = ("subject", "turn", "settings", "history")
SAME = ("question", "reference", "category", "subject", "line")


@dataclass(frozen=True)
class Metric:
    """A score in the lines of results: the sum of a field, over the sum of another one or the number of questions.

    Attributes:
        sign: 1 where more is better, -1 where less is.
    """

    field: str
    sign: int
    weight: str | None = None
    factor: float = 1.0

    def of(self, line: dict[str, Any]) -> tuple[float, float] | None:
        """(total, weight); None where the line has no number there."""
        value, weight = line.get(self.field), 1.0 if self.weight is None else line.get(self.weight)
        if not isinstance(value, int | float) or not isinstance(weight, int | float) or not weight:
            return None
        return self.factor * float(value), float(weight)


SUMS = {"loss": Metric("nll", -1, "tokens"), "bits_per_byte": Metric("nll", -1, "bytes", 1 / math.log(2))}
LESS = {"repetition", "wrong", "empty"}
METRICS = {name: SUMS.get(name) or Metric(name, -1 if name in LESS else 1) for name in METRIC_NAMES}


@dataclass(frozen=True)
class Results:
    """The lines of one model in a folder that an evaluation wrote."""

    name: str
    kind: str
    lines: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Verdict:
    """What was found.

    Attributes:
        difference: after - before, in the metric's own direction.
        again: the same of each repetition.
        left_out: questions that only one of the results has.
    """

    status: int
    metric: str
    questions: int
    left_out: int
    difference: Difference
    floor: float
    again: list[Difference]


def give_verdict(flags: VerdictFlags) -> int:
    """Read, compare, print; the exit status, which is 2 for whatever can not be compared."""
    try:
        before = read_results(flags.before, flags.before_model, "--before")
        after = read_results(flags.after, flags.after_model, "--after")
        again = [read_results(one, "", "--again") for one in flags.again]
        if flags.json and Path(flags.json).exists() and not flags.overwrite:
            raise UserError(f"--json {flags.json} exists; name another file, or pass --overwrite.")
        found = compare(before, after, again, flags.metric, flags.noise_floor, flags.seed)
    except UserError as error:  # status 1 would say that it is worse
        print(printable(f"evaluate.py: error: {error}"), file=sys.stderr)
        return USAGE
    if found.left_out:
        log.warning("WARNING %d questions stand in one of the two only, and do not count", found.left_out)
    print(describe(found, before.name, after.name), flush=True)
    if flags.json:
        data = {"verdict": WORDS[found.status], "before_results": before.name, "after_results": after.name}
        data |= {**asdict(found), "seed": flags.seed}
        write_text(Path(flags.json), json.dumps(without_nan(data), ensure_ascii=False, indent=1) + "\n")
    return found.status


def read_results(name: str, model: str, flag: str) -> Results:
    """A model's lines in the folder of an evaluation.

    Args:
        model: which, by its name there; "" where there is one alone.

    Raises:
        UserError: no such folder, results that are not whole, or not this model.
    """
    folder = Path(name).expanduser()
    if not name or not (folder / ROWS).is_file():
        raise UserError(f"{flag} {name or 'is missing'}: expected the --output_path of an evaluation, with {ROWS}.")
    if not (folder / RESULTS).is_file():
        raise UserError(f"{flag} {name} is not finished: the command that began it goes on with it.")
    try:
        kind = json.loads((folder / RESULTS).read_text(encoding="utf-8")).get("kind", "")
        lines = [json.loads(line) for line in (folder / ROWS).read_text(encoding="utf-8").splitlines()]
        models = list(dict.fromkeys(line.get("model", "") for line in lines))
    except (ValueError, AttributeError) as error:
        raise UserError(f"{flag} {name} was changed since it was written: run the evaluation again.") from error
    if model and model not in models:
        raise UserError(f"{flag}_model {model} is none of {name}: {', '.join(models)}.")
    if not model and len(models) > 1:
        raise UserError(f"{flag} {name} has {len(models)} models, {', '.join(models)}: name one by {flag}_model.")
    chosen = model or models[0]
    mine = [line for line in lines if line.get("model", "") == chosen]
    own = {_key(line): line for line in mine}
    if len(own) < len(mine):
        raise UserError(f"{flag} {name} is of the kind {kind}, which has several scores of a question: not comparable.")
    return Results(f"{name}: {chosen}" if chosen else name, kind, own)


def compare(before: Results, after: Results, again: Sequence[Results], metric: str, floor: float, seed: int) -> Verdict:
    """The verdict on two results.

    Args:
        again: further results of the model before, which say how far two runs of the same are apart.
        metric: "" for the first one that both have.
        floor: a difference up to which nothing is said, beside what `again` shows.

    Raises:
        UserError: other questions, no common metric, or too few questions.
    """
    keys = [key for key in before.lines if key in after.lines]
    left_out = len(before.lines) + len(after.lines) - 2 * len(keys)
    pairs = [(before.lines[key], after.lines[key]) for key in keys]
    _check_same(before, after, pairs)
    name = metric or _first_metric(before, after, pairs)
    difference, count = _difference(before, after, name, seed)
    repeated = [_difference(before, one, name, seed)[0] for one in again]
    floor = max([floor, *(max(abs(one.low), abs(one.high)) for one in repeated)])
    sign = METRICS[name].sign
    low, high = sorted((sign * difference.low, sign * difference.high))
    status = BETTER if low > floor else WORSE if high < -floor else CANNOT_TELL
    return Verdict(status, name, count, left_out, difference, floor, repeated)


def describe(found: Verdict, before: str, after: str) -> str:
    """A line with the verdict, and what it rests on."""
    one = found.difference
    direction = "more" if METRICS[found.metric].sign > 0 else "less"
    lines = [
        f"{WORDS[found.status]}: {found.metric} {one.before:.4f} -> {one.after:.4f}, {one.value:+.4f} "
        f"[{one.low:+.4f}, {one.high:+.4f}] on {found.questions} questions ({direction} is better)",
        f"  before  {before}",
        f"  after   {after}",
        f"  noise   {found.floor:.4f}" + (f", from {len(found.again)} repetitions" if found.again else ""),
    ]
    return "\n".join(lines)


def _key(line: dict[str, Any]) -> str:
    """What tells a question within results: its number or its name, and what it is asked with."""
    return json.dumps([line.get("record", line.get("question")), *(line.get(name) for name in KEYS)])


def _check_same(before: Results, after: Results, pairs: Sequence[tuple[dict, dict]]) -> None:
    if before.kind != after.kind:
        raise UserError(f"{before.name} is of the kind {before.kind}, {after.name} of {after.kind}: compare like ones.")
    for old, new in pairs:
        for name in SAME:
            if name in old and name in new and old[name] != new[name]:
                raise UserError(
                    f"{before.name} and {after.name} are not of the same questions: {name} of record "
                    f"{old.get('record')} differs. Evaluate both on the same file."
                )


def _first_metric(before: Results, after: Results, pairs: Sequence[tuple[dict, dict]]) -> str:
    for name, one in METRICS.items():
        # By token only where both cut the text into the same number of them.
        if one.weight == "tokens" and any(old.get("tokens") != new.get("tokens") for old, new in pairs):
            continue
        if pairs and any(one.of(old) and one.of(new) for old, new in pairs):
            return name
    raise UserError(
        f"{before.name} and {after.name} have no question with a score in common; the scores are {', '.join(METRICS)}."
    )


def _difference(before: Results, after: Results, name: str, seed: int) -> tuple[Difference, int]:
    """The difference, and on how many questions."""
    scores = list(_scored(before, after, METRICS[name]))
    if len(scores) < FEWEST:
        raise UserError(
            f"{before.name} and {after.name} have {name} of {len(scores)} questions in common; expected {FEWEST} or "
            "more, for fewer can not tell anything."
        )
    columns = list(zip(*scores, strict=True))
    difference = paired_difference(Scores(columns[0], columns[1]), Scores(columns[2], columns[3]), seed)
    return difference, len(scores)


def _scored(before: Results, after: Results, metric: Metric) -> Iterator[tuple[float, float, float, float]]:
    for key, line in before.lines.items():
        first, second = metric.of(line), metric.of(after.lines.get(key, {}))
        if first and second:
            yield *first, *second
