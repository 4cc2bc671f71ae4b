"""The kind `identity`: how often a model says the name and the maker that it was taught, and how often another's."""

from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from vicuna.answer.flags import DecodingFlags
from vicuna.data.fills import parse_fills
from vicuna.errors import printable
from vicuna.evaluation.bootstrap import share_interval
from vicuna.evaluation.flags import AnswersFlags, ModelsFlags, OutputFlags
from vicuna.evaluation.identity_claims import Identity, judge, make_identity
from vicuna.evaluation.identity_questions import LANGUAGES, Ask, asks
from vicuna.evaluation.journal import Journal, open_journal
from vicuna.evaluation.markdown import table
from vicuna.evaluation.respondents import Asked, Respondent, find_respondents
from vicuna.evaluation.score_flags import IdentityFlags
from vicuna.log import log


def evaluate_identity(models: ModelsFlags, flags: IdentityFlags, output: OutputFlags) -> None:
    """Ask each model who it is, and write how often it knows.

    Raises:
        UserError: before weights are read, models that can not be used; a model that fails.
        Stopped: a signal; how much is done.
    """
    fills = parse_fills(flags.fill)
    identity = make_identity(fills["name"], fills["author"], flags.others)
    respondents = find_respondents(models, AnswersFlags(prompt_type=flags.prompt_type, micro_batch=flags.micro_batch))
    decoding = DecodingFlags(max_new_tokens=flags.max_new_tokens)
    chosen = {one.name: one.settings(decoding) for one in respondents}
    questions = {one.name: [ask for ask in asks() if not one.check(ask.messages)] for one in respondents}
    for name, left in questions.items():
        if not any(ask.history for ask in left):
            log.warning("WARNING the prompt type of %s has no place for a history: it is asked without", name)
    settings = {
        "--model_path and --lora_path": [one.name for one in respondents], "--fill": sorted(flags.fill),
        "--others": list(flags.others), "--prompt_type": [one.prompt_type for one in respondents],
        "--max_new_tokens": flags.max_new_tokens,
    }  # fmt: skip
    contents = {one.name: one.sha256 for one in respondents if one.sha256}
    with open_journal(output, "identity", ("model", "record"), settings, contents) as journal:
        with journal.stopping(sum(map(len, questions.values())), "answers are there"):
            for one in respondents:
                _ask(one, questions[one.name], chosen[one.name], identity, journal)
        found = [summarise(name, [journal[name, ask.record] for ask in left]) for name, left in questions.items()]
        journal.write({"models": found}, _page(identity, found, journal))
    print(describe(found), flush=True)


def _ask(
    respondent: Respondent, left: Sequence[Ask], settings: dict[str, Any], identity: Identity, journal: Journal
) -> None:
    known = {ask.record for ask in left if (respondent.name, ask.record) in journal}
    by_record = {ask.record: ask for ask in left}
    with tqdm(total=len(left), initial=len(known), desc=printable(respondent.name), unit="answer", disable=None,
              leave=False) as bar:  # fmt: skip
        for one in respondent.answer([Asked(ask.record, ask.messages) for ask in left], settings, 0, known):
            ask = by_record[one.record]
            right, claimed = judge(one.text, ask.wants, identity)
            journal.add({
                "model": respondent.name, "record": one.record, "way": ask.way, "wants": ask.wants,
                "language": ask.language, "history": ask.history, "question": ask.messages[-1]["content"],
                "answer": one.text, "right": right, "wrong": bool(claimed), "claimed": claimed,
            })  # fmt: skip
            bar.update()
    respondent.close()


def summarise(name: str, lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How often a model knows who it is, over all and by what it is asked in."""
    groups = {
        f"{language}, {'with' if history else 'without'} history": [
            line for line in lines if (line["language"], line["history"]) == (language, history)
        ]
        for history in (False, True)
        for language in LANGUAGES
    }
    own = {group: _counts(of) for group, of in groups.items() if of}
    interval = share_interval(sum(line["right"] for line in lines), len(lines))
    claimed = sorted({one["claimed"] for one in lines if one["claimed"]})
    return {"model": name, **_counts(lines), "right_interval": list(interval), "groups": own, "claimed": claimed}


def _counts(lines: Sequence[dict[str, Any]]) -> dict[str, int]:
    right, wrong = (sum(line[name] for line in lines) for name in ("right", "wrong"))
    return {"asked": len(lines), "right": right, "wrong": wrong, "neither": len(lines) - right - wrong}


def describe(found: Sequence[dict[str, Any]]) -> str:
    """The table."""
    groups = list(dict.fromkeys(group for one in found for group in one["groups"]))
    rows = []
    for one in found:
        low, high = one["right_interval"]
        share = f"{one['right']} of {one['asked']} ({100 * low:.0f} to {100 * high:.0f} %)"
        parts = [one["groups"].get(group) for group in groups]
        shown = [f"{part['right']} of {part['asked']}" if part else "–" for part in parts]
        rows.append((one["model"], share, str(one["wrong"]), str(one["neither"]), *shown, ", ".join(one["claimed"])))
    return table(("model", "right (95 %)", "another's name", "neither", *groups, "names claimed"), rows)


def _page(identity: Identity, found: Sequence[dict[str, Any]], journal: Journal) -> str:
    parts = [f"# Who are you? {identity.name}, by {identity.author}", describe(found)]
    for one in found:
        lines = [line for (model, _), line in journal.lines.items() if model == one["model"]]
        rows = [
            (line["question"], "with" if line["history"] else "without",
             "right" if line["right"] else "wrong" if line["wrong"] else "neither", line["answer"])
            for line in sorted(lines, key=lambda line: line["record"])
        ]  # fmt: skip
        parts += [f"## {one['model']}", table(("question", "history", "", "answer"), rows)]
    return "\n\n".join(parts) + "\n"
