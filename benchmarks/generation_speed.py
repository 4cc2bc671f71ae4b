"""How fast a model of any kind reads a prompt and answers, by length: what bench_generate.py does with --model_path."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vicuna.errors import UserError

if TYPE_CHECKING:
    from vicuna.answer.assistant import Assistant

SEED = 1
WARM_UP = 16  # tokens of a prompt and of an answer that are not measured
LEAST = 2  # tokens of an answer that has a speed
FIRST_TEXT_ID = 3  # behind unk, BOS and EOS, as LLaMA has them


@dataclass(frozen=True)
class Speed:
    """A prompt and an answer, both greedy and of exact length.

    Attributes:
        prefill_per_s: tokens of the prompt by the time to the first new token; decode_per_s: those behind it.
        peak_bytes: most memory since before the model was loaded, None where the system does not tell.
    """

    prompt_tokens: int
    new_tokens: int
    prefill_per_s: float
    decode_per_s: float
    peak_bytes: int | None


def plan_rounds(context: int, lengths: list[int], most_new: int) -> list[tuple[int, int]]:
    """Tokens of each prompt and of its answer, as long as the prompt, as far as a context goes.

    Raises:
        UserError: it does not go as far as the shortest prompt.
    """
    rounds = [(length, min(length, most_new, context - length)) for length in sorted(set(lengths))]
    rounds = [(length, new) for length, new in rounds if new >= LEAST]
    if not rounds:
        raise UserError(
            f"--lengths {min(lengths)} leaves no room for an answer in a context of {context} tokens: name shorter "
            "ones."
        )
    return rounds


def measure_speeds(assistant: "Assistant", rounds: list[tuple[int, int]], memory: Any) -> Iterator[Speed]:
    """The speed of each round, behind one that is not told: what is compiled or chosen at the first use would count.

    Args:
        memory: a `PeakMemory` from before the model was loaded.
    """
    warm_up = min(WARM_UP, assistant.engine.context // 2)
    _answer(assistant, warm_up, warm_up)
    for length, new in rounds:
        last = _answer(assistant, length, new)
        yield Speed(length, last.tokens, length / last.first_s, last.tokens_per_s, memory.taken_bytes())


def _answer(assistant: "Assistant", length: int, new: int) -> Any:
    """The last update of an answer of exactly `new` tokens behind a prompt of drawn ids."""
    draw = random.Random(SEED + length)  # no prompt begins as another does: nothing of it is known
    tokenizer = assistant.tokenizer
    ids = [tokenizer.bos_id, *(draw.randrange(FIRST_TEXT_ID, tokenizer.size) for _ in range(length - 1))]
    chosen = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0}
    *_, last = assistant.stream(ids, {**chosen, "max_new_tokens": new, "min_new_tokens": new}, seed=SEED)
    return last


def bench_speeds(models: list[tuple[str, str, int]], lengths: list[int], most_new: int) -> list[dict[str, Any]]:
    """Print a table of models, each with its adapter ("" for none) and bits; what is in it.

    Raises:
        UserError: before any is loaded, one that can not be opened.
    """
    from vicuna.evaluation.candidates import find_candidate

    candidates = [find_candidate(*model) for model in models]
    plans = [plan_rounds(one.context, lengths, most_new) for one in candidates]
    print("| model | weights | prompt, tokens | new tokens | prefill, tokens/s | decode, tokens/s | peak, MiB |")
    print("|---|---|---|---|---|---|---|")
    return [bench_speed(one.name, *model, rounds) for one, model, rounds in zip(candidates, models, plans, strict=True)]


def bench_speed(name: str, model_path: str, lora_path: str, bits: int, rounds: list[tuple[int, int]]) -> dict[str, Any]:
    """Print the rows of a model; what is in them."""
    from vicuna.answer.flags import ServeFlags
    from vicuna.answer.loading import load_assistant
    from vicuna.evaluation.memory import PeakMemory
    from vicuna.model.flags import ModelFlags

    memory = PeakMemory()
    serve = ServeFlags(prompt_type="text", cache_gib=0)
    assistant = load_assistant(ModelFlags(model_path, bits), serve, [lora_path])
    speeds, problem = [], ""
    try:
        for one in measure_speeds(assistant, rounds, memory):
            speeds.append(vars(one))
            peak = "–" if one.peak_bytes is None else f"{one.peak_bytes / 2**20:.0f}"
            figures = f"{one.prefill_per_s:.1f} | {one.decode_per_s:.1f} | {peak}"
            print(f"| {name} | {assistant.where} | {one.prompt_tokens} | {one.new_tokens} | {figures} |", flush=True)
    except UserError as error:  # memory ends before the lengths do
        problem = str(error)
        print(f"\n{name}: {problem}\n", flush=True)
    return {"model": name, "weights": assistant.where, "speeds": speeds, "problem": problem}
