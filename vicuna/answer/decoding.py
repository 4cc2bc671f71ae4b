"""How tokens are chosen: what flags, presets and the base's own file say, as the arguments that generate() takes.

Pages, terminal, API and tools all come through `generation_kwargs`, so a setting means the same wherever it is given.
"""

from typing import Any

from transformers import GenerationConfig

from vicuna.answer.flags import PRESETS, DecodingFlags

DEFAULTS = {"max_new_tokens": 256, "min_new_tokens": 1}
# What generate() takes where nothing is said.
SAMPLING_DEFAULTS = {"temperature": 1.0, "top_p": 1.0, "top_k": 50, "min_p": 0.0}
COUNTED = ("presence_penalty", "frequency_penalty")  # not of generate(): `vicuna.answer.logits` does them
SAMPLING_ONLY = tuple(SAMPLING_DEFAULTS)  # what only sampling looks at
FLOATS = ("temperature", "top_p", "min_p", "repetition_penalty", *COUNTED)  # the other settings are whole


def generation_kwargs(flags: DecodingFlags, base: GenerationConfig) -> dict[str, Any]:
    """generate()'s arguments: an explicit flag, then the preset, then the base's generation config, then our default.

    A temperature, top-p, top-k or min-p turns sampling on unless `do_sample` says otherwise; temperature 0 is greedy.
    """
    names = ("num_beams", *SAMPLING_ONLY, "max_new_tokens", "min_new_tokens", "repetition_penalty", *COUNTED)
    declared = {name: value for name, value in base.to_diff_dict().items() if name in names and value is not None}
    given = {name: value for name in names if (value := getattr(flags, name, None)) is not None}
    chosen = {**DEFAULTS, **declared, **PRESETS[flags.preset], **given}
    if flags.do_sample is not None:
        chosen["do_sample"] = flags.do_sample
    elif any(name in given for name in SAMPLING_ONLY):
        chosen["do_sample"] = True
    # A temperature of 2 in a request or in the base's file is a whole number, which transformers refuses.
    return effective_kwargs({name: float(value) if name in FLOATS else value for name, value in chosen.items()})


def effective_kwargs(chosen: dict[str, Any]) -> dict[str, Any]:
    """`chosen` without what has no effect: temperature 0 is greedy, and a greedy run looks at no top-p."""
    drawing = chosen["do_sample"] and chosen.get("temperature", 1.0) > 0
    chosen = {**chosen, "do_sample": drawing, "min_new_tokens": min(chosen["min_new_tokens"], chosen["max_new_tokens"])}
    return chosen if drawing else {name: value for name, value in chosen.items() if name not in SAMPLING_ONLY}


def decoding_mode(chosen: dict[str, Any]) -> str:
    """greedy, sampling, beam search or beam sampling."""
    if chosen["num_beams"] > 1:
        return "beam sampling" if chosen["do_sample"] else "beam search"
    return "sampling" if chosen["do_sample"] else "greedy"


def derive_seed(seed: int | None, n: int) -> int | None:
    """The seed of another draw for the same prompt, n of which have been made; None where each is a surprise."""
    return None if seed is None else (seed + n) % 2**32
