"""Flags of the kinds that score answers and compare what was found."""

from dataclasses import dataclass
from typing import Literal

from vicuna.args import at_least, check_seed, flag
from vicuna.crawling.client import check_address
from vicuna.data.fields import parse_fields
from vicuna.data.fills import parse_fills
from vicuna.errors import UserError
from vicuna.prompt.templates import ALL_PROMPT_TYPES

# Scores that two results can be compared by, in the order in which one is looked for.
METRIC_NAMES = (
    *("loss", "bits_per_byte", "rougeL", "rouge1", "rouge2", "chrf", "bleu", "exact", "score", "right"),
    *("repetition", "wrong", "empty"),
)


@dataclass
class GenerationFlags:
    """Which answers are held against their references."""

    answers: list[str] = flag(
        [],
        "files of answers with references, as generate.py --data_path writes them, or --output_path of the kind "
        "answers; each is a model of its own",
    )
    answer_field: str = flag("answer", "field of a line with the answer")
    reference_field: str = flag("reference", "field of a line with the reference")

    def __post_init__(self) -> None:
        if not self.answers:
            raise UserError("--answers is missing: name a file that generate.py --data_path wrote.")


@dataclass
class JudgeFlags:
    """Whose answers are compared, and whom to ask which are better."""

    answers: list[str] = flag(
        [],
        "answers of two models to the same questions: two files that generate.py --data_path wrote, or --output_path "
        "of the kind answers with two models",
    )
    base_url: str = flag("", "address of the judge's endpoint, up to /v1")
    model: str = flag("", "the judge's name there")
    language: Literal["zh", "en"] = flag("zh", "language that the judge is asked in")
    jobs: int = flag(4, "calls at a time")
    temperature: float = flag(0.0, "of the judge's sampling")
    max_tokens: int = flag(1024, "tokens of a reply")
    retries: int = flag(6, "times that a call is tried again after a rate limit, a server's error or a timeout")
    timeout: float = flag(120.0, "seconds that a call may take")
    key_variable: str = flag("OPENAI_API_KEY", "environment variable that holds the key")

    def __post_init__(self) -> None:
        for name in ("answers", "base_url", "model"):
            if not getattr(self, name):
                raise UserError(f"--{name} is missing: expected --answers A B --base_url https://…/v1 --model NAME.")
        for name in ("jobs", "max_tokens"):
            at_least(f"--{name}", getattr(self, name), 1)
        for name in ("temperature", "retries"):
            at_least(f"--{name}", getattr(self, name), 0)
        at_least("--timeout", self.timeout, 0.1)
        check_address(self.base_url)


@dataclass
class IdentityFlags:
    """Who the models are to be, and how they are asked."""

    fill: list[str] = flag([], "the name and the maker that were taught, as in training: name=小羊驼 author=春水团队")
    others: list[str] = flag([], "further names that are none of its own, beside those of well-known models and makers")
    prompt_type: Literal[ALL_PROMPT_TYPES] | None = flag(
        None, "template around the questions; default: what each model was trained with, else what the others were"
    )
    max_new_tokens: int = flag(64, "longest answer in tokens")
    micro_batch: int = flag(8, "questions that are answered at once; lower it when memory runs out")

    def __post_init__(self) -> None:
        if lacking := {"name", "author"} - parse_fills(self.fill).keys():
            raise UserError(f"--fill lacks {min(lacking)}: expected --fill name=… author=…, as the model was taught.")
        for name in ("max_new_tokens", "micro_batch"):
            at_least(f"--{name}", getattr(self, name), 1)


@dataclass
class ForgettingFlags:
    """What the adapters were to learn, what they are to keep, and how much of them is put on."""

    domain: list[str] = flag([], "held-out records of what was learnt")
    general: list[str] = flag([], "general records, of which no loss is to grow: the probe set")
    scale: list[float] = flag([0, 0.25, 0.5, 0.75, 1], "shares of the adapter to put on; 0 is the base, 1 all of it")
    most_loss: float | None = flag(None, "nats a token by which the loss on --general may grow at the point to choose")
    most_divergence: float | None = flag(
        None, "nats a token by which the point to choose may diverge from the base on --general"
    )
    prompt_type: Literal[ALL_PROMPT_TYPES] | None = flag(
        None, "template around the records; default: what the adapters were trained with"
    )
    cutoff_len: int | None = flag(
        None, "longest record in tokens; default 2048, or the smallest context among the models"
    )
    fields: list[str] = flag([], "where the files have the fields of a known format, as in finetune.py")
    skip_bad_rows: bool = flag(False, "leave malformed rows out instead of stopping")

    def __post_init__(self) -> None:
        for name in ("domain", "general"):
            if not getattr(self, name):
                raise UserError(f"--{name} is missing: name a file of held-out records, as finetune.py takes them.")
        for one in self.scale:
            at_least("--scale", one, 0)
        for name in ("most_loss", "most_divergence"):
            at_least(f"--{name}", getattr(self, name) or 0, 0)
        at_least("--cutoff_len", self.cutoff_len or 8, 8)
        parse_fields(self.fields)


@dataclass
class VerdictFlags:
    """Two results, and when they are apart."""

    before: str = flag("", "--output_path of an evaluation of the model before")
    after: str = flag("", "the same of the model after; may be the same folder, with two models in it")
    before_model: str = flag("", "which model of --before, by its name in results.md, where it has several")
    after_model: str = flag("", "which model of --after, where it has several")
    metric: str = flag("", "score to compare; default: the first that both have, loss for one")
    again: list[str] = flag(
        [], "further results of the model before, of other seeds for one: what they differ by counts as noise"
    )
    noise_floor: float = flag(0.0, "difference up to which nothing is said, in units of the score")
    json: str = flag("", "also write everything to this file")
    overwrite: bool = flag(False, "replace --json where it exists")
    seed: int = flag(42, "of what is drawn; the same gives the same verdict")

    def __post_init__(self) -> None:
        for name in ("before", "after"):
            if not getattr(self, name):
                raise UserError(f"--{name} is missing: name the --output_path of an evaluation.")
        at_least("--noise_floor", self.noise_floor, 0)
        check_seed(self.seed)
        if self.metric and self.metric not in METRIC_NAMES:
            raise UserError(f"--metric {self.metric} is unknown; expected one of {', '.join(METRIC_NAMES)}.")
