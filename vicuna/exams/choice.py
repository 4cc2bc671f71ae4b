"""The kind `choice`: models on C-Eval, CMMLU or AGIEval, each subject a task of lm-eval's.

Every model is asked the same questions: one that has no room in the context of any of them counts for none.
"""

import hashlib
import importlib.util
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vicuna.errors import UserError
from vicuna.evaluation.candidates import Candidate, common_length, find_candidates, labels
from vicuna.evaluation.flags import ModelsFlags, OutputFlags
from vicuna.evaluation.journal import Journal, open_journal
from vicuna.exams import page
from vicuna.exams.flags import ChoiceFlags
from vicuna.exams.ids import Encoder
from vicuna.exams.layouts import AGIEVAL, Question, Subject, Suite, read_suite
from vicuna.exams.prompts import Style, style_of
from vicuna.exams.scores import Figures, figures
from vicuna.log import log

if TYPE_CHECKING:
    from vicuna.exams.tasks import ChoiceTask

INSTALL_COMMAND = "bash scripts/install_eval.sh"
Asked = dict[tuple[str, str], tuple[dict[str, Any], str, int]]  # (subject, question) -> row, text, examples shown


@dataclass(frozen=True)
class Model:
    """A model and how it reads the questions."""

    name: str
    candidate: Candidate
    encoder: Encoder
    asked: Asked


def evaluate_choice(models: ModelsFlags, flags: ChoiceFlags, output: OutputFlags) -> None:
    """Ask each model each question, and write the tables.

    Raises:
        UserError: before weights are read, models and files that can not be used; a model that fails.
        Stopped: a signal; how much is done.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError(f"the kind choice needs lm-eval, which is not installed: {INSTALL_COMMAND}")
    whole = read_suite(Path(flags.data_path).expanduser(), flags.split, flags.subjects)
    styles = {one.name: _style(whole, one, flags) for one in whole.subjects}
    suite = with_examples(whole, flags)
    candidates = find_candidates(models.pairs(), models.gpu_layers)
    names = labels(candidates)
    length = common_length(candidates, "--cutoff_len", flags.cutoff_len)
    encoders = [Encoder(one.tokenizer, flags.prompt_type, length) for one in candidates]
    for name, encoder in zip(names, encoders, strict=True):
        if any(style.by_letters for style in styles.values()):
            encoder.check_letters("ABCD", name)
    # Imported here so that what is refused is refused at once.
    from vicuna.exams.tasks import ChoiceTask, known_subjects

    known = known_subjects(suite.name)
    tasks = {
        one.name: ChoiceTask(suite.name, one, styles[one.name], known, flags.num_fewshot) for one in suite.subjects
    }
    read = [Model(*one, _fitting(tasks, one[-1])) for one in zip(names, candidates, encoders, strict=True)]
    asked = [key for key in read[0].asked if all(key in one.asked for one in read)]
    if not asked:
        raise UserError(f"--cutoff_len {length} leaves no question room: raise it, or take models of longer context.")
    about = _about(suite, flags, length, len(asked), known)
    log.info("%s", page.told(about))
    for one in read:
        _tell_dropped(one, asked, flags.num_fewshot)
    settings = {
        "--model_path and --lora_path": names, "--data_path": suite.name, "--split": suite.split,
        "--cutoff_len": length, "--subjects": list(tasks),
        **{f"--{name}": getattr(flags, name) for name in ("num_fewshot", "style", "several", "limit", "prompt_type")},
    }  # fmt: skip
    contents = {"--data_path": _sha256(suite)} | {one.name: one.candidate.sha256 for one in read}
    from vicuna.exams.lm import NAMES

    with open_journal(output, "choice", NAMES, settings, contents) as journal:
        with journal.stopping(len(names) * len(asked), "questions are answered"):
            found = [_scored(one, asked, tasks, journal, flags) for one in read]
        results = about | {"models": [_as_data(*one) for one in zip(names, found, strict=True)]}
        journal.write(results, page.written(about, names, found))
    print(page.averages(names, found), flush=True)


def with_examples(suite: Suite, flags: ChoiceFlags) -> Suite:
    """The suite with as many questions and examples as are asked for.

    AGIEval comes without examples: the first questions with one right answer are taken, and are not asked.

    Raises:
        UserError: a subject has not as many.
    """
    subjects = []
    for one in suite.subjects:
        examples, questions, left_out = one.examples, one.questions, Counter(one.left_out)
        if suite.name == AGIEVAL and flags.num_fewshot:
            examples = [question for question in questions if len(question.right) == 1][: flags.num_fewshot]
            questions = [question for question in questions if question not in examples]
            left_out["it is an example"] += len(examples)
        if len(examples) < flags.num_fewshot:
            raise UserError(f"--num_fewshot {flags.num_fewshot}: {one.name} has {len(examples)} examples; lower it.")
        if not questions:
            raise UserError(f"--num_fewshot {flags.num_fewshot} leaves {one.name} no question to ask; lower it.")
        subjects.append(Subject(one.name, questions[: flags.limit], examples[: flags.num_fewshot], left_out))
    return replace(suite, subjects=subjects)


def _style(suite: Suite, subject: Subject, flags: ChoiceFlags) -> Style:
    several = any(len(one.right) > 1 for one in subject.questions)
    return style_of(suite.name, subject.name, flags.style, flags.several, several)


def _fitting(tasks: "Mapping[str, ChoiceTask]", encoder: Encoder) -> Asked:
    """The questions that leave room, each with as many examples as do."""
    found: Asked = {}
    for subject, task in tasks.items():
        for doc in task.eval_docs:
            if (fitted := task.fitting(doc, encoder)) is not None:
                found[subject, doc["name"]] = (doc, *fitted)
    return found


def _scored(
    model: Model,
    asked: Sequence[tuple[str, str]],
    tasks: "Mapping[str, ChoiceTask]",
    journal: Journal,
    flags: ChoiceFlags,
) -> dict[str, Figures]:
    """Figures by subject; lm-eval's task makes the requests, and scores what comes of them."""
    from vicuna.exams.lm import ChoiceLM

    shots = {key: (model.asked[key][2], flags.num_fewshot - model.asked[key][2]) for key in asked}
    length = model.encoder.length
    lm = ChoiceLM(
        model.name, model.encoder, lambda: model.candidate.open(length).runner, journal, shots, flags.micro_batch
    )
    requests, docs = [], []
    for number, key in enumerate(asked):
        doc, text, _ = model.asked[key]
        made = tasks[key[0]].construct_requests(doc, text, metadata=(key[0], number, 1))
        docs.append((key, doc, len(made)))
        requests += made
    found = iter(lm.loglikelihood(requests))
    scores: dict[str, list[float]] = {}
    for (subject, _), doc, count in docs:
        metrics = tasks[subject].process_results(doc, [next(found) for _ in range(count)])
        scores.setdefault(subject, []).append(metrics["acc"])
    lines = {subject: [journal[model.name, *key] for key in asked if key[0] == subject] for subject in scores}
    means = {subject: 100 * tasks[subject].aggregation()["acc"](of) for subject, of in scores.items()}
    return {subject: replace(figures(of), score=means[subject]) for subject, of in lines.items()}


def _about(suite: Suite, flags: ChoiceFlags, length: int, asked: int, known: Mapping[str, str]) -> dict[str, Any]:
    """What was asked, and what was not."""
    used = [one.name for one in suite.subjects]
    left_out = sum((one.left_out for one in suite.subjects), Counter())
    there = sum(len(one.questions) for one in suite.subjects)
    return {
        "suite": suite.name,
        "split": suite.split,
        "style": flags.style,
        "several": flags.several,
        "num_fewshot": flags.num_fewshot,
        "prompt_type": flags.prompt_type,
        "cutoff_len": length,
        "questions": asked,
        "without_room": there - asked,
        "left_out": dict(left_out),
        "several_right": sum(len(one.right) > 1 for subject in suite.subjects for one in subject.questions),
        "subjects": used,
        "published_subjects": len(known),
        "published_subjects_not_asked": [one for one in known if one not in used],
        "without_options": list(suite.no_choice),
    }


def _tell_dropped(model: Model, asked: Sequence[tuple[str, str]], num_fewshot: int) -> None:
    short = [key for key in asked if model.asked[key][2] < num_fewshot]
    if short:
        dropped = sum(num_fewshot - model.asked[key][2] for key in short)
        log.warning(
            "WARNING %s has no room for all examples before %d of %d questions: %d of %d examples are dropped, the "
            "last ones first",
            model.name, len(short), len(asked), dropped, num_fewshot * len(asked),
        )  # fmt: skip


def _as_data(name: str, found: Mapping[str, Figures]) -> dict[str, Any]:
    of_subjects, of_rows = page.both_averages(found)
    return {
        "model": name,
        "average_over_subjects": of_subjects,
        "average_over_questions": of_rows,
        "subjects": {subject: asdict(one) for subject, one in found.items()},
    }


def _sha256(suite: Suite) -> str:
    """Of all that is asked and shown."""

    def said(of: Sequence[Question]) -> list:
        return [list(asdict(one).values()) for one in of]

    content = [[one.name, said(one.questions), said(one.examples)] for one in suite.subjects]
    return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()
