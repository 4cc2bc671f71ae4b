"""Training on a GGUF file, asking it with the adapter, and merging: the file itself is the base."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from tests.answer.gguf_assistants import GREEDY, answered
from tests.export.tool_models import tool
from tests.gguf.byte_level_models import ROOT, write_gguf
from tests.gguf.gguf_models import distance, hf_logits
from vicuna.answer.decoding import DecodingFlags
from vicuna.answer.flags import ServeFlags
from vicuna.answer.loading import check_beams, load_assistant
from vicuna.errors import UserError
from vicuna.model.base import check_base, fingerprint, load_base
from vicuna.model.flags import ModelFlags
from vicuna.prompt.templates import prompt_ids

IDS = [1, 40, 300, 7, 8, 9, 500, 33]
RUN = [
    "--bits", 32, "--cutoff_len", 128, "--total_batch", 4, "--micro_batch", 2, "--test_size", 2, "--warmup_steps", 1,
    "--data_path", ROOT / "sample/instruct/data_sample.jsonl", "--save_steps", 2, "--eval_steps", 2,
    "--learning_rate", 3e-2, "--prompt_type", "base", "--max_steps", 3,
]  # fmt: skip


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    write_gguf(folder / "other.gguf", kind="Q8_0")
    return write_gguf(folder / "x.gguf", kind="Q4_1")


@pytest.fixture(scope="module")
def run(file, program, tmp_path_factory) -> tuple[Path, str]:
    """The adapter of three steps, the last of which was taken again from a checkpoint, and what was said."""
    output = tmp_path_factory.mktemp("run") / "adapter"
    said = ""
    for more in ([], ["--resume_from_checkpoint", output / "checkpoint-2"]):
        done = program("finetune.py", "--model_path", file, "--output_path", output, *RUN, *more)
        assert done.returncode == 0, done.stderr[-3000:]
        said += done.stderr
    return output, said


def test_the_plan_says_from_which_types_and_the_adapter_names_the_file(file, run):
    output, said = run
    assert f"base      {file}  Llama" in said
    assert "from 16 Q4_1, 5 F32 of a GGUF" in said
    assert "Could not find a config" not in said
    assert "vicuna-gguf-" not in said
    assert f"python generate.py --model_path {file} --lora_path" in said
    facts = json.loads((output / "run_args.json").read_text(encoding="utf-8"))
    assert (facts["step"], facts["base_file"], facts["prompt_type"]) == (3, "x.gguf", "base")
    assert facts["exact"]["base_fingerprint"] == fingerprint(file)
    config = json.loads((output / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == str(file)
    assert json.loads((output / "checkpoint-2/adapter_config.json").read_text(encoding="utf-8")) == config


def test_a_run_does_not_go_on_with_another_file_of_the_folder(file, run, program):
    output, _ = run
    other = file.with_name("other.gguf")
    again = ["--resume_from_checkpoint", output / "checkpoint-2"]
    done = program("finetune.py", "--model_path", other, "--output_path", output, *RUN, *again)
    assert done.returncode == 1
    assert "begun with base_fingerprint" in done.stderr.replace("--", "")


def test_questions_with_it_are_answered_by_transformers(file, run):
    output, _ = run
    assistant = load_assistant(ModelFlags(str(file), 32), ServeFlags(cache_gib=0), [str(output)])
    assert assistant.where.startswith("GGUF dequantised, in transformers · 32 bit")
    base = check_base(str(file))
    ids = prompt_ids(base.tokenizer, "base", [{"role": "user", "content": "你好"}])
    model = PeftModel.from_pretrained(load_base(base, 32), output).eval()
    expected = model.generate(input_ids=torch.tensor([ids]), max_new_tokens=8, do_sample=False)[0, len(ids) :]
    assert answered(assistant, ids, {**GREEDY, "max_new_tokens": 8}) == expected.tolist()
    assert next(iter(assistant.choices.values())).prompt_type == "base"
    alone = load_assistant(ModelFlags(str(file)), ServeFlags())
    assert "llama.cpp" in alone.where
    assert answered(alone, ids, {**GREEDY, "max_new_tokens": 1})


def test_beams_and_layers_are_told_by_what_answers(file, run):
    output, _ = run
    check_beams(str(file), DecodingFlags(num_beams=2), [str(output)])
    with pytest.raises(UserError, match=r"beam search, which llama\.cpp does not have"):
        check_beams(str(file), DecodingFlags(num_beams=2), ["x-lora.gguf"])
    with pytest.raises(UserError, match=r"--gpu_layers 3 .*x\.gguf is opened in transformers, for an adapter"):
        load_assistant(ModelFlags(str(file)), ServeFlags(gpu_layers=3), [str(output)])
    with pytest.raises(UserError, match=r"is a GGUF adapter, for llama\.cpp, and others .* name adapters of one kind"):
        load_assistant(ModelFlags(str(file)), ServeFlags(), [str(output), "x-lora.gguf"])


def test_a_merge_is_file_and_adapter(file, run, tmp_path):
    from transformers import AutoModelForCausalLM

    output, _ = run
    merge = tool("merge_lora")
    flags = {"lora_path": [str(output)], "out_path": str(tmp_path / "merged")}
    with pytest.raises(UserError, match=r"was trained on another base than .*other\.gguf"):
        merge.main(merge.MergeFlags(model_path=str(file.with_name("other.gguf")), **flags))
    merge.main(merge.MergeFlags(model_path=str(file), **flags))
    expected = hf_logits(PeftModel.from_pretrained(load_base(check_base(str(file)), 32), output).eval(), IDS)
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32).eval()
    assert distance(hf_logits(found, IDS), expected) < 1e-5
    assert next(iter(load_file(tmp_path / "merged/model.safetensors").values())).dtype == torch.float32
    assert check_base(str(tmp_path / "merged")).tokenizer.encode("1. 你好") == check_base(str(file)).tokenizer.encode(
        "1. 你好"
    )


def test_programs_that_read_folders_themselves_refuse_it(file, tmp_path):
    quantise = tool("quant_llama")
    with pytest.raises(UserError, match=r"the quantiser reads a model's folder itself.*convert_gguf\.py .*x\.gguf"):
        quantise.main(
            quantise.QuantiseFlags(
                str(file), str(ROOT / "sample/instruct/quickstart.json"), wbits=4, save=str(tmp_path / "q")
            )
        )
