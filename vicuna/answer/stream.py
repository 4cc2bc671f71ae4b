"""One iterator of growing answers, in every decoding mode; pages, terminal, API and benchmarks consume the same.

What makes an answer runs in another thread and shows its steps to a `Streamer`; `stream` turns them into updates. The
last update holds what was generated in the end, so streaming changes no answer; an error is raised in the caller.
`vicuna.answer.hf_generation` makes answers with transformers.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import torch

from vicuna.answer.detokenize import Detokenizer, StopStrings
from vicuna.answer.worker import Call
from vicuna.errors import UserError, as_exception
from vicuna.log import log
from vicuna.prompt.tokenizer import TextTokenizer
from vicuna.sentences import Sentence

# What has work done elsewhere: a worker's submit, which takes turns.
Submit = Callable[[Callable[[], None]], Call]


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
    def finish_reason(self) -> str:
        """Why it ended, as OpenAI says it."""
        return "length" if self.finish == "length" else "stop"

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
class GenerationResult:
    """A whole answer: ids of every hypothesis, best first, eos included, and their scores; and why it ended."""

    ids: list[list[int]]
    scores: list[float | None]
    eos_ids: set[int]
    stopped: bool = False


# The answer of who was stopped before the first token.
EMPTY_RESULT = GenerationResult([[]], [None], set(), stopped=True)
PENDING = 32  # steps that may wait to be looked at; behind more of them, only the newest is of interest
POLL_S = 0.1  # between looks at whether an answer that has not begun is still wanted


class Streamer:
    """What the thread that makes an answer and the one that reads it share.

    Args:
        stop: its owner sets it to end the answer; nobody else does.
        stops: texts that end the answer.
        apart: the answer is a text of its own, without the space that its ids begin with.
    """

    def __init__(
        self,
        tokenizer: TextTokenizer,
        stop: threading.Event | None = None,
        stops: Sequence[str] = (),
        apart: bool = False,
    ):
        self.tokenizer, self.stops, self.apart = tokenizer, StopStrings(stops), apart
        self.begun = False
        self.first_at: float | None = None
        self._stop, self._closed = stop, False
        # A hand-over by one call of C: whatever the reader does in Python, the thread that computes waits for.
        self._items: queue.SimpleQueue[Step | GenerationResult | BaseException] = queue.SimpleQueue()
        self._longest = 0

    @property
    def stopped(self) -> bool:
        """The answer is to end at the next token."""
        return self._closed or (self._stop is not None and self._stop.is_set())

    def shown(self, text: str) -> str:
        """What of the text of an answer's ids is the answer."""
        return self.tokenizer.without_dummy(text) if self.apart else text

    def ends_in(self, ids: list[int], texts: Detokenizer) -> bool:
        """A text that ends answers is in that of `ids`."""
        return bool(self.stops and self.stops.find(self.shown(texts.decode(ids))) >= 0)

    def ends(self, ids: list[int], texts: Detokenizer) -> bool:
        """The answer is to end, or a text that ends answers is in that of `ids`."""
        return self.stopped or self.ends_in(ids, texts)

    def close(self) -> None:
        """Nobody reads on."""
        self._closed = True

    def put(self, ids: list[list[int]], scores: list[float | None]) -> None:
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

    def end(self, result: GenerationResult | BaseException) -> None:
        """There will be no more steps."""
        self._items.put(result)

    def get(self, timeout: float | None) -> Step | GenerationResult | BaseException | None:
        """The next step, or behind the last one the result; None when there is nothing within `timeout` seconds."""
        try:
            return self._items.get(timeout=timeout)
        except queue.Empty:
            return None


def stream(
    generate: Callable[[], GenerationResult], streamer: Streamer, limit: int, submit: Submit
) -> Iterator[Update]:
    """Growing answers; closing the iterator ends the generation at the next token, or takes it out of the queue.

    Args:
        generate: makes the answer, in another thread, and shows its steps to `streamer`.
        limit: most tokens it may make.
        submit: has that done.

    Raises:
        UserError: out of memory, or whatever else `generate` fails with, as a sentence.
    """
    begin = time.perf_counter()

    def work() -> None:
        streamer.begun = True
        try:
            streamer.end(EMPTY_RESULT if streamer.stopped else generate())
        except BaseException as error:  # delivered to the caller, who raises it
            streamer.end(as_exception(error))

    call = submit(work)
    texts: Detokenizer | None = None
    try:
        while isinstance(item := _next(streamer, call), Step):
            texts = texts or Detokenizer(streamer.tokenizer, 2 * len(item.ids))
            beams = _GrowingBeams(item, streamer, texts)
            yield Update(beams, len(item.ids[0]), item.at - begin, streamer.first_at - begin)
    finally:
        streamer.close()
        if not call.cancel():
            call.wait()
    if isinstance(item, BaseException):
        raise to_user_error(item) from item
    yield last_update(item, streamer, limit, begin)


def _next(streamer: Streamer, call: Call) -> Step | GenerationResult | BaseException:
    """The next step, or the result. Who is stopped while waiting for a turn does not wait for it.

    Raises:
        QueueFull: its place went to others.
    """
    while True:
        item = streamer.get(None if streamer.begun else POLL_S)
        if item is not None:
            return item
        if call.refused:
            raise call.refused
        if streamer.stopped and call.cancel():
            return EMPTY_RESULT


class _GrowingBeams(Sequence[Beam]):
    """The beams of a step; a beam that nobody looks at costs no decoding."""

    def __init__(self, step: Step, streamer: Streamer, texts: Detokenizer):
        self._step, self._streamer, self._texts = step, streamer, texts
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
            text = self._streamer.stops.visible(self._streamer.shown(self._texts.decode(ids)))
            self._made[index] = Beam(ids, text, self._step.scores[index])
        return self._made[index]


OUT_OF_MEMORY = Sentence("out_of_memory")


def is_out_of_memory(error: BaseException) -> bool:
    """The device, or main memory, has no room left."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)  # what torch raises on the CPU
    )


def to_user_error(error: BaseException) -> BaseException:
    """What to tell who asked for what failed with `error`, whose traceback is logged where it is nobody's mistake."""
    if isinstance(error, UserError) or not isinstance(error, Exception):
        return error
    if is_out_of_memory(error):
        return UserError(OUT_OF_MEMORY)
    log.error("an answer failed", exc_info=error)
    reason = (str(error).strip().splitlines() or [""])[0]
    return UserError(Sentence("model_failed", kind=type(error).__name__, reason=reason))


def last_update(done: GenerationResult, streamer: Streamer, limit: int, begin: float) -> Update:
    """The last update, decoded as a whole.

    Args:
        limit: most tokens it might have; begin: a perf_counter.
    """
    now = time.perf_counter()
    beams, finish, cut_character = [], "", False
    for ids, score in zip(done.ids, done.scores, strict=True):
        kept = [i for i in ids if i not in done.eos_ids]
        whole = streamer.tokenizer.drop_partial_character(kept)
        text = streamer.shown(streamer.tokenizer.decode_continuation(whole))
        shown = streamer.stops.cut(text)
        ended_by_text = len(shown) < len(text)
        # What follows the end of such an answer in a beam search is padding.
        beams.append(Beam(kept if ended_by_text else ids, shown, score))
        if len(beams) == 1:
            finish = "stop" if ended_by_text else _finish(done, limit)
            cut_character = not ended_by_text and len(whole) < len(kept)
    seconds = now - begin
    first_s = streamer.first_at - begin if streamer.first_at else seconds
    return Update(beams, len(beams[0].ids), seconds, first_s, finish, cut_character)


def _finish(done: GenerationResult, limit: int) -> str:
    best = done.ids[0]
    if best and best[-1] in done.eos_ids:
        return "eos"
    return "stopped" if done.stopped and len(best) < limit else "length"
