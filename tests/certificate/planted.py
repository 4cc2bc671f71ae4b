"""Exports with a fault in each, made from a clean merge: what the tests plant and look for."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import torch
from certificate_bounds import merge, save_at_bits, to_gguf, tool  # benchmarks/certificate_bounds.py
from safetensors.torch import load_file, save_file
from sentencepiece import sentencepiece_model_pb2

from vicuna.gguf.writer import permute_qk
from vicuna.gguf_file.header import read_header
from vicuna.gguf_file.reader import read_gguf
from vicuna.model.base import check_base
from vicuna.prompt.chat_template import chat_template
from vicuna.prompt.tokenizer_files import CHAT_TEMPLATE_FILE

FOLDERS = ("float32", "float16", "bfloat16")
BITS = ("8 bit", "4 bit")
GGUF = ("f32", "f16", "q8_0", "q4_k_m", "q4_0", "q2_k")
# Where a block of each type has a value in float16, in bytes: the one that multiplies it, or the weight itself.
SCALES = {"F16": 0, "Q8_0": 0, "Q4_0": 0, "Q5_0": 0, "Q4_K": 0, "Q5_K": 0, "Q6_K": 208, "Q2_K": 80, "Q3_K": 108}


def changed(folder: Path, out: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    """A copy of a model or an adapter, its tensors changed."""
    shutil.copytree(folder, out)
    file = next(out.glob("*.safetensors"))
    tensors = load_file(file)
    change(tensors)
    save_file({name: one.contiguous() for name, one in tensors.items()}, file, metadata={"format": "pt"})
    return out


def skipped_layer(base: Path) -> Callable:
    """The merge forgot decoder block 1."""
    own = load_file(base / "model.safetensors")
    return lambda tensors: tensors.update({name: own[name] for name in tensors if ".layers.1." in name})


def wrong_permutation(base: Path) -> Callable:
    """Rows of q and k in Meta's order under Hugging Face's names."""
    config = check_base(str(base)).config
    return lambda tensors: tensors.update({name: permute_qk(one, name, config) for name, one in tensors.items()})


def swapped_heads(base: Path) -> Callable:
    """The head where the embeddings belong, and the other way round."""
    names = ("lm_head.weight", "model.embed_tokens.weight")
    return lambda tensors: tensors.update(dict(zip(names, [tensors[name] for name in reversed(names)], strict=True)))


def never_applied(base: Path) -> Callable:
    """The base's own weights."""
    return lambda tensors: tensors.update(load_file(base / "model.safetensors"))


WEIGHTS = {
    "a merge that skipped a layer": skipped_layer,
    "a wrong q/k permutation": wrong_permutation,
    "swapped tied heads": swapped_heads,
    "an adapter never applied": never_applied,
}


def with_template(folder: Path, out: Path) -> Path:
    """The same model with another template."""
    shutil.copytree(folder, out)
    (out / CHAT_TEMPLATE_FILE).write_text(chat_template("chat"), encoding="utf-8")
    (out / "run_args.json").unlink()
    return out


def with_eos(folder: Path, out: Path) -> Path:
    """The same model with another EOS, in what its layout says it with."""
    shutil.copytree(folder, out)
    for name in ("config.json", "generation_config.json"):
        if (out / name).is_file():
            said = json.loads((out / name).read_text(encoding="utf-8"))
            (out / name).write_text(json.dumps({**said, "eos_token_id": 3}), encoding="utf-8")
    if not (out / "config.json").is_file():  # Meta's layout: the tokenizer says it
        file = out / "tokenizer.model"
        proto = sentencepiece_model_pb2.ModelProto.FromString(file.read_bytes())
        proto.trainer_spec.eos_piece = "<s>"
        file.write_bytes(proto.SerializeToString())
    return out


def derive(folder: Path, out: Path, kind: str) -> Path:
    """A float32 folder as another type or layout, whatever its weights are."""
    out.parent.mkdir(parents=True, exist_ok=True)
    if kind in GGUF or kind == "bf16":
        return to_gguf(folder, out.with_name(f"{out.name}.gguf"), kind)
    if kind in BITS:
        return save_at_bits(folder, out, int(kind[0]))
    if kind == "pth":
        convert = tool("convert_llama")
        convert.main(convert.ConvertFlags(input_dir=str(folder), output_dir=str(out), to_meta=True, num_shards=1))
        for name in (CHAT_TEMPLATE_FILE, "run_args.json"):
            if (folder / name).is_file():
                shutil.copyfile(folder / name, out / name)
        return out
    dtype = getattr(torch, kind)
    return changed(folder, out, lambda one: one.update({name: value.to(dtype) for name, value in one.items()}))


def overflowed(artefact: Path, out: Path, kind: str) -> Path:
    """A value that float16 can not hold: the weight itself, or what multiplies a block of weights."""
    if kind in GGUF:
        return _overflowed_gguf(artefact, out.with_name(f"{out.name}.gguf"))
    if kind == "pth":
        shutil.copytree(artefact, out)
        file = out / "consolidated.00.pth"
        tensors = torch.load(file, weights_only=True)
        tensors["layers.0.attention.wo.weight"] = (tensors["layers.0.attention.wo.weight"] * 1e7).half()
        torch.save(tensors, file)
        return out
    end = "o_proj.SCB" if kind == "8 bit" else "o_proj.weight"

    def too_large(tensors: dict[str, torch.Tensor]) -> None:
        name = next(name for name in tensors if name.endswith(f"layers.0.self_attn.{end}"))
        tensors[name] = (tensors[name].float() * 1e7).half().to(tensors[name].dtype)

    return changed(artefact, out, too_large)


def _overflowed_gguf(file: Path, out: Path) -> Path:
    shutil.copyfile(file, out)
    header, kinds = read_header(file), read_gguf(str(file), "--export").types
    name = "blk.0.attn_output.weight"
    start = file.stat().st_size - header.data + header.tensors[name].offset + SCALES[kinds[name]]
    with out.open("r+b") as opened:
        opened.seek(start)
        opened.write(b"\x00\x7c")  # infinity in float16
    return out


def patched(file: Path, out: Path, old: bytes, new: bytes) -> Path:
    """A copy of a GGUF with some bytes of its head replaced by as many others."""
    data = file.read_bytes()
    assert old in data
    assert len(old) == len(new)
    out.write_bytes(data.replace(old, new))
    return out


def eos_of(number: int) -> bytes:
    """A GGUF's key for EOS, as it lies in the file: name, type, value."""
    return b"tokenizer.ggml.eos_token_id" + struct.pack("<II", 4, number)


def with_other_template(file: Path, out: Path) -> Path:
    """Another word in the template, or, of a template without words, another prompt type."""
    if b"### Response" in file.read_bytes():
        return patched(file, out, b"### Response", b"### Resp0nse")
    key = b"vicuna.prompt_type" + struct.pack("<IQ", 8, 4)
    return patched(file, out, key + b"text", key + b"chat")


def plant(base: Path, adapter: Path, other: Path, folder: Path, kinds: list[str], **said: str) -> dict:
    """(fault, kind) -> an export with that fault; "" for the clean one.

    Args:
        other: a base of the same shape.
    """
    clean = merge(base, adapter, folder / "clean", dtype="float32", **said)
    wrong = {name: changed(clean, folder / name, fault(base)) for name, fault in WEIGHTS.items() if _fits(name, clean)}
    wrong["another base"] = merge(other, adapter, folder / "other", dtype="float32", **said)
    found = {}
    for kind in kinds:
        own = derive(clean, folder / "clean as" / kind, kind) if kind != "float32" else clean
        found["", kind] = own
        for name, source in wrong.items():
            found[name, kind] = derive(source, folder / f"{name} as" / kind, kind) if kind != "float32" else source
        places = [folder / f"{name} in" / kind for name in ("template", "eos", "overflow")]
        for place in places:
            place.parent.mkdir(exist_ok=True)
        if kind in GGUF:
            found["another template", kind] = with_other_template(own, places[0].with_name(f"{kind}.gguf"))
            eos = places[1].with_name(f"{kind}.gguf")
            found["a wrong EOS", kind] = patched(own, eos, eos_of(2), eos_of(1))
        else:
            found["another template", kind] = with_template(own, places[0])
            found["a wrong EOS", kind] = with_eos(own, places[1])
        if kind not in ("float32", "bfloat16", "4 bit", "f32"):  # these hold it
            found["fp16 overflow", kind] = overflowed(own, places[2], kind)
    return found


def _fits(name: str, clean: Path) -> bool:
    """Tied heads can not be swapped."""
    return name != "swapped tied heads" or "lm_head.weight" in load_file(clean / "model.safetensors")


def plant_adapters(base: Path, adapter: Path, other: Path, folder: Path, kind: str, **said: str) -> dict:
    """Fault -> an adapter as a GGUF, and the GGUF of its base at that kind."""
    config = check_base(str(base)).config

    def permute(tensors: dict[str, torch.Tensor]) -> None:
        tensors |= {name: permute_qk(one, name, config) for name, one in tensors.items() if "lora_B" in name}

    def empty(where: str) -> Callable:
        return lambda one: one.update({name: 0 * value for name, value in one.items() if where in name})

    changes = {
        "": lambda tensors: None,
        "a merge that skipped a layer": empty(".layers.1."),
        "a wrong q/k permutation": permute,
        "an adapter never applied": empty("lora_B"),
    }
    prompt_type = said.get("prompt_type", "")
    sources = {name: changed(adapter, folder / f"adapter {name}", change) for name, change in changes.items()}
    files = {
        name: to_gguf(base, folder / f"adapter {name}.gguf", "f32", lora_path=str(one), prompt_type=prompt_type)
        for name, one in sources.items()
    }
    chat = to_gguf(base, folder / "adapter chat.gguf", "f32", lora_path=str(adapter), prompt_type="chat")
    own, foreign = (to_gguf(one, folder / f"{one.name} {kind}.gguf", kind) for one in (base, other))
    eos = patched(own, folder / f"eos {kind}.gguf", eos_of(2), eos_of(1))
    return {
        **{name: (file, own) for name, file in files.items()},
        "another template": (chat, own),
        "another base": (files[""], foreign),
        "a wrong EOS": (files[""], eos),
    }
