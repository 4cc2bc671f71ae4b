"""Better than before or not: the bootstrap's intervals, the floor, the exit status."""

import json
import math
import random

import numpy as np
import pytest

from vicuna.errors import UserError
from vicuna.evaluation.bootstrap import Scores, paired_difference
from vicuna.evaluation.score_flags import METRIC_NAMES, VerdictFlags
from vicuna.evaluation.verdict import METRICS, give_verdict


def write(folder, rows, kind="loss", model="m"):
    folder.mkdir(exist_ok=True)
    lines = [{"row": n, "model": model, "record": n, "line": n, **row} for n, row in enumerate(rows, 1)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    (folder / "results.json").write_text(json.dumps({"kind": kind}), encoding="utf-8")
    return str(folder)


def losses(seed, change, noise=0.0, count=40):
    """Records of 5 to 60 tokens whose losses are all moved by `change`, and each by some noise more."""
    draw, own = random.Random(1), random.Random(seed)
    rows = [(draw.randrange(5, 61), draw.uniform(1, 5)) for _ in range(count)]
    return [
        {"tokens": tokens, "bytes": 3 * tokens, "nll": tokens * (loss + change + own.gauss(0, noise))}
        for tokens, loss in rows
    ]


@pytest.mark.parametrize(
    ("change", "noise", "floor", "status"),
    [
        (-0.3, 0.1, 0, 0),
        (0.3, 0.1, 0, 1),
        (0.0, 0.1, 0, 3),
        (-0.3, 0.1, 0.5, 3),
        (-0.02, 1.0, 0, 3),  # a gain that the noise hides
        (0.0, 0.0, 0, 3),
    ],
)
def test_the_status_is_that_of_the_difference(tmp_path, capsys, change, noise, floor, status):
    before, after = write(tmp_path / "a", losses(2, 0)), write(tmp_path / "b", losses(3, change, noise))

    assert give_verdict(VerdictFlags(before, after, noise_floor=floor)) == status
    assert capsys.readouterr().out.startswith({0: "better: loss ", 1: "worse: loss ", 3: "cannot tell: loss "}[status])


def test_two_runs_of_the_model_before_say_what_is_noise(tmp_path, capsys):
    before, after = write(tmp_path / "a", losses(2, 0, 0.2)), write(tmp_path / "b", losses(3, -0.2, 0.2))
    again = write(tmp_path / "c", losses(4, 0.1, 0.2))

    assert give_verdict(VerdictFlags(before, after)) == 0
    assert give_verdict(VerdictFlags(before, after, again=[again])) == 3
    assert "from 1 repetitions" in capsys.readouterr().out


def test_a_loss_is_compared_by_token_as_a_whole(tmp_path, capsys):
    """The mean over all tokens, not over records: a long record weighs more."""
    rows = [({"tokens": 100, "nll": 100.0}, {"tokens": 100, "nll": 110.0})] * 5
    rows += [({"tokens": 1, "nll": 3.0}, {"tokens": 1, "nll": 1.0})] * 5
    before, after = (write(tmp_path / str(n), [row[n] for row in rows]) for n in (0, 1))
    file = tmp_path / "verdict.json"
    give_verdict(VerdictFlags(before, after, json=str(file)))

    found = json.loads(file.read_text(encoding="utf-8"))["difference"]
    assert found["before"] == pytest.approx(515 / 505)
    assert found["after"] == pytest.approx(555 / 505)
    assert give_verdict(VerdictFlags(before, after, json=str(file))) == 2
    assert "--json" in capsys.readouterr().err


def test_models_that_cut_the_text_differently_are_compared_by_byte(tmp_path, capsys):
    after = [{**row, "tokens": row["tokens"] + 1, "nll": row["nll"] * 0.8} for row in losses(2, 0)]
    flags = VerdictFlags(write(tmp_path / "a", losses(2, 0)), write(tmp_path / "b", after))

    assert give_verdict(flags) == 0
    assert "better: bits_per_byte " in capsys.readouterr().out


def test_of_scores_more_is_better_and_of_repetition_less(tmp_path, capsys):
    low, high = ([{"rougeL": base + n, "repetition": base + n} for n in range(20)] for base in (10, 12))
    before, after = (write(tmp_path / name, rows, "generation") for name, rows in (("a", low), ("b", high)))

    assert give_verdict(VerdictFlags(before, after)) == 0
    assert "better: rougeL 19.5000 -> 21.5000, +2.0000 [+2.0000, +2.0000] on 20 questions" in capsys.readouterr().out
    assert give_verdict(VerdictFlags(before, after, metric="repetition")) == 1


def test_one_folder_may_hold_both_models(tmp_path, capsys):
    rows = [{"score": n % 3 == 0} for n in range(30)]
    folder = tmp_path / "a"
    write(folder, rows, "choice", "base")
    first = (folder / "rows.jsonl").read_text(encoding="utf-8")
    write(folder, [{"score": True} for _ in rows], "choice", "tuned")
    (folder / "rows.jsonl").write_text(first + (folder / "rows.jsonl").read_text(encoding="utf-8"), encoding="utf-8")

    assert give_verdict(VerdictFlags(str(folder), str(folder), "base", "tuned")) == 0
    assert give_verdict(VerdictFlags(str(folder), str(folder), "base")) == 2
    assert "has 2 models, base, tuned: name one by --after_model" in capsys.readouterr().err
    assert give_verdict(VerdictFlags(str(folder), str(folder), "base", "other")) == 2


@pytest.mark.parametrize(
    ("rows", "kind", "said"),
    [
        (losses(3, 0)[:9], "loss", "of 9 questions in common; expected 10 or more"),
        (losses(3, 0), "choice", "is of the kind loss"),
        ([{**row, "line": 99} for row in losses(3, 0)], "loss", "not of the same questions: line of record 1 differs"),
        ([{"answer": "a"}] * 20, "loss", "no question with a score in common"),
    ],
)
def test_what_can_not_be_compared_is_status_2_and_never_worse(tmp_path, capsys, rows, kind, said):
    flags = VerdictFlags(write(tmp_path / "a", losses(2, 0)), write(tmp_path / "b", rows, kind))

    assert give_verdict(flags) == 2
    assert said in capsys.readouterr().err


def test_results_that_are_not_there_or_not_whole_are_status_2(tmp_path, capsys):
    folder = write(tmp_path / "a", losses(2, 0))
    assert give_verdict(VerdictFlags(folder, str(tmp_path / "no"))) == 2
    (tmp_path / "a/results.json").unlink()
    assert give_verdict(VerdictFlags(folder, folder)) == 2
    said = capsys.readouterr().err
    assert "expected the --output_path of an evaluation" in said
    assert "is not finished" in said
    with pytest.raises(UserError, match="--metric loos is unknown"):
        VerdictFlags("a", "b", metric="loos")
    with pytest.raises(UserError, match="--after is missing"):
        VerdictFlags("a")


def test_the_same_seed_gives_the_same_interval_and_another_nearly_it():
    draw = np.random.default_rng(0)
    before, after = Scores.of(draw.normal(size=50)), Scores.of(draw.normal(size=50))
    found = [paired_difference(before, after, seed) for seed in (1, 1, 2)]

    assert found[0] == found[1]
    assert found[0] != found[2]
    assert found[0].low == pytest.approx(found[2].low, abs=0.03)


@pytest.mark.parametrize("count", [10, 200])
def test_where_nothing_differs_the_interval_misses_as_seldom_as_it_says(count):
    """Of 200 comparisons without a difference 5 % may miss; and the interval is the normal one's width."""
    draw = np.random.default_rng(0)
    missed, widths = 0, []
    for _ in range(200):
        one = paired_difference(Scores.of([0.0] * count), Scores.of(draw.normal(size=count)), draws=400)
        missed += not one.low <= 0 <= one.high
        widths.append(one.high - one.low)

    assert missed / 200 < 0.1
    assert np.mean(widths) == pytest.approx(2 * 1.96 / math.sqrt(count), rel=0.2)


def test_every_metric_that_a_flag_may_name_is_known():
    assert set(METRICS) == set(METRIC_NAMES)
    assert [name for name, one in METRICS.items() if one.sign < 0] == [
        "loss", "bits_per_byte", "repetition", "wrong", "empty",
    ]  # fmt: skip


def test_a_script_can_decide_by_the_exit_status(program, tmp_path):
    before, better = write(tmp_path / "a", losses(2, 0)), write(tmp_path / "b", losses(3, -0.3, 0.1))
    words = ["tools/evaluate.py", "verdict", "--before"]
    found = [program(*words, before, "--after", after) for after in (better, before, "nowhere")]

    assert [one.returncode for one in found] == [0, 3, 2]
    assert [one.stdout.split(":")[0] for one in found] == ["better", "cannot tell", ""]
    assert "Traceback" not in "".join(one.stderr for one in found)
