"""tools/prepare_llama_cpp.sh: it checks, merges, then exports, and leaves nothing behind."""

from pathlib import Path

PREPARE = "../tools/prepare_llama_cpp.sh"


def test_preparing_for_llama_cpp_checks_then_merges_then_exports(launch, tmp_path):
    out = str(tmp_path / "new/my.gguf")
    variables = {"MODEL_PATH": "/data/my llama", "LORA_PATH": "lora-A lora-B", "OUT_PATH": out, "TYPE": "q8_0"}
    more = {"PROMPT_TYPE": "chat", "DTYPE": "float16", "IGNORE_FINGERPRINT": "True"}
    check, merge, export = (call.argv for call in launch(PREPARE, "--strict", **variables, **more).calls)
    merged = merge[merge.index("--out_path") + 1]

    wanted = ["tools/export_gguf.py", "--out_path", out, "--type", "q8_0", "--prompt_type", "chat", "--model_path"]
    assert check == [*wanted, "/data/my llama", "--strict", "--plan_only"]
    assert merge == [
        *("tools/merge_lora.py", "--model_path", "/data/my llama", "--lora_path", "lora-A", "lora-B"),
        *("--out_path", merged, "--prompt_type", "chat", "--dtype", "float16", "--ignore_fingerprint", "True"),
    ]
    assert export == [*wanted, merged, "--strict"]
    assert Path(merged).name == "lora-B"
    assert list((tmp_path / "new").iterdir()) == []


def test_what_is_merged_already_is_only_exported_and_a_merge_is_kept_on_request(launch, tmp_path):
    out = {"OUT_PATH": str(tmp_path / "my.gguf")}
    calls = launch(PREPARE, MODEL_PATH="merged", LORA_PATH="", **out).calls
    assert [call.argv[0] for call in calls] == ["tools/export_gguf.py"] * 2

    kept = str(tmp_path / "kept")
    _, merge, export = (call.argv for call in launch(PREPARE, KEEP=kept, **out).calls)
    assert merge[:6] == [
        *("tools/merge_lora.py", "--model_path", "models/tiny-llama-zh", "--lora_path", "lora-Vicuna", "--out_path")
    ]
    assert merge[6] == export[-1] == kept

    (tmp_path / "kept").mkdir()
    launched = launch(PREPARE, KEEP=kept, **out)
    assert (launched.status, launched.calls) == (1, [])


def test_preparing_ends_with_the_first_mistake_and_leaves_nothing(launch, tmp_path):
    launched = launch(PREPARE, OUT_PATH=str(tmp_path / "new/my.gguf"), STATUS="3")
    assert (launched.status, len(launched.calls)) == (3, 1)
    assert not (tmp_path / "new").exists()


def test_a_disk_without_room_is_refused_before_merging(launch, tmp_path):
    with (tmp_path / "model.safetensors").open("wb") as opened:
        opened.truncate(1 << 43)  # bytes that the file claims, and does not take
    launched = launch(PREPARE, MODEL_PATH=str(tmp_path), OUT_PATH=str(tmp_path / "my.gguf"))
    assert launched.status == 1
    assert launched.only.argv[-1] == "--plan_only"
    assert "GiB are needed for a while" in launched.said
