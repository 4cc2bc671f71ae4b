"""Certificates of bases with a byte-level vocabulary and their own chat template, and faults in their GGUF files."""

import json
from pathlib import Path

import pytest
from certificate_bounds import merge, strong_adapter, to_gguf

from tests.certificate.certifying import certify, needs_cpp, one_of
from tests.own_bases import write_base

pytestmark = needs_cpp
OTHER = "{{ bos_token }}{% for message in messages %}{{ message.role }}: {{ message.content }}{% endfor %}"
SAID = {
    "chatml": {
        "BOS that the base has not": "texts begin with BOS (expected none)",
        "an end lost": "answers end at",
        "another template": "it has another template",
    },
    "headers": {
        "BOS left out": "texts begin with none (expected BOS)",
        "an end lost": "answers end at",
        "another template": "it has another template",
    },
}


def planted(clean: Path, folder: Path, fault: str) -> Path:
    """A GGUF file with a fault in its head."""
    from vicuna.gguf.head_edit import with_keys
    from vicuna.gguf_file.reader import GENERATION, read_gguf

    keys = read_gguf(str(clean), "--export").keys
    generation = json.loads(keys[GENERATION])
    ends = generation["eos_token_id"]
    changes = {
        "BOS that the base has not": {
            "tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.bos_token_id": keys["tokenizer.ggml.eos_token_id"],
        },
        "BOS left out": {"tokenizer.ggml.add_bos_token": False},
        "an end lost": {
            GENERATION: json.dumps(generation | {"eos_token_id": ends[:1]}), "tokenizer.ggml.eot_token_id": None,
            "tokenizer.ggml.eom_token_id": None,
        },
        "another template": {"tokenizer.chat_template": OTHER},
    }  # fmt: skip
    made = folder / f"{fault}.gguf"
    with_keys(clean, made, changes[fault])
    return made


@pytest.fixture(scope="module", params=SAID)
def certified(request, texts, tmp_path_factory) -> tuple[str, dict, list[Path]]:
    """kind, what the certificate says, and what it says it of: the folder, its GGUF, the faults in their order."""
    kind, folder = request.param, tmp_path_factory.mktemp(request.param)
    base = write_base(folder / "base", kind, initializer_range=0.2)
    adapter = strong_adapter(base, folder / "adapter")
    (adapter / "run_args.json").write_text(json.dumps({"prompt_type": "base"}), encoding="utf-8")
    merged = merge(base, adapter, folder / "merged", dtype="float32")
    clean = to_gguf(merged, folder / "clean.gguf", "f32")
    exports = [merged, clean, *(planted(clean, folder, fault) for fault in SAID[kind])]
    _, found = certify(base, adapter, exports, folder / "c.json", texts=[str(texts)])
    return kind, found, exports


def test_clean_exports_pass(certified):
    kind, found, (merged, clean, *_) = certified

    assert found["prompt_type"] == "base"
    assert [(one_of(found, one)["verdict"], one_of(found, one)["reasons"]) for one in (merged, clean)] == [
        ("passed", []),
        ("passed", []),
    ], kind


def test_planted_faults_are_found(certified):
    kind, found, (_, _, *faults) = certified

    for file, said in zip(faults, SAID[kind].values(), strict=True):
        one = one_of(found, file)
        assert one["verdict"] == "FAILED", file
        assert said in " ".join(one["reasons"]), file
