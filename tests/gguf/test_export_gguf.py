"""tools/export_gguf.py: the GGUF has the model's logits, its tokenizer's ids and its template, or is not written."""

import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from sentencepiece import SentencePieceProcessor

from tests.gguf.gguf_models import distance, export, gguf_logits, hf_logits, hf_model, make_model, tool

pytest.importorskip("gguf", reason="gguf is not installed: bash scripts/install_cpp.sh")
pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed: bash scripts/install_cpp.sh")

from vicuna.errors import UserError
from vicuna.gguf.modelfile import modelfile
from vicuna.gguf.reader import GENERATION, PROMPT_TYPE, read, read_model
from vicuna.gguf.writer import fallbacks
from vicuna.prompt.chat_template import chat_template
from vicuna.prompt.templates import PROMPT_TYPES, TEMPLATES, prompt_ids, render
from vicuna.prompt.tokenizer import TextTokenizer

REAL = ("stories260K", "babyllama-tok105", "poem-zh-750k")
ROPE = {"rope_theta": 10000.0}
SHAPES = {
    "plain": {},
    "grouped heads, tied head": {"num_key_value_heads": 2, "tie_word_embeddings": True},
    "biases": {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 2},
    "wide heads": {"head_dim": 16, "num_key_value_heads": 1},
    "rope theta": {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}},
    "rope linear": {"rope_parameters": {**ROPE, "rope_type": "linear", "factor": 4.0}},
    "rope dynamic": {"rope_parameters": {**ROPE, "rope_type": "dynamic", "factor": 4.0}},
    "rope yarn": {
        "rope_parameters": {**ROPE, "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
    },
    "rope llama3": {
        "rope_parameters": {
            **ROPE, "rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 64,
            "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        }
    },
    "epsilon": {"rms_norm_eps": 1e-3},
}  # fmt: skip
# Largest difference of logits as a share of the largest logit. llama.cpp rounds activations to the weights' type.
BOUNDS = {"f32": 3e-5, "f16": 6e-3, "bf16": 5e-2}
ROUNDED = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


@pytest.fixture(scope="module")
def tokenizer_model(tiny_base) -> Path:
    return tiny_base / "tokenizer.model"


def drawn_ids(size: int, count: int = 200) -> list[int]:
    draw = random.Random(1)
    return [1, *(draw.randrange(3, size) for _ in range(count))]


@pytest.mark.parametrize("kind", BOUNDS)
@pytest.mark.parametrize("name", REAL)
def test_the_logits_of_a_real_model_are_those_of_its_folder(shared, tmp_path, name, kind):
    folder = shared / f"models/{name}-hf"
    model = hf_model(folder, ROUNDED[kind])
    ids = drawn_ids(model.config.vocab_size, 100)

    file = export(folder, tmp_path / "x.gguf", kind)

    assert distance(gguf_logits(file, ids), hf_logits(model, ids)) < BOUNDS[kind]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_logits_are_those_of_the_folder_for_every_shape(tmp_path, tokenizer_model, shape):
    folder = make_model(tmp_path / "hf", tokenizer_model, **SHAPES[shape])
    ids = drawn_ids(1800)

    file = export(folder, tmp_path / "x.gguf", "f32")

    assert distance(gguf_logits(file, ids), hf_logits(hf_model(folder), ids)) < BOUNDS["f32"]


def test_a_model_in_shards_and_in_16_bits_is_the_same(tmp_path, tokenizer_model):
    folder = make_model(tmp_path / "hf", tokenizer_model, dtype=torch.bfloat16)
    shards = tmp_path / "shards"
    shards.mkdir()
    shutil.copy(tokenizer_model, shards)
    hf_model(folder, torch.bfloat16).to(torch.bfloat16).save_pretrained(shards, max_shard_size="100KB")
    assert len(list(shards.glob("model-*.safetensors"))) > 2

    whole, parts = (export(one, tmp_path / f"{one.name}.gguf", "bf16") for one in (folder, shards))

    ids = drawn_ids(1800, 20)
    assert torch.equal(gguf_logits(whole, ids), gguf_logits(parts, ids))
    assert read_model(str(parts)).types["token_embd.weight"] == "BF16"


def test_weights_of_2023_in_a_bin_file_are_read(tmp_path, tokenizer_model):
    folder = make_model(tmp_path / "hf", tokenizer_model)
    old = tmp_path / "old"
    shutil.copytree(folder, old)
    (old / "model.safetensors").unlink()
    state = hf_model(folder).state_dict()
    state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)  # as LLaMA's first conversions had it
    torch.save(state, old / "pytorch_model.bin")

    files = [export(one, tmp_path / f"{one.name}.gguf", "f32") for one in (folder, old)]

    assert torch.equal(*(gguf_logits(file, drawn_ids(1800, 20)) for file in files))


def test_a_model_that_bitsandbytes_keeps_is_taken_as_what_it_stands_for(tmp_path, tokenizer_model, capsys):
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    folder = make_model(tmp_path / "hf", tokenizer_model)
    kept = tmp_path / "int8"
    settings = BitsAndBytesConfig(load_in_8bit=True)
    model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=settings, device_map={"": "cpu"})
    model.save_pretrained(kept)
    shutil.copy(tokenizer_model, kept)

    file = export(kept, tmp_path / "x.gguf", "f32")

    ids = drawn_ids(1800, 40)
    assert 0 < distance(gguf_logits(file, ids), hf_logits(hf_model(folder), ids)) < 0.05
    assert "is kept at 8 bits" in capsys.readouterr().err


# For random weights, hidden size 256: a trained model loses far less.
QUANTISED_BOUNDS = {"q8_0": 0.08, "q6_k": 0.3, "q5_k_m": 0.45, "q4_k_m": 0.8, "q4_0": 1.0}


@pytest.fixture(scope="module")
def wide(tmp_path_factory, tokenizer_model) -> Path:
    """Hidden 256, so that every type's blocks fit."""
    return make_model(
        tmp_path_factory.mktemp("wide") / "wide", tokenizer_model,
        hidden_size=256, intermediate_size=768, num_attention_heads=8, num_key_value_heads=4, initializer_range=0.06,
    )  # fmt: skip


@pytest.mark.parametrize("kind", QUANTISED_BOUNDS)
def test_llama_cpp_quantises_without_a_fallback_where_blocks_fit(wide, tmp_path, capsys, kind):
    file = export(wide, tmp_path / "x.gguf", kind, strict=True)

    ids = drawn_ids(1800, 60)
    assert distance(gguf_logits(file, ids), hf_logits(hf_model(wide), ids)) < QUANTISED_BOUNDS[kind]
    types = read_model(str(file)).types
    assert types["blk.0.attn_q.weight"] == kind.removesuffix("_m").upper()
    printed = capsys.readouterr().out
    for name in ("token_embd.weight", "output.weight"):
        assert any(line.split() == [name, types[name]] for line in printed.splitlines())
    assert file.stat().st_size < 0.35 * (wide / "model.safetensors").stat().st_size
    assert [one.name for one in tmp_path.iterdir() if one.name.startswith(".")] == []


def test_types_that_differ_between_blocks_are_printed_with_their_blocks(wide, tmp_path, capsys):
    file = export(wide, tmp_path / "x.gguf", "q4_k_m")

    types = read_model(str(file)).types
    expected = [types[f"blk.{block}.attn_v.weight"] for block in (0, 1)]
    (line,) = [one for one in capsys.readouterr().out.splitlines() if one.startswith("blk.*.attn_v.weight")]
    assert set(expected) == {"Q4_K", "Q6_K"}
    assert all(f"{kind} ({block})" in line for block, kind in enumerate(expected))


def test_a_fallback_is_named_and_fails_under_strict(tmp_path, tokenizer_model, capsys):
    folder = make_model(tmp_path / "hf", tokenizer_model, intermediate_size=72)
    file = export(folder, tmp_path / "x.gguf", "q8_0")

    found = read_model(str(file))
    assert fallbacks(found, "q8_0") == {"blk.0.ffn_down.weight": "F16", "blk.1.ffn_down.weight": "F16"}
    assert (
        "2 tensors have rows that q8_0 can not divide into its blocks: blk.0.ffn_down.weight F16"
        in capsys.readouterr().err
    )
    with pytest.raises(UserError, match=r"blk\.0\.ffn_down\.weight F16.*Nothing was written"):
        export(folder, tmp_path / "y.gguf", "q8_0", strict=True)
    assert not (tmp_path / "y.gguf").exists()


def test_a_k_type_falls_back_where_rows_are_narrow(tmp_path, tokenizer_model):
    folder = make_model(tmp_path / "hf", tokenizer_model)

    with pytest.raises(UserError, match="tensors have rows that q4_k_m can not divide"):
        export(folder, tmp_path / "x.gguf", "Q4_K_M", strict=True)


@pytest.fixture(scope="module")
def strange_texts() -> list[str]:
    """Thousands of strings of everything that tokenizers trip over."""
    draw = random.Random(3)
    words = [
        *("春风", "吹来", "礎", "鹉", "𠮷", "é", "ñ", "Ⅷ", "ﬁ", "🦙", "👨‍👩‍👧", "한국"),
        *("\u3000", "\u00a0", "\ufeff", "\u200a"),
        *(" ", "  ", "   ", "\n", "\r\n", "\t", "▁", "</s>", "<s>", "<unk>", "<0x41>", "[PAD1800]", "### Instruction:"),
        *("the", "The quick", "ing", "12:30", "0x1F", "#", '"', "def f(x):", "a", "A", "\x00", "\x7f"),
    ]  # fmt: skip
    return ["".join(draw.choices(words, k=draw.randrange(12))) for _ in range(2000)]


def same_ids(file: Path, folder: Path, texts: list[str]) -> None:
    tokenizer, expected = read_model(str(file)).tokenizer(), TextTokenizer(folder)
    names = ("bos_id", "eos_id", "unk_id", "size")
    assert [getattr(tokenizer, name) for name in names] == [getattr(expected, name) for name in names]
    spm = SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    for text in texts:
        ids = spm.encode(text)
        assert tokenizer.encode(text) == ids, text
        assert tokenizer.encode_continuation(text) == expected.encode_continuation(text), text
        assert tokenizer.decode_continuation(ids) == expected.decode_continuation(ids), text


@pytest.mark.parametrize("name", REAL)
def test_the_tokenizer_inside_is_sentencepiece_itself(shared, tmp_path, strange_texts, name):
    folder = shared / f"models/{name}-hf"

    same_ids(export(folder, tmp_path / "x.gguf", "f16"), folder, strange_texts)


@pytest.mark.parametrize("name", ["llama", "chinese-llama-merged", "chinese-llama-2"])
def test_the_tokenizer_inside_is_sentencepiece_itself_for_large_vocabularies(shared, tmp_path, strange_texts, name):
    tokenizer = shared / f"tokenizers/{name}/tokenizer.model"
    folder = make_model(tmp_path / "hf", tokenizer, hidden_size=8, num_attention_heads=1, num_hidden_layers=1)

    same_ids(export(folder, tmp_path / "x.gguf", "f16"), folder, strange_texts)


def test_rows_above_the_tokenizer_are_named_padding_and_are_no_text(tmp_path, tiny_base, tokenizer_model):
    folder = make_model(tmp_path / "hf", tokenizer_model, vocab_size=1808)
    (folder / "added_tokens.json").write_text('{"[PAD]": 1800}', encoding="utf-8")

    file = export(folder, tmp_path / "x.gguf", "f32")

    found = read_model(str(file))
    assert found.keys["tokenizer.ggml.tokens"][1799:] == [
        found.keys["tokenizer.ggml.tokens"][1799], "[PAD]", *(f"[PAD{row}]" for row in range(1801, 1808)),
    ]  # fmt: skip
    assert found.keys["tokenizer.ggml.token_type"][1800:] == [3] + 7 * [5]
    tokenizer, expected = found.tokenizer(), TextTokenizer(tiny_base)
    for text in ("[PAD]", "[PAD1803] x", "春天"):
        assert tokenizer.encode(text) == expected.encode(text)
    assert tokenizer.decode_continuation([1800, 1807]) == ""
    ids = drawn_ids(1808, 50)
    assert distance(gguf_logits(file, ids), hf_logits(hf_model(folder), ids)) < BOUNDS["f32"]


def test_what_the_model_declares_travels_along(tmp_path, tokenizer_model):
    folder = make_model(tmp_path / "hf", tokenizer_model)
    declared = {"bos_token_id": 1, "eos_token_id": [2, 9], "suppress_tokens": [0, 7], "repetition_penalty": 1.3}
    (folder / "generation_config.json").write_text(json.dumps(declared), encoding="utf-8")
    (folder / "run_args.json").write_text('{"prompt_type": "chat"}', encoding="utf-8")

    file = export(folder, tmp_path / "x.gguf", "f32")

    keys = read_model(str(file)).keys
    assert json.loads(keys[GENERATION]) == declared
    assert keys[PROMPT_TYPE] == "chat"
    assert keys["tokenizer.chat_template"] == chat_template("chat")
    assert [keys[f"tokenizer.ggml.{name}_token_id"] for name in ("bos", "eos", "unknown")] == [1, 2, 0]
    assert (keys["llama.context_length"], keys["tokenizer.ggml.add_bos_token"]) == (512, True)
    assert (tmp_path / "Modelfile").read_text(encoding="utf-8") == modelfile("x.gguf", "chat", 512, [0, 7])


def test_the_folders_own_chat_template_wins(tmp_path, tokenizer_model):
    folder = make_model(tmp_path / "hf", tokenizer_model)
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}", encoding="utf-8")

    file = export(folder, tmp_path / "x.gguf", "f32", prompt_type="chat")

    assert read_model(str(file)).keys["tokenizer.chat_template"] == "{{ messages[0]['content'] }}"


DIALOGUE = [
    {"role": "user", "content": "你好！"},
    {"role": "assistant", "content": "您好。\n有什么可以帮助您的？"},
    {"role": "user", "content": "Tell me about 春天 🦙."},
]


@pytest.mark.parametrize("prompt_type", PROMPT_TYPES)
def test_llama_cpp_makes_our_prompt_ids_of_the_template_inside(tmp_path, tokenizer_model, prompt_type):
    """As its server does, with its own tokenizer, where nobody types a control token."""
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter

    from vicuna.gguf.library import load_llama_cpp

    folder = make_model(tmp_path / "hf", tokenizer_model)
    file = export(folder, tmp_path / "x.gguf", "f16", prompt_type=prompt_type)
    messages = DIALOGUE if TEMPLATES[prompt_type].turn else DIALOGUE[-1:]

    keys = read_model(str(file)).keys
    formatter = Jinja2ChatFormatter(keys["tokenizer.chat_template"], eos_token="</s>", bos_token="<s>")
    text = formatter(messages=messages).prompt
    assert text.replace("</s>", "") == "<s>" + render(prompt_type, messages)
    llama = load_llama_cpp().Llama(str(file), vocab_only=True, verbose=False)
    ids = llama.tokenize(text.encode(), add_bos=False, special=True)
    llama.close()
    expected = prompt_ids(read_model(str(file)).tokenizer(), prompt_type, messages)
    if prompt_type != "chat_eos":
        assert ids == expected
    else:  # llama.cpp's tokenizer puts a space behind </s>, which ours, that chat.py uses with a GGUF, does not
        at = expected.index(2) + 1
        assert (ids[:at], ids[-8:]) == (expected[:at], expected[-8:])
        assert ids != expected


@pytest.mark.parametrize("prompt_type", PROMPT_TYPES)
def test_a_modelfile_says_what_it_stands_for(prompt_type):
    text = modelfile("x.gguf", prompt_type, 2048, [])
    template = text.split('"""')[1]

    assert "FROM ./x.gguf\n" in text
    assert "PARAMETER num_ctx 2048\n" in text
    question = (
        template.replace("{{ .Prompt }}", "问？").replace("{{ .Content }}", "问？").replace("{{ .Response }}", "")
    )
    for line in render(prompt_type, [{"role": "user", "content": "问？"}]).splitlines():
        assert line in question
    assert 'PARAMETER stop "</s>"' in text


def test_a_modelfile_of_another_file_is_left_alone(tmp_path, tokenizer_model):
    folder = make_model(tmp_path / "hf", tokenizer_model)
    (tmp_path / "Modelfile").write_text("FROM llama2\n", encoding="utf-8")

    export(folder, tmp_path / "x.gguf", "f32")

    assert (tmp_path / "Modelfile").read_text(encoding="utf-8") == "FROM llama2\n"
    assert "FROM ./x.gguf" in (tmp_path / "x.Modelfile").read_text(encoding="utf-8")


def edit(folder: Path, **values: object) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, **values}), encoding="utf-8")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "is quantised with gptq, from which"),
        ({"hidden_act": "gelu"}, "computes with gelu"),
        ({"rope_parameters": {**ROPE, "rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 256,
                              "attention_factor": 1.3}}, "RoPE scaling"),
        ({"intermediate_size": 65}, r"is \(64, 32\), but \(65, 32\) follows from config\.json"),
        ({"num_hidden_layers": 3}, r"lack 9 tensors, such as model\.layers\.2"),
    ],
)  # fmt: skip
def test_what_can_not_become_a_gguf_is_refused(tmp_path, tokenizer_model, values, said):
    folder = make_model(tmp_path / "hf", tokenizer_model)
    edit(folder, **values)

    with pytest.raises(UserError, match=said):
        export(folder, tmp_path / "out/x.gguf", "f32")
    assert not list((tmp_path / "out").glob("*")) if (tmp_path / "out").exists() else True


def test_another_architecture_is_refused(tmp_path, tokenizer_model):
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    config = GPTNeoXConfig(
        vocab_size=1800, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8,
        bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    GPTNeoXForCausalLM(config).save_pretrained(tmp_path / "hf")
    shutil.copy(tokenizer_model, tmp_path / "hf")

    with pytest.raises(UserError, match="is of type gpt_neox; GGUF export is for LLaMA's architecture"):
        export(tmp_path / "hf", tmp_path / "x.gguf", "f32")


def test_a_folder_without_tokenizer_model_is_refused(tmp_path, tiny_base):
    shutil.copytree(tiny_base, tmp_path / "hf")
    (tmp_path / "hf/tokenizer.model").unlink()

    with pytest.raises(UserError, match=r"has no tokenizer\.model, of which the GGUF's vocabulary is made"):
        export(tmp_path / "hf", tmp_path / "x.gguf", "f32")


@pytest.mark.parametrize(("value", "kind"), [(1e5, "f16"), (float("nan"), "f32")])
def test_weights_that_the_type_can_not_hold_are_refused(tmp_path, tokenizer_model, value, kind):
    from safetensors.torch import load_file, save_file

    folder = make_model(tmp_path / "hf", tokenizer_model)
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 3] = value
    save_file(weights, folder / "model.safetensors", {"format": "pt"})

    with pytest.raises(UserError, match=r"model\.layers\.1\.mlp\.up_proj\.weight .* not finite, or too large for"):
        export(folder, tmp_path / "x.gguf", kind)
    assert [file.name for file in tmp_path.iterdir()] == ["hf"]


def test_an_existing_file_is_only_replaced_when_told_to(tmp_path, tokenizer_model):
    folder = make_model(tmp_path / "hf", tokenizer_model)
    (tmp_path / "x.gguf").write_text("mine", encoding="utf-8")

    with pytest.raises(UserError, match=r"--out_path \S+x\.gguf exists"):
        export(folder, tmp_path / "x.gguf", "f32")
    assert (tmp_path / "x.gguf").read_text(encoding="utf-8") == "mine"
    assert read_model(str(export(folder, tmp_path / "x.gguf", "f32", overwrite=True))).context == 512


def test_the_checks_alone_write_nothing_and_are_those_of_the_export(tmp_path, tokenizer_model):
    folder = make_model(tmp_path / "hf", tokenizer_model)
    (folder / "model.safetensors").write_text("never read", encoding="utf-8")

    assert not export(folder, tmp_path / "new/x.gguf", "q8_0", plan_only=True).parent.exists()
    (folder / "tokenizer.model").unlink()
    with pytest.raises(UserError, match="tokenizer"):
        export(folder, tmp_path / "new/x.gguf", "q8_0", plan_only=True)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({}, r"--out_path \(missing\) is to be the name of a \.gguf file"),
        ({"out_path": "x.bin"}, r"--out_path x\.bin is to be the name of a \.gguf file"),
        ({"out_path": "x.gguf", "type": "q9"}, "--type q9 is unknown; expected one of f32, f16"),
        ({"out_path": "x.gguf", "type": "q4_0", "lora_path": "a"}, "--type q4_0 is too coarse for an adapter"),
        ({"out_path": "x.gguf", "prompt_type": "poem"}, "--prompt_type poem is unknown; expected one of instruct"),
    ],
)
def test_flags_that_can_not_be_meant_are_refused(flags, said):
    with pytest.raises(UserError, match=said):
        tool().ExportFlags(**flags)


def test_the_program_itself_exports(program, tmp_path, tokenizer_model):
    folder = make_model(tmp_path / "hf", tokenizer_model)
    done = program("tools/export_gguf.py", "--model_path", folder, "--out_path", tmp_path / "x.gguf", "--type", "q8_0")

    assert done.returncode == 0, done.stderr
    assert f"wrote {tmp_path / 'x.gguf'} (" in done.stdout.splitlines()[-1]
    assert read_model(str(tmp_path / "x.gguf")).types["blk.1.attn_k.weight"] == "Q8_0"
    assert "Traceback" not in done.stderr
    assert "llama_" not in done.stderr  # nothing of the library's own talk


# Adapters


def make_adapter(base: Path, folder: Path, **config: object) -> Path:
    """A random LoRA adapter for `base`; beside a low-rank head PEFT saves that of the base."""
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(hf_model(base), LoraConfig(task_type="CAUSAL_LM", **config))
    torch.manual_seed(5)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    return folder


def with_adapter(base: Path, folder: Path, ids: list[int]) -> torch.Tensor:
    from peft import PeftModel

    return hf_logits(PeftModel.from_pretrained(hf_model(base), folder).eval(), ids)


ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ADAPTERS = {
    "query and value": {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]},
    "every layer, ranks and alphas of their own": {
        "r": 4, "lora_alpha": 8, "target_modules": ALL,
        "rank_pattern": {"k_proj": 2, "layers.1.self_attn.q_proj": 6}, "alpha_pattern": {"down_proj": 32},
    },
    "rank-stabilised": {"r": 4, "lora_alpha": 8, "target_modules": ALL, "use_rslora": True},
    "head": {"r": 4, "lora_alpha": 8, "target_modules": ["lm_head", "k_proj"]},
}  # fmt: skip


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_on_its_base_has_the_logits_of_base_and_adapter(tmp_path, tokenizer_model, name):
    base = make_model(tmp_path / "hf", tokenizer_model, num_key_value_heads=2)
    folder = make_adapter(base, tmp_path / "adapter", **ADAPTERS[name])
    ids = drawn_ids(1800, 60)

    file = export(base, tmp_path / "base.gguf", "f32")
    adapter = export(base, tmp_path / "a.gguf", "f32", lora_path=str(folder))

    alone, expected = gguf_logits(file, ids), with_adapter(base, folder, ids)
    assert distance(gguf_logits(file, ids, lora_path=str(adapter)), expected) < BOUNDS["f32"]
    assert distance(alone, expected) > 0.05


@pytest.mark.parametrize("layout", ["peft-safetensors", "peft-bin", "checkpoint-200"])
def test_real_adapters_of_every_layout(shared, tmp_path, layout):
    base = shared / "models/poem-zh-750k-hf"
    folder = shared / "lora/poem-zh-lora-generated/r8-qv" / layout
    ids = drawn_ids(2048, 60)

    file = export(base, tmp_path / "base.gguf", "f32")
    adapter = export(base, tmp_path / "a.gguf", "f32", lora_path=str(folder))

    expected = with_adapter(base, folder.parent / "peft-safetensors", ids)
    assert distance(gguf_logits(file, ids, lora_path=str(adapter)), expected) < BOUNDS["f32"]
    assert read(str(adapter), "--lora_path").keys["adapter.lora.alpha"] == 16
    assert "ADAPTER ./a.gguf" in (tmp_path / "a.Modelfile").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, r"has \S*lm_head\S*, for which .*merge it"),
        ({"target_modules": ["q_proj"], "use_dora": True}, r"has \S*lora_magnitude_vector\S*, for which"),
    ],
)
def test_an_adapter_with_more_than_lora_is_refused(tmp_path, tokenizer_model, config, said):
    base = make_model(tmp_path / "hf", tokenizer_model)
    folder = make_adapter(base, tmp_path / "adapter", **config)

    with pytest.raises(UserError, match=said):
        export(base, tmp_path / "a.gguf", "f32", lora_path=str(folder))


def test_an_adapter_of_another_base_is_refused(shared, tmp_path):
    with pytest.raises(UserError, match="was trained on a base whose"):
        export(
            shared / "models/stories260K-hf", tmp_path / "a.gguf", "f32",
            lora_path=str(shared / "lora/poem-zh-lora-generated/r8-qv/peft-safetensors"),
        )  # fmt: skip


def test_the_head_of_tied_embeddings_takes_no_adapter(tmp_path, tokenizer_model):
    base = make_model(tmp_path / "hf", tokenizer_model, tie_word_embeddings=True)
    folder = make_adapter(base, tmp_path / "adapter", target_modules=["lm_head"])

    with pytest.raises(UserError, match=r"has lm_head, for which llama\.cpp's adapters have no place"):
        export(base, tmp_path / "a.gguf", "f32", lora_path=str(folder))


@pytest.fixture
def trained(shared, tmp_path) -> Path:
    """A real checkpoint as a run of this program leaves it, sealed, with the fingerprint of its base."""
    from vicuna.model.base import fingerprint
    from vicuna.train.checkpoint import seal

    output = tmp_path / "run"
    folder = output / "checkpoint-200"
    shutil.copytree(shared / "lora/poem-zh-lora-generated/r8-qv/checkpoint-200", folder)
    exact = {"base_fingerprint": fingerprint(shared / "models/poem-zh-750k-hf")}
    for place in (output, folder):
        (place / "run_args.json").write_text(json.dumps({"prompt_type": "text", "exact": exact}), encoding="utf-8")
    seal(folder)
    return folder


def test_a_checkpoint_is_exported_while_it_is_whole(shared, trained, tmp_path):
    base = shared / "models/poem-zh-750k-hf"
    assert export(base, tmp_path / "a.gguf", "f32", lora_path=str(trained)).is_file()
    file = trained / "pytorch_model.bin"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(UserError, match=r"checkpoint-200 is torn: pytorch_model\.bin is not what was saved"):
        export(base, tmp_path / "b.gguf", "f32", lora_path=str(trained))
    file.write_bytes(whole)
    (trained / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"checkpoint-200 is torn: manifest\.json is missing: the save did not end"):
        export(base, tmp_path / "b.gguf", "f32", lora_path=str(trained))
    assert not (tmp_path / "b.gguf").exists()


def test_an_adapter_with_another_bases_fingerprint_is_refused_unless_told_otherwise(shared, trained, tmp_path):
    base = tmp_path / "other"
    shutil.copytree(shared / "models/poem-zh-750k-hf", base)
    edit(base, initializer_range=0.5)  # the same weights, and another file
    with pytest.raises(UserError, match=r"was trained on another base than .*--ignore_fingerprint True"):
        export(base, tmp_path / "a.gguf", "f32", lora_path=str(trained))
    assert not (tmp_path / "a.gguf").exists()
    assert export(base, tmp_path / "a.gguf", "f32", lora_path=str(trained), ignore_fingerprint=True).is_file()
