"""Attention over rows laid into one another (`vicuna.train.sharing`), a form of PyTorch's own that transformers calls.

Every other layer takes the tokens of such a micro batch as one row. Here each row's queries meet the keys of the whole
row, those that it shares as well. With rows that are padded it is transformers' attention as it was.
"""

import contextlib
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from vicuna.train.sharing import Layout

NAME = "shared_rows"
QUERIES = 256  # of a row with a beginning from others, at once: behind them no key is looked at
# Mean tokens of rows whose way back takes PyTorch's bfloat16 kernel for the CPU up to three times as long as float32's.
SHORT = 256


def attend_to_rows(model: PreTrainedModel) -> None:
    """Have a base take its attention from here, from now on."""
    AttentionInterface.register(NAME, row_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)


def row_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    layout: Layout | None = None,
    row_tokens: torch.Tensor | None = None,
    token_places: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers asks of attention: (B, heads, T, D) each to (B, T, heads, D).

    Short rows are attended to in float32 on a CPU, whatever the precision of the rest (SHORT).

    Args:
        layout: how the tokens are laid, None for rows that are padded.
        row_tokens: (rows, T) the token at each place of each row, where attention takes them all at once.
        token_places: (T,) where in `row_tokens`, as one row, each token stands first.
    """
    where = query.device.type
    dtype = torch.get_autocast_dtype(where) if torch.is_autocast_enabled(where) else query.dtype
    mean = sum(layout.lengths) / len(layout.lengths) if layout else query.shape[2]
    widened = where == "cpu" and dtype is torch.bfloat16 and mean < SHORT
    if widened:
        query, key, value = query.float(), key.float(), value.float()
    with torch.autocast(where, enabled=False) if widened else contextlib.nullcontext():
        if layout is None:
            found, _ = sdpa_attention_forward(
                module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
            )
            return found.to(dtype), None
        settings = {"dropout_p": dropout, "scale": scaling, "enable_gqa": query.shape[1] != key.shape[1]}
        if layout.batched:
            found = _together(query, key, value, row_tokens, token_places, settings)
        else:
            found = _one_by_one(query, key, value, layout, settings)
    return found.to(dtype), None


def _together(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    row_tokens: torch.Tensor,
    token_places: torch.Tensor,
    settings: dict[str, Any],
) -> torch.Tensor:
    """Every row whole, padded behind its end, where no token of it looks."""
    rows = (one.transpose(1, 2)[0][row_tokens].transpose(1, 2) for one in (query, key, value))
    found = scaled_dot_product_attention(*rows, is_causal=True, **settings)
    return found.transpose(1, 2).flatten(0, 1)[token_places][None]


def _one_by_one(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: Layout, settings: dict[str, Any]
) -> torch.Tensor:
    """Of each row the tokens that it lays down. Tensors are split: the way back joins them, where a slice would fill
    one of full size. Behind the rows stands the first token once more, as often as there is room."""
    room = query.shape[2] - layout.tokens
    *runs, _ = query.split([*layout.runs, room], dim=2)
    keys, values = (one.split([*layout.pieces, room], dim=2) for one in (key, value))
    mask = _mask(layout, query)
    found = []
    for run, length, path in zip(runs, layout.lengths, layout.paths, strict=True):
        if not run.shape[2]:
            continue
        own_keys, own_values = (_join([pieces[i] for i in path]) for pieces in (keys, values))
        if run.shape[2] == length:
            parts = [scaled_dot_product_attention(run, own_keys, own_values, is_causal=True, **settings)]
        else:
            parts = _behind_others(run, own_keys, own_values, mask, settings)
        found += [part.transpose(1, 2) for part in parts]
    if room:
        found.append(found[0][:, :1].expand(-1, room, -1, -1))
    return _join(found, dim=1)


def _behind_others(
    run: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, settings: dict[str, Any]
) -> list[torch.Tensor]:
    """Attention of the last tokens of a row, some at a time."""
    found, end = [], keys.shape[2] - run.shape[2]
    for queries in run.split(QUERIES, dim=2):
        end += queries.shape[2]
        seen = mask[QUERIES - queries.shape[2] :, mask.shape[1] - end :]
        whole = end == keys.shape[2]
        before = (keys, values) if whole else (keys[:, :, :end], values[:, :, :end])
        found.append(scaled_dot_product_attention(queries, *before, attn_mask=seen, **settings))
    return found


def _mask(layout: Layout, query: torch.Tensor) -> torch.Tensor:
    """(QUERIES, T): what the last QUERIES of T tokens see; its lower right corners serve fewer of both."""
    width = max(max(layout.lengths), QUERIES)
    hidden = torch.full((QUERIES, width), -torch.inf, dtype=query.dtype, device=query.device)
    return hidden.triu(width - QUERIES + 1)


def _join(parts: list[torch.Tensor], dim: int = 2) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=dim)
