"""tools/verify_export.py: what is compared and certified, whatever the adapters bring; and what is refused."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from certificate_bounds import add_pieces, merge, strong_adapter, to_gguf, tool
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from tests.certificate.certifying import CPP, WEIGHTS, certify, needs_cpp, one_of, verify
from tests.certificate.planted import FOLDERS, changed, derive
from vicuna.certificate.verdict import BOUNDS
from vicuna.errors import UserError
from vicuna.gguf_file.types import PLAIN_TYPES, QUANTISED_TYPES

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def grown(base, tiny_base, tmp_path_factory) -> Path:
    """An adapter with embeddings and head of its own, for four more tokens; do not write to it."""
    whole = {"modules_to_save": ["embed_tokens", "lm_head"], "grown": 1804}
    return add_pieces(strong_adapter(base, tmp_path_factory.mktemp("adapters") / "grown", **whole), tiny_base)


def test_a_grown_vocabulary_and_saved_modules_pass_in_every_layout(base, grown, texts, tmp_path):
    merged = merge(base, grown, tmp_path / "merged")
    exports = [merged, derive(merged, tmp_path / "pth", "pth")]
    exports += [derive(merged, tmp_path / kind, kind) for kind in ("f32", "q4_k_m")] if CPP else []
    status, found = certify(base, grown, exports, tmp_path / "c.json", texts=[str(texts)], bits=[8, 4])

    assert [one["reasons"] for one in found["artefacts"]] == [[] for _ in range(len(exports) + 2)]
    assert status == 0


def tie_head(tensors: dict[str, torch.Tensor]) -> None:
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()


def test_a_head_tied_to_the_embeddings_and_the_bases_tokenizer_are_found(base, grown, texts, tmp_path):
    merged = merge(base, grown, tmp_path / "merged")
    tied = changed(merged, tmp_path / "tied", tie_head)
    older = tmp_path / "older"
    shutil.copytree(merged, older)
    shutil.copyfile(base / "tokenizer.model", older / "tokenizer.model")
    status, found = certify(base, grown, [tied, older, base], tmp_path / "c.json", texts=[str(texts)])

    assert status == 1
    assert re.search(WEIGHTS, " ".join(one_of(found, tied)["reasons"]))
    assert one_of(found, older)["differs"] == ["tokens"]
    assert "its tokenizer gives" in one_of(found, older)["reasons"][0]
    assert one_of(found, base)["reasons"] == ["it has a vocabulary of 1800, base + adapters one of 1804."]


def test_several_adapters_are_compared_in_their_order(base, adapter, texts, tmp_path):
    second = strong_adapter(base, tmp_path / "second", seed=3, std=0.1, modules_to_save=["embed_tokens", "lm_head"])
    third = strong_adapter(base, tmp_path / "third", seed=4, std=0.1, modules_to_save=["embed_tokens", "lm_head"])
    tool_ = tool("merge_lora")
    for name, adapters in (("right", (second, third)), ("wrong", (third, second))):
        names = [str(one) for one in adapters]
        tool_.main(tool_.MergeFlags(model_path=str(base), lora_path=names, out_path=str(tmp_path / name)))
    exports = [tmp_path / "right", tmp_path / "wrong"]
    status, found = certify(base, [second, third], exports, tmp_path / "c.json", texts=[str(texts)])

    assert status == 1
    assert [one["verdict"] for one in found["artefacts"]] == ["passed", "FAILED"]


def test_an_adapter_that_changes_next_to_nothing_can_not_be_told(base, texts, tmp_path):
    weak = strong_adapter(base, tmp_path / "weak", std=0.005)
    merged = merge(base, weak, tmp_path / "merged", dtype="bfloat16")
    status, found = certify(base, weak, [merged], tmp_path / "c.json", texts=[str(texts)])

    one = found["artefacts"][0]
    assert (status, one["verdict"]) == (1, "cannot tell")
    assert one["control"]["kl"] < one["bound"]["kl"]
    assert "the adapter changes too little on these texts" in one["reasons"][0]


def test_the_certificate_names_what_was_compared(base, adapter, texts, tmp_path, capsys):
    merged = merge(base, adapter, tmp_path / "merged", dtype="float16")
    _, found = certify(base, adapter, [merged], tmp_path / "deep/c.json", texts=[str(texts)])
    hashes = tool("verify_sha256")
    hashes.main(hashes.VerifyFlags(model_path=str(merged), write_manifest=True))
    manifest = json.loads((merged / "SHA256.json").read_text(encoding="utf-8"))

    one = found["artefacts"][0]
    assert one["sha256"][str(merged)]["tensors"] == manifest["tensors_sha256"]
    assert one["sha256"][str(merged)]["files"] == {name: file["sha256"] for name, file in manifest["files"].items()}
    assert found["base"]["sha256"]["tensors"] != manifest["tensors_sha256"]
    assert set(found["adapters"][0]["sha256"]["files"]) >= {"adapter_config.json", "adapter_model.safetensors"}
    assert found["versions"]["torch"] == torch.__version__
    assert found["perplexity"]["base + adapters"] < found["perplexity"]["base"]
    assert set(one["distance"]["effect"]) >= {"all", "block 0", "block 1", "q_proj", "down_proj"}
    assert len(one["distance"]["prefix"]) == 4
    shown = capsys.readouterr().out
    assert re.search(r"^passed +float16 .* 100\.0% .* same +same +.*merged$", shown, re.MULTILINE)
    assert "1 of 1 passed" in shown
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["c.json"]


def test_a_folder_that_is_not_what_its_manifest_says_fails(base, adapter, texts, tmp_path):
    merged = merge(base, adapter, tmp_path / "merged", dtype="float32")
    hashes = tool("verify_sha256")
    hashes.main(hashes.VerifyFlags(model_path=str(merged), write_manifest=True))
    damaged = changed(merged, tmp_path / "damaged", lambda one: one["model.norm.weight"].mul_(1.0001))
    status, found = certify(base, adapter, [damaged, merged], tmp_path / "c.json", texts=[str(texts)])

    assert status == 1
    assert [one["verdict"] for one in found["artefacts"]] == ["FAILED", "passed"]
    assert "is not what SHA256.json in it says" in found["artefacts"][0]["reasons"][0]


def test_a_template_written_otherwise_that_renders_the_same_is_the_same(base, adapter, texts, tmp_path):
    merged = merge(base, adapter, tmp_path / "merged", dtype="float32")
    file = merged / "chat_template.jinja"
    file.write_text("{#- by hand -#}" + file.read_text(encoding="utf-8"), encoding="utf-8")
    bare = tmp_path / "bare"
    shutil.copytree(merged, bare)
    (bare / file.name).unlink()
    _, found = certify(base, adapter, [merged, bare], tmp_path / "c.json", texts=[str(texts)])

    assert [one["verdict"] for one in found["artefacts"]] == ["passed", "FAILED"]
    assert found["artefacts"][1]["reasons"] == ["it has no template"]


def test_another_stop_id_is_found(base, adapter, texts, tmp_path):
    merged = merge(base, adapter, tmp_path / "merged", dtype="float32")
    file = merged / "generation_config.json"
    file.write_text(json.dumps({"bos_token_id": 1, "eos_token_id": [2, 300]}), encoding="utf-8")
    _, found = certify(base, adapter, [merged], tmp_path / "c.json", texts=[str(texts)])

    assert found["artefacts"][0]["reasons"] == ["it declares answers end at 2 and 300 (expected 2)"]


def test_an_adapter_of_another_architecture_is_refused(shared, base, tmp_path):
    pythia = shared / "lora/pythia70m-lora-alpaca"

    with pytest.raises(UserError, match=r"changes gpt_neox.* does not have: it was trained on another kind of base"):
        certify(base, pythia, [base], tmp_path / "c.json")


def refused() -> dict:
    return {
        "nothing to compare": ({"export": []}, "--export is empty: name what was exported, or pass --bits 8 4"),
        "no adapter": ({"lora_path": []}, "--lora_path is empty"),
        "sixteen bits": ({"bits": [16]}, "--bits 16 is not compared; expected 8, 4 or both"),
        "no tokens": ({"max_new_tokens": 0}, "--max_new_tokens 0 is too small"),
        "not there": ({"export": ["/nowhere/merged"]}, "--export /nowhere/merged does not exist"),
        "not texts": ({"texts": ["nothing.jsonl"]}, "--texts nothing.jsonl does not exist"),
        "too long": ({"max_new_tokens": 512}, "none leaves room for an answer in the base's context of 512"),
        "other type": ({"prompt_type": "text", "texts": ["README.md"]}, r"--texts README.md ends in '.md'"),
    }


@pytest.mark.parametrize("name", refused())
def test_what_can_not_be_compared_is_refused_before_time_is_spent(base, adapter, tmp_path, name):
    flags, said = refused()[name]
    settings = {"model_path": str(base), "lora_path": [str(adapter)], "export": [str(base)], **flags}

    with pytest.raises(UserError, match=said):
        verify.main(verify.CertificateFlags(out_path=str(tmp_path / "c.json"), **settings))
    assert not (tmp_path / "c.json").exists()


def test_folders_that_are_no_model_and_certificates_that_exist_are_refused(base, adapter, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "c.json").write_text("{}", encoding="utf-8")

    with pytest.raises(UserError, match=r"expected a folder with config.json .* found nothing"):
        certify(base, adapter, [tmp_path / "empty"], tmp_path / "new.json")
    with pytest.raises(UserError, match="is an adapter; name what was made of it"):
        certify(base, adapter, [adapter], tmp_path / "new.json")
    with pytest.raises(UserError, match=r"c.json exists; name another file, or pass --overwrite"):
        certify(base, adapter, [base], tmp_path / "c.json")


@needs_cpp
def test_an_adapter_file_needs_its_base_and_one_adapter(base, adapter, tmp_path):
    file = to_gguf(base, tmp_path / "adapter.gguf", "f32", lora_path=str(adapter))
    on = to_gguf(base, tmp_path / "base.gguf", "f16")

    with pytest.raises(UserError, match="is an adapter: name the GGUF of its base with --base_gguf"):
        certify(base, adapter, [file], tmp_path / "c.json")
    again = strong_adapter(base, tmp_path / "again", seed=2)
    with pytest.raises(UserError, match=r"holds one adapter, --lora_path names 2: compare it with its own"):
        certify(base, [adapter, again], [file], tmp_path / "c.json", base_gguf=[str(on)])


def test_the_program_ends_with_status_1_when_something_fails(program, base, adapter, texts, tmp_path):
    flags = ["--model_path", base, "--lora_path", adapter, "--texts", texts, "--max_new_tokens", 4]
    done = program("tools/verify_export.py", *flags, "--export", base, "--out_path", tmp_path / "c.json")

    assert done.returncode == 1, done.stderr
    assert "FAILED" in done.stdout
    assert "Traceback" not in done.stderr


def test_gptq_is_compared_like_any_folder(base, adapter, texts, tmp_path):
    pytest.importorskip("gptqmodel", reason="gptqmodel is not installed: GPTQ is quantised and opened by it")
    from transformers import AutoModelForCausalLM, AutoTokenizer, GPTQConfig

    merged = merge(base, adapter, tmp_path / "merged", dtype="float32")
    lines = (ROOT / "sample/instruct/data_sample.jsonl").read_text(encoding="utf-8").splitlines()[:64]
    rows = [json.loads(line)["output"] for line in lines]
    tokenizer = AutoTokenizer.from_pretrained(merged)
    settings = GPTQConfig(bits=4, group_size=64, dataset=rows, tokenizer=tokenizer)
    model = AutoModelForCausalLM.from_pretrained(merged, quantization_config=settings, device_map="cpu")
    model.save_pretrained(tmp_path / "gptq")
    for file in merged.iterdir():
        if not (tmp_path / "gptq" / file.name).exists() and file.suffix != ".safetensors":
            shutil.copyfile(file, tmp_path / "gptq" / file.name)
    _, found = certify(base, adapter, [tmp_path / "gptq"], tmp_path / "c.json", texts=[str(texts)])

    assert found["artefacts"][0]["type"] == "gptq 4 bit"
    assert found["artefacts"][0]["reasons"] == []


def test_an_adapter_beside_the_base_is_not_the_base_and_one_in_the_export_fails_it(base, adapter, texts, tmp_path):
    merged = merge(base, adapter, tmp_path / "merged")
    beside = Path(shutil.copytree(base, tmp_path / "beside"))
    spoilt = Path(shutil.copytree(merged, tmp_path / "spoilt"))
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copyfile(adapter / name, beside / name)
        shutil.copyfile(adapter / name, spoilt / name)
    _, plain = certify(base, adapter, [merged], tmp_path / "plain.json", texts=[str(texts)])
    _, found = certify(beside, adapter, [merged, spoilt], tmp_path / "c.json", texts=[str(texts)])

    assert one_of(found, merged)["verdict"] == "passed"
    assert one_of(found, spoilt)["reasons"] == [
        "an adapter lies in it, which transformers loads together with it: move adapter_config.json and "
        "adapter_model.* out of the folder."
    ]
    assert found["perplexity"] == plain["perplexity"]
    assert found["base"]["sha256"]["tensors"] == plain["base"]["sha256"]["tensors"]


def test_a_base_stored_at_8_bits_is_compared_as_what_its_weights_stand_for(base, adapter, texts, tmp_path):
    settings = BitsAndBytesConfig(load_in_8bit=True)
    model = AutoModelForCausalLM.from_pretrained(base, quantization_config=settings, device_map={"": "cpu"})
    model.save_pretrained(tmp_path / "stored")
    for file in base.iterdir():
        if not (tmp_path / "stored" / file.name).exists() and file.suffix != ".safetensors":
            shutil.copyfile(file, tmp_path / "stored" / file.name)
    merged = merge(tmp_path / "stored", adapter, tmp_path / "merged")
    flags = {"texts": [str(texts)], "bits": [8]}
    status, found = certify(tmp_path / "stored", adapter, [merged], tmp_path / "c.json", **flags)

    assert status == 0, [one["reasons"] for one in found["artefacts"]]
    assert found["base"]["stored"] == "bitsandbytes 8 bit"
    flags["bits"] = [4]
    with pytest.raises(UserError, match=r"--bits 4: the weights in .* are bitsandbytes 8 bit, and are used as"):
        certify(tmp_path / "stored", adapter, [merged], tmp_path / "d.json", **flags)


def test_every_type_that_can_be_exported_has_a_bound():
    types = {f"gguf {kind}" for kind in (*PLAIN_TYPES, *QUANTISED_TYPES)} | {"8 bit", "4 bit", *FOLDERS}

    assert types <= BOUNDS.keys()


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_documents_have_the_bounds_of_the_program(language):
    page = (ROOT / f"docs/{language}/certificate.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w ]+)` \| ((?:\d\S* \(\S+\) ?\|? ?){6})\|?$", page, re.MULTILINE)
    cells = {kind: [re.match(r"[\d.e+-]+", cell)[0] for cell in row.split(" | ")] for kind, row in rows}

    assert {kind: [float(one) for one in found] for kind, found in cells.items()} == {
        kind: list(vars(bound).values()) for kind, bound in BOUNDS.items()
    }
