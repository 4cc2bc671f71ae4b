"""The last block, where rows are laid into one another: keys and values alone of tokens that predict nothing.

Nothing else of them is looked at behind it. Their queries, the projection of what attention finds for them, and their
MLP are left out; the places stay, filled with zeros, for the sums around these layers.
"""

from typing import Any

import torch
from torch import nn

FEW = 7 / 8  # of the tokens: more of them are not worth gathering
PROJECTIONS = ("self_attn.q_proj", "self_attn.o_proj", "mlp")


class LastBlock:
    """What layers of the last block are to compute at; their hooks ask here, until it is closed.

    Args:
        model: whose blocks are called layers, with an adapter already on top.
    """

    def __init__(self, model: nn.Module):
        self.predicting: torch.Tensor | None = None
        modules = dict(model.named_modules())
        last = f".layers.{model.config.num_hidden_layers - 1}"
        (name,) = [name for name in modules if name.endswith(last)]
        self._hooks = [modules[name].register_forward_pre_hook(self._note, with_kwargs=True)]
        for projection in PROJECTIONS:
            layer = modules[f"{name}.{projection}"]
            self._hooks += [layer.register_forward_pre_hook(self._gather), layer.register_forward_hook(self._scatter)]

    def close(self) -> None:
        """Have the block compute everything again."""
        for hook in self._hooks:
            hook.remove()

    def _note(self, layer: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        self.predicting = kwargs.get("predicting")
        self.tokens = args[0].shape[1]

    def _gather(self, layer: nn.Module, args: tuple[torch.Tensor]) -> tuple[torch.Tensor] | None:
        return None if self.predicting is None else (args[0].index_select(1, self.predicting),)

    def _scatter(self, layer: nn.Module, args: tuple, found: torch.Tensor) -> torch.Tensor | None:
        if self.predicting is None:
            return None
        return found.new_zeros(1, self.tokens, found.shape[2]).index_copy(1, self.predicting, found)


def few_that_predict(places: torch.Tensor, tokens: int, multiple: int = 1) -> torch.Tensor | None:
    """The places that predict something, each once; None where nearly all do.

    Args:
        places: in ascending order, some of them several times.
        multiple: so many are returned, with the first others.
    """
    chosen = torch.zeros(tokens, dtype=torch.bool)
    chosen[places] = True
    others = (~chosen).nonzero()[:, 0]
    chosen[others[: -int(chosen.sum()) % multiple]] = True
    found = chosen.nonzero()[:, 0]
    return found if 0 < len(found) < FEW * tokens else None
