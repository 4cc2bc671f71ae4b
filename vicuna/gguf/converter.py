"""llama.cpp's own converters, called as programs: for what is no LLaMA with a vocabulary that this package writes.

They open tokenizers with `trust_remote_code=True`, so they never see a model's folder: see `vicuna.model.known_files`.
"""

import ast
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tqdm import tqdm

from vicuna.errors import UserError
from vicuna.files.tensors import read_tensor_files, weight_paths
from vicuna.gguf.llama_cpp_source import source_folder
from vicuna.model.base import Base
from vicuna.model.known_files import shown

_POLL_S = 0.2


def check_architecture(base: Base) -> None:
    """Refuse what llama.cpp's converter has no way to convert, before it is started.

    Raises:
        UserError: see above; or the converters are not there.
    """
    known = _known_architectures(source_folder())
    named = getattr(base.config, "architectures", None) or [""]
    if known and named[0] not in known:
        raise UserError(
            f"{base.path / 'config.json'} names the architecture {named[0] or '(none)'}, which llama.cpp's converter "
            f"does not know; it knows {len(known)}, such as LlamaForCausalLM, Qwen3ForCausalLM and MistralForCausalLM."
        )


def _known_architectures(source: Path) -> frozenset[str]:
    """The architectures that the converters name, read from their source without running it; none if they moved."""
    for node in ast.parse((source / "conversion" / "__init__.py").read_text(encoding="utf-8")).body:
        target = node.target if isinstance(node, ast.AnnAssign) else None
        if isinstance(target, ast.Name) and target.id == "TEXT_MODEL_MAP" and node.value is not None:
            return frozenset(ast.literal_eval(node.value))
    return frozenset()


def check_vocabulary(base: Base) -> None:
    """Have the converter read the vocabulary alone.

    Raises:
        UserError: it does not know it.
    """
    with shown(base.path, weights=False) as folder:
        _run("convert_hf_to_gguf.py", [str(folder), "--vocab-only"], folder.parent / "vocabulary.gguf", base.path)


def convert_model(base: Base, file: Path, kind: str) -> None:
    """Write a model by llama.cpp's converter.

    Args:
        kind: f32, f16 or bf16.

    Raises:
        UserError: it did not.
    """
    size = sum(one.numel() for one in read_tensor_files(weight_paths(base.path)).values()) * (4 if kind == "f32" else 2)
    with shown(base.path) as folder:
        flags = [str(folder), "--outtype", kind, "--model-name", base.path.resolve().name]
        _run("convert_hf_to_gguf.py", flags, file, base.path, size)


def convert_adapter(base: Base, folder: Path, file: Path, kind: str) -> None:
    """Write a LoRA adapter by llama.cpp's converter.

    Args:
        folder: the adapter in PEFT's format, of matrices alone, each to be multiplied by alpha / rank.

    Raises:
        UserError: it did not.
    """
    with shown(base.path, weights=False) as known:
        _run("convert_lora_to_gguf.py", [str(folder), "--base", str(known), "--outtype", kind], file, folder)


def _run(program: str, flags: list[str], file: Path, source: Path, size: int | None = None) -> None:
    """Run one of the converters in a process of its own, which ends with this one's block.

    Args:
        size: bytes that it is going to write, for the bar.
    """
    script = source_folder() / program
    # -E and -s: nothing of the caller's PYTHONPATH; their own gguf-py stands beside the script.
    command = [sys.executable, "-E", "-s", "-B", str(script), *flags, "--outfile", str(file)]
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    offline.pop("NO_LOCAL_GGUF", None)
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, env=offline)
        try:
            with tqdm(total=size, desc="Converting", unit="B", unit_scale=True, disable=None) as bar:
                while process.poll() is None:
                    try:
                        process.wait(_POLL_S)
                    except subprocess.TimeoutExpired:
                        bar.update((file.stat().st_size if file.is_file() else 0) - bar.n)
        finally:
            process.kill()
            process.wait()
        if process.returncode:
            said.seek(0)
            raise UserError(_reason(said.read().decode(errors="replace"), process.returncode, source))


def _reason(said: str, status: int, source: Path) -> str:
    """Why a converter failed, in a sentence."""
    if "BPE pre-tokenizer was not recognized" in said:
        return (
            f"llama.cpp's converter does not know how the tokenizer in {source} cuts texts: it knows published "
            "vocabularies by their hash, and this one was changed or made anew. A LLaMA with such a vocabulary can be "
            "exported; for another architecture take the tokenizer that the base was published with."
        )
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    last = next((line for line in reversed(lines) if not line.startswith(("Writing", "^"))), "no reason given")
    ended = f"by signal {-status}" if status < 0 else f"with status {status}"
    return f"llama.cpp's converter ended {ended} on {source}: {last[:300]}"
