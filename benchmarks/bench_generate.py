"""What streaming costs beside `model.generate`, how soon a long conversation answers, and what a prefix cache changes.

    python benchmarks/bench_generate.py
    python benchmarks/bench_generate.py --model_path base base-gptq base-q4_k_m.gguf --bits 16 --json speeds.json

Makes a LLaMA of random weights in a temporary folder. Cost: both generate the same tokens in turn, in pairs whose order
alternates; every update's beams are decoded; the median of the pairs' ratios counts, and an interval says how sure it
is, for two runs of one program differ by several per cent on a machine that is not idle. First token: one conversation,
kept going until its history is long, against a first turn with the same message. Prefix cache: how far the first new
token's logits are from those without it, and where answers first differ, at each precision. Prints tables for
benchmarks/RESULTS.md; exit status 1 when streaming costs more than --most_cost or gives other ids, a first token takes
longer than --most_wait times a first turn's, or logits with the prefix cache are further off than --most_difference.
With --model_path it measures, in place of these, how fast models of any kind read prompts and answer, by length.
"""

import itertools
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from generation_speed import bench_speeds  # benchmarks/generation_speed.py
from provenance import provenance  # benchmarks/provenance.py
from random_base import make_base  # benchmarks/random_base.py

from vicuna import log
from vicuna.answer.flags import ServeFlags
from vicuna.args import flag, parse
from vicuna.errors import UserError, run
from vicuna.foreign.odd_files import NEVER_RUN
from vicuna.model.flags import ModelFlags

if TYPE_CHECKING:
    import torch

    from vicuna.answer.assistant import Assistant
    from vicuna.answer.hf_engine import HFEngine
    from vicuna.answer.stream import Update

PARTS = ("cost", "first", "prefix")
SAMPLED = {"do_sample": True, "temperature": 0.9, "top_p": 0.95, "top_k": 40}
MODES = {
    "greedy": {"do_sample": False, "num_beams": 1},
    "sampling": {**SAMPLED, "num_beams": 1},
    "beam search, 4 beams": {"do_sample": False, "num_beams": 4},
    "beam sampling, 4 beams": {**SAMPLED, "num_beams": 4},
}
QUESTION = "请用三句话介绍第{n}种春天的花，并说明它在哪里生长。"
SEED = 1
ROOM = 256  # tokens beside a history: a message and an answer


@dataclass
class GenerateFlags:
    """What is measured, and on which model."""

    only: list[str] = flag(list(PARTS), f"parts to run: {', '.join(PARTS)}")
    hidden_size: int = flag(1024, "width of the model, a multiple of 64")
    num_layers: int = flag(8, "decoder blocks")
    vocab_size: int = flag(2600, "pieces of the tokenizer, all of which are text; fewer make the model faster")
    tokenizer: str = flag("", "folder with a tokenizer.model to use in its place; default: one of the sample texts")
    context: int = flag(2560, "longest sequence in tokens")
    bits: int = flag(32, "precision of the first two parts, and of --model_path where it is not stored quantised")
    prefix_bits: list[int] = flag([16, 8, 4], "precisions of the third part")
    tokens: int = flag(256, "length of an answer in tokens")
    pairs: int = flag(7, "pairs of runs in each mode, and of first tokens")
    history: int = flag(1500, "tokens of the long conversation")
    prompts: int = flag(8, "prompts of the third part")
    threads: int = flag(0, "threads that compute; 0 leaves it to PyTorch")
    most_cost: float = flag(0.03, "largest share of generate()'s speed that streaming may cost")
    most_wait: float = flag(1.5, "longest wait for a first token, in those of a first turn")
    most_difference: float = flag(
        0.05, "largest difference that the prefix cache makes to a logit, of the largest logit"
    )

    model_path: list[str] = flag([], "measure the speed of these instead: folders, hub ids or .gguf files")
    lora_path: list[str] = flag([], "an adapter for each --model_path, - for none")
    lengths: list[int] = flag([2**n for n in range(5, 12)], "tokens of prompts, and of answers, as the context allows")
    most_new: int = flag(2048, "longest answer in tokens with --model_path")
    json: str = flag("", "also write the speeds of --model_path to this file")

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.only) - set(PARTS)):
            raise UserError(f"--only {' '.join(unknown)}: no such part; there are {', '.join(PARTS)}.")
        for name in ("hidden_size", "num_layers", "tokens", "pairs", "history", "prompts"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} {getattr(self, name)} is too small: expected 1 or more.")
        if self.hidden_size % 64:
            raise UserError(f"--hidden_size {self.hidden_size} does not divide into heads of 64.")
        if len(self.lora_path) not in (0, len(self.model_path)):
            raise UserError(
                f"--lora_path names {len(self.lora_path)}, --model_path {len(self.model_path)}: expected one for each, "
                "- for none."
            )
        if self.json and not self.model_path:
            raise UserError(f"--json {self.json} is for the speeds of --model_path: name models.")
        if min(self.lengths, default=0) < 1 or self.most_new < 2:
            raise UserError("--lengths takes numbers of 1 or more, --most_new one of 2 or more.")
        if self.context < self.history + ROOM:
            raise UserError(f"--context {self.context} is too small: --history {self.history} needs {ROOM} more.")


def main(flags: GenerateFlags) -> None:
    """Run the parts and print their tables."""
    log.set_up()
    import torch

    if flags.threads:
        torch.set_num_threads(flags.threads)
    facts = provenance("benchmarks/bench_generate.py")
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    computes = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} threads"
    where = f"{facts['machine']}, {computes}"
    print(f"`{facts['command']}` on {where}. {versions}; commit {facts['commit']}, {facts['date']}.")
    if flags.model_path:
        adapters = ["" if one == "-" else one for one in flags.lora_path] or [""] * len(flags.model_path)
        models = [(*pair, flags.bits) for pair in zip(flags.model_path, adapters, strict=True)]
        found = bench_speeds(models, flags.lengths, flags.most_new)
        if flags.json:
            Path(flags.json).write_text(json.dumps({**facts, "models": found}, indent=1) + "\n", encoding="utf-8")
        return
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "base"
        shape = (flags.hidden_size, flags.num_layers, flags.context)
        make_base(base, *shape, flags.vocab_size, flags.tokenizer)
        if {"cost", "first"} & set(flags.only):
            assistant = open_base(base, flags.bits)
            size = sum(parameter.numel() for parameter in assistant.engine.model.parameters())
            print(f"Hidden {flags.hidden_size}, {flags.num_layers} blocks, {size / 1e6:.0f} M parameters, ", end="")
            print(f"{assistant.where}.", flush=True)
            wrong += bench_cost(assistant, flags) if "cost" in flags.only else []
            wrong += bench_first_token(assistant, flags) if "first" in flags.only else []
        if "prefix" in flags.only:
            wrong += bench_prefix_cache(base, flags)
    if wrong:
        raise UserError(f"{'; '.join(wrong)}.")


def open_base(base: Path, bits: int) -> "Assistant":
    """The base as every program loads it."""
    from vicuna.answer.loading import load_assistant

    return load_assistant(ModelFlags(model_path=str(base), bits=bits), ServeFlags(prompt_type="chat", cache_gib=2))


def exactly(tokens: int, mode: str = "greedy") -> dict[str, Any]:
    """generate()'s arguments for an answer of so many tokens."""
    return {"repetition_penalty": 1.1, "max_new_tokens": tokens, "min_new_tokens": tokens, **MODES[mode]}


def prompt(assistant: "Assistant", *texts: str) -> list[int]:
    """The ids of a conversation: question, answer, …, question."""
    roles = itertools.cycle(("user", "assistant"))
    return assistant.prompt_ids([{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)])


def answered(assistant: "Assistant", engine: "HFEngine", ids: list[int], asked: dict[str, Any]) -> "Update":
    """The whole answer of an engine on the assistant's model."""
    from vicuna.answer.engine import GenerationRequest

    *_, last = engine.stream(GenerationRequest(ids, asked, SEED), assistant.worker.submit)
    return last


# --- what streaming costs -----------------------------------------------------------------------------------------


def bench_cost(assistant: "Assistant", flags: GenerateFlags) -> list[str]:
    """Print what streaming costs in every mode; returns those in which it costs too much, or changes the answer."""
    ids = prompt(assistant, QUESTION.format(n=1))
    print(f"\n{flags.pairs} pairs of {flags.tokens} tokens behind a prompt of {len(ids)}.\n")
    print("| mode | generate, tokens/s | streaming, tokens/s | cost, median of the pairs | 90 % interval | same ids |")
    print("|---|---|---|---|---|---|")
    wrong = []
    for mode in MODES:
        asked, same, pairs = exactly(flags.tokens, mode), 0, []
        for number in range(-1, flags.pairs):  # the first pair warms up
            order = (time_streaming, time_generate) if number % 2 else (time_generate, time_streaming)
            seconds, answers = {}, []
            for way in order:
                seconds[way], answer = way(assistant, ids, asked)
                answers.append(answer)
            if number >= 0:
                same += answers[0] == answers[1]
                pairs.append((seconds[time_generate], seconds[time_streaming]))
        shares = [1 - plain / stream for plain, stream in pairs]
        low, high = median_interval(shares)
        speeds = " | ".join(f"{flags.tokens / median(column):.2f}" for column in zip(*pairs, strict=True))
        found = f"{median(shares):+.1%} | {low:+.1%} to {high:+.1%} | {same} of {flags.pairs}"
        print(f"| {mode} | {speeds} | {found} |", flush=True)
        wrong += [f"streaming costs {median(shares):.1%} in {mode}"] if median(shares) > flags.most_cost else []
        wrong += [f"streaming gives other ids in {mode}"] if same < flags.pairs else []
    return wrong


def median_interval(values: list[float], confidence: float = 0.9) -> tuple[float, float]:
    """The narrowest pair of ranks that holds the median with this probability; all of the values where none does."""
    values, n = sorted(values), len(values)
    left_out, tail = 0, 1 / 2**n  # the chance that the median lies below the values from rank `left_out` on
    while left_out + 1 < n - left_out - 1:
        tail += math.comb(n, left_out + 1) / 2**n
        if 1 - 2 * tail < confidence:
            break
        left_out += 1
    return values[left_out], values[n - 1 - left_out]


def time_streaming(assistant: "Assistant", ids: list[int], asked: dict[str, Any]) -> tuple[float, list[int]]:
    """Seconds and ids of an answer of which every beam is read after every token."""
    assistant.engine.prefixes.clear()
    begin = time.perf_counter()
    for update in assistant.stream(ids, asked, seed=SEED):
        texts = [beam.text for beam in update.beams]
    seconds = time.perf_counter() - begin
    assert len(texts) == asked["num_beams"]
    return seconds, update.beams[0].ids


def time_generate(assistant: "Assistant", ids: list[int], asked: dict[str, Any]) -> tuple[float, list[int]]:
    """Seconds and ids of the same answer by `generate` alone, decoded once."""
    import torch
    from transformers import set_seed

    model = assistant.engine.model
    begin = time.perf_counter()
    set_seed(SEED)
    inputs = torch.tensor([ids], device=model.get_input_embeddings().weight.device)
    with torch.inference_mode():
        rows = model.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            num_return_sequences=asked["num_beams"],
            pad_token_id=2,
            **asked,
            **NEVER_RUN,
        )
    answers = rows[:, len(ids) :].tolist()
    for answer in answers:
        assistant.tokenizer.decode_continuation(answer)
    return time.perf_counter() - begin, answers[0]


# --- how soon a long conversation answers -------------------------------------------------------------------------


def bench_first_token(assistant: "Assistant", flags: GenerateFlags) -> list[str]:
    """Print how long the first token takes, in a first turn and behind a long history; returns what is too slow."""
    from vicuna.answer.hf_engine import HFEngine

    engine = assistant.engine
    talk = long_conversation(assistant, flags)
    fresh, bare = (HFEngine(engine.base, engine.model, {}, gib) for gib in (2, 0))
    waits: dict[str, list[float]] = {"first": [], "later": [], "later, no cache": []}
    for number in range(-1, flags.pairs):
        message = QUESTION.format(n=100 + number)
        alone, behind = prompt(assistant, message), prompt(assistant, *talk, message)
        fresh.prefixes.clear()
        found = {
            "first": seconds_to_first_token(assistant, fresh, alone),
            "later": seconds_to_first_token(assistant, engine, behind),
            "later, no cache": seconds_to_first_token(assistant, bare, behind),
        }
        for name, seconds in found.items():
            waits[name] += [seconds] if number >= 0 else []
    first, later, without = (median(seconds) for seconds in waits.values())
    ratio = median(b / a for a, b in zip(waits["first"], waits["later"], strict=True))
    print(f"\nFirst token, medians of {flags.pairs}; a message of {len(alone)} tokens with its template.\n")
    print("| turn | history, tokens | first token, ms | of a first turn |\n|---|---|---|---|")
    print(f"| first | 0 | {1000 * first:.0f} | 1 |")
    print(f"| number {len(talk) // 2 + 1} | {len(behind) - len(alone)} | {1000 * later:.0f} | {ratio:.2f} |")
    print(f"| the same, --cache_gib 0 | {len(behind) - len(alone)} | {1000 * without:.0f} | {without / first:.2f} |")
    sys.stdout.flush()
    return [f"a later turn waits {ratio:.2f} times as long as a first one"] if ratio > flags.most_wait else []


def long_conversation(assistant: "Assistant", flags: GenerateFlags) -> list[str]:
    """A conversation of --history tokens, asked turn by turn: question, answer, …, answer."""
    talk: list[str] = []
    for number in itertools.count(1):
        ids = prompt(assistant, *talk, QUESTION.format(n=number))
        if len(ids) > flags.history:
            return talk
        *_, last = assistant.stream(ids, exactly(48, "sampling"), seed=number)
        talk += [QUESTION.format(n=number), last.text]
    raise AssertionError


def seconds_to_first_token(assistant: "Assistant", engine: "HFEngine", ids: list[int]) -> float:
    """Of an answer of two tokens."""
    return answered(assistant, engine, ids, exactly(2)).first_s


# --- what a prefix cache changes ----------------------------------------------------------------------------------


def bench_prefix_cache(base: Path, flags: GenerateFlags) -> list[str]:
    """Print how far logits and answers are from those without a prefix cache; returns what is too far."""
    wrong: list[str] = []
    print(f"\nSecond turns with and without the prefix cache, {flags.prompts} conversations, greedy, 32 tokens.\n")
    print(
        "| bits | largest difference of the first logits, of the largest logit | answers that differ | first at token |"
    )
    print("|---|---|---|---|")
    for bits in flags.prefix_bits:
        assistant = open_base(base, bits)
        distances, differ = zip(*conversations(assistant, flags), strict=True)
        found = [at for at in differ if at is not None]
        where = ", ".join(map(str, sorted(found))) or "–"
        print(f"| {assistant.where} | {max(distances):.1e} | {len(found)} of {len(differ)} | {where} |", flush=True)
        if max(distances) > flags.most_difference:
            wrong.append(f"the prefix cache makes a difference of {max(distances):.1e} at {bits} bits")
    return wrong


def conversations(assistant: "Assistant", flags: GenerateFlags) -> Iterator[tuple[float, int | None]]:
    """Of each: the distance of the first logits, and the first token that differs, counted from 1."""
    from vicuna.answer.hf_engine import HFEngine

    engine, logits = assistant.engine, []
    head = engine.model.get_output_embeddings()
    head.register_forward_hook(lambda module, args, output: logits.append(output[0, -1].float()))
    bare = HFEngine(engine.base, engine.model, {}, 0)
    for number in range(flags.prompts):
        ids = prompt(assistant, QUESTION.format(n=number))
        said = answered(assistant, engine, ids, exactly(32)).beams[0].ids
        follow = ids + said + assistant.tokenizer.encode_continuation("\n\nUser:还有呢？\n\nAssistant:")
        found: list[tuple[torch.Tensor, list[int]]] = []
        for way in (engine, bare):
            logits.clear()
            said = answered(assistant, way, follow, exactly(32)).beams[0].ids
            found.append((logits[0], said))
        (near, one), (far, other) = found
        at = next((n for n, (a, b) in enumerate(zip(one, other, strict=True), 1) if a != b), None)
        yield ((near - far).abs().max() / far.abs().max()).item(), at


if __name__ == "__main__":
    run(lambda: main(*parse(__doc__, GenerateFlags)))
