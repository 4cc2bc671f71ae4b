"""Shards of any number from shards of any number: in the right order, with uneven rows, bit for bit."""

import itertools
import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.export.tool_models import equal, random_llama, tensors_of, tool
from vicuna.errors import UserError

convert, reshard = tool("convert_llama"), tool("reshard")


def cut(count: int, source: Path, output: Path) -> Path:
    reshard.main([str(count), str(source), str(output)])
    return output


def shards(folder: Path) -> list[dict[str, torch.Tensor]]:
    return [torch.load(file, weights_only=True) for file in sorted(folder.glob("*.pth"))]


@pytest.fixture(scope="module")
def base(tiny_base, tmp_path_factory) -> Path:
    """A LLaMA of 24 heads and 1801 rows; do not write to it."""
    sizes = {"vocab_size": 1801, "hidden_size": 96, "intermediate_size": 240, "num_attention_heads": 24}
    return random_llama(
        tmp_path_factory.mktemp("base") / "base", tiny_base, torch.float16, num_key_value_heads=12, **sizes
    )


@pytest.fixture(scope="module")
def meta(base, tmp_path_factory) -> Path:
    """The same in one shard; do not write to it."""
    folder = tmp_path_factory.mktemp("meta") / "one"
    convert.main(convert.ConvertFlags(input_dir=str(base), output_dir=str(folder), to_meta=True, num_shards=1))
    return folder


@pytest.mark.parametrize(("between", "then"), [*itertools.permutations([2, 3, 4, 12], 2)])
def test_any_number_becomes_any_other_and_one_again_without_a_changed_bit(meta, tmp_path, between, then):
    folder = cut(then, cut(between, meta, tmp_path / "between"), tmp_path / "then")
    back = cut(1, folder, tmp_path / "back")

    assert len(shards(folder)) == then
    assert equal(shards(back)[0], shards(meta)[0])
    assert (back / "tokenizer.model").read_bytes() == (meta / "tokenizer.model").read_bytes()
    assert (back / "params.json").read_bytes() == (meta / "params.json").read_bytes()


def test_the_template_of_a_merged_model_comes_along_and_its_manifest_is_checked(meta, tmp_path):
    merged = Path(shutil.copytree(meta, tmp_path / "merged"))
    (merged / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    assert (cut(2, merged, tmp_path / "two") / "chat_template.jinja").read_text(encoding="utf-8") == "{{ messages }}"

    (merged / "SHA256SUMS").write_text(f"{'6' * 64}  consolidated.00.pth\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"is not what SHA256SUMS in it says"):
        cut(3, merged, tmp_path / "three")
    assert not (tmp_path / "three").exists()


def test_what_was_cut_anew_is_still_the_same_model(meta, base, tmp_path):
    folder = cut(6, meta, tmp_path / "six")
    flags = convert.ConvertFlags(input_dir=str(folder), output_dir=str(tmp_path / "hf"), config_from=str(base))
    convert.main(flags)

    assert equal(tensors_of(tmp_path / "hf"), tensors_of(base))


def test_rows_that_do_not_divide_go_to_the_last_shard(meta, tmp_path):
    rows = [len(shard["output.weight"]) for shard in shards(cut(4, meta, tmp_path / "four"))]

    assert rows == [450, 450, 450, 451]


def test_ten_comes_after_nine_however_the_numbers_are_written(meta, tmp_path):
    folder = cut(12, meta, tmp_path / "twelve")
    for i in range(12):
        (folder / f"consolidated.{i:02d}.pth").rename(folder / f"consolidated.{i}.pth")

    assert equal(shards(cut(1, folder, tmp_path / "back"))[0], shards(meta)[0])


def test_a_shard_that_is_there_twice_is_refused(meta, tmp_path):
    folder = cut(2, meta, tmp_path / "two")
    (folder / "consolidated.1.pth").write_bytes((folder / "consolidated.01.pth").read_bytes())

    with pytest.raises(UserError, match=r"holds both consolidated\.01\.pth and consolidated\.1\.pth: remove one"):
        cut(1, folder, tmp_path / "back")


@pytest.mark.parametrize("count", [0, 5, 8])
def test_a_number_that_splits_a_head_is_refused_with_those_that_do_not(meta, tmp_path, count):
    with pytest.raises(UserError, match=rf"num_shards {count} would split a head.*work: 1, 2, 3, 4, 6, 12\."):
        cut(count, meta, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_program_takes_what_the_originals_took(program, meta, tmp_path):
    done = program("tools/reshard.py", 2, meta, tmp_path / "two")

    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "two/params.json").read_text(encoding="utf-8"))["n_heads"] == 24
    with pytest.raises(UserError, match=r"two exists; nothing is ever written over"):
        cut(2, meta, tmp_path / "two")
