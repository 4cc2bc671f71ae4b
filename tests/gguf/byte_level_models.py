"""Small GGUF files as llama.cpp's converter writes them of models with a byte-level vocabulary."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent.parent
HIDDEN, HEADS, KEY_HEADS, WIDE, BLOCKS, CONTEXT = 64, 4, 2, 96, 2, 256
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
CONTROLS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<｜end▁of▁sentence｜>")
WHOLE = "Ġunreachable"  # a piece that no merges make
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@cache
def vocabulary() -> tuple[list[str], list[int], list[str]]:
    """Pieces, their types, and merges: control tokens first, then what bytes make, then further ones."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=700, initial_alphabet=alphabet, show_progress=False)
    lines = [file.read_text(encoding="utf-8") for file in sorted((ROOT / "sample/text").glob("*.txt"))]
    tokenizer.train_from_iterator([*lines, "12 123 2023 The theory, the thing! it's IT'S They'LL " * 50], trainer)
    import json

    model = json.loads(tokenizer.to_str())["model"]
    made = sorted(model["vocab"], key=model["vocab"].get)
    pieces = [*CONTROLS, *made, WHOLE, "<think>", "[PAD0]"]
    kinds = [CONTROL] * len(CONTROLS) + [NORMAL] * (len(made) + 1) + [USER_DEFINED, UNUSED]
    return pieces, kinds, [" ".join(pair) for pair in model["merges"]]


def drawn_tensors(architecture: str, seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights under llama.cpp's names."""
    draw = np.random.default_rng(seed)
    size, rows = HIDDEN // HEADS, len(vocabulary()[0])
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (rows, HIDDEN), "output_norm.weight": (HIDDEN,)}
    for block in range(BLOCKS):
        own: dict[str, tuple[int, ...]] = {
            "attn_norm": (HIDDEN,), "ffn_norm": (HIDDEN,), "attn_q": (HEADS * size, HIDDEN),
            "attn_k": (KEY_HEADS * size, HIDDEN), "attn_v": (KEY_HEADS * size, HIDDEN),
            "attn_output": (HIDDEN, HEADS * size), "ffn_gate": (WIDE, HIDDEN), "ffn_up": (WIDE, HIDDEN),
            "ffn_down": (HIDDEN, WIDE),
        }  # fmt: skip
        if architecture == "qwen3":
            own |= {"attn_q_norm": (size,), "attn_k_norm": (size,)}
        shapes |= {f"blk.{block}.{name}.weight": shape for name, shape in own.items()}
        if architecture == "qwen2":
            shapes |= {f"blk.{block}.{name}.bias": own[name][:1] for name in ("attn_q", "attn_k", "attn_v")}
    if architecture == "llama":
        shapes["output.weight"] = (rows, HIDDEN)  # the others tie it
    return {name: draw.normal(0, 0.2, shape).astype(np.float32) + ("norm" in name) for name, shape in shapes.items()}


def write_gguf(
    file: Path,
    architecture: str = "llama",
    pre: str = "smollm",
    kind: str = "F32",
    tensors: dict[str, np.ndarray] | None = None,
    without: tuple[str, ...] = (),
    **keys: Any,
) -> Path:
    """Write a model.

    Args:
        kind: type of the matrices; tensors: {} for a vocabulary alone; without: keys that are left out.
        keys: further ones, `__` for a full stop, `arch` for the architecture's name.
    """
    import gguf

    pieces, kinds, merges = vocabulary()
    tensors = drawn_tensors(architecture) if tensors is None else tensors
    said: dict[str, Any] = {
        "arch.context_length": CONTEXT, "arch.block_count": BLOCKS, "arch.embedding_length": HIDDEN,
        "arch.feed_forward_length": WIDE, "arch.attention.head_count": HEADS,
        "arch.attention.head_count_kv": KEY_HEADS, "arch.attention.layer_norm_rms_epsilon": 1e-6,
        "arch.rope.freq_base": 10000.0, "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": pieces, "tokenizer.ggml.token_type": kinds, "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": CHATML,
        **{name.replace("__", "."): value for name, value in keys.items()},
    }  # fmt: skip
    writer = gguf.GGUFWriter(file, architecture)
    for name, value in said.items():
        if name in without:
            continue
        add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
        add.get(type(value), writer.add_array)(name.replace("arch", architecture, 1), value)
    wanted = gguf.GGMLQuantizationType[kind]
    for name, values in tensors.items():
        if values.ndim == 2 and kind != "F32":
            writer.add_tensor(name, gguf.quantize(values, wanted), raw_dtype=wanted)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def dequantised(file: Path, copy: Path) -> Path:
    """The same model with the values that the types stand for, in float32."""
    import gguf

    read = gguf.GGUFReader(file)
    tensors = {
        one.name: gguf.dequantize(one.data, one.tensor_type).reshape([int(n) for n in reversed(one.shape)])
        for one in read.tensors
    }
    writer = gguf.GGUFWriter(copy, read.get_field("general.architecture").contents())
    for name, field in read.fields.items():
        if not name.startswith("GGUF.") and name not in ("general.architecture", "general.file_type"):
            inner = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(name, field.contents(), field.types[0], sub_type=inner)
    for name, values in tensors.items():
        writer.add_tensor(name, np.ascontiguousarray(values, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return copy
