"""Flags of the kind `choice`."""

from dataclasses import dataclass
from typing import Literal

from vicuna.args import at_least, flag
from vicuna.errors import UserError
from vicuna.prompt.templates import ALL_PROMPT_TYPES

PUBLISHED, LM_EVAL = STYLES = ("published", "lm-eval")
ANY, EXACT = SEVERAL = ("any", "exact")
SPLITS = ("val", "test")


@dataclass
class ChoiceFlags:
    """Which questions, and how they are asked."""

    data_path: str = flag("", "folder with the files of C-Eval, CMMLU or AGIEval as they are published")
    subjects: list[str] = flag([], "subjects to ask, by the names of their files; default: all that are there")
    split: Literal[SPLITS] | None = flag(
        None, "of C-Eval: val, which is the default, or test, whose older files have no answers"
    )
    num_fewshot: int = flag(0, "examples before each question; whole ones are dropped where they do not fit")
    style: Literal[STYLES] = flag(
        PUBLISHED, "how a question is put: as the benchmark's own script does, or as lm-eval does, with a space before "
        "the option"
    )  # fmt: skip
    several: Literal[SEVERAL] = flag(
        ANY, "what counts where several options are right: any of them, or exactly their set, of all sets of options"
    )
    limit: int | None = flag(None, "ask only the first questions of each subject, this many")
    prompt_type: Literal[ALL_PROMPT_TYPES] = flag(
        "text", "template around the question; text is for a base, and for adapters asked as one"
    )
    cutoff_len: int | None = flag(
        None, "longest question with its examples, in tokens; default: the smallest context among the models"
    )
    micro_batch: int = flag(8, "questions that are run together; llama.cpp runs one at a time")

    def __post_init__(self) -> None:
        if not self.data_path:
            raise UserError("--data_path is missing: name the folder of C-Eval, CMMLU or AGIEval.")
        at_least("--num_fewshot", self.num_fewshot, 0)
        at_least("--limit", self.limit or 1, 1)
        at_least("--cutoff_len", self.cutoff_len or 8, 8)
        at_least("--micro_batch", self.micro_batch, 1)
