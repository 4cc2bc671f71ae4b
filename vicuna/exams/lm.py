"""A model as lm-eval asks it, by its public `TemplateLM`: texts come in, our ids go to the model.

What is answered is written down at once, so that the same command goes on where it stopped.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from tqdm import tqdm

from vicuna.answer.prediction import make_batches
from vicuna.answer.stream import is_out_of_memory
from vicuna.errors import UserError, printable
from vicuna.evaluation.journal import Journal
from vicuna.evaluation.runners import Runner
from vicuna.exams.ids import Encoder
from vicuna.exams.scores import credit

NAMES = ("model", "subject", "question")  # what a line of the journal is known by
Pair = tuple[list[int], list[int]]


class ChoiceLM(TemplateLM):
    """A model with the journal of what it has answered.

    Args:
        opened: loads the model; called once something is not in the journal.
        shots: (subject, question) -> how many examples are shown, and how many were dropped.
    """

    def __init__(
        self,
        name: str,
        encoder: Encoder,
        opened: Callable[[], Runner],
        journal: Journal,
        shots: dict[tuple[str, str], tuple[int, int]],
        micro_batch: int,
    ):
        super().__init__()
        self.name, self.encoder, self.journal, self.shots, self.micro_batch = name, encoder, journal, shots, micro_batch
        self._opened = opened
        self._runner: Runner | None = None

    @property
    def runner(self) -> Runner:
        if self._runner is None:
            self._runner = self._opened()
        return self._runner

    @property
    def eot_token_id(self) -> int:
        return self.encoder.tokenizer.eos_id

    @property
    def prefix_token_id(self) -> int:
        return [*self.encoder.tokenizer.beginning, self.encoder.tokenizer.eos_id][0]  # as lm-eval does without BOS

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Ids of a text; with BOS, unless it is said to be without."""
        ids = self.encoder.context(string)
        return ids[len(self.encoder.tokenizer.beginning) :] if add_special_tokens is False else ids

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Those of all options, a question at a time; in the order of the requests."""
        questions: dict[tuple[str, str], list[Instance]] = {}
        for one in requests:
            questions.setdefault((one.task_name, one.doc["name"]), []).append(one)
        pending = {key: self._pairs(of) for key, of in questions.items() if (self.name, *key) not in self.journal}
        lengths = [max(len(context) + len(option) for context, option in pairs) for pairs in pending.values()]
        done = len(questions) - len(pending)
        with tqdm(
            total=len(questions), initial=done, desc=printable(self.name), unit="question", disable=None, leave=False
        ) as bar:
            for batch in make_batches(list(pending), lengths, self.micro_batch):
                self._answer({key: pending[key] for key in batch}, questions)
                bar.update(len(batch))
        found = {key: self.journal[(self.name, *key)]["log_likelihoods"] for key in questions}
        # Whether the model would say the option by itself is asked of no score here.
        return [(found[one.task_name, one.doc["name"]][one.idx], False) for one in requests]

    def _pairs(self, of: Sequence[Instance]) -> list[Pair]:
        ordered = sorted(of, key=lambda one: one.idx)
        return self.encoder.pairs(ordered[0].args[0], [one.args[1] for one in ordered])

    def _answer(
        self, pairs: dict[tuple[str, str], list[Pair]], questions: dict[tuple[str, str], list[Instance]]
    ) -> None:
        """Run some questions together, and write them down."""
        asked = [("", *pair) for of in pairs.values() for pair in of]
        try:
            found = iter(self._loglikelihood_tokens(asked))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise UserError(
                f"{self.name} ran out of memory on {len(pairs)} questions at once: lower --micro_batch "
                f"{self.micro_batch}, --cutoff_len or --bits; what was found stays."
            ) from error
        lines = []
        for (subject, question), of in pairs.items():
            doc = questions[subject, question][0].doc
            values = [next(found)[0] for _ in of]
            if any(value != value for value in values):
                raise UserError(f"{self.name} gives no numbers for {subject} {question}: its weights are broken.")
            shots, dropped = self.shots[subject, question]
            lines.append(
                {
                    "model": self.name, "subject": subject, "question": question, "right": list(doc["places"]),
                    "log_likelihoods": values, "score": credit(values, doc["places"]), "shots": shots,
                    "dropped": dropped, "tokens": len(of[0][0]),
                }
            )  # fmt: skip
        self.journal.add(*lines)

    def _loglikelihood_tokens(
        self, requests: Iterable[tuple[Any, list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """What options have in common with their question is computed once."""
        asked = [(context, option) for _, context, option in requests]
        rows = dict.fromkeys((*context, *option[:-1], -len(option)) for context, option in asked)
        found: dict[tuple[int, ...], torch.Tensor] = {}
        for batch in make_batches(list(rows), [len(row) for row in rows], self.micro_batch):
            counts = [-row[-1] for row in batch]
            found |= zip(batch, self.runner.log_probs([row[:-1] for row in batch], counts), strict=True)
        return [_of_option(found[*context, *option[:-1], -len(option)], option) for context, option in asked]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        raise NotImplementedError("only the options of a question are asked for")

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        raise NotImplementedError("only the options of a question are asked for")


def _of_option(log_probs: torch.Tensor, option: Sequence[int]) -> tuple[float, bool]:
    """(T, V) and T ids -> the likelihood of all, and whether each is the likeliest."""
    ids = torch.tensor(option)
    taken = log_probs.gather(1, ids[:, None])[:, 0]
    return float(taken.double().sum()), bool((log_probs.argmax(1) == ids).all())
