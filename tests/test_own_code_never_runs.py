"""Every program and tool on a base and an adapter that name code of their own everywhere: it leaves no mark, nothing is
fetched, nothing is asked, and what is written names none."""

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.model.tiny_adapters import new_adapter
from tests.own_code import ON_AN_ADAPTER, ON_THE_HUB, add_to, plant, write_code
from vicuna.api.vllm_server import VllmFlags, vllm_argv
from vicuna.model.adapter import save_adapter
from vicuna.prompt.tokenizer import read_sentencepiece

TRAIN = [
    *("--bits", "32", "--cutoff_len", "64", "--total_batch", "2", "--micro_batch", "2", "--test_size", "2"),
    *("--warmup_steps", "1", "--save_steps", "1", "--eval_steps", "1", "--max_steps", "1"),
]


@pytest.fixture(scope="module")
def places(tiny_base, tmp_path_factory) -> dict[str, Path]:
    """A base and an adapter with code of their own, its mark, and what the programs are given beside them."""
    folder = tmp_path_factory.mktemp("planted")
    found = {name: folder / name for name in ("base", "adapter", "mark", "out", "rows.json", "text.txt", "larger")}
    plant(Path(shutil.copytree(tiny_base, found["base"])), found["mark"])
    save_adapter(new_adapter(tiny_base), found["adapter"])
    write_code(found["adapter"], found["mark"])
    add_to(found["adapter"] / "adapter_config.json", ON_AN_ADAPTER)
    records = [{"instruction": f"{i} 加 {i} 等于几？", "input": "", "output": f"{2 * i}"} for i in range(6)]
    found["rows.json"].write_text(json.dumps(records), encoding="utf-8")
    found["text.txt"].write_text("今天天气很好，我们去公园散步。" * 30, encoding="utf-8")
    found["larger"].mkdir()
    pieces = read_sentencepiece(tiny_base / "tokenizer.model")[0]
    pieces.pieces.add(piece="石榴籽", score=pieces.pieces[-1].score - 1)
    (found["larger"] / "tokenizer.model").write_bytes(pieces.SerializeToString())
    return found


def commands(places: dict[str, Path]) -> dict[str, tuple[int, list[str]]]:
    """What is run -> the status it ends with, and its words."""
    base, adapter, out, rows, text, larger = (
        str(places[name]) for name in ("base", "adapter", "out", "rows.json", "text.txt", "larger")
    )
    one = ["--model_path", base, "--lora_path", adapter]
    asked = [*one, "--bits", "32", "--max_new_tokens", "2"]
    merge = ["tools/merge_lora.py", *one, "--prompt_type", "instruct", "--out_path"]
    return {
        "generate": (0, ["generate.py", *asked, "--text", "你好"]),
        "generate at 8 bits": (0, ["generate.py", *one, "--bits", "8", "--max_new_tokens", "1", "--text", "你好"]),
        "generate at 4 bits": (0, ["generate.py", *one, "--bits", "4", "--max_new_tokens", "1", "--text", "你好"]),
        "finetune": (0, ["finetune.py", "--model_path", base, "--resume_from_checkpoint", adapter, "--data_path", rows,
                         "--output_path", f"{out}/run", *TRAIN]),
        "finetune_chat": (0, ["finetune_chat.py", "--model_path", base, "--train", "full", "--data_path", rows,
                              "--prompt_type", "instruct", "--output_path", f"{out}/full", *TRAIN]),
        "compare_answers": (0, ["tools/compare_answers.py", *one, "--bits", "32", "--questions", rows]),
        "eval_ppl": (0, ["tools/eval_ppl.py", *one, "--bits", "32", "--data", text]),
        "evaluate answers": (0, ["tools/evaluate.py", "answers", *asked, "--data_path", rows,
                                 "--output_path", f"{out}/answers"]),
        "evaluate loss": (0, ["tools/evaluate.py", "loss", *one, "--bits", "32", "--data_path", rows,
                              "--output_path", f"{out}/loss"]),
        "merge_lora": (0, [*merge, f"{out}/merged"]),
        "merge_lora to Meta's layout": (0, [*merge, f"{out}/pth", "--format", "pth"]),
        "verify_export": (0, ["tools/verify_export.py", *one, "--export", f"{out}/merged", f"{out}/pth",
                              "--texts", rows, "--prompt_type", "instruct", "--max_new_tokens", "1",
                              "--out_path", f"{out}/certificate"]),
        "export_gguf": (0, ["tools/export_gguf.py", "--model_path", base, "--type", "f32",
                            "--out_path", f"{out}/model.gguf"]),
        "export_gguf of an adapter": (0, ["tools/export_gguf.py", *one, "--out_path", f"{out}/a.gguf"]),
        "convert_llama to Meta's layout": (0, ["tools/convert_llama.py", "--input_dir", base, "--to_meta",
                                               "--output_dir", f"{out}/meta"]),
        "convert_llama": (0, ["tools/convert_llama.py", "--input_dir", f"{out}/meta", "--config_from", base,
                              "--output_dir", f"{out}/hf"]),
        "reshard": (0, ["tools/reshard.py", "2", f"{out}/meta", f"{out}/two"]),
        "expand_vocabulary": (0, ["tools/expand_vocabulary.py", "--model_path", base, "--tokenizer_path", larger,
                                  "--output_path", f"{out}/expanded"]),
        "publish_adapter": (0, ["tools/publish_adapter.py", "--model_path", f"{out}/expanded", "--original_path", base,
                                "--lora_path", adapter, "--out_path", f"{out}/published"]),
        "quant_llama": (0, ["tools/quant_llama.py", base, text, "--wbits", "16", "--eval", "--seqlen", "64"]),
        "check_data": (0, ["tools/check_data.py", "--model_path", base, "--data_path", rows]),
    }  # fmt: skip


@pytest.fixture(scope="module")
def walked(places, program) -> dict[str, dict]:
    wanted = commands(places)
    words = json.dumps([words for _, words in wanted.values()])
    done = program("tests/walked_programs.py", places["adapter"], words)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(zip(wanted, map(json.loads, done.stdout.splitlines()), strict=True))


def test_every_program_does_its_work_without_the_code(places, walked):
    odd = {name: walked[name] for name, (status, _) in commands(places).items() if walked[name]["status"] != status}

    assert odd == {}
    assert "y/N" not in "".join(one["said"] for one in walked.values())
    assert not places["mark"].exists()


def test_nothing_is_fetched(walked):
    assert {name: one["asked"] for name, one in walked.items() if one["asked"]} == {}


def test_what_is_written_has_no_code_and_names_none(places, walked):
    written = [file for file in places["out"].rglob("*") if file.is_file()]
    configs = [file for file in written if file.suffix == ".json"]

    assert len(configs) > 20
    assert [file for file in written if file.suffix == ".py"] == []
    assert [file for file in configs if "own." in (text := file.read_text("utf-8")) or ON_THE_HUB in text] == []


def test_every_tool_that_opens_a_model_is_walked(places):
    """The others open none, or one that has no config, or what quant_llama wrote."""
    others = {
        *("convert_data", "convert_gguf", "crawl_prompt", "make_tiny_llama", "merge_tokenizers", "quant_generate"),
        *("train_tokenizer", "verify_sha256"),
    }
    walked = {Path(words[0]).stem for _, words in commands(places).values() if words[0].startswith("tools/")}

    assert {file.stem for file in (ROOT / "tools").glob("*.py")} == walked | others


def test_vllm_is_not_told_to_run_code(places):
    argv = vllm_argv(VllmFlags(model_path=str(places["base"]), lora_path=[str(places["adapter"])]))

    assert "--trust-remote-code" not in argv
    assert not places["mark"].exists()


def test_no_launcher_and_no_program_has_a_switch_for_it():
    files = [*ROOT.glob("*.py"), *(ROOT / "scripts").glob("*.sh"), *(ROOT / "tools").iterdir()]
    told = re.compile(r"trust[-_]remote[-_]code(?!=False)")

    assert [file.name for file in files if file.is_file() and told.search(file.read_text(encoding="utf-8"))] == []
