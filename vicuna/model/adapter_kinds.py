"""What each use can do with each kind of LoRA that PEFT 0.21 has: it works, is converted to plain LoRA, or is refused.

Every use asks here, before a weight is read. A kind is told from adapter_config.json and the names of the tensors. The
table of docs/en/infer.md is this one in words; tests/model/test_adapter_kinds.py makes an adapter of every kind and
walks it.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from vicuna.errors import UserError
from vicuna.model.config import quantization_method
from vicuna.model.found import ADAPTER_CONFIG
from vicuna.model.gptq import KERNELS

EMBEDDINGS_AND_HEAD = ("embed_tokens", "lm_head")
BEGINS_FROM_WEIGHTS = ("pissa", "olora")  # init_lora_weights that take from the base what they begin with
# More of them, which take it by data that the adapter does not hold, or leave something that is no LoRA.
BEGINS_FROM_DATA = ("corda", "lora_ga", "loftq")


class Use(Enum):
    """What can be done with an adapter; the value is the head of its column in the documents."""

    FLOAT = "32, 16 bits"
    EIGHT_BITS = "8 bits"
    EIGHT_BITS_ON_CPU = "8 bits on a CPU"
    FOUR_BITS = "4 bits"
    PACKED = "GPTQ, AWQ"
    BESIDE = "beside others"
    TRAIN = "start a run"
    MERGE = "merge, certificate"
    GGUF = "GGUF"
    VLLM = "vLLM"


_MERGE_FIRST = "merge it into its base (python tools/merge_lora.py)"
_NO_PLACE = f"llama.cpp's adapters have no place for that; {_MERGE_FIRST} and export the whole model"
_NOT_SERVED = f"vLLM does not serve that; {_MERGE_FIRST}"
# Where nothing but plain matrices can go.
_MORE_THAN_LORA = {Use.GGUF: _NO_PLACE, Use.VLLM: _NOT_SERVED}
_ON_QUANTISED = "a base at 8 or 4 bits has no place for that; pass --bits 16 or --bits 32"
_CONVERTED = frozenset(set(Use) - {Use.VLLM})
_NOT_PACKED = "PEFT 0.21 can not do that on a base of GPTQ or AWQ; take the base that it was made of"
_TAKES_WEIGHTS = "it takes weights out of the base, which GPTQ and AWQ do not keep; take the base that it was made of"


@dataclass(frozen=True)
class Kind:
    """A kind of LoRA.

    Attributes:
        name: as the documents call it.
        told_by: whether config and names of tensors say that an adapter is of this kind.
        says: what the config says then, for messages.
        refused: use -> why not, and what to do.
        converted: uses that get the plain LoRA that does the same.
    """

    name: str
    told_by: Callable[[Mapping[str, Any], Collection[str]], bool]
    says: str
    refused: Mapping[Use, str] = field(default_factory=dict)
    converted: frozenset[Use] = frozenset()

    def verdict(self, use: Use) -> str:
        """works, converted or refused."""
        return "refused" if use in self.refused else "converted" if use in self.converted else "works"


def begins_with(config: Mapping[str, Any], inits: tuple[str, ...]) -> bool:
    """Whether init_lora_weights is one of `inits`, or one with a number behind it."""
    return str(config.get("init_lora_weights")).lower().startswith(inits)


def _field(*names: str) -> Callable[[Mapping[str, Any], Collection[str]], bool]:
    return lambda config, tensors: any(config.get(name) for name in names)


def _whole(config: Mapping[str, Any], tensors: Collection[str]) -> set[str]:
    """Names of the modules that the adapter puts in place of the base's."""
    named = {str(name).rsplit(".", 1)[-1] for name in config.get("modules_to_save") or ()}
    return {name for name in named if any(tensor.endswith(f".{name}.weight") for tensor in tensors)}


def _tells_linear(config: Mapping[str, Any], tensors: Collection[str]) -> bool:
    return any(name.endswith("_proj") for name in _whole(config, tensors))


def _tells_bias(config: Mapping[str, Any], tensors: Collection[str]) -> bool:
    return any(map(is_bias_of_base, tensors))


def is_bias_of_base(name: str) -> bool:
    """Whether a tensor is a bias that is put in place of the base's, not one of the adapter's matrices."""
    return name.endswith(".bias") and ".lora_" not in name


def _everywhere(reason: str) -> dict[Use, str]:
    return dict.fromkeys(Use, reason)


WHERE_IT_WAS_TRAINED = (
    "Convert it where it was trained, by save_pretrained of PEFT with path_initial_model_for_weight_conversion"
)
KINDS = (
    Kind("plain LoRA, rank-stabilised or not, on some or all linear layers", lambda config, tensors: True, ""),
    Kind(
        "LoRA with a rank or an alpha that differs between layers",
        _field("rank_pattern", "alpha_pattern"),
        "rank_pattern or alpha_pattern",
    ),
    Kind(
        "QA-LoRA, which PEFT ignores on a base without GPTQ",
        _field("use_qalora"),
        "use_qalora",
        {Use.VLLM: _NOT_SERVED, Use.PACKED: "PEFT would do something else there; take the base without GPTQ"},
    ),
    Kind(
        "LoRA on the embeddings",
        lambda config, tensors: any(".lora_embedding_" in name for name in tensors),
        "target_modules with the embeddings",
        {Use.GGUF: _NO_PLACE},
    ),
    Kind(
        "PiSSA, OLoRA",
        lambda config, tensors: begins_with(config, BEGINS_FROM_WEIGHTS),
        "init_lora_weights {init_lora_weights}, which changes the base's weights too",
        {Use.VLLM: _NOT_SERVED, Use.PACKED: _TAKES_WEIGHTS},
        _CONVERTED,
    ),
    Kind(
        "KaSA",
        _field("kasa_config"),
        "kasa_config, which changes the base's weights too",
        {Use.VLLM: _NOT_SERVED, Use.PACKED: _TAKES_WEIGHTS},
        _CONVERTED,
    ),
    Kind(
        "CorDA, LoRA-GA, LoftQ",
        lambda config, tensors: begins_with(config, BEGINS_FROM_DATA),
        "init_lora_weights {init_lora_weights}, which changes the base's weights too",
        _everywhere(
            f"how is not in the file. {WHERE_IT_WAS_TRAINED}; or save the changed base there, and set "
            "init_lora_weights to true"
        ),
    ),
    Kind(
        "DoRA",
        _field("use_dora"),
        "use_dora",
        {
            **_MORE_THAN_LORA,
            Use.PACKED: _NOT_PACKED,
            Use.EIGHT_BITS_ON_CPU: "PEFT 0.21 can not do that on a base at 8 bits on a CPU; pass --bits 4, 16 or 32",
        },
    ),
    Kind(
        "VeLoRA, MonteCLoRA",
        _field("velora_config", "monteclora_config"),
        "velora_config or monteclora_config",
        {Use.VLLM: _NOT_SERVED},
        _CONVERTED,
    ),
    Kind(
        "aLoRA",
        _field("alora_invocation_tokens"),
        "alora_invocation_tokens, which has the adapter begin within a prompt",
        _everywhere("no program here does that; ask it by PEFT's own generate"),
    ),
    Kind(
        "Arrow, BD-LoRA, layer_replication, target_parameters",
        _field("arrow_config", "use_bdlora", "layer_replication", "target_parameters", "megatron_config"),
        "arrow_config, use_bdlora, layer_replication, target_parameters or megatron_config",
        _everywhere("no program here does that; PEFT's own merge_and_unload may"),
    ),
    Kind(
        "lora_bias",
        _field("lora_bias"),
        "lora_bias",
        {
            **_MORE_THAN_LORA,
            Use.GGUF: "llama.cpp's adapters have no place for that; answer with it by --lora_path",
            Use.VLLM: "vLLM does not serve that; answer with it by --lora_path",
            Use.MERGE: "a merged model would need biases that its base does not have; answer with it by --lora_path",
        },
    ),
    Kind(
        "bias `all` or `lora_only`, on a base without biases",
        lambda config, tensors: config.get("bias", "none") != "none" and not _tells_bias(config, tensors),
        "bias {bias}",
        {Use.VLLM: _NOT_SERVED},
    ),
    Kind(
        "bias `all` or `lora_only`, on a base with biases",
        _tells_bias,
        "bias, which changes the base's biases",
        _MORE_THAN_LORA,
        frozenset({Use.FLOAT, Use.EIGHT_BITS, Use.EIGHT_BITS_ON_CPU, Use.FOUR_BITS, Use.BESIDE}),
    ),
    Kind(
        "`modules_to_save` that the file has nothing of, as for another task",
        lambda config, tensors: bool(config.get("modules_to_save")) and not _whole(config, tensors),
        "modules_to_save",
        {Use.VLLM: _NOT_SERVED},
    ),
    Kind(
        "`modules_to_save`: embeddings, head, norms",
        lambda config, tensors: bool(_whole(config, tensors)) and not _tells_linear(config, tensors),
        "modules_to_save",
        _MORE_THAN_LORA,
    ),
    Kind(
        "`modules_to_save`: linear layers",
        _tells_linear,
        "modules_to_save of linear layers",
        {
            **_MORE_THAN_LORA,
            **dict.fromkeys((Use.EIGHT_BITS, Use.EIGHT_BITS_ON_CPU, Use.FOUR_BITS), _ON_QUANTISED),
            Use.PACKED: _NOT_PACKED,
        },
    ),
    Kind(
        "`trainable_token_indices`",
        _field("trainable_token_indices"),
        "trainable_token_indices",
        _MORE_THAN_LORA,
    ),
)


def uses_at(config: Any, bits: int, device: str, several: bool = False) -> list[Use]:
    """What answering with an adapter is, on a base at `bits` on a device of this type, beside others or not.

    Args:
        config: of the base.
    """
    if quantization_method(config) in KERNELS:
        return [Use.PACKED] + [Use.BESIDE] * several
    at_8 = [Use.EIGHT_BITS, *[Use.EIGHT_BITS_ON_CPU] * (device == "cpu")]
    return {4: [Use.FOUR_BITS], 8: at_8}.get(bits, [Use.FLOAT]) + [Use.BESIDE] * several


def kinds_of(config: Mapping[str, Any], tensors: Collection[str]) -> list[Kind]:
    """Every kind that an adapter is of, by the fields of its config and the names of its tensors."""
    return [kind for kind in KINDS if kind.told_by(config, tensors)]


def check_uses(folder: Path, config: Mapping[str, Any], tensors: Collection[str], uses: Collection[Use]) -> None:
    """Refuse an adapter that one of `uses`, or no use at all, can do anything with.

    Raises:
        UserError: what its config says, and what to do.
    """
    for kind in kinds_of(config, tensors):
        for use in Use if len(kind.refused) == len(Use) else uses:
            if reason := kind.refused.get(use):
                raise UserError(f"{folder / ADAPTER_CONFIG} says {kind.says.format(**config)}: {reason}.")
