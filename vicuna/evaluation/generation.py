"""The kind `generation`: answers of models held against references, by BLEU, chrF, ROUGE and exact match."""

from collections.abc import Sequence
from dataclasses import asdict

from tqdm import tqdm

from vicuna.errors import UserError, printable
from vicuna.evaluation.answer_files import Answers, read_answers
from vicuna.evaluation.flags import OutputFlags
from vicuna.evaluation.journal import Journal, open_journal
from vicuna.evaluation.markdown import table
from vicuna.evaluation.score_flags import GenerationFlags
from vicuna.evaluation.text_metrics import METRICS, Summary, check_libraries, score_text, signatures, summarise
from vicuna.log import log

HEADS = ("model", "answers", "empty", "BLEU", "corpus BLEU", "chrF", "ROUGE-1", "ROUGE-2", "ROUGE-L", "exact")


def evaluate_generation(flags: GenerationFlags, output: OutputFlags) -> None:
    """Score each answer that has a reference, and write the table.

    Raises:
        UserError: files that can not be used, references that differ between them, libraries that are missing.
    """
    check_libraries()
    found = read_answers(flags.answers, "--answers", flags.answer_field, flags.reference_field)
    check_references(found)
    settings = {"--answers": [one.model for one in found], "--answer_field": flags.answer_field,
                "--reference_field": flags.reference_field}  # fmt: skip
    contents = {f"--answers {one.model}": one.sha256 for one in found}
    total = sum(bool(row.reference.strip()) for one in found for row in one.rows.values())
    with open_journal(output, "generation", ("model", "record"), settings, contents) as journal:
        with journal.stopping(total, "answers are scored"):
            for one in found:
                _score(one, journal)
        summaries = {one.model: _summarise(one, journal) for one in found}
        results = {"signatures": signatures(), "models": [{"model": name, **asdict(one)} for name, one in
                                                          summaries.items()]}  # fmt: skip
        shown = describe(summaries)
        journal.write(results, f"# Answers against references\n\n{shown}\n\n{_footnotes(summaries)}\n")
    print(shown, flush=True)


def check_references(found: Sequence[Answers]) -> None:
    """See that there are references, and that models are held against the same ones.

    Raises:
        UserError: a model without any; a question with two of them.
    """
    known: dict[int, tuple[str, str]] = {}
    for one in found:
        lacking = sum(not row.reference.strip() for row in one.rows.values())
        if lacking == len(one.rows):
            raise UserError(
                f"--answers {one.model} has no reference: answer records that have an answer of their own, or name its "
                "field by --reference_field."
            )
        if lacking:
            log.warning("WARNING %d answers of %s have no reference, and are left out", lacking, one.model)
        for row in one.rows.values():
            model, reference = known.setdefault(row.record, (one.model, row.reference))
            if reference != row.reference:
                raise UserError(
                    f"record {row.record} has one reference in {model} and another in {one.model}: name answers to the "
                    "same questions."
                )


def describe(summaries: dict[str, Summary]) -> str:
    """The table."""
    rows = [
        (name, str(one.rows), str(one.empty), _shown(one, "bleu"), f"{one.corpus_bleu:.2f}",
         *(_shown(one, metric) for metric in METRICS if metric != "bleu"))
        for name, one in summaries.items()
    ]  # fmt: skip
    return table(HEADS, rows)


def _shown(one: Summary, metric: str) -> str:
    return f"{one.means[metric]:.2f}" if metric in one.means else "–"


def _score(answers: Answers, journal: Journal) -> None:
    rows = [row for row in answers.rows.values() if row.reference.strip()]
    for row in tqdm(rows, desc=printable(answers.model), unit="answer", disable=None, leave=False):
        if (answers.model, row.record) not in journal:
            said = {"answer": row.answer, "reference": row.reference}
            journal.add({"model": answers.model, "record": row.record, **said, **score_text(row.answer, row.reference)})


def _summarise(answers: Answers, journal: Journal) -> Summary:
    lines = [line for (model, _), line in journal.lines.items() if model == answers.model]
    return summarise([one["answer"] for one in lines], [one["reference"] for one in lines], lines)


def _footnotes(summaries: dict[str, Summary]) -> str:
    names = signatures()
    lines = [
        "Means over the answers, from 0 to 100; an empty answer has 0 in all.",
        f"BLEU by sentence and of all at once: sacrebleu, `{names['bleu']}`; chrF: `{names['chrf']}`.",
        "ROUGE: rouge-score, F-measure, each Chinese character and each other word a token, without punctuation.",
    ]
    if alone := max(one.one_token for one in summaries.values()):
        lines.append(f"{alone} references have no two tokens, and no ROUGE-2.")
    return "\n".join(lines)
