"""What the tests of certificates share: writing one, and what it says about an export."""

import importlib.util
import json
from pathlib import Path

import pytest
from certificate_bounds import tool

from tests.certificate.planted import BITS, FOLDERS, GGUF, plant, plant_adapters

verify = tool("verify_export")
CPP = all(importlib.util.find_spec(name) for name in ("gguf", "llama_cpp"))
needs_cpp = pytest.mark.skipif(not CPP, reason="llama-cpp-python is not installed: bash scripts/install_cpp.sh")
KINDS = [*FOLDERS, "pth", *BITS, *(GGUF if CPP else ())]
WEIGHTS = r"KL divergence|effect in|no nearer than the base alone"
SAID = {
    "a merge that skipped a layer": WEIGHTS,
    "a wrong q/k permutation": WEIGHTS,
    "swapped tied heads": WEIGHTS,
    "an adapter never applied": "no nearer than the base alone|effect in",
    "another base": WEIGHTS,
    "fp16 overflow": "not finite|KL divergence",
    "another template": "has another template|was trained with chat",
    "a wrong EOS": r"answers would run on|declares EOS \d \(expected 2\)",
}


def certify(base: Path, adapters: Path | list[Path], exports: list[Path], out: Path, **flags) -> tuple[int, dict]:
    """The exit status, and the certificate."""
    names = [str(one) for one in ([adapters] if isinstance(adapters, Path) else adapters)]
    settings = {"model_path": str(base), "lora_path": names, "export": [str(one) for one in exports], **flags}
    status = 0
    try:
        verify.main(verify.CertificateFlags(out_path=str(out), max_new_tokens=8, **settings))
    except SystemExit as end:
        status = end.code
    return status, json.loads(out.read_text(encoding="utf-8"))


def one_of(certificate: dict, *parts: Path) -> dict:
    """What the certificate says about an export, or about an adapter on a base."""
    name = " on ".join(map(str, parts))
    return next(one for one in certificate["artefacts"] if one["name"] == name)


def matrix(
    base: Path, adapter: Path, other: Path, folder: Path, texts: Path, kinds: list[str], on: str, **said
) -> dict:
    """(fault, kind) -> what the certificate says."""
    planted = plant(base, adapter, other, folder, kinds, **said)
    adapters = plant_adapters(base, adapter, other, folder, on, **said) if CPP else {}
    exports = [*planted.values(), *dict.fromkeys(lora for lora, _ in adapters.values())]
    base_ggufs = [str(one) for one in dict.fromkeys(file for _, file in adapters.values())]
    _, data = certify(base, adapter, exports, folder / "c.json", base_gguf=base_ggufs, texts=[str(texts)], **said)
    found = {key: one_of(data, export) for key, export in planted.items()}
    return found | {(fault, f"adapter on {on}"): one_of(data, *pair) for fault, pair in adapters.items()}
