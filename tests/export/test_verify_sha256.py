"""Hashes of models: the same for the same tensors in any file, and every published form of list is read."""

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.export.tool_models import random_llama, tool
from vicuna.errors import UserError
from vicuna.export import manifests
from vicuna.files.checksums import match_digest, read_checksum_list

verify, convert, reshard, merge_lora = map(tool, ("verify_sha256", "convert_llama", "reshard", "merge_lora"))


def run(folder: Path, capsys: pytest.CaptureFixture, **flags) -> tuple[int, str]:
    """The exit status, and what was printed."""
    capsys.readouterr()
    try:
        verify.main(verify.VerifyFlags(model_path=str(folder), **{name: str(one) for name, one in flags.items()}))
    except SystemExit as end:
        return end.code, capsys.readouterr().out
    return 0, capsys.readouterr().out


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def base(tiny_base, tmp_path_factory) -> Path:
    """A bfloat16 LLaMA with its manifest; do not write to it."""
    folder = random_llama(tmp_path_factory.mktemp("base") / "base", tiny_base, torch.bfloat16)
    verify.main(verify.VerifyFlags(model_path=str(folder), write_manifest=True))
    return folder


@pytest.fixture(scope="module")
def shards(base, tmp_path_factory) -> Path:
    """The same as two shards of Meta's in a folder 7B; do not write to it."""
    folder = tmp_path_factory.mktemp("meta") / "7B"
    convert.main(convert.ConvertFlags(input_dir=str(base), output_dir=str(folder), to_meta=True, num_shards=2))
    return folder


@pytest.fixture
def copy(base, tmp_path) -> Path:
    """A copy of the base to change."""
    return Path(shutil.copytree(base, tmp_path / "copy"))


def in_bin_files(base: Path, folder: Path) -> Path:
    """The base as users of 2023 had it: two .bin files with an index, and buffers that are computed today."""
    folder.mkdir()
    tensors = load_file(base / "model.safetensors")
    names = {name: f"pytorch_model-0000{1 + i % 2}-of-00002.bin" for i, name in enumerate(tensors)}
    for file in set(names.values()):
        inside = {name: tensors[name] for name in names if names[name] == file}
        torch.save({**inside, f"model.layers.{file[18]}.self_attn.rotary_emb.inv_freq": torch.ones(4)}, folder / file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": names}), encoding="utf-8")
    return folder


def test_a_tensors_hash_is_that_of_its_values(base):
    data = json.loads((base / "SHA256.json").read_text(encoding="utf-8"))
    name, tensor = "model.norm.weight", load_file(base / "model.safetensors")["model.norm.weight"]

    values = tensor.view(torch.int16).numpy().tobytes()
    assert data["tensors"][name] == {
        "dtype": "bfloat16", "shape": [64], "sha256": hashlib.sha256(values).hexdigest()
    }  # fmt: skip
    assert len(data["tensors"]) == 21
    assert data["files"]["model.safetensors"] == {
        "size": (base / "model.safetensors").stat().st_size, "sha256": sha256(base / "model.safetensors")
    }  # fmt: skip
    assert set(data["files"]) == {file.name for file in base.iterdir()} - {"SHA256.json"}


def test_the_tensors_hashes_are_the_same_in_any_file_and_any_number_of_shards(base, shards, tmp_path):
    expected = manifests.tensor_digests(base)

    assert manifests.tensor_digests(in_bin_files(base, tmp_path / "bin")) == expected
    assert manifests.tensor_digests(shards) == expected
    reshard.main(["4", str(shards), str(tmp_path / "four")])
    assert manifests.tensor_digests(tmp_path / "four") == expected


def test_a_tied_head_has_the_same_hashes_whether_it_is_stored_or_not(tiny_base, tmp_path):
    tied = random_llama(tmp_path / "tied", tiny_base, tie_word_embeddings=True)
    flags = convert.ConvertFlags(input_dir=str(tied), output_dir=str(tmp_path / "meta"), to_meta=True)
    convert.main(flags)

    assert "lm_head.weight" not in manifests.tensor_digests(tied)
    assert manifests.tensor_digests(tmp_path / "meta") == manifests.tensor_digests(tied)


def test_a_whole_folder_is_found_to_be_so(base, capsys):
    status, text = run(base, capsys)

    assert status == 0
    assert text.count("ok  ") == len(text.splitlines()) == 6


def changed_tensor(folder: Path) -> None:
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
    tensors["model.layers.1.mlp.up_proj.weight"][5, 7] += 0.5
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            changed_tensor,
            ["DIFFERS           model.safetensors", "DIFFERS           model.layers.1.mlp.up_proj.weight"],
        ),
        (lambda at: (at / "tokenizer.model").unlink(), ["MISSING           tokenizer.model"]),
        (lambda at: (at / "config.json").open("a").write(" "), ["DIFFERS           config.json: "]),
    ],
    ids=["tensor", "missing file", "config"],
)
def test_whatever_was_changed_is_named_and_ends_with_status_1(copy, capsys, change, expected):
    change(copy)
    status, text = run(copy, capsys)

    assert status == 1
    assert all(line in text for line in expected)
    assert "are not what" in text


def test_another_file_around_the_same_tensors_is_no_difference(base, copy, capsys):
    tensors = load_file(copy / "model.safetensors")
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt", "written": "by another version"})
    status, text = run(copy, capsys)

    assert status == 0
    assert "ok                model.safetensors: another file around the same tensors" in text
    assert "ok                21 tensors: all are equal" in text


def test_a_pth_is_compared_with_the_manifest_of_a_safetensors(base, shards, capsys):
    status, text = run(shards, capsys, manifest=base / "SHA256.json", tensors="1")

    assert (status, text.splitlines()[0][:28]) == (0, "ok                21 tensors")


def test_lines_of_sha256sum_are_read(copy, capsys):
    (copy / "SHA256.json").unlink()
    names = sorted(file.name for file in copy.iterdir())
    done = subprocess.run(["sha256sum", *names], cwd=copy, capture_output=True, text=True, check=True)
    (copy / "SHA256SUMS").write_text(done.stdout, encoding="utf-8")

    assert run(copy, capsys)[0] == 0
    (copy / "SHA256SUMS").write_text(done.stdout.replace("  ", " *"), encoding="utf-8")
    assert run(copy, capsys)[0] == 0
    tagged = "".join(f"SHA256 ({name}) = {sha256(copy / name)}\n" for name in names)
    (copy / "SHA256SUMS").write_text(tagged, encoding="utf-8")
    assert run(copy, capsys)[0] == 0
    (copy / "SHA256SUMS").write_text(done.stdout.replace(done.stdout[:8], "0" * 8), encoding="utf-8")
    assert run(copy, capsys)[0] == 1


def published(shards: Path, **changes: str) -> str:
    """A page in the form of the SHA256.md that Chinese-LLaMA-Alpaca publishes."""
    first, second = (sha256(shards / f"consolidated.0{i}.pth") for i in (0, 1))
    values = {"first": first, "second": second, "tokenizer": sha256(shards / "tokenizer.model"), **changes}
    return """# SHA256

**To ensure the completeness of the model, please check the following SHA256 before using them.**

#### consolidated.*.pth format (original)

| Model | Parts | SHA256 (consolidated.*.pth)                                  |
| ----- | :---: | ------------------------------------------------------------ |
| 7B    |  00   | {other} |
| 13B   |  00   | {first} |
| 13B   |  01   | {second} |

#### Tokenizer.model

| Model Type            | SHA256                                                       |
| --------------------- | ------------------------------------------------------------ |
| LLaMA (7B, 13B, 33B)  | {tokenizer} |
| Alpaca (7B, 13B, 33B) | {other} |

#### LoRA weight file: adapter_model.bin

| LoRA Model (adapter_model.bin) | SHA256 |
| --- | --- |
| Chinese-LLaMA-7B | {other} |

### Merged files (consolidated.*.pth)

| Model                   | SHA256 (PyTorch >= 1.13.0)                                   |
| ----------------------- | ------------------------------------------------------------ |
| Chinese-LLaMA-7B        | {other} |
| Chinese-LLaMA-13B       | {third}<br/>{fourth} |
| Chinese-Alpaca-Pro-7B   | TBA                                                          |

> sha256sum your-model-file
""".format(**{"other": "1" * 64, "third": "2" * 64, "fourth": "3" * 64, **values})


def test_a_table_in_markdown_says_which_model_it_is(shards, tmp_path, capsys):
    page = tmp_path / "SHA256.md"
    page.write_text(published(shards), encoding="utf-8")
    status, text = run(shards, capsys, manifest=page)

    assert status == 0
    assert text.splitlines() == [
        "ok                consolidated.00.pth: is 13B",
        "ok                consolidated.01.pth: is 13B",
        "ok                tokenizer.model: is LLaMA (7B, 13B, 33B)",
    ]
    entries = {(entry.pattern, entry.label): entry for entry in read_checksum_list(page).entries}
    assert entries["consolidated.*.pth", "Chinese-LLaMA-13B"].digests == ("2" * 64, "3" * 64)
    assert ("adapter_model.bin", "Chinese-LLaMA-7B") in entries


def test_shards_in_the_wrong_order_are_not_the_model(shards, tmp_path, capsys):
    first, second = (sha256(shards / f"consolidated.0{i}.pth") for i in (0, 1))
    (tmp_path / "SHA256.md").write_text(published(shards, first=second, second=first), encoding="utf-8")
    status, text = run(shards, capsys, manifest=tmp_path / "SHA256.md")

    assert status == 1
    assert "DIFFERS           consolidated.00.pth: is of none of 7B, 13B, Chinese-LLaMA-7B, Chinese-LLaMA-13B" in text


@pytest.mark.parametrize("form", ["{:.8}…", "{:.12}...", "{0:.8}…{1}", "{:.16}"])
def test_hashes_that_are_cut_short_prove_only_a_beginning(shards, tmp_path, capsys, form):
    digest = sha256(shards / "tokenizer.model")
    page = f"| file | SHA256 |\n|---|---|\n| `tokenizer.model` | {form.format(digest, digest[-6:])} |\n"
    (tmp_path / "short.md").write_text(page, encoding="utf-8")
    status, text = run(shards, capsys, manifest=tmp_path / "short.md")

    assert status == 0
    assert text.startswith("prefix match only tokenizer.model")
    assert "that their beginnings agree proves little" in text
    other = f"{digest[:8]}…{'0' * 6}"
    assert match_digest(other, digest) == ""


def test_a_merged_pth_of_another_pytorch_is_expected_to_differ_and_its_tensors_are_compared(
    base, shards, tmp_path, capsys
):
    merged = Path(shutil.copytree(shards, tmp_path / "merged"))
    (merged / "run_args.json").write_text('{"merged": {}}', encoding="utf-8")
    verify.main(verify.VerifyFlags(model_path=str(merged), write_manifest=True))
    for file in merged.glob("*.pth"):  # as torch.save itself writes it
        torch.save({**torch.load(file, weights_only=True), "rope.freqs": torch.ones(4)}, file)

    assert run(merged, capsys)[0] == 0
    (tmp_path / "SHA256.md").write_text(published(shards), encoding="utf-8")
    status, text = run(merged, capsys, manifest=tmp_path / "SHA256.md")
    assert status == 1
    assert "cannot tell       consolidated.00.pth" in text
    assert "Of a merged .pth this is expected" in text


def test_a_list_of_several_sizes_counts_for_the_folders_own(shards, tmp_path, capsys):
    lines = [f"{sha256(file)}  7B/{file.name}" for file in sorted(shards.iterdir())]
    (tmp_path / "sums").write_text("\n".join([*lines, f"{'4' * 64}  13B/consolidated.00.pth"]), encoding="utf-8")
    status, text = run(shards, capsys, manifest=tmp_path / "sums")

    assert (status, text.count("ok  ")) == (0, 4)
    (tmp_path / "sums").write_text("\n".join([*lines, f"{'4' * 64}  7B/consolidated.02.pth"]), encoding="utf-8")
    assert run(shards, capsys, manifest=tmp_path / "sums")[0] == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0123456789abcdef0123456789abcdef  consolidated.00.pth\n", r"is a list of MD5 or SHA-1"),
        ("nothing of the kind\n", r"holds no SHA-256; expected our JSON"),
        ('{"files": []}', r"is no manifest of this program"),
        (f"{'5' * 64}  llama.zip\n{'5' * 64}  other/x.zip", None),
        (f"| Zip | SHA256 |\n|---|---|\n| Chinese-LLaMA-7B.zip | {'5' * 64} |", None),
        (
            f"# Zip files\n| LoRA Model (.zip) | SHA256 |\n|---|---|\n| 7B | {'5' * 64} |",
            r"says nothing about the files",
        ),
    ],
)
def test_a_list_that_can_not_be_used_is_refused(base, tmp_path, capsys, text, message):
    (tmp_path / "list").write_text(text, encoding="utf-8")

    if message:
        with pytest.raises(UserError, match=message):
            run(base, capsys, manifest=tmp_path / "list")
    else:
        status, said = run(base, capsys, manifest=tmp_path / "list")
        assert (status, "MISSING" in said) == (1, True)


def test_a_manifest_is_not_written_over_and_one_must_be_there_to_check(base, tiny_base, capsys):
    with pytest.raises(UserError, match=r"SHA256\.json exists; check against it, or remove it"):
        run(base, capsys, write_manifest="1")
    with pytest.raises(UserError, match=r"has no list of hashes .*--write_manifest"):
        run(tiny_base, capsys)
    with pytest.raises(UserError, match=r"--model_path .* is no folder"):
        run(base / "none", capsys)


def test_a_folder_of_old_llama_cpp_files_is_refused_with_what_makes_a_new_one(tmp_path, capsys):
    (tmp_path / "ggml-model-q4_0.bin").write_bytes(b"tjgg" + bytes(60))

    with pytest.raises(
        UserError, match=r"ggml-model-q4_0\.bin is in a format .* python tools/export_gguf\.py --model_path"
    ):
        run(tmp_path, capsys, write_manifest="1")


def test_convert_and_merge_check_the_manifest_of_their_input(base, copy, shards, tmp_path, capsys):
    changed_tensor(copy)
    adapter = tmp_path / "adapter"  # never reached
    shutil.copytree(base, adapter)

    with pytest.raises(UserError, match=r"is not what SHA256\.json in it says, 2 files or tensors differ, such as"):
        convert.main(convert.ConvertFlags(input_dir=str(copy), output_dir=str(tmp_path / "out"), to_meta=True))
    meta = Path(shutil.copytree(shards, tmp_path / "meta"))
    (meta / "SHA256SUMS").write_text(f"{'6' * 64}  consolidated.01.pth\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"is not what SHA256SUMS in it says"):
        convert.main(convert.ConvertFlags(input_dir=str(meta), output_dir=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()
    convert.main(convert.ConvertFlags(input_dir=str(base), output_dir=str(tmp_path / "out"), to_meta=True))
    assert "is what SHA256.json in it says" in capsys.readouterr().err


def test_the_program_checks_a_folder(program, base):
    done = program("tools/verify_sha256.py", "--model_path", base)

    assert done.returncode == 0, done.stderr
    assert "ok                config.json" in done.stdout
