"""Exports of bases with a template of their own: clean ones pass, and what is planted in them is found."""

import json
import re
import shutil

import pytest

from tests.certificate.certifying import CPP, certify, one_of
from tests.certificate.planted import derive
from tests.own_bases import CHATML, KINDS, write_base
from tests.served import make_adapter
from vicuna.prompt.templates import BASE
from vicuna.prompt.tokenizer_files import CHAT_TEMPLATE_FILE, TOKENIZER_CONFIG

TEXTS = [
    {"messages": [{"role": "user", "content": "你好！"}, {"role": "assistant", "content": "很高兴认识你。"}]},
    {"messages": [{"role": "user", "content": "1. 春风  42"}, {"role": "assistant", "content": "柳树绿了。\n2. 河边"}]},
]


def rewritten(folder, out, **files):
    """A copy of a model in which some JSON files say something else, or a text is another."""
    shutil.copytree(folder, out)
    for name, change in files.values():
        file = out / name
        if isinstance(change, str):
            file.write_text(change, encoding="utf-8")
        elif file.is_file():
            said = json.loads(file.read_text(encoding="utf-8"))
            file.write_text(json.dumps({**said, **change}), encoding="utf-8")
    return out


def planted(kind, merged, place):
    """Fault -> the export that has it."""
    template = (merged / CHAT_TEMPLATE_FILE).read_text(encoding="utf-8")
    eos = json.loads((merged / "generation_config.json").read_text(encoding="utf-8"))["eos_token_id"]
    one_end = {"eos_token_id": eos[0]} if isinstance(eos, list) else {"eos_token_id": 5}
    found = {
        "an end lost": rewritten(
            merged, place / "end", a=("config.json", one_end), b=("generation_config.json", one_end)
        ),
        "another template": rewritten(merged, place / "template", a=(CHAT_TEMPLATE_FILE, CHATML.replace("\\n", " "))),
    }
    if KINDS[kind][1]:
        doubled = "{{- bos_token -}}" + template
        found["BOS twice"] = rewritten(merged, place / "twice", a=(CHAT_TEMPLATE_FILE, doubled))
        found["no BOS before a text"] = rewritten(
            merged, place / "none", a=(TOKENIZER_CONFIG, {"add_bos_token": False})
        )
    return found


SAYS = {
    "an end lost": "answers end at",
    "another template": "template",
    "BOS twice": "template",
    "no BOS before a text": "BOS",
}


@pytest.fixture(scope="module", params=["chatml", "headers"])
def certified(request, tmp_path_factory):
    from tests.export.tool_models import tool

    place = tmp_path_factory.mktemp("own")
    base = write_base(place / "base", request.param)
    adapter = make_adapter(base, place / "adapter", BASE, 0)
    merge, merged = tool("merge_lora"), place / "merged"
    merge.main(merge.MergeFlags(model_path=str(base), lora_path=[str(adapter)], out_path=str(merged)))
    texts = place / "texts.jsonl"
    texts.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in TEXTS), encoding="utf-8")
    clean = {"float32": merged} | ({"f16": derive(merged, place / "f16", "f16")} if CPP else {})
    faults = planted(request.param, merged, place)
    _, data = certify(base, adapter, [*clean.values(), *faults.values()], place / "c.json", texts=[str(texts)])
    return ({name: one_of(data, path) for name, path in paths.items()} for paths in (clean, faults))


def test_clean_exports_pass_and_every_fault_is_found(certified):
    clean, faults = certified

    for found in clean.values():
        assert (found["verdict"], found["reasons"]) == ("passed", [])
    for fault, found in faults.items():
        assert found["verdict"] == "FAILED", fault
        assert re.search(SAYS[fault], " ".join(found["reasons"])), (fault, found["reasons"])


def test_an_export_that_thinks_otherwise_than_it_was_trained_is_found(tmp_path):
    from tests.export.tool_models import tool

    base = write_base(tmp_path / "base", "thinking")
    adapter = make_adapter(base, tmp_path / "adapter", BASE, 0)
    (adapter / "run_args.json").write_text(
        json.dumps({"prompt_type": BASE, "template": {"thinking": "empty"}}), encoding="utf-8"
    )
    merge, merged = tool("merge_lora"), tmp_path / "merged"
    merge.main(merge.MergeFlags(model_path=str(base), lora_path=[str(adapter)], out_path=str(merged)))
    plain = (base / CHAT_TEMPLATE_FILE).read_text(encoding="utf-8")
    thinks = rewritten(merged, tmp_path / "thinks", a=(CHAT_TEMPLATE_FILE, plain))
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in TEXTS), encoding="utf-8")
    _, data = certify(base, adapter, [merged, thinks], tmp_path / "c.json", texts=[str(texts)])

    assert one_of(data, merged)["verdict"] == "passed"
    found = one_of(data, thinks)
    assert found["verdict"] == "FAILED"
    assert "template" in " ".join(found["reasons"])
