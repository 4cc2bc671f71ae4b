"""What would make a run faster at no cost that matters: said in the plan."""

from typing import Any

from vicuna.train.flags import RunFlags
from vicuna.train.full_disk import in_words

LITTLE = 1 << 30  # bytes of activations that any machine has room for
BYTES = 4  # of an activation, at most


def activation_bytes(config: Any, tokens: int) -> int:
    """What the activations of a micro batch take about, where none is computed again; never less than they do by much.

    A decoder block keeps about 18 rows of the hidden size for its backward pass and 4 of the inner one, and the head
    its logits, their softmax and their gradient.

    Args:
        config: of the base; tokens: of the micro batch, padding among them.
    """
    config = config.get_text_config()
    inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    block = 18 * config.hidden_size + 4 * inner
    return tokens * BYTES * (config.num_hidden_layers * block + 3 * config.vocab_size)


def what_is_faster(config: Any, run: RunFlags, longest: int) -> str:
    """The flag that would help, and why; "" for none.

    Args:
        longest: tokens of the longest row.
    """
    if not run.gradient_checkpointing or run.sharding_flag:
        return ""
    needed = activation_bytes(config, run.micro_batch * longest)
    if needed > LITTLE:
        return ""
    return (
        f"--gradient_checkpointing False computes nothing twice; all activations of this run take about "
        f"{in_words(needed)}, of which it now saves a part"
    )
