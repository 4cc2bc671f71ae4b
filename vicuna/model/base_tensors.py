"""The weights of a base in Hugging Face format as rows: mapped, or dequantised when they are asked for."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from vicuna.errors import UserError
from vicuna.files.tensors import LazyTensor, is_finite, read_tensor_files, row_blocks, weight_paths
from vicuna.model.config import has_fused_experts, meta_model, quantization_method, read_config
from vicuna.model.gptq import made_of
from vicuna.model.stored import check_marks


@dataclass(frozen=True)
class Int8Tensor:
    """A weight that bitsandbytes keeps at 8 bits: whole numbers, and a scale for each row. Its rows are float32."""

    values: torch.Tensor
    scales: torch.Tensor
    dtype: torch.dtype

    @property
    def shape(self) -> torch.Size:
        return self.values.shape

    def __getitem__(self, rows: slice) -> torch.Tensor:
        from bitsandbytes.functional import int8_vectorwise_dequant

        return int8_vectorwise_dequant(self.values[rows], self.scales[rows])


@dataclass(frozen=True)
class Packed4BitTensor:
    """A weight that bitsandbytes keeps at 4 bits, in blocks of its own that rows do not divide."""

    packed: torch.Tensor
    state: Any  # bitsandbytes.functional.QuantState

    @property
    def shape(self) -> torch.Size:
        return torch.Size(self.state.shape)

    @property
    def dtype(self) -> torch.dtype:
        return self.state.dtype

    def __getitem__(self, rows: slice) -> torch.Tensor:
        from bitsandbytes.functional import dequantize_4bit

        return dequantize_4bit(self.packed, self.state)[rows]


def read_base_tensors(path: Path, config: Any) -> dict[str, LazyTensor]:
    """Every tensor of a base by its name; the head of a base that ties it is its embeddings.

    Raises:
        UserError: tensors that are missing, or of another shape than config.json says; or quantised by other means
            than bitsandbytes.
    """
    tensors = _stored_tensors(path, config)
    model = meta_model(config)
    tied = dict(getattr(model, "all_tied_weights_keys", {}))
    if config.tie_word_embeddings:  # even where a file of old has a copy of them
        tensors |= {name: tensors[source] for name, source in tied.items() if source in tensors}
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    if one_by_one := _separate_experts(model, expected, tensors):
        expected = one_by_one
    if lacking := sorted(expected.keys() - tensors.keys()):
        raise UserError(
            f"the weights in {path} lack {len(lacking)} tensors, such as {lacking[0]}. Copy the folder again."
        )
    for name, shape in expected.items():
        if tensors[name].shape != shape:
            raise UserError(
                f"{name} in {path} is {tuple(tensors[name].shape)}, but {tuple(shape)} follows from config.json: "
                "config and weights are of different models."
            )
    return {name: tensors[name] for name in expected}


def refuse_not_finite(path: Path, config: Any) -> None:
    """Look at every value of a base, which a start of it does not.

    Raises:
        UserError: which tensor has a NaN or an infinite one; see also `read_base_tensors`.
    """
    for name, tensor in read_base_tensors(path, config).items():
        if not all(is_finite(tensor[start:stop]) for start, stop in row_blocks(tensor.shape)):
            raise UserError(f"{name} in {path} has values that are not finite: the base is broken. Copy it again.")


def _separate_experts(
    model: torch.nn.Module, expected: Mapping[str, torch.Size], tensors: Mapping[str, LazyTensor]
) -> dict[str, torch.Size]:
    """The tensors of a mixture whose files have a matrix for each expert, where the model has one tensor; else {}.

    They stay as the files have them, with their names. That they are complete is told by their number of values.
    """
    if not (lacking := expected.keys() - tensors.keys()) or not has_fused_experts(model):
        return {}
    separate = {
        name: tensor.shape
        for name, tensor in tensors.items()
        if name not in expected and not name.endswith("rotary_emb.inv_freq")
    }
    if sum(map(math.prod, separate.values())) != sum(math.prod(expected[name]) for name in lacking):
        return {}
    return {name: shape for name, shape in expected.items() if name not in lacking} | separate


def weight_reader(folder: str | Path) -> Callable[[str], torch.Tensor]:
    """What reads the weight of a module from a base's files, which are opened when the first one is asked for."""

    @cache
    def stored() -> tuple[Any, dict[str, LazyTensor]]:
        config = read_config(Path(folder))
        return config, _stored_tensors(Path(folder), config)

    def weight(module: str) -> torch.Tensor:
        config, tensors = stored()
        rows = tensors.get(f"{module}.weight")
        if rows is None or (config.tie_word_embeddings and module == "lm_head"):
            raise UserError(
                f"{folder} has no {module}.weight of its own, or uses it as its embeddings too, and the adapter begins "
                "by taking something out of it alone: convert the adapter where it was trained."
            )
        return rows[0 : rows.shape[0]]

    return weight


def _stored_tensors(path: Path, config: Any) -> dict[str, LazyTensor]:
    """What a base's files hold, dequantised where bitsandbytes quantised it."""
    method = quantization_method(config)
    if method not in ("", "bitsandbytes"):
        raise UserError(
            f"{path} is quantised with {method}, whose weights can not be changed without quantising them anew: merge "
            f"into {made_of(path)} (an adapter that was trained on {path.name} with --ignore_fingerprint), and "
            "quantise the result."
        )
    check_marks(path, config)
    tensors: dict[str, LazyTensor] = dict(read_tensor_files(weight_paths(path)))
    if method:
        tensors = _dequantised(tensors, getattr(config, "dtype", None) or torch.float16)
    return tensors


def _dequantised(tensors: Mapping[str, torch.Tensor], dtype: torch.dtype) -> dict[str, LazyTensor]:
    """Plain tensors as they are, and each weight of bitsandbytes with what belongs to it as one."""
    from bitsandbytes.functional import QuantState

    found: dict[str, LazyTensor] = {}
    for name, tensor in tensors.items():
        scales = tensors.get(f"{name.removesuffix('weight')}SCB")
        own = {
            other.removeprefix(f"{name}."): value for other, value in tensors.items() if other.startswith(f"{name}.")
        }
        if name.endswith(".weight") and tensor.dtype == torch.int8 and scales is not None:
            found[name] = Int8Tensor(tensor, scales, dtype)
        elif any("bitsandbytes__" in part for part in own):
            found[name] = Packed4BitTensor(tensor, QuantState.from_dict(own, torch.device("cpu")))
        elif tensor.is_floating_point():
            found[name] = tensor
    return found
