"""Keys and values of an answer in the making, with room behind them: a new token is written there.

transformers' own dynamic cache copies all of them at every token, which behind a long history takes a good part of the
time of a token on a CPU.
"""

import torch
from transformers import DynamicCache, PretrainedConfig
from transformers.cache_utils import DynamicLayer

ROOM = 64  # positions to spare in a new buffer: one copy in as many tokens, and little memory beside a history


class Buffer:
    """What a layer's keys, or its values, lie at the beginning of."""

    def __init__(self) -> None:
        self._whole: torch.Tensor | None = None

    def reserve(self, like: torch.Tensor, positions: int) -> torch.Tensor:
        """A new buffer of at least so many positions; returns its beginning, without any.

        Args:
            like: (K, heads, n, size of a head), of the type and on the device that are to come.
        """
        rows, heads, _, size = like.shape
        self._whole = like.new_empty(rows, heads, positions + ROOM, size)
        return self._whole[..., :0, :]

    def append(self, held: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        """(K, heads, n, size of a head) and (K, heads, m, size) -> (K, heads, n + m, size)."""
        known = held.shape[-2] if held.numel() else 0  # transformers begins with a tensor of shape (0,)
        total = known + new.shape[-2]
        if not self._begins_with(held, new) or total > self._whole.shape[-2]:
            self.reserve(new, total)
            if known:
                self._whole[..., :known, :] = held
        self._whole[..., known:total, :] = new
        return self._whole[..., :total, :]

    def select(self, held: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """(K, heads, n, size of a head) with these rows in place of its own, in a new buffer."""
        if not self._begins_with(held, held):
            return held.index_select(0, rows)
        known = held.shape[-2]
        self.reserve(held, max(known, self._whole.shape[-2] - ROOM))
        return torch.index_select(held, 0, rows, out=self._whole[..., :known, :])

    def _begins_with(self, held: torch.Tensor, new: torch.Tensor) -> bool:
        """`held` is the beginning of the buffer, and not of another that something else has put in its place."""
        whole = self._whole
        return (
            whole is not None
            and held.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr()
            and held.storage_offset() == 0
            and (held.stride(), held.shape[:2]) == (whole.stride(), whole.shape[:2])
            and new.shape[:2] == whole.shape[:2]
        )


class PreallocatedLayer(DynamicLayer):
    """Keys and values of a decoder block: the same numbers as in a DynamicLayer, in buffers with room."""

    def __init__(self) -> None:
        super().__init__()
        self._buffers = Buffer(), Buffer()

    def reserve(self, keys: torch.Tensor, values: torch.Tensor, positions: int) -> None:
        """Start with room for so many positions; of `keys` and `values`, the shape is of interest."""
        self.lazy_initialization(keys, values)
        self.keys, self.values = (
            buffer.reserve(like, positions) for buffer, like in zip(self._buffers, (keys, values), strict=True)
        )

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(K, heads, m, size of a head) new ones -> all of them, as views that hold until the next call."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        keys, values = self._buffers
        self.keys, self.values = keys.append(self.keys, key_states), values.append(self.values, value_states)
        return self.keys, self.values

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Rows of the next step, by the rows of this one that they go on from."""
        if self.get_seq_length() > 0:
            keys, values = self._buffers
            self.keys = keys.select(self.keys, beam_idx.to(self.keys.device))
            self.values = values.select(self.values, beam_idx.to(self.values.device))


class PreallocatedCache(DynamicCache):
    """Keys and values of an answer's rows; remembers which rows those of the last step were made of.

    Attributes:
        order: (K,) rows before the step, by rows after it; None where nothing was reordered yet.
    """

    order: torch.Tensor | None = None

    def __init__(self, config: PretrainedConfig):
        super().__init__(config=config)
        self.layers = [PreallocatedLayer() if type(layer) is DynamicLayer else layer for layer in self.layers]

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        super().reorder_cache(beam_idx)
        self.order = beam_idx
