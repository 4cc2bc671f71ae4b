"""One iterator of growing answers, in every decoding mode; pages, terminal, API and benchmarks consume the same.

What makes an answer runs in another thread and shows its steps to a `Run`; `stream` turns them into updates. The
last update holds what was generated in the end, so streaming changes no answer; an error is raised in the caller.
`vicuna.answer.generation` makes answers with transformers.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import torch
from transformers import GenerationConfig

from vicuna.answer.detokenize import Detokenizer, StopStrings
from vicuna.answer.flags import DecodingFlags
from vicuna.answer.worker import Call
from vicuna.errors import UserError
from vicuna.log import log
from vicuna.prompt.tokenizer import TextTokenizer

# What has work done elsewhere: a worker's submit, which takes turns.
Submit = Callable[[Callable[[], None]], Call]

# What a preset sets, by GenerationConfig's names; "original" is what the original's page was set to.
_SAMPLED = {"do_sample": True, "num_beams": 1, "repetition_penalty": 1.1}
PRESETS: dict[str, dict[str, Any]] = {
    "precise": {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.1},
    "balanced": {**_SAMPLED, "temperature": 0.7, "top_p": 0.9, "top_k": 40},
    "creative": {**_SAMPLED, "temperature": 1.0, "top_p": 0.95, "top_k": 60},
    "beam": {"do_sample": False, "num_beams": 4, "repetition_penalty": 1.1},
    # The original never sampled; its temperature, top-p and top-k stood at 0.1, 0.75 and 40 without effect.
    "original": {"do_sample": False, "num_beams": 4, "repetition_penalty": 2.0},
}
DEFAULTS = {"max_new_tokens": 256, "min_new_tokens": 1}
DRAWING = ("temperature", "top_p", "top_k")  # what only sampling looks at
NUMBERS = ("temperature", "top_p", "repetition_penalty")  # the other settings are whole


def generation_kwargs(flags: DecodingFlags, base: GenerationConfig) -> dict[str, Any]:
    """generate()'s arguments: an explicit flag, then the preset, then the base's generation config, then our default.

    A temperature, top-p or top-k turns sampling on unless `do_sample` says otherwise; temperature 0 is greedy.
    """
    names = ("num_beams", *DRAWING, "max_new_tokens", "min_new_tokens", "repetition_penalty")
    declared = {name: value for name, value in base.to_diff_dict().items() if name in names and value is not None}
    given = {name: value for name in names if (value := getattr(flags, name)) is not None}
    chosen = {**DEFAULTS, **declared, **PRESETS[flags.preset], **given}
    if flags.do_sample is not None:
        chosen["do_sample"] = flags.do_sample
    elif any(name in given for name in DRAWING):
        chosen["do_sample"] = True
    # A temperature of 2 in a request or in the base's file is a whole number, which transformers refuses.
    return effective_kwargs({name: float(value) if name in NUMBERS else value for name, value in chosen.items()})


def effective_kwargs(chosen: dict[str, Any]) -> dict[str, Any]:
    """`chosen` without what has no effect: temperature 0 is greedy, and a greedy run looks at no top-p."""
    drawing = chosen["do_sample"] and chosen.get("temperature", 1.0) > 0
    chosen = {**chosen, "do_sample": drawing, "min_new_tokens": min(chosen["min_new_tokens"], chosen["max_new_tokens"])}
    return chosen if drawing else {name: value for name, value in chosen.items() if name not in DRAWING}


def decoding_mode(chosen: dict[str, Any]) -> str:
    """greedy, sampling, beam search or beam sampling."""
    if chosen["num_beams"] > 1:
        return "beam sampling" if chosen["do_sample"] else "beam search"
    return "sampling" if chosen["do_sample"] else "greedy"


def nth_seed(seed: int | None, n: int) -> int | None:
    """The seed of another draw for the same prompt, n of which have been made; None where each is a surprise."""
    return None if seed is None else (seed + n) % 2**32


@dataclass(frozen=True)
class Beam:
    """One hypothesis: its ids, its text, and its score (log probability; at the end as beam search ranks it)."""

    ids: list[int]
    text: str
    score: float | None = None


@dataclass(frozen=True)
class Update:
    """The answer so far.

    Attributes:
        beams: best first; one of them in greedy and sampling. Texts of growing beams are decoded when looked at.
        tokens: generated tokens of the best beam; seconds since the start; first_s until the first token.
        finish: "" while running, then "eos", "length", "stop" (a text that ends answers; `ids` go on to its end, the
            text does not) or "stopped" (by the user).
        cut_character: the answer ends inside a character, which is left out of the text.
    """

    beams: Sequence[Beam]
    tokens: int
    seconds: float
    first_s: float
    finish: str = ""
    cut_character: bool = False

    @property
    def text(self) -> str:
        """The best beam's text."""
        return self.beams[0].text

    @property
    def tokens_per_s(self) -> float:
        """Decoding speed after the first token; 0 before there is a second."""
        rest = self.seconds - self.first_s
        return (self.tokens - 1) / rest if self.tokens > 1 and rest > 0 else 0.0


@dataclass(frozen=True)
class Step:
    """A step that an answer has taken: ids of every hypothesis, best first, and their scores; `at` a perf_counter."""

    ids: list[list[int]]
    scores: list[float | None]
    at: float


@dataclass(frozen=True)
class Generated:
    """A whole answer: ids of every hypothesis, best first, eos included, and their scores; and why it ended."""

    ids: list[list[int]]
    scores: list[float | None]
    eos_ids: set[int]
    stopped: bool = False


NOTHING = Generated([[]], [None], set(), stopped=True)  # the answer of who was stopped before the first token
PENDING = 32  # steps that may wait to be looked at; behind more of them, only the newest is of interest
PATIENCE_S = 0.1  # between looks at whether an answer that has not begun is still wanted


class Run:
    """What the thread that makes an answer and the one that reads it share.

    Args:
        stop: its owner sets it to end the answer; nobody else does.
        stops: texts that end the answer.
    """

    def __init__(self, tokenizer: TextTokenizer, stop: threading.Event | None = None, stops: Sequence[str] = ()):
        self.tokenizer, self.stops = tokenizer, StopStrings(stops)
        self.begun = False
        self.first_at: float | None = None
        self._stop, self._closed = stop, False
        # A hand-over by one call of C: whatever the reader does in Python, the thread that computes waits for.
        self._items: queue.SimpleQueue[Step | Generated | BaseException] = queue.SimpleQueue()
        self._longest = 0

    @property
    def stopped(self) -> bool:
        """The answer is to end at the next token."""
        return self._closed or (self._stop is not None and self._stop.is_set())

    def close(self) -> None:
        """Nobody reads on."""
        self._closed = True

    def show(self, ids: list[list[int]], scores: list[float | None]) -> None:
        """A step has been taken; steps that a second attempt takes again are not shown again."""
        if len(ids[0]) <= self._longest:
            return
        self._longest = len(ids[0])
        step = Step(ids, scores, time.perf_counter())
        self.first_at = self.first_at or step.at
        if self._items.qsize() >= PENDING:
            with contextlib.suppress(queue.Empty):
                while True:
                    self._items.get_nowait()
        self._items.put(step)

    def end(self, result: Generated | BaseException) -> None:
        """There will be no more steps."""
        self._items.put(result)

    def next(self, timeout: float | None) -> Step | Generated | BaseException | None:
        """The next step, or behind the last one the result; None when there is nothing within `timeout` seconds."""
        try:
            return self._items.get(timeout=timeout)
        except queue.Empty:
            return None


def stream(
    generate: Callable[[Run], Generated],
    run: Run,
    limit: int,
    submit: Submit,
) -> Iterator[Update]:
    """Growing answers; closing the iterator ends the generation at the next token, or takes it out of the queue.

    Args:
        generate: makes the answer, in another thread, and shows its steps to `run`.
        limit: most tokens it may make.
        submit: has that done.

    Raises:
        UserError: out of memory, or whatever else `generate` fails with, as a sentence.
    """
    begin = time.perf_counter()

    def work() -> None:
        run.begun = True
        try:
            run.end(NOTHING if run.stopped else generate(run))
        except BaseException as error:  # delivered to the caller, who raises it
            run.end(error)

    call = submit(work)
    texts: Detokenizer | None = None
    try:
        while isinstance(item := _next(run, call), Step):
            texts = texts or Detokenizer(run.tokenizer, 2 * len(item.ids))
            yield Update(_Growing(item, run.stops, texts), len(item.ids[0]), item.at - begin, run.first_at - begin)
    finally:
        run.close()
        if not call.cancel():
            call.wait()
    if isinstance(item, BaseException):
        raise as_sentence(item) from item
    yield _last(item, run, limit, begin)


def _next(run: Run, call: Call) -> Step | Generated | BaseException:
    """The next step, or the result. Who is stopped while waiting for a turn does not wait for it."""
    while True:
        item = run.next(None if run.begun else PATIENCE_S)
        if item is not None:
            return item
        if run.stopped and call.cancel():
            return NOTHING


class _Growing(Sequence[Beam]):
    """The beams of a step; a beam that nobody looks at costs no decoding."""

    def __init__(self, step: Step, stops: StopStrings, texts: Detokenizer):
        self._step, self._stops, self._texts = step, stops, texts
        self._made: dict[int, Beam] = {}

    def __len__(self) -> int:
        return len(self._step.ids)

    @overload
    def __getitem__(self, index: int) -> Beam: ...

    @overload
    def __getitem__(self, index: slice) -> list[Beam]: ...

    def __getitem__(self, index: int | slice) -> Beam | list[Beam]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        if index not in self._made:
            ids = self._step.ids[index]
            text = self._stops.shown(self._texts.of(ids))
            self._made[index] = Beam(ids, text, self._step.scores[index])
        return self._made[index]


OUT_OF_MEMORY = "out of memory while answering: lower Max New Tokens or the number of beams, or shorten the text."


def out_of_memory(error: BaseException) -> bool:
    """The device, or main memory, has no room left."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)  # what torch raises on the CPU
    )


def as_sentence(error: BaseException) -> BaseException:
    """What to tell who asked for what failed with `error`, whose traceback is logged where it is nobody's mistake."""
    if isinstance(error, UserError) or not isinstance(error, Exception):
        return error
    if out_of_memory(error):
        return UserError(OUT_OF_MEMORY)
    log.error("an answer failed", exc_info=error)
    reason = (str(error).strip().splitlines() or [""])[0]
    return UserError(f"the model failed while answering ({type(error).__name__}: {reason}); the log has the details.")


def _last(done: Generated, run: Run, limit: int, begin: float) -> Update:
    """The last update, decoded as a whole."""
    now = time.perf_counter()
    beams, finish, cut_character = [], "", False
    for ids, score in zip(done.ids, done.scores, strict=True):
        kept = [i for i in ids if i not in done.eos_ids]
        whole = run.tokenizer.complete(kept)
        text = run.tokenizer.decode_continuation(whole)
        shown = run.stops.cut(text)
        ended_by_text = len(shown) < len(text)
        # What follows the end of such an answer in a beam search is padding.
        beams.append(Beam(kept if ended_by_text else ids, shown, score))
        if len(beams) == 1:
            finish = "stop" if ended_by_text else _finish(done, limit)
            cut_character = not ended_by_text and len(whole) < len(kept)
    seconds = now - begin
    first_s = run.first_at - begin if run.first_at else seconds
    return Update(beams, len(beams[0].ids), seconds, first_s, finish, cut_character)


def _finish(done: Generated, limit: int) -> str:
    best = done.ids[0]
    if best and best[-1] in done.eos_ids:
        return "eos"
    return "stopped" if done.stopped and len(best) < limit else "length"
