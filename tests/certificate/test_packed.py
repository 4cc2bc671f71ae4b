"""The certificate of what GPTQ and AWQ make: clean folders pass, and what spoils such a folder is found."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from certificate_bounds import merge, quantise
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.certificate.certifying import certify, one_of
from vicuna.model.base import check_base
from vicuna.model.gptq import config_for_plain_kernels, silenced

pytest.importorskip("gptqmodel", reason="bash scripts/install_gptq.sh")

WAYS = {
    "gptq 8": {"wbits": 8, "groupsize": 32},
    "gptq 4": {"wbits": 4, "groupsize": 32},
    "gptq 4 with zero points": {"wbits": 4, "groupsize": 32, "sym": False},
    "awq 4": {"awq": True, "groupsize": 32, "nsamples": 2, "seqlen": 64},
}
SPOILT = [way for way in WAYS if way != "gptq 8"]
WEIGHTS = "KL divergence|effect|not finite"
SAID = {
    "group": "says group_size 64, and .* has 8 groups of 32",
    "head": WEIGHTS,
    "zero": f"{WEIGHTS}|the zero points of .* are not where symmetric weights have them",
    "twice": f"{WEIGHTS}|saved again after it was opened",  # of AWQ it changes nothing
}


def changed(folder: Path, out: Path, settings: dict | None = None, **ends: object) -> Path:
    """A copy with other settings in its config, and tensors whose names end so changed."""
    shutil.copytree(folder, out)
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] |= settings or {}
    (out / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tensors = load_file(out / "model.safetensors")
    for end, change in ends.items():
        tensors |= {name: change(one) for name, one in tensors.items() if name.endswith(end)}
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    return out


def saved_twice(folder: Path, out: Path) -> Path:
    """Opened by transformers and saved by it, everything else as it was."""
    shutil.copytree(folder, out)
    config = config_for_plain_kernels(check_base(str(folder)).config)
    with silenced():
        model = AutoModelForCausalLM.from_pretrained(folder, config=config)
        model.save_pretrained(out)
    return out


def random_head(head: torch.Tensor) -> torch.Tensor:
    torch.manual_seed(3)
    return torch.randn_like(head) * head.std()


@pytest.fixture(scope="module")
def found(base, adapter, texts, tmp_path_factory) -> dict:
    """(fault, way) -> what the certificate says; "" is the clean one."""
    folder = tmp_path_factory.mktemp("packed")
    merged = merge(base, adapter, folder / "merged", dtype="float32")
    exports = {("", way): quantise(merged, folder / way, **flags) for way, flags in WAYS.items()}
    for way in SPOILT:
        clean = exports["", way]
        exports["group", way] = changed(clean, folder / f"group {way}", {"group_size": 64})
        exports["head", way] = changed(clean, folder / f"head {way}", **{"lm_head.weight": random_head})
        exports["zero", way] = changed(clean, folder / f"zero {way}", qzeros=torch.zeros_like)
        if way.startswith("gptq"):
            exports["twice", way] = saved_twice(clean, folder / f"twice {way}")
    _, data = certify(base, adapter, list(exports.values()), folder / "c.json", texts=[str(texts)])
    return {key: one_of(data, export) for key, export in exports.items()}


@pytest.mark.parametrize("way", WAYS)
def test_a_clean_folder_passes(found, way):
    one = found["", way]

    assert (one["verdict"], one["reasons"]) == ("passed", [])
    assert one["type"] == f"{way.split()[0]} {way.split()[1]} bit"


CELLS = [(fault, way) for fault in SAID for way in SPOILT if fault != "twice" or way.startswith("gptq")]


@pytest.mark.parametrize(("fault", "way"), CELLS)
def test_every_fault_is_found(found, fault, way):
    one = found[fault, way]

    assert one["verdict"] == "FAILED"
    assert re.search(SAID[fault], " ".join(one["reasons"]))
