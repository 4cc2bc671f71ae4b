"""What can not be quantised, or opened, is refused before any work, in a sentence that names what would work."""

import json
import re
import shutil

import pytest
import torch
from certificate_bounds import confident_llama
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.quantise.quantising import TEXT, quant_llama, quantise
from vicuna.errors import UserError
from vicuna.model.base import check_base, load_base
from vicuna.model.gptq import config_for_plain_kernels, silenced
from vicuna.quantise.settings import Settings


def flags(**more: object) -> dict:
    return {"model_path": "base", "dataset": "c4", "save": "out", **more}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"model_path": ""}, "a model and a DATASET are needed"),
        ({"dataset": ""}, "a model and a DATASET are needed"),
        ({"save": ""}, "--save is empty: name a new folder"),
        ({"save": "llama7b-4bit-128g.pt"}, "is the name of a file, and a folder is written"),
        ({"save_safetensors": "other"}, "--save out and --save_safetensors other: give one of them"),
        ({"groupsize": 100}, "--groupsize 100 is not offered: expected 32, 64, 128, or -1"),
        ({"percdamp": 1.0}, "--percdamp 1.0 is out of range"),
        ({"nsamples": 0}, "--nsamples 0 is too small"),
        ({"seqlen": 8}, "--seqlen 8 is too small: expected 16"),
        ({"batch_size": 0}, "--batch_size 0 is too small"),
        ({"seed": -1}, "--seed -1 is out of range"),
        ({"wbits": 16}, "--wbits 16 quantises nothing: it is for --eval alone"),
        ({"wbits": 16, "eval": True}, "--wbits 16 quantises nothing: it is for --eval alone, without --save"),
        ({"awq": True, "wbits": 8}, "--awq is 4 bits, not 8"),
        ({"awq": True, "groupsize": -1}, "--awq needs groups: pass --groupsize 32, 64 or 128"),
        ({"awq": True, "act_order": True}, "--act-order is of GPTQ, and does nothing with --awq"),
        ({"awq": True, "sym": True}, "--sym is of GPTQ"),
        ({"awq": True, "percdamp": 0.5}, "--percdamp is of GPTQ"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(wrong, said):
    with pytest.raises(UserError, match=said):
        quant_llama.QuantiseFlags(**flags(**wrong))


def test_a_group_that_does_not_divide_the_rows_names_those_that_do(tiny_base, tmp_path):
    odd = confident_llama(tmp_path / "odd", tiny_base, hidden_size=96, intermediate_size=160, num_attention_heads=4)
    said = r"--groupsize 128 does not divide the rows of .*q_proj.* 96 columns; what works here: --groupsize -1 or 32"
    with pytest.raises(UserError, match=said):
        quantise(odd, tmp_path / "out", groupsize=128)
    with pytest.raises(UserError, match=r"--groupsize 64 does not divide .*what works here: --groupsize 32"):
        quantise(odd, tmp_path / "out", groupsize=64, awq=True)
    assert not (tmp_path / "out").exists()


def test_a_text_without_a_long_enough_row_is_refused_and_short_rows_are_counted(base, tmp_path, capsys):
    short, some = tmp_path / "short.txt", tmp_path / "some.jsonl"
    short.write_text("好", encoding="utf-8")
    with pytest.raises(UserError, match=r"has 0 rows of 11 or more tokens: name a longer text"):
        quantise(base, tmp_path / "out", short)
    with pytest.raises(
        UserError, match=r"DATASET wikitext is not|wikitext.*A set of the hub is one of wikitext2, ptb, c4"
    ):
        quantise(base, tmp_path / "out", "wikitext")
    with pytest.raises(UserError, match=r"DATASET wikitext2 is Salesforce/wikitext on the hub, which did not give it"):
        quantise(base, tmp_path / "out", "wikitext2")
    records = [{"instruction": "好？", "output": "好。"}, {"instruction": "为什么天是蓝的？", "output": "散射。" * 9}]
    some.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in records), encoding="utf-8")
    capsys.readouterr()
    quantise(base, tmp_path / "out", some, wbits=8, prompt_type="text")
    assert re.search(r"1 rows, \d+ tokens of .* in the template text, 1 too short", capsys.readouterr().out)


def test_records_are_rendered_in_the_template_the_model_was_trained_with(base, tmp_path, capsys):
    trained = shutil.copytree(base, tmp_path / "trained")
    (trained / "run_args.json").write_text('{"prompt_type": "chat"}', encoding="utf-8")
    file = tmp_path / "records.jsonl"
    file.write_text(json.dumps({"instruction": "为什么天是蓝的？", "output": "因为散射。" * 5}), encoding="utf-8")
    made = quantise(trained, tmp_path / "out", file, wbits=8)

    assert "in the template chat" in capsys.readouterr().out
    assert json.loads((made / "quantisation.json").read_text())["calibration"]["prompt_type"] == "chat"
    assert json.loads((made / "run_args.json").read_text())["prompt_type"] == "chat"


def test_a_model_that_is_quantised_already_is_refused(quantised, tmp_path):
    with pytest.raises(UserError, match="is quantised with gptq already: take the model that it was made of"):
        quantise(quantised("gptq 4"), tmp_path / "out")


def test_what_is_written_is_compared_with_what_was_asked():
    asked = Settings("gptq", 4, 128, act_order=True)
    written = {
        "quant_method": "gptq", "bits": 4, "group_size": 64, "desc_act": True, "sym": True,
        "meta": {"true_sequential": False, "damp_percent": 0.01},
    }  # fmt: skip

    assert asked.differences(written) == ["group_size 64 instead of 128"]


def edited(folder, out, **settings):
    """A copy whose config says something else of the quantisation."""
    shutil.copytree(folder, out)
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] |= settings
    (out / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return out


@pytest.mark.parametrize("kind", ["gptq 4", "awq 4"])
def test_a_config_that_is_not_of_these_weights_is_refused(quantised, tmp_path, kind):
    for settings, said in (
        ({"group_size": 64}, r"says group_size 64, and .*q_proj .* has 4 groups of 32 in its rows of 128: correct"),
        ({"bits": 8}, r"says 8 bits, and .*q_proj .* has 4: correct the config"),
        ({"lm_head": True}, r"the head of .* is quantised, which transformers does not read"),
    ):
        odd = edited(quantised(kind), tmp_path / "odd", **settings)
        with pytest.raises(UserError, match=said):
            load_base(check_base(str(odd)), 16)
        shutil.rmtree(odd)


def test_packed_weights_without_their_config_are_refused(quantised, tmp_path):
    bare = shutil.copytree(quantised("gptq 4"), tmp_path / "bare")
    config = json.loads((bare / "config.json").read_text(encoding="utf-8"))
    del config["quantization_config"]
    (bare / "config.json").write_text(json.dumps(config), encoding="utf-8")

    with pytest.raises(UserError, match=r"are quantised by GPTQ or AWQ \(.*qweight\), and config.json beside them"):
        load_base(check_base(str(bare)), 16)


def test_a_folder_that_was_opened_and_saved_again_is_refused(quantised, tmp_path):
    path = quantised("gptq 4")
    with silenced():
        model = AutoModelForCausalLM.from_pretrained(
            path, config=config_for_plain_kernels(check_base(str(path)).config)
        )
        model.save_pretrained(tmp_path / "again")
    shutil.copy(path / "tokenizer.model", tmp_path / "again")

    with pytest.raises(UserError, match="it was saved again after it was opened, which ruins it"):
        load_base(check_base(str(tmp_path / "again")), 16)


def test_a_head_that_is_missing_is_not_made_up(quantised, tmp_path):
    odd = shutil.copytree(quantised("gptq 4"), tmp_path / "odd")
    tensors = load_file(odd / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, odd / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(UserError, match=r"lack 1 tensors, such as lm_head.weight"):
        load_base(check_base(str(odd)), 16)


def test_adapters_are_merged_first(base, quantised, tmp_path):
    from certificate_bounds import strong_adapter

    adapter = strong_adapter(base, tmp_path / "adapter")
    made = quantise(base, tmp_path / "out", TEXT, wbits=8, lora_path=[str(adapter)])
    model, alone = (load_base(check_base(str(one)), 32) for one in (made, quantised("gptq 8")))
    ids = torch.tensor([[1, 5, 9, 200, 300]])

    assert (model(ids).logits - alone(ids).logits).abs().max() > 1
    assert json.loads((made / "run_args.json").read_text())["prompt_type"] == "instruct"
    assert (made / "chat_template.jinja").is_file()


def test_words_without_a_flag_are_the_model_and_the_text(base, tmp_path, program):
    out = tmp_path / "out"
    done = program("tools/quant_llama.py", base, TEXT, "--wbits", 4, "--groupsize", 64, "--plan_only")
    assert (done.returncode, "GPTQ 4 bits, groups of 64" in done.stdout) == (0, True), done.stderr
    done = program("tools/quant_llama.py", "--wbits", 4, base, "--save", out)
    assert (done.returncode, "a model and a DATASET are needed" in done.stderr) == (2, True)
    done = program("tools/quant_llama.py", base, TEXT, "--save", out, "--eval", "--wbits", 16)
    assert done.returncode == 2


def test_eval_measures_on_what_it_was_not_quantised_on(base, tmp_path, capsys):
    quantise(base, tmp_path / "out", TEXT, wbits=8, eval=True)
    said = capsys.readouterr().out.splitlines()
    before, after = (next(line for line in said if line.startswith(word)).split() for word in ("before", "after"))

    assert float(before[2]) == pytest.approx(float(after[2]), rel=0.01)
    assert before[4:] == after[4:]
