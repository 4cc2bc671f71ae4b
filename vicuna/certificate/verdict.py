"""Whether an export is as near to base + adapters as its precision allows: the bounds, and the verdict.

Each artefact has a control, the base alone in the same type, which shows what it would look like if the adapter had
not arrived.
"""

import math
from dataclasses import dataclass

from vicuna.certificate.divergence import KL_ROUNDING, ROUNDING, Divergence

NOISE, MOST_NOISE = 8, 0.5  # see `noise`
PASSED, FAILED, UNKNOWN = "passed", "FAILED", "cannot tell"


@dataclass(frozen=True)
class Bound:
    """How far a type may be from base + adapters; see `Divergence` for what they are."""

    kl: float
    other_top: float
    perplexity: float
    gap: float
    effect: float
    part: float


# At most twice the largest divergence of clean exports, which docs/en/certificate.md lists.
BOUNDS = {
    "float32": Bound(0, 0, 0, 0, 0, 0),
    "float16": Bound(5.9e-06, 0.0044, 0.0012, 0.0077, 0.00029, 0.0026),
    "bfloat16": Bound(0.00046, 0.038, 0.023, 0.21, 0.0017, 0.019),
    "8 bit": Bound(0.014, 0.17, 0.049, 1, 0.023, 0.077),
    "4 bit": Bound(0.38, 0.72, 0.15, 6, 0.24, 0.47),
    "gptq 8 bit": Bound(0.00033, 0.0026, 0.009, 0, 0.001, 0.0054),
    "gptq 4 bit": Bound(0.1, 0.014, 0.16, 1.5, 0.02, 0.12),
    "gptq 3 bit": Bound(0.4, 0.033, 0.68, 3.9, 0.065, 0.37),
    "gptq 2 bit": Bound(1.6, 0.16, 2.4, 13, 0.088, 0.66),
    "awq 4 bit": Bound(0.09, 0.017, 0.13, 22, 0.027, 0.16),
    "gguf f32": Bound(0, 0, 0, 0, 0, 0),
    "gguf f16": Bound(1.6e-05, 0.0044, 0.0019, 0.021, 0.0024, 0.0038),
    "gguf bf16": Bound(0.00054, 0.034, 0.011, 0.13, 0.0013, 0.02),
    "gguf q8_0": Bound(0.015, 0.097, 0.035, 0.5, 0.01, 0.093),
    "gguf q6_k": Bound(0.024, 0.25, 0.046, 1.6, 0.018, 0.093),
    "gguf q5_k_m": Bound(0.094, 0.5, 0.07, 2.5, 0.06, 0.29),
    "gguf q5_k_s": Bound(0.095, 0.5, 0.071, 2.5, 0.073, 0.45),
    "gguf q5_1": Bound(0.1, 0.54, 0.068, 2.5, 0.073, 0.45),
    "gguf q5_0": Bound(0.12, 0.56, 0.16, 3.1, 0.17, 0.7),
    "gguf q4_k_m": Bound(0.32, 0.71, 0.15, 4.1, 0.17, 0.68),
    "gguf q4_k_s": Bound(0.29, 0.71, 0.14, 4.1, 0.2, 0.71),
    "gguf q4_1": Bound(0.37, 0.72, 0.43, 8.1, 0.2, 0.68),
    "gguf q4_0": Bound(0.49, 0.76, 0.27, 4.3, 0.28, 0.37),
    "gguf q3_k_l": Bound(0.4, 0.68, 0.29, 3.8, 0.14, 0.5),
    "gguf q3_k_m": Bound(0.4, 0.64, 0.36, 3.8, 0.12, 0.42),
    "gguf q3_k_s": Bound(0.36, 0.49, 0.57, 8.6, 0.13, 0.43),
    "gguf q2_k": Bound(0.83, 0.49, 1.1, 8.6, 0.23, 0.76),
}


def judge(kind: str, found: Divergence, control: Divergence, reference: float) -> tuple[str, list[str]]:
    """Whether a divergence is within its type's bound, and smaller than that of the base alone.

    Args:
        kind: a row of `BOUNDS`.
        reference: perplexity of base + adapters.

    Returns:
        PASSED, FAILED or UNKNOWN, and why, in sentences.
    """
    if not found.finite:
        return FAILED, ["it has logits that are not finite: weights overflowed, or are broken"]
    bound = BOUNDS.get(kind)
    if bound is None:
        return UNKNOWN, [f"no bound is known for {kind}"]
    told = control.kl > bound.kl
    values = bounded_values(bound, found, reference)
    beyond = [
        f"{name} is {value:.2g}, the bound of {kind} is {limit:.2g}"
        for name, value, limit in (values if told else values[:4])  # an effect below the noise is none to measure
        if not value <= limit
    ]
    if told and not found.kl < control.kl:
        beyond.append(f"it is no nearer than the base alone: KL divergence {found.kl:.2g}, the base's {control.kl:.2g}")
    if beyond:
        return FAILED, beyond
    if not told:
        return UNKNOWN, [
            f"the base alone is as near as the bound of {kind} (KL divergence {control.kl:.2g}, bound {bound.kl:.2g}): "
            "the adapter changes too little on these texts"
        ]
    return PASSED, []


def bounded_values(bound: Bound, found: Divergence, reference: float) -> list[tuple[str, float, float]]:
    """What is compared with what: name, value, largest value."""
    parts = {name: max(bound.part, noise(bound, size)) for name, size in found.size.items() if name != "all"}
    lacks = {name: abs(1 - found.effect[name]) for name in parts}
    part = max(lacks, key=lambda name: lacks[name] / max(parts[name], ROUNDING), default="all")
    perplexity, effect = noise(bound, found.tokens), noise(bound, found.size["all"])
    found_values = [
        ("the KL divergence", found.kl, bound.kl),
        ("the share of other top tokens", found.other_top, bound.other_top),
        (
            "the change of ln(perplexity)",
            abs(math.log(found.perplexity / reference)),
            max(bound.perplexity, perplexity),
        ),
        ("the gap where a greedy answer departs", found.gap, bound.gap),
        ("the lack of the adapters' effect", abs(1 - found.effect["all"]), max(bound.effect, effect)),
        (f"the lack of their effect in {part}", lacks.get(part, 0.0), parts.get(part, bound.part)),
    ]
    return [(name, ignore_rounding(value, name), limit) for name, value, limit in found_values]


def noise(bound: Bound, size: float) -> float:
    """How far a mean may be off by the type's own noise alone.

    Logits that are off by random amounts of variance 2·KL, as a type at its bound has them, move the share of a part of
    `size`, or the mean over so many tokens, by sqrt(2·KL / size): much where a text is short, or a part hardly does
    anything, as after two steps of training. Tokens of a text are off alike, so it is up to six times that in clean
    exports of SmolLM2; eight times are allowed, and at most half of a share, so that a part that is missing is seen.
    """
    return min(MOST_NOISE, NOISE * math.sqrt(2 * max(bound.kl, KL_ROUNDING) / size)) if size else MOST_NOISE


def ignore_rounding(value: float, name: str) -> float:
    """A figure of a divergence, 0 where it is no more than the rounding of float32."""
    return 0.0 if value <= (KL_ROUNDING if "KL" in name else ROUNDING) else value
