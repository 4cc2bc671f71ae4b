"""One iterator of growing answers, in every decoding mode; pages, terminal and benchmarks consume the same.

`model.generate` runs in a thread with two public hooks: a LogitsProcessor that looks at the running sequences,
and a StoppingCriteria that ends them. The last update holds what `generate` returned, so streaming changes no
answer; an error in the thread is raised in the caller.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
    set_seed,
)

from vicuna.args import DecodingFlags
from vicuna.errors import UserError
from vicuna.tokenizer import TextTokenizer
from vicuna.worker import Call

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


def settings(flags: DecodingFlags, base: GenerationConfig) -> dict[str, Any]:
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
    return effective(chosen)


def effective(chosen: dict[str, Any]) -> dict[str, Any]:
    """`chosen` without what has no effect: temperature 0 is greedy, and a greedy run looks at no top-p."""
    drawing = chosen["do_sample"] and chosen.get("temperature", 1.0) > 0
    chosen = {**chosen, "do_sample": drawing, "min_new_tokens": min(chosen["min_new_tokens"], chosen["max_new_tokens"])}
    return chosen if drawing else {name: value for name, value in chosen.items() if name not in DRAWING}


def mode(chosen: dict[str, Any]) -> str:
    """greedy, sampling, beam search or beam sampling."""
    if chosen["num_beams"] > 1:
        return "beam sampling" if chosen["do_sample"] else "beam search"
    return "sampling" if chosen["do_sample"] else "greedy"


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
        beams: best first; one of them in greedy and sampling.
        tokens: generated tokens of the best beam; seconds since the start; first_s until the first token.
        finish: "" while running, then "eos", "length" or "stopped".
        cut_character: the answer ends inside a character, which is left out of the text.
    """

    beams: list[Beam]
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


@dataclass
class Run:
    """What the generating thread and the caller share."""

    updates: queue.SimpleQueue = field(default_factory=queue.SimpleQueue)
    stop: threading.Event = field(default_factory=threading.Event)


class Watch(LogitsProcessor):
    """Passes the running sequences on, (K, T) ids, with their cumulative log probabilities; changes nothing."""

    def __init__(self, run: Run, prompt_len: int, scored: bool):
        self.run, self.prompt_len, self.scored = run, prompt_len, scored
        self.totals: dict[tuple[int, ...], float] = {(): 0.0}
        self.last: dict[tuple[int, ...], torch.Tensor] = {}

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        rows = [tuple(row) for row in input_ids[:, self.prompt_len :].tolist()]
        if self.scored:
            self.totals = {row: self._total(row) for row in rows}
            self.last = dict(zip(rows, scores.float().log_softmax(dim=-1), strict=True))
        if rows[0]:
            order = dict.fromkeys(sorted(rows, key=lambda row: -self.totals[row]) if self.scored else rows)
            self.run.updates.put([(list(row), self.totals.get(row)) for row in order])
        return scores

    def _total(self, row: tuple[int, ...]) -> float:
        if not row:
            return 0.0
        parent = row[:-1]
        return self.totals.get(parent, 0.0) + float(self.last[parent][row[-1]]) if parent in self.last else 0.0


class Stop(StoppingCriteria):
    """Ends the generation at the next token once the caller asks for it."""

    def __init__(self, run: Run):
        self.run = run

    def __call__(self, input_ids: torch.LongTensor, scores: Any, **kwargs: Any) -> torch.BoolTensor:
        return torch.full((len(input_ids),), self.run.stop.is_set(), dtype=torch.bool, device=input_ids.device)


def stream(
    model: Any,
    tokenizer: TextTokenizer,
    prompt_ids: list[int],
    chosen: dict[str, Any],
    context: int,
    seed: int | None = None,
    stop: threading.Event | None = None,
    *,
    submit: Submit,
    setting: Callable[[], AbstractContextManager] = contextlib.nullcontext,
) -> Iterator[Update]:
    """Growing answers to a prompt; closing the iterator stops the generation at the next token.

    Args:
        prompt_ids: BOS included.
        chosen: generate()'s arguments, from `settings`; max_new_tokens is lowered to what `context` leaves.
        seed: fixes what sampling draws.
        stop: set it to end the generation; the last update then says "stopped".
        submit: has the model called, in another thread.
        setting: what holds meanwhile, such as the adapter in use; entered in that thread.

    Raises:
        UserError: a prompt that fills the context, or out of memory.
    """
    room = context - len(prompt_ids)
    if room < 1:
        raise UserError(f"the prompt has {len(prompt_ids)} tokens, the base's context is {context}: shorten it.")
    new = min(chosen["max_new_tokens"], room)
    chosen = {**chosen, "max_new_tokens": new, "min_new_tokens": min(chosen["min_new_tokens"], new)}
    run = Run(stop=stop or threading.Event())
    begin = time.perf_counter()

    def work() -> None:
        try:
            with setting():
                run.updates.put(_generate(model, run, prompt_ids, chosen, seed))
        except BaseException as error:  # delivered to the caller, who raises it
            run.updates.put(error)

    call = submit(work)
    first_s = 0.0
    try:
        while isinstance(item := run.updates.get(), list):
            seconds = time.perf_counter() - begin
            first_s = first_s or seconds
            beams = [Beam(ids, tokenizer.decode_continuation(tokenizer.complete(ids)), score) for ids, score in item]
            yield Update(beams, len(beams[0].ids), seconds, first_s)
    finally:
        run.stop.set()
        call.done.wait()
    if isinstance(item, torch.OutOfMemoryError):
        raise UserError(
            "out of memory while answering: lower Max New Tokens, the beams, or the length of the question."
        ) from item
    if isinstance(item, BaseException):
        raise item
    yield _last(item, tokenizer, run, new, first_s, time.perf_counter() - begin)


@dataclass(frozen=True)
class Generated:
    """What generate() returned: answer ids of every hypothesis, best first, eos included, and their scores."""

    ids: list[list[int]]
    scores: list[float | None]
    eos_ids: set[int]
    stopped: bool


def _generate(model: Any, run: Run, prompt_ids: list[int], chosen: dict[str, Any], seed: int | None) -> Generated:
    if seed is not None:
        set_seed(seed)
    beams = chosen["num_beams"]
    prompt = torch.tensor([prompt_ids], device=model.get_input_embeddings().weight.device)
    eos = model.generation_config.eos_token_id
    eos_ids = set(eos if isinstance(eos, list) else [eos])
    with torch.inference_mode():
        output = model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            **chosen,
            num_return_sequences=beams if beams > 1 else 1,
            pad_token_id=min(eos_ids),
            return_dict_in_generate=True,
            output_scores=beams > 1,
            logits_processor=LogitsProcessorList([Watch(run, len(prompt_ids), scored=beams > 1)]),
            stopping_criteria=StoppingCriteriaList([Stop(run)]),
        )
    scores = output.sequences_scores.tolist() if beams > 1 else [None]
    ids = [_until_eos(row, eos_ids) for row in output.sequences[:, len(prompt_ids) :].tolist()]
    return Generated(ids, scores, eos_ids, run.stop.is_set())


def _until_eos(ids: list[int], eos_ids: set[int]) -> list[int]:
    """The ids up to and including the first eos; what follows is padding."""
    end = next((i for i, token in enumerate(ids) if token in eos_ids), len(ids) - 1)
    return ids[: end + 1]


def _last(done: Generated, tokenizer: TextTokenizer, run: Run, limit: int, first_s: float, seconds: float) -> Update:
    beams, cut = [], False
    for ids, score in zip(done.ids, done.scores, strict=True):
        kept = [i for i in ids if i not in done.eos_ids]
        whole = tokenizer.complete(kept)
        cut = cut or (not beams and len(whole) < len(kept))
        beams.append(Beam(ids, tokenizer.decode_continuation(whole), score))
    best = done.ids[0]
    finish = (
        "eos" if best and best[-1] in done.eos_ids else "stopped" if done.stopped and len(best) < limit else "length"
    )
    return Update(beams, len(best), seconds, first_s or seconds, finish, cut)
