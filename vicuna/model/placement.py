"""Which GPU each part of a base goes to where several share it."""

from typing import Any

import torch
from accelerate.utils import CustomDtype, compute_module_sizes, get_balanced_memory, infer_auto_device_map
from torch import nn

from vicuna.errors import UserError
from vicuna.model.config import meta_model

WEIGHTS_SHARE = 0.9  # of a GPU's free memory that weights may take where several hold them


def device_map(config: Any, bits: int, dtype: torch.dtype, free: dict[int, int]) -> dict[str, int]:
    """Which GPU each part of a base goes to: decoder blocks are never split, a tied head stays with its embedding.

    A base that takes no more than half of the first GPU stays there: answers then never wait for a transfer.

    Args:
        free: bytes by GPU.

    Raises:
        UserError: it does not fit all of them together.
    """
    model = meta_model(config)
    block = type(max((m for m in model.modules() if isinstance(m, nn.ModuleList)), key=len)[0])
    small = {4: CustomDtype.INT4, 8: torch.int8}.get(bits)
    head = model.get_output_embeddings()
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and module is not head]
    dtypes = {"dtype": dtype, "special_dtypes": {f"{name}.weight": small for name in linear if small}}
    sizes = compute_module_sizes(model, **dtypes)
    first = min(free)
    if sizes[""] <= free[first] / 2:
        return {"": first}
    whole = {"no_split_module_classes": [block.__name__], **dtypes}
    room = {gpu: int(WEIGHTS_SHARE * count) for gpu, count in free.items()}
    # Accelerate keeps room on the first GPU for the largest part, which may lie in main memory elsewhere.
    largest = max(
        sizes[name] for name, part in model.named_modules() if isinstance(part, block) or not [*part.children()]
    )
    for budget in (get_balanced_memory(model, dict(room), **whole), room):  # evenly, or else one GPU after the other
        for extra in (0, largest):
            found = infer_auto_device_map(model, {**budget, first: budget[first] + extra}, **whole)
            used = {gpu: sum(sizes[name] for name, place in found.items() if place == gpu) for gpu in found.values()}
            if all(used[gpu] <= room.get(gpu, -1) for gpu in used):
                return dict(found)
    raise UserError(
        f"the base takes {sizes[''] / 2**30:.1f} GiB at {bits} bits, and {len(free)} GPUs have "
        f"{' + '.join(f'{count / 2**30:.1f}' for count in free.values())} GiB free, some of which answers need. "
        "Take fewer --bits, a smaller base, or end other programs on the GPUs."
    )
