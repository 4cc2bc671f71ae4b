"""The kind `forgetting`: what adapters gain in their domain and lose elsewhere, traced by putting on a share of them.

Of each share: the answer loss on records of the domain and on general ones, and how far the model's probabilities on
the general ones are from the base's, KL(base || model) a token of the answers. Every change has an interval by the
paired bootstrap over the records. A share of an adapter lies on the line between the weights of the base and those with
all of it (Wortsman et al., Robust fine-tuning of zero-shot models, 2022).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from vicuna.data.flags import ReadFlags
from vicuna.errors import UserError, printable
from vicuna.evaluation.bootstrap import Difference, Scores, paired_difference
from vicuna.evaluation.candidates import (
    Candidate,
    HFCandidate,
    agreed_prompt_type,
    common_length,
    find_candidates,
    labels,
)
from vicuna.evaluation.flags import ModelsFlags, OutputFlags
from vicuna.evaluation.held_out_loss import CUTOFF_LEN, HeldOut, read_held_out
from vicuna.evaluation.journal import Journal, open_journal
from vicuna.evaluation.likelihood import kl_divergence, token_nll
from vicuna.evaluation.markdown import table
from vicuna.evaluation.runners import Runner
from vicuna.evaluation.scaled_adapter import check_scalable, scaled
from vicuna.evaluation.score_flags import ForgettingFlags
from vicuna.evaluation.windows import RecordWindow, record_window
from vicuna.log import log

SETS = ("domain", "general")
BASE = 0.0  # the share that is the base alone
HEADS = ("model", "share", "domain loss", "change (95 %)", "general loss", "change (95 %)", "divergence", "")


@dataclass(frozen=True)
class Point:
    """A share of an adapter.

    Attributes:
        domain, general: the answer loss, from that of the base.
        divergence: KL(base || model) on the general records, nats a token.
    """

    scale: float
    domain: Difference
    general: Difference
    divergence: float

    def is_within(self, flags: ForgettingFlags) -> bool:
        """Whether it keeps what the flags ask for."""
        grown = flags.most_loss is None or self.general.value <= flags.most_loss
        return grown and (flags.most_divergence is None or self.divergence <= flags.most_divergence)


def trace_forgetting(models: ModelsFlags, flags: ForgettingFlags, output: OutputFlags) -> None:
    """Measure each share of each adapter on both sets, and name the best one under the bounds.

    Raises:
        UserError: before weights are read, models and files that can not be used.
        Stopped: a signal; how much is done.
    """
    candidates = find_adapters(models)
    prompt_type = flags.prompt_type or agreed_prompt_type(candidates)
    scales = sorted({BASE, *map(float, flags.scale)})
    sets = {name: _read(name, flags, prompt_type) for name in SETS}
    length = common_length(candidates, "--cutoff_len", flags.cutoff_len, CUTOFF_LEN)
    windows = {one.name: _windows(one, sets, prompt_type, length) for one in candidates}
    names = dict(zip(labels(candidates), candidates, strict=True))
    settings = {
        "--model_path and --lora_path": list(names), "--prompt_type": prompt_type, "--cutoff_len": length,
        "--scale": scales, "--fields": list(flags.fields), "--skip_bad_rows": flags.skip_bad_rows,
    }  # fmt: skip
    contents = {f"--{name}": " ".join(source.sha256 for source in one.sources) for name, one in sets.items()}
    contents |= {name: one.sha256 for name, one in names.items()}
    total = len(scales) * sum(len(of_set) for own in windows.values() for of_set in own.values())
    with open_journal(output, "forgetting", ("model", "set", "record", "scale"), settings, contents) as journal:
        with journal.stopping(total, "figures are there"):
            for name, one in names.items():
                _measure(name, one, windows[one.name], sets, scales, journal)
        points = {name: _points(name, windows[one.name], scales, journal) for name, one in names.items()}
        shown, best = describe(points, flags), {name: choose(own, flags) for name, own in points.items()}
        journal.write(
            {
                "most_loss": flags.most_loss, "most_divergence": flags.most_divergence,
                "models": [
                    {"model": name, "best": best[name].scale, "points": [_as_json(one) for one in own]}
                    for name, own in points.items()
                ],
            },
            f"# Gained in the domain, lost elsewhere\n\n{shown}\n",
        )  # fmt: skip
    print(shown, flush=True)


def find_adapters(models: ModelsFlags) -> list[HFCandidate]:
    """The models, each with an adapter that can be scaled.

    Raises:
        UserError: one without an adapter, or whose adapter has no scale.
    """
    found = []
    for one in find_candidates(models.pairs(), models.gpu_layers):
        if not isinstance(one, HFCandidate) or not one.folder:
            raise UserError(
                f"{one.name} has no adapter that can be scaled: expected a base in Hugging Face format, and a "
                "--lora_path."
            )
        check_scalable(one.folder)
        found.append(one)
    return found


def choose(points: Sequence[Point], flags: ForgettingFlags) -> Point:
    """The point with the lowest loss in the domain among those within the bounds; the base always is."""
    return min((one for one in points if one.is_within(flags) or one.scale == BASE), key=lambda one: one.domain.after)


def describe(points: Mapping[str, Sequence[Point]], flags: ForgettingFlags) -> str:
    """The table, and which point is the best one."""
    bounds = {"general loss": flags.most_loss, "divergence": flags.most_divergence}
    under = " and ".join(f"{what} up by at most {one:g}" for what, one in bounds.items() if one is not None)
    rows, lines = [], []
    for name, own in points.items():
        best = choose(own, flags)
        for one in own:
            mark = "best" if one is best else "" if one.is_within(flags) else "over the bound"
            rows.append((name, f"{one.scale:g}", *_shown(one.domain), *_shown(one.general),
                         f"{one.divergence:.4f}", mark))  # fmt: skip
        found = f"{best.domain.value:+.4f} in the domain, {best.general.value:+.4f} elsewhere"
        lines.append(f"{name}: with {under or 'no bound'}, {best.scale:g} of the adapter is best: {found}.")
    return "\n".join([table(HEADS, rows), "", *lines])


def _shown(one: Difference) -> tuple[str, str]:
    return f"{one.after:.4f}", f"{one.value:+.4f} [{one.low:+.4f}, {one.high:+.4f}]"


def _read(name: str, flags: ForgettingFlags, prompt_type: str) -> HeldOut:
    read = ReadFlags(getattr(flags, name), flags.fields, flags.skip_bad_rows)
    try:
        return read_held_out(read, prompt_type, "category")
    except UserError as error:
        raise UserError(str(error).replace("--data_path", f"--{name}")) from error


def _windows(
    candidate: Candidate, sets: Mapping[str, HeldOut], prompt_type: str, length: int
) -> dict[str, dict[int, RecordWindow]]:
    found = {}
    for name, one in sets.items():
        own = {
            i: window
            for i, messages in enumerate(one.dialogues)
            if (window := record_window(candidate.tokenizer, prompt_type, messages, length))
        }
        if len(own) < 2:
            raise UserError(f"--{name} has {len(own)} records with room for an answer; expected two or more.")
        if len(own) < len(one.dialogues):
            log.warning("WARNING %d records of --%s have no room for an answer", len(one.dialogues) - len(own), name)
        found[name] = own
    return found


def _measure(
    name: str,
    candidate: Candidate,
    windows: Mapping[str, Mapping[int, RecordWindow]],
    sets: Mapping[str, HeldOut],
    scales: Sequence[float],
    journal: Journal,
) -> None:
    """Run what is not in the journal; a record is run at all shares, one after the other."""
    todo = [(part, i) for part, own in windows.items() for i in own if (name, part, i, scales[-1]) not in journal]
    if not todo:
        return
    longest = max(len(one.window.ids) for own in windows.values() for one in own.values())
    runner, total = candidate.open(longest).runner, sum(map(len, windows.values()))
    with tqdm(
        total=total, initial=total - len(todo), desc=printable(name), unit="record", disable=None, leave=False
    ) as bar:
        for part, i in todo:
            file, line = sets[part].places[i]
            place = {"model": name, "set": part, "record": i, "file": file, "line": line}
            lines = [{**place, **one} for one in measure_record(runner, windows[part][i], scales)]
            journal.add(*[one for one in lines if (name, part, i, one["scale"]) not in journal])
            bar.update()


def measure_record(runner: Runner, record: RecordWindow, scales: Sequence[float]) -> Iterator[dict[str, Any]]:
    """Of each share, the first being the base: loss of the answer and its divergence from the base, over its tokens."""
    ids, start = record.window.ids, record.window.start
    base = None
    for scale in scales:
        with scaled(runner.model, scale):
            logits = runner.logits(ids)
        base = logits if base is None else base
        nll, kl = token_nll(logits, ids)[start - 1 :], kl_divergence(base[start - 1 : -1], logits[start - 1 : -1])
        yield {"scale": scale, "tokens": len(nll), "nll": float(nll.double().sum()), "kl": float(kl.sum())}


def _points(
    name: str, windows: Mapping[str, Mapping[int, RecordWindow]], scales: Sequence[float], journal: Journal
) -> list[Point]:
    def scores(part: str, scale: float) -> Scores:
        lines = [journal[name, part, i, scale] for i in windows[part]]
        return Scores([line["nll"] for line in lines], [line["tokens"] for line in lines])

    found = []
    for scale in scales:
        changes = {part: paired_difference(scores(part, BASE), scores(part, scale)) for part in SETS}
        lines = [journal[name, "general", i, scale] for i in windows["general"]]
        divergence = sum(line["kl"] for line in lines) / sum(line["tokens"] for line in lines)
        found.append(Point(scale, **changes, divergence=divergence))
    return found


def _as_json(one: Point) -> dict[str, Any]:
    figures = {
        name: {"loss": of.after, "change": of.value, "interval": [of.low, of.high]}
        for name, of in (("domain", one.domain), ("general", one.general))
    }
    return {"scale": one.scale, **figures, "divergence": one.divergence}
