"""A published base from its GGUF to a tuned GGUF, with few steps; scripts/real_base.sh does it for real."""

import json

import pytest

from tests.answer.modes import chosen_for
from tests.export.tool_models import tool
from tests.gguf.gguf_models import export
from tests.served import assistant_of
from tests.train.runs import train
from vicuna.answer.flags import ServeFlags
from vicuna.answer.loading import load_assistant
from vicuna.model.flags import ModelFlags
from vicuna.prompt.templates import BASE

ROWS = [{"instruction": f"数字 {number} 后面是几？", "output": f"{number + 1}。"} for number in range(6)] + [
    {"instruction": "What is the capital of France?", "output": "The capital of France is Paris."}
]
SHORT = ["--bits", 8, "--cutoff_len", 64, "--total_batch", 2, "--micro_batch", 2, "--max_steps", 2, "--test_size", 1]
SHORT += ["--warmup_steps", 0]
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


def greedy(assistant) -> tuple[str, list[int]]:
    """What it answers to the question, and the ids."""
    chosen = chosen_for("greedy", max_new_tokens=8, repetition_penalty=1.0)
    *_, last = assistant.stream(assistant.prompt_ids(QUESTION), chosen, prompt_type=BASE)
    return last.text, last.beams[0].ids


@pytest.fixture(scope="module")
def tuned(program, smollm2_gguf, tmp_path_factory):
    """An adapter on the GGUF, and the file of its records."""
    place = tmp_path_factory.mktemp("real")
    records = place / "records.jsonl"
    records.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS), encoding="utf-8")
    more = [*SHORT, "--save_steps", 1, "--eval_steps", 2]
    return train(program, smollm2_gguf, records, place / "lora", *more), records, more


def test_it_is_trained_in_its_own_template(tuned):
    said = json.loads((tuned[0] / "run_args.json").read_text(encoding="utf-8"))

    assert (said["prompt_type"], said["base_file"]) == (BASE, "SmolLM2-135M-Instruct.Q4_1.gguf")
    log = (tuned[0] / "session.log").read_text(encoding="utf-8")
    assert "<|im_start|>assistant⏎ [trained on: " in log


def test_a_resumed_run_has_the_same_adapter(program, smollm2_gguf, tuned, tmp_path):
    straight, records, more = tuned
    again = train(
        program, smollm2_gguf, records, tmp_path / "again", *more, "--resume_from_checkpoint", straight / "checkpoint-1"
    )

    assert (again / "adapter_model.safetensors").read_bytes() == (straight / "adapter_model.safetensors").read_bytes()


def test_the_merged_model_and_its_gguf_answer_alike_and_are_certified(smollm2_gguf, tuned, tmp_path):
    merge, verify = tool("merge_lora"), tool("verify_export")
    merged = tmp_path / "merged"
    merge.main(merge.MergeFlags(model_path=str(smollm2_gguf), lora_path=[str(tuned[0])], out_path=str(merged)))
    file = export(merged, tmp_path / "merged.gguf", "f16")

    said, ids = greedy(assistant_of(merged))
    assert "Paris" in said
    assert greedy(load_assistant(ModelFlags(model_path=str(file)), ServeFlags())) == (said, ids)
    texts = tmp_path / "texts.jsonl"
    texts.write_text(json.dumps(ROWS[-1]) + "\n", encoding="utf-8")
    flags = {"model_path": str(smollm2_gguf), "lora_path": [str(tuned[0])], "export": [str(merged), str(file)]}
    verify.main(
        verify.CertificateFlags(out_path=str(tmp_path / "c.json"), texts=[str(texts)], max_new_tokens=4, **flags)
    )
    certificate = json.loads((tmp_path / "c.json").read_text(encoding="utf-8"))
    assert [one["reasons"] for one in certificate["artefacts"]] == [[], []]
