"""An adapter of which a share is put on: between the base, at 0, and all of it, at 1."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from peft.helpers import rescale_adapter_scale

from vicuna.errors import UserError
from vicuna.foreign.typed import read_typed
from vicuna.model.adapter_config import AdapterConfig
from vicuna.model.found import ADAPTER_CONFIG

# What an adapter may hold beside its matrices; a share of it is not what PEFT's scale puts on.
WHOLE = {
    "modules_to_save": "whole modules",
    "trainable_token_indices": "rows of embeddings",
    "use_dora": "magnitudes of DoRA",
}


@contextmanager
def scaled(model: Any, scale: float) -> Iterator[None]:
    """While it lasts, the update of every LoRA layer of a model counts `scale` times; at 1 nothing is touched."""
    if scale == 1:
        yield
        return
    with rescale_adapter_scale(model, float(scale)):
        yield


def check_scalable(folder: Path) -> None:
    """See that an adapter's matrices are all that it changes.

    Raises:
        UserError: what it holds beside them.
    """
    config = read_typed(folder / ADAPTER_CONFIG, AdapterConfig, missing=AdapterConfig())
    if found := _beside(vars(config)):
        raise UserError(
            f"{folder} holds {' and '.join(found)}, which have no scale: expected an adapter of matrices alone. "
            "Compare it with its base by the kinds loss and verdict."
        )


def _beside(config: Mapping[str, Any]) -> list[str]:
    found = [what for name, what in WHOLE.items() if config.get(name)]
    return [*found, *(["biases"] if config.get("bias", "none") not in ("none", None) else [])]
