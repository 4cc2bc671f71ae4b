"""A subject as a task of lm-eval's, made of our own rows: nothing is downloaded, and no task file is run.

The introductions of the subjects, which name them in Chinese, are read from the task files that lm-eval comes with.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lm_eval
from datasets import Dataset, Features, Sequence, Value
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks import TaskManager

from vicuna.exams.ids import Encoder
from vicuna.exams.layouts import AGIEVAL, CEVAL, CMMLU, DEV, Question, Subject
from vicuna.exams.prompts import SHOT_END, Style, introduction
from vicuna.exams.scores import credit

TEST = "test"
METRIC = "acc"
_FOLDERS = {CMMLU: "cmmlu", CEVAL: "ceval", AGIEVAL: "agieval"}
_CLOZE = ("math", "gaokao-mathcloze")  # of AGIEval, without options
_FEATURES = Features(
    {
        "name": Value("string"), "stem": Value("string"), "passage": Value("string"), "letters": Value("string"),
        "right": Value("string"), "options": Sequence(Value("string")), "places": Sequence(Value("int64")),
    }
)  # fmt: skip

logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it tells of every task that its data are not downloaded


class ChoiceTask(ConfigurableTask):
    """A subject, whose questions have as many whole examples before them as there is room for."""

    def __init__(self, suite: str, subject: Subject, style: Style, known: Mapping[str, str], num_fewshot: int):
        data = {
            name: Dataset.from_list([_doc(one, style) for one in questions], features=_FEATURES)
            for name, questions in ((TEST, subject.questions), (DEV, subject.examples))
            if questions
        }
        self.style = style
        super().__init__(
            config={
                "task": subject.name,
                "custom_dataset": lambda **kwargs: data,
                "test_split": TEST,
                "fewshot_split": DEV if DEV in data else None,
                "fewshot_config": {"sampler": "first_n"},
                "num_fewshot": num_fewshot,
                "output_type": "multiple_choice",
                "description": introduction(suite, style.published, subject.name, known),
                "doc_to_text": style.text,
                "doc_to_choice": style.choices,
                "doc_to_target": style.answer,
                "target_delimiter": style.delimiter,
                "fewshot_delimiter": SHOT_END,
                "process_results": score,
                "metric_list": [{"metric": METRIC, "aggregation": "mean", "higher_is_better": True}],
            }
        )

    def fitting(self, doc: Mapping[str, Any], encoder: Encoder) -> tuple[str, int] | None:
        """What is asked, and how many examples it shows: the first ones, as many as leave room; None without any."""
        options = [f"{self.style.delimiter}{one}" for one in self.doc_to_choice(doc)]
        for shots in range(self.config.num_fewshot, -1, -1):
            text = self.fewshot_context(doc, shots)
            if encoder.fits(text, options):
                return text, shots
        return None


def score(doc: Mapping[str, Any], results: list[tuple[float, bool]]) -> dict[str, float]:
    """What lm-eval takes the mean of."""
    return {METRIC: credit([log_likelihood for log_likelihood, _ in results], doc["places"])}


def _doc(question: Question, style: Style) -> dict[str, Any]:
    doc = {name: getattr(question, name) for name in ("name", "stem", "passage", "letters", "right")}
    doc["options"] = list(question.options)
    return doc | {"places": style.right(doc)}


def known_subjects(suite: str) -> dict[str, str]:
    """The subjects that are published -> how lm-eval introduces each, "" where it does not."""
    folder = Path(lm_eval.__file__).parent / "tasks" / _FOLDERS[suite]
    manager = TaskManager(include_path=folder, include_defaults=False)
    found = {}
    for task in manager.all_subtasks:
        config = manager.task_index[task].cfg
        path, name = str(config["dataset_path"]), config["dataset_name"]
        found[path.rpartition("agieval-")[2] if suite == AGIEVAL else name] = config.get("description", "")
    return {name: said for name, said in sorted(found.items()) if name not in _CLOZE}
