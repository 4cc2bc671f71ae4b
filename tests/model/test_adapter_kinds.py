"""The table of what each use can do with each kind of LoRA, walked for real: it works, is converted, or is refused."""

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from tests.answer.adapters import loaded
from tests.export.tool_models import tool
from tests.model.kinds_of_lora import EXAMPLES, Example, Made, make_example, make_lora
from tests.model.tiny_adapters import IDS, base_model, logits
from vicuna.answer.assistant import Assistant
from vicuna.api.vllm_server import VllmFlags, vllm_argv
from vicuna.errors import UserError
from vicuna.files.tensors import write_model
from vicuna.model.adapter import load_adapter, plan_adapter, save_adapter
from vicuna.model.adapter_files import read_adapter_tensors, train_kind
from vicuna.model.adapter_kinds import KINDS, Kind, Use, kinds_of
from vicuna.model.base import check_base
from vicuna.model.flags import LoraFlags
from vicuna.model.found import adapter_file

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def made(tiny_base, tmp_path_factory) -> Callable[[str], Made]:
    """An adapter by its name in EXAMPLES; each is made once."""
    return cache(lambda name: make_example(name, tiny_base, tmp_path_factory.mktemp("kind")))


def kinds(folder: Path) -> list[Kind]:
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    return kinds_of(config, read_adapter_tensors(adapter_file(folder)))


def far(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max())


def asked(assistant: Assistant, name: str) -> torch.Tensor:
    """Logits with an adapter in use, or with none."""
    with assistant.engine._using(name):
        return logits(assistant.engine.model)


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Callable[[Path], Path]:
    """A base quantised by GPTQ; each is once."""
    pytest.importorskip("gptqmodel", reason="bash scripts/install_gptq.sh")
    from tests.quantise.quantising import quantise

    folder = tmp_path_factory.mktemp("packed")
    return cache(lambda base: quantise(base, folder / str(len([*folder.iterdir()])), wbits=8, nsamples=2))


def answer(adapter: Made, bits: int, tmp_path: Path) -> None:
    assistant = loaded(adapter.base, [adapter.folder], bits)
    found, alone = asked(assistant, adapter.folder.name), asked(assistant, "")

    assert far(alone, logits(base_model(adapter.base, bits))) < 1e-6  # the base alone is the base
    if bits == 32:
        assert far(found, adapter.expected) < 1e-5
    # Of a base this narrow 4 bits leave little: what is looked at is what the adapter changes.
    effect, expected = (found - alone).flatten(), (adapter.expected - adapter.alone).flatten()
    assert torch.cosine_similarity(effect, expected, dim=0) > {32: 0.999, 16: 0.99, 8: 0.97, 4: 0.5}[bits]


def beside(adapter: Made, made: Callable[[str], Made]) -> None:
    """Plain LoRA, and what replaces the embeddings and the head; on a base with biases what changes these."""
    names = ("gaussian", "embeddings and head saved", "bias all", "bias lora_only")
    others = [one for one in map(made, names) if one.base == adapter.base and one is not adapter]
    for order in ([*others, adapter], [adapter, *others]):
        assistant = loaded(adapter.base, [one.folder for one in order])
        assert list(assistant.choices) == [*(one.folder.name for one in order), ""]
        for one in order:
            assert far(asked(assistant, one.folder.name), one.expected) < 1e-5
        assert far(asked(assistant, ""), adapter.alone) < 1e-6


def train(adapter: Made, tmp_path: Path) -> None:
    flags = LoraFlags(train=train_kind(read_adapter_tensors(adapter_file(adapter.folder))), lora_dropout=0.0)
    config, flags, _ = plan_adapter(check_base(str(adapter.base)), flags, adapter.folder)
    model, _ = load_adapter(base_model(adapter.base), adapter.folder, str(adapter.base), trainable=True, dropout=0.0)
    assert far(logits(model), adapter.expected) < 1e-5
    assert model.peft_config["default"].r == config.r == flags.lora_r

    model.train()(IDS, labels=IDS).loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter -= parameter.grad
    save_adapter(model, tmp_path / "again")
    assert far(logits(model), adapter.expected) > 0.01
    assert far(logits(load_adapter(base_model(adapter.base), tmp_path / "again", "")[0]), logits(model)) < 1e-5


def merge(adapter: Made, tmp_path: Path, certified: bool) -> None:
    merge_lora, verify = tool("merge_lora"), tool("verify_export")
    paths = {"model_path": str(adapter.base), "lora_path": [str(adapter.folder)]}
    merge_lora.main(merge_lora.MergeFlags(out_path=str(tmp_path / "merged"), prompt_type="instruct", **paths))
    assert far(logits(base_model(tmp_path / "merged")), adapter.expected) < 1e-5

    if not certified:
        return
    texts = tmp_path / "texts.jsonl"
    texts.write_text(json.dumps({"instruction": "一年有几个季节？", "output": "四个。"}), encoding="utf-8")
    flags = {
        "export": [str(tmp_path / "merged")],
        "texts": [str(texts)],
        "prompt_type": "instruct",
        "max_new_tokens": 2,
    }
    verify.main(verify.CertificateFlags(out_path=str(tmp_path / "c.json"), **flags, **paths))


def gguf(adapter: Made, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp", reason="bash scripts/install_cpp.sh")
    from tests.gguf.gguf_models import export, gguf_logits

    lora = export(adapter.base, tmp_path / "lora.gguf", "f32", lora_path=str(adapter.folder))
    base = export(adapter.base, tmp_path / "base.gguf", "f32")
    assert far(gguf_logits(base, IDS[0].tolist(), lora_path=str(lora)), adapter.expected[0]) < 1e-4


def serve(adapter: Made) -> None:
    """vLLM itself is not here: what is looked at is the command line."""
    argv = vllm_argv(VllmFlags(model_path=str(adapter.base), lora_path=[str(adapter.folder)]))
    assert argv[-1].endswith(str(adapter.folder))


def on_base(adapter: Made, base: Path) -> Made:
    """An adapter on another base."""
    return Made(adapter.folder, base, adapter.expected, adapter.alone)


def use(which: Use, name: str, adapter: Made, made: Callable[[str], Made], tmp_path: Path) -> None:
    """Do it, and look at what comes of it."""
    if which is Use.FLOAT:
        answer(adapter, 32, tmp_path)
        answer(adapter, 16, tmp_path)
    elif which in (Use.EIGHT_BITS, Use.EIGHT_BITS_ON_CPU, Use.FOUR_BITS):
        answer(adapter, 4 if which is Use.FOUR_BITS else 8, tmp_path)
    elif which is Use.PACKED:
        answer(adapter, 8, tmp_path)
    elif which is Use.BESIDE:
        beside(adapter, made)
    elif which is Use.TRAIN:
        train(adapter, tmp_path)
    elif which is Use.MERGE:
        first = next(example for example, other in EXAMPLES.items() if other.kind == EXAMPLES[name].kind)
        merge(adapter, tmp_path, certified=name == first)  # the certificate takes longest
    elif which is Use.GGUF:
        gguf(adapter, tmp_path)
    else:
        serve(adapter)


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("which", [one for one in Use if one is not Use.EIGHT_BITS], ids=lambda one: one.name.lower())
def test_what_the_table_says_is_so(made, tmp_path, monkeypatch, request, which, name):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    adapter = made(name)
    uses = {which, Use.EIGHT_BITS} if which is Use.EIGHT_BITS_ON_CPU else {which}
    refusals = [kind for kind in kinds(adapter.folder) if uses & kind.refused.keys()]
    if which is Use.PACKED:
        adapter = on_base(adapter, request.getfixturevalue("packed")(adapter.base))
    if not refusals:
        use(which, name, adapter, made, tmp_path)
        return
    # On a base of nothing but zeros: it is refused before one of its values is read.
    empty = shutil.copytree(adapter.base, tmp_path / "empty")
    if which is not Use.PACKED:  # whose weights are looked at first
        weights = load_file(empty / "model.safetensors")
        save_file({name: torch.zeros_like(one) for name, one in weights.items()}, empty / "model.safetensors")
    with pytest.raises(UserError, match=r"adapter_config\.json says|which vLLM does not serve"):
        use(which, name, on_base(adapter, empty), made, tmp_path)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_kind_has_an_example_that_is_told_as_it(made, kind):
    names = [name for name, example in EXAMPLES.items() if example.kind in kind.name]

    assert names
    for name in names:
        assert kind in kinds(made(name).folder)


@pytest.mark.parametrize("page", ["en", "zh"])
def test_the_documents_have_the_same_table(page):
    lines = (ROOT / f"docs/{page}/adapters.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    words = {"works": "✓", "converted": "→", "refused": "–"}

    table = [row[1:] for row in rows if set(row[1:]) <= set(words.values())]

    assert table == [[words[kind.verdict(one)] for one in Use] for kind in KINDS]
    if page == "en":
        assert [row[0] for row in rows if set(row[1:]) <= set(words.values())] == [kind.name for kind in KINDS]


@pytest.mark.parametrize("name", ["pissa", "pissa, rslora, patterns", "olora", "pissa, dora"])
def test_what_is_converted_is_what_peft_itself_loads(made, name):
    """PEFT takes out of the base what the adapter begins with; the base is then no longer the base."""
    adapter = made(name)
    by_peft = PeftModel.from_pretrained(base_model(adapter.base), adapter.folder)
    ours, notice = load_adapter(base_model(adapter.base), adapter.folder, str(adapter.base))

    assert far(logits(ours), logits(by_peft)) < 1e-5
    assert "it is used as the plain LoRA of rank 8 that it equals" in notice
    with by_peft.disable_adapter():
        assert far(logits(by_peft), adapter.alone) > 0.3


def test_what_is_converted_is_what_peft_itself_converts(tiny_base, made, tmp_path):
    """save_pretrained with path_initial_model_for_weight_conversion needs what the adapter began with."""
    adapter = made("pissa")
    model = PeftModel.from_pretrained(base_model(tiny_base), adapter.folder, is_trainable=True)
    begun = begun_as_pissa(tiny_base, tmp_path / "begun")
    model.save_pretrained(tmp_path / "plain", path_initial_model_for_weight_conversion=str(begun))
    ours, _ = load_adapter(base_model(tiny_base), adapter.folder, str(tiny_base))
    theirs = load_file(tmp_path / "plain/adapter_model.safetensors")

    for name, layer in ours.named_modules():
        if name.endswith("_proj") and hasattr(layer, "lora_A"):
            expected = 2.0 * theirs[f"{name}.lora_B.weight"] @ theirs[f"{name}.lora_A.weight"]
            assert torch.allclose(layer.get_delta_weight("default"), expected, atol=1e-5)


def begun_as_pissa(base: Path, folder: Path) -> Path:
    """An adapter as PiSSA begins, untrained."""
    settings = {"init_lora_weights": "pissa", "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
    model = get_peft_model(base_model(base), LoraConfig(r=4, lora_alpha=8, **settings))
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def steep_base(tiny_base, tmp_path) -> Path:
    """The tiny base, its query and value weights with four directions that stand out: found alike by every search."""
    folder = shutil.copytree(tiny_base, tmp_path / "steep")
    tensors = load_file(folder / "model.safetensors")
    for name, weight in tensors.items():
        if name.endswith(("q_proj.weight", "v_proj.weight")):
            u, s, vh = torch.linalg.svd(weight)
            tensors[name] = u @ torch.diag(torch.cat([s[:4], s[4:] / 20])) @ vh
    (folder / "model.safetensors").unlink()
    write_model(folder, tensors)
    return folder


def test_a_beginning_that_is_drawn_is_taken_where_every_draw_is_the_same(tiny_base, steep_base, tmp_path):
    drawn = Example("PiSSA", {"init_lora_weights": "pissa_niter_8"})
    folder, expected = make_lora(steep_base, tmp_path / "steep-lora", drawn)
    assert far(logits(load_adapter(base_model(steep_base), folder, "")[0]), expected) < 1e-3

    folder, _ = make_lora(tiny_base, tmp_path / "flat-lora", drawn)
    with pytest.raises(UserError, match=r"drawn: two of them differ by \d+% of what the adapter changes, so the one"):
        load_adapter(base_model(tiny_base), folder, "")
