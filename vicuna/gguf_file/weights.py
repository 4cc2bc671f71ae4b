"""The weights of a GGUF file under the names of transformers, dequantised row by row when they are asked for."""

import re
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import EllipsisType
from typing import Any

import numpy as np
import torch

from vicuna.errors import UserError
from vicuna.gguf_file.reader import GGUFFile, optional_package, read_gguf

_WHOLE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_OF_BLOCK = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_NAME = re.compile(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)")
_DERIVED = ("rope_freqs.weight",)  # follows from the config
_PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class GGUFTensor:
    """A tensor of a file. Plain ones have the file's precision, quantised ones become float32.

    Attributes:
        stored: (rows, bytes of a row), mapped; kind: as `GGUFFile.types` names it.
        order: where each row stands in the file, None where that is its own place.
    """

    stored: np.ndarray
    kind: str
    shape: torch.Size
    order: np.ndarray | None = None

    @property
    def dtype(self) -> torch.dtype:
        return _PLAIN.get(self.kind, torch.float32)

    def __getitem__(self, rows: slice | EllipsisType) -> torch.Tensor:
        wanted = slice(None) if rows is Ellipsis else rows
        stored = self.stored[wanted if self.order is None else self.order[wanted]]
        shape = (*self.shape[:1], *self.shape[1:]) if len(self.shape) == 1 else (len(stored), *self.shape[1:])
        if self.kind in _PLAIN:
            values = torch.from_numpy(np.array(stored)).view(self.dtype)
        else:
            gguf = optional_package("gguf")
            values = torch.from_numpy(
                gguf.dequantize(np.ascontiguousarray(stored), gguf.GGMLQuantizationType[self.kind])
            )
        return values.reshape(-1, *shape[1:])


def read_gguf_tensors(path: Path) -> dict[str, GGUFTensor]:
    """Every tensor of a file by its name in transformers; the file is mapped.

    Raises:
        UserError: see `vicuna.gguf_file.reader.read_gguf`; or tensors that its architecture does not have here.
    """
    stat = path.stat()
    return dict(_read(path.resolve(), stat.st_size, stat.st_mtime_ns))


@lru_cache(maxsize=4)
def _read(path: Path, size: int, changed: int) -> dict[str, GGUFTensor]:
    file = read_gguf(str(path), "--model_path")
    found, odd = {}, []
    for name in file.shapes:
        if name in _DERIVED:
            continue
        if parsed := transformers_name(name):
            found[parsed] = _tensor(file, name)
        else:
            odd.append(name)
    if odd:
        raise UserError(
            f"{path} has {len(odd)} tensors that this toolkit has no place for, such as {odd[0]}: it is no plain model "
            f"of the architecture {file.architecture}. Take the model in Hugging Face format."
        )
    return found


def transformers_name(name: str) -> str:
    """What transformers calls a tensor of llama.cpp's, "" for one that is not known."""
    parsed = _NAME.fullmatch(name)
    block, what, kind = parsed.groups() if parsed else ("", "", "")
    known = _WHOLE.get(what) if block is None else _OF_BLOCK.get(what)
    return "" if known is None else f"{f'model.layers.{block}.' if block else ''}{known}.{kind}"


def read_vector(file: GGUFFile, name: str) -> np.ndarray:
    """The values of a vector, float32."""
    return _tensor(file, name)[...].float().numpy()


def describe_types(file: GGUFFile) -> str:
    """How many tensors a file has of each type, such as "210 Q4_1, 61 F32, 1 Q8_0"."""
    return ", ".join(f"{count} {kind}" for kind, count in Counter(file.types.values()).most_common())


def _tensor(file: GGUFFile, name: str) -> GGUFTensor:
    gguf = optional_package("gguf")
    kind, shape = file.types[name], file.shapes[name]
    values, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    rows, width = (shape[0], int(np.prod(shape[1:]))) if len(shape) > 1 else (1, shape[0])
    if len(shape) == 1 and kind in _PLAIN:
        rows, width = width, 1
    stored = np.memmap(file.path, np.uint8, "r", file.begins[name], (rows, width // values * size))
    return GGUFTensor(stored, kind, torch.Size(shape), _order(file, name))


def _order(file: GGUFFile, name: str) -> np.ndarray | None:
    """Where rows of a query or key projection stand in a file that has them in the order of Meta's rotation.

    Hugging Face rotates value i with value i + d/2 of a head of size d, Meta and llama.cpp i with i + 1.
    """
    side = {"attn_q": "head_count", "attn_k": "head_count_kv"}.get(name.rpartition(".")[0].rpartition(".")[2])
    if file.architecture != "llama" or side is None:
        return None
    heads: Any = file.keys.get(f"llama.attention.{side}", file.keys.get("llama.attention.head_count"))
    rows = file.shapes[name][0]
    if not isinstance(heads, int) or rows % (2 * heads):
        return None
    return np.arange(rows).reshape(heads, rows // heads // 2, 2).swapaxes(1, 2).reshape(rows)
