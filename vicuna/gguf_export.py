"""A Hugging Face LLaMA, or an adapter for one, as a GGUF file: one tensor at a time, from memory-mapped files.

Only three things differ from the folder: names; the rows of the query and key projections, which llama.cpp wants in
the order of Meta's files; and the type, which llama.cpp's own library brings about where it is a quantised one.
"""

import json
import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from tqdm import tqdm

from vicuna import adapter
from vicuna.errors import UserError
from vicuna.gguf_file import (
    ARCHITECTURE,
    GENERATION,
    PLAIN_TYPES,
    PROMPT_TYPE,
    STEP,
    UNKNOWN_TEXT,
    GGUFFile,
    package,
    padding,
)
from vicuna.llama import library, reason
from vicuna.model import Base, skeleton

PLAIN = dict(zip(PLAIN_TYPES, (torch.float32, torch.float16, torch.bfloat16), strict=True))
_NOT_WEIGHTS = "rotary_emb.inv_freq"  # in folders of 2023, and computed from the config
_POLL_S = 0.2


def block(kind: str) -> int:
    """How many values of a row a type packs together: rows must be a multiple of it."""
    return 1 if kind in PLAIN else 256 if "_k" in kind else 32


class Weights:
    """The tensors of a Hugging Face folder by name, each read when it is asked for."""

    def __init__(self, folder: Path):
        self._files: dict[str, Any] = {}  # tensor -> the opened file that has it
        for file in sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("pytorch_model*.bin")):
            try:
                if file.suffix == ".bin":
                    opened = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
                else:
                    opened = safe_open(file, framework="pt")
            except Exception as error:  # torch.load raises whatever the broken archive makes it stumble over
                raise UserError(f"{file} can not be read as plain tensors ({error}). Copy the file again.") from error
            self._files |= dict.fromkeys(opened.keys(), opened)

    def names(self) -> set[str]:
        return {name for name in self._files if not name.endswith(_NOT_WEIGHTS)}

    def __getitem__(self, name: str) -> torch.Tensor:
        opened = self._files[name]
        return opened[name] if isinstance(opened, dict) else opened.get_tensor(name)

    def dtype(self, name: str) -> torch.dtype:
        opened = self._files[name]
        if isinstance(opened, dict):
            return opened[name].dtype
        return {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}.get(
            opened.get_slice(name).get_dtype(), torch.int8
        )


def check(base: Base) -> None:
    """Refuse what this program can not write as a LLaMA of GGUF.

    Raises:
        UserError: see above.
    """
    config, path = base.config, base.path
    if config.model_type != "llama":
        raise UserError(f"{path} is of type {config.model_type}; GGUF export is for LLaMA's architecture (llama).")
    quantised = getattr(config, "quantization_config", None)
    if quantised:
        method = quantised.get("quant_method", "?") if isinstance(quantised, dict) else quantised.quant_method
        raise UserError(
            f"{path} is quantised already ({method}), from which a GGUF would only lose more: export the 16-bit or "
            "32-bit model it was made from."
        )
    if base.tokenizer.source.suffix != ".model":
        raise UserError(
            f"{path} has no tokenizer.model, of which the GGUF's vocabulary is made; copy the base's into the folder."
        )
    if config.hidden_act != "silu":
        raise UserError(f"{path} computes with {config.hidden_act}; llama.cpp's LLaMA only knows silu.")
    rope = config.rope_parameters
    if rope["rope_type"] not in ("default", "linear", "dynamic", "llama3", "yarn") or {"mscale", "attention_factor"} & {
        name for name, value in rope.items() if value is not None
    }:
        raise UserError(f"{path} has RoPE scaling {rope}, which llama.cpp's LLaMA does not compute.")


@dataclass(frozen=True)
class Entry:
    """One tensor of the file: what it is called here and there, and its type."""

    source: str  # "" for one that is computed
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype


def entries(base: Base, weights: Weights, kind: str) -> list[Entry]:
    """The tensors of the GGUF in the order of the blocks.

    Args:
        kind: a type of `PLAIN`, or "" for the one each tensor has. Vectors are always float32.

    Raises:
        UserError: tensors that are missing, of no use, or of another shape.
    """
    config, gguf = base.config, package("gguf")
    expected = {name: tuple(tensor.shape) for name, tensor in skeleton(config).state_dict().items()}
    if config.tie_word_embeddings:
        expected.pop("lm_head.weight", None)
    found = weights.names()
    if lacking := sorted(set(expected) - found):
        raise UserError(f"the weights in {base.path} lack {len(lacking)} tensors, such as {lacking[0]}. Copy it again.")
    if odd := sorted(found - set(expected) - {"lm_head.weight"}):
        raise UserError(f"the weights in {base.path} have {odd[0]}, for which a LLaMA has no place.")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    made = []
    for source, shape in expected.items():
        if (own := weights.dtype(source)) not in PLAIN.values():
            raise UserError(f"{source} in {base.path} is {own}; expected float32, float16 or bfloat16.")
        dtype = torch.float32 if len(shape) == 1 else PLAIN[kind] if kind else own
        made.append(Entry(source, names.get_name(source, try_suffixes=(".weight", ".bias")), shape, dtype))
    if base.config.rope_parameters["rope_type"] == "llama3":
        made.append(Entry("", "rope_freqs.weight", (head_dim(config) // 2,), torch.float32))
    return made


def head_dim(config: Any) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def permuted(tensor: torch.Tensor, name: str, config: Any) -> torch.Tensor:
    """Rows of a query or key projection (or of its bias, or of its lora_B) in the order of Meta's rotation.

    Hugging Face rotates value i with value i + d/2 of a head of size d, Meta and llama.cpp i with i + 1.
    """
    if "q_proj" in name or "k_proj" in name:
        heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
        halves = tensor.reshape(heads, 2, len(tensor) // heads // 2, *tensor.shape[1:])
        return halves.swapaxes(1, 2).reshape(tensor.shape)
    return tensor


def write_model(base: Base, file: Path, kind: str, prompt_type: str, template: str) -> None:
    """Write a model, unquantised.

    Args:
        kind: as in `entries`.
        prompt_type: what it was trained with, "" if unknown; template: its chat template, "" for none.

    Raises:
        UserError: see `entries`; or weights that are not finite, or not at that type.
    """
    weights = Weights(base.path)
    gguf = package("gguf")
    writer = gguf.GGUFWriter(file, ARCHITECTURE)
    _model_keys(writer, base, kind)
    _vocabulary(writer, base)
    if template:
        writer.add_chat_template(template)
    _own_keys(writer, prompt_type, base.generation_config)
    todo = entries(base, weights, kind)

    def tensors() -> Iterator[torch.Tensor]:
        for entry in todo:
            if entry.source:
                yield permuted(weights[entry.source], entry.source, base.config).to(entry.dtype)
            else:
                yield _llama3_factors(base.config)

    _write(writer, todo, tensors(), base.path)


def _write(writer: Any, todo: list[Entry], tensors: Iterator[torch.Tensor], source: Path) -> None:
    """Keys, the list of tensors, then each of them."""
    gguf = package("gguf")
    types = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
    for entry in todo:
        size = math.prod(entry.shape) * entry.dtype.itemsize
        raw = gguf.GGMLQuantizationType[types[entry.dtype]]
        writer.add_tensor_info(entry.name, entry.shape, _numpy(torch.empty(0, dtype=entry.dtype)).dtype, size, raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    total = sum(math.prod(entry.shape) * entry.dtype.itemsize for entry in todo)
    with tqdm(total=total, desc="Writing", unit="B", unit_scale=True, disable=None) as bar:
        for entry, tensor in zip(todo, tensors, strict=True):
            if tuple(tensor.shape) != entry.shape:
                raise UserError(
                    f"{entry.source} in {source} is {tuple(tensor.shape)}, but its config says {entry.shape}."
                )
            if not torch.isfinite(tensor).all():
                raise UserError(
                    f"{entry.source} in {source} has values that are not finite, or too large for "
                    f"{types[entry.dtype].lower()}; take --type bf16 or f32 if the weights themselves are sound."
                )
            writer.write_tensor_data(_numpy(tensor.contiguous()))
            bar.update(tensor.nbytes)
    writer.close()


def _numpy(tensor: torch.Tensor) -> Any:
    """The tensor's bytes for numpy, which has no bfloat16."""
    return (tensor.view(torch.int16) if tensor.dtype is torch.bfloat16 else tensor).numpy()


def _model_keys(writer: Any, base: Base, kind: str) -> None:
    config, gguf = base.config, package("gguf")
    names = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16"}
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(base.path.resolve().name)
    writer.add_file_type(gguf.LlamaFileType[names[kind or "f32"]])
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_dim(config))
    writer.add_value_length(head_dim(config))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(head_dim(config))
    rope = config.rope_parameters
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
        writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])


def _vocabulary(writer: Any, base: Base) -> None:
    """Pieces, scores and types as SentencePiece has them, and a row of padding for each further row of the model."""
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(base.tokenizer.source.read_bytes())
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    if (
        trainer.model_type != trainer.BPE
        or trainer.treat_whitespace_as_suffix
        or not normalizer.escape_whitespaces
        or normalizer.precompiled_charsmap
    ):
        raise UserError(
            f"{base.tokenizer.source} is not a BPE model with LLaMA's settings, the only kind that llama.cpp's "
            "vocabulary of type llama stands for; its ids would differ in other programs."
        )
    rows = range(len(proto.pieces), base.config.vocab_size)
    added = _added_tokens(base.path)
    unused, control = 5, 3
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([piece.piece for piece in proto.pieces] + [added.get(row, padding(row)) for row in rows])
    writer.add_token_scores([piece.score for piece in proto.pieces] + [-10000.0] * len(rows))
    # Named rows above the tokenizer are control ids: text never becomes one on our paths, either.
    types = [int(piece.type) for piece in proto.pieces] + [control if row in added else unused for row in rows]
    writer.add_token_types(types)
    tokenizer = base.tokenizer
    writer.add_bos_token_id(tokenizer.bos_id)
    writer.add_eos_token_id(tokenizer.eos_id)
    eos = base.generation_config.eos_token_id
    if others := [number for number in (eos if isinstance(eos, list) else []) if number != tokenizer.eos_id]:
        writer.add_eot_token_id(others[0])  # llama.cpp's own programs know two of them
    if tokenizer.unk_id is not None:
        writer.add_unk_token_id(tokenizer.unk_id)
    if base.config.pad_token_id is not None:
        writer.add_pad_token_id(base.config.pad_token_id)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(normalizer.add_dummy_prefix)
    writer.add_remove_extra_whitespaces(normalizer.remove_extra_whitespaces)
    writer.add_string(UNKNOWN_TEXT, trainer.unk_surface)


def _added_tokens(folder: Path) -> dict[int, str]:
    """Ids above the SentencePiece model that the folder names, such as [PAD] of 2023's Chinese Alpaca."""
    file = folder / "added_tokens.json"
    if not file.is_file():
        return {}
    try:
        return {int(number): name for name, number in json.loads(file.read_text(encoding="utf-8")).items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise UserError(f"{file} is not JSON of names and ids ({error}). Delete it, or copy it again.") from error


def _own_keys(writer: Any, prompt_type: str, generation: Any = None) -> None:
    if prompt_type:
        writer.add_string(PROMPT_TYPE, prompt_type)
    if generation is not None:
        declared = generation.to_diff_dict()
        kept = {name: value for name, value in declared.items() if name[0] != "_" and name != "transformers_version"}
        writer.add_string(GENERATION, json.dumps(kept, sort_keys=True))


def _llama3_factors(config: Any) -> torch.Tensor:
    """By how much each pair's rotation slows down, (head_dim / 2,), as Llama 3.1 computes it."""
    rope, size = config.rope_parameters, head_dim(config)
    plain = 1.0 / rope["rope_theta"] ** (torch.arange(0, size, 2, dtype=torch.float32) / size)
    turns = rope["original_max_position_embeddings"] * plain / (2 * math.pi)
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    share = ((turns - low) / (high - low)).clamp(0, 1)  # 0: slowed down by the whole factor, 1: not at all
    return 1 / ((1 - share) / rope["factor"] + share)


def quantise(source: Path, file: Path, kind: str, threads: int) -> None:
    """Have llama.cpp's own library quantise a GGUF.

    Raises:
        UserError: it did not.
    """
    gguf, llama_cpp = package("gguf"), library()
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = int(gguf.LlamaFileType[f"MOSTLY_{kind.upper()}"])
    params.nthread = threads
    status = []

    def work() -> None:
        status.append(llama_cpp.llama_model_quantize(str(source).encode(), str(file).encode(), params))

    thread = threading.Thread(target=work, daemon=True)  # so that Ctrl-C ends the program
    thread.start()
    with tqdm(desc=f"Quantising to {kind}", unit="B", unit_scale=True, disable=None) as bar:
        while thread.is_alive():
            thread.join(_POLL_S)
            if file.is_file():
                bar.update(file.stat().st_size - bar.n)
    if status != [0]:
        raise UserError(
            f"llama.cpp could not quantise to {kind} ({reason('no reason given')}). Is the disk full? Another --type, "
            "such as q8_0, may do."
        )


def fallbacks(file: GGUFFile, kind: str) -> dict[str, str]:
    """Tensors whose rows do not divide into the type's blocks -> the type that llama.cpp gave them instead."""
    return {
        name: file.types[name]
        for name, shape in file.shapes.items()
        if len(shape) == 2 and shape[1] % block(kind)
    }  # fmt: skip


def write_adapter(base: Base, folder: Path, file: Path, kind: str, prompt_type: str) -> None:
    """Write a LoRA adapter by itself, for a GGUF of its base.

    Raises:
        UserError: an adapter that does not fit, or has what llama.cpp's adapters have no place for.
    """
    tensors = adapter.read_tensors(adapter.weight_file(folder))
    config, _ = adapter.read_config(folder, tensors)
    adapter.check_fit(tensors, skeleton(base.config), str(base.path))
    modules = adapter.modules_of(tensors)
    sides = {module: {side: _of(tensors, f"{module}.lora_{side}.weight") for side in "AB"} for module in modules}
    odd = sorted(name for name in tensors if not name.endswith((".lora_A.weight", ".lora_B.weight")))
    if tied := [module for module in modules if "lm_head" in module and base.config.tie_word_embeddings]:
        odd.append(tied[0])
    if odd or config.use_dora:
        raise UserError(
            f"{folder} has {odd[0] if odd else 'DoRA magnitudes'}, for which llama.cpp's adapters have no place: merge "
            "it into its base, and export the whole model."
        )
    gguf = package("gguf")
    writer = gguf.GGUFWriter(file, ARCHITECTURE)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, config.lora_alpha)
    writer.add_name(folder.resolve().name)
    args = adapter.run_args(folder)
    _own_keys(writer, prompt_type)
    if args.get("step"):
        writer.add_uint32(STEP, args["step"])
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, base.config.num_hidden_layers)
    scalings = _scalings(base, config)
    todo, values = [], []
    for module, (rank, _, _) in modules.items():
        # llama.cpp multiplies by alpha / rank; what PEFT multiplies by beyond that goes into lora_b.
        beyond = scalings[module] / (config.lora_alpha / rank)
        lora_b = permuted(sides[module]["B"].float(), module, base.config) * beyond
        for side, tensor in (("a", sides[module]["A"]), ("b", lora_b)):
            name = f"{names.get_name(f'{module}.weight', try_suffixes=('.weight',))}.lora_{side}"
            todo.append(Entry(module, name, tuple(tensor.shape), PLAIN[kind]))
            values.append(tensor.to(PLAIN[kind]))
    _write(writer, todo, iter(values), folder)


def _of(tensors: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    """The tensor of that name, whatever PEFT puts in front of it."""
    return next(tensor for full, tensor in tensors.items() if full.endswith(name))


def _scalings(base: Base, config: Any) -> dict[str, float]:
    """Module -> what PEFT multiplies its update by."""
    config.base_model_name_or_path = str(base.path)  # else PEFT warns of a base that was moved
    with torch.device("meta"):
        model = get_peft_model(skeleton(base.config), config)
    return {
        name: module.scaling["default"]
        for name, module in model.get_base_model().named_modules()
        if isinstance(module, LoraLayer)
    }
