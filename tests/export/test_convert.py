"""Between Meta's layout and Hugging Face's: the same model, bit for bit, in any number of shards."""

import json
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoTokenizer

from tests.export.tool_models import equal, logits, random_llama, tensors_of, tool
from vicuna.errors import UserError
from vicuna.export.meta_params import LlamaShape, valid_shard_counts
from vicuna.prompt.tokenizer import TextTokenizer

convert = tool("convert_llama")


def run(source: Path, output: Path, **flags) -> Path:
    convert.main(convert.ConvertFlags(input_dir=str(source), output_dir=str(output), **flags))
    return output


@pytest.fixture(scope="module")
def grouped(tiny_base, tmp_path_factory) -> Path:
    """A bfloat16 LLaMA of 8 query and 4 key/value heads, with 1803 rows in its own head; do not write to it."""
    return random_llama(tmp_path_factory.mktemp("grouped") / "base", tiny_base, torch.bfloat16, rope_theta=5e4)


@pytest.fixture(scope="module")
def meta(grouped, tmp_path_factory) -> Path:
    """The same in two shards of Meta's; do not write to it."""
    return run(grouped, tmp_path_factory.mktemp("meta") / "7B", to_meta=True, num_shards=2)


def meta_logits(folder: Path, ids: torch.Tensor) -> torch.Tensor:
    """Meta's own way to compute a LLaMA: neighbouring values of a head are one complex number, which is turned."""
    params = json.loads((folder / "params.json").read_text(encoding="utf-8"))
    w = {name: value.double() for name, value in torch.load(folder / "consolidated.00.pth", weights_only=True).items()}
    heads = params["n_heads"]
    groups = heads // params.get("n_kv_heads", heads)
    width = params["dim"] // heads
    speeds = params.get("rope_theta", 10000.0) ** -(torch.arange(0, width, 2).double() / width)
    turns = torch.polar(torch.ones(1).double(), torch.outer(torch.arange(ids.shape[1]).double(), speeds))

    def norm(x, name):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + params["norm_eps"]) * w[name]

    def turned(x):
        pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
        return torch.view_as_real(pairs * turns[:, None]).flatten(-2)

    x = w["tok_embeddings.weight"][ids[0]]
    hidden = torch.full((len(x), len(x)), -torch.inf).double().triu(1)
    for i in range(params["n_layers"]):
        at, ff = f"layers.{i}.attention.", f"layers.{i}.feed_forward."
        y = norm(x, f"layers.{i}.attention_norm.weight")
        q, k, v = ((y @ w[f"{at}{one}.weight"].T).unflatten(-1, (-1, width)) for one in ("wq", "wk", "wv"))
        q, k, v = turned(q), turned(k).repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        scores = torch.einsum("thd,shd->hts", q, k) / width**0.5 + hidden
        x = x + torch.einsum("hts,shd->thd", scores.softmax(-1), v).flatten(1) @ w[f"{at}wo.weight"].T
        y = norm(x, f"layers.{i}.ffn_norm.weight")
        gate = torch.nn.functional.silu(y @ w[f"{ff}w1.weight"].T)
        x = x + (gate * (y @ w[f"{ff}w3.weight"].T)) @ w[f"{ff}w2.weight"].T
    return norm(x, "norm.weight") @ w["output.weight"].T


@pytest.mark.parametrize("name", ["stories260K", "poem-zh-750k", "babyllama-tok105"])
def test_real_models_in_metas_layout_have_the_logits_of_their_hugging_face_folders(shared, tmp_path, name):
    output = run(shared / f"models/{name}-meta", tmp_path / name)

    assert torch.equal(logits(output), logits(shared / f"models/{name}-hf"))
    assert equal(tensors_of(output), tensors_of(shared / f"models/{name}-hf"))


def test_metas_layout_computes_what_hugging_faces_does(grouped, tmp_path):
    folder = run(grouped, tmp_path / "meta", to_meta=True, num_shards=1)
    ids = torch.tensor([[1, 300, 500, 700, 900, 1100, 1300, 1500, 1700, 20]])

    expected = logits(grouped, torch.float64)[0]

    # Hugging Face turns in float32
    assert (meta_logits(folder, ids) - expected).abs().max() < 1e-6 * expected.abs().max()


@pytest.mark.parametrize("count", [1, 2, 4])
def test_there_and_back_again_changes_no_bit_and_no_config_field(grouped, tmp_path, count):
    meta = run(grouped, tmp_path / "meta", to_meta=True, num_shards=count)
    back = run(meta, tmp_path / "back", config_from=str(grouped))

    assert len(list(meta.glob("consolidated.*.pth"))) == count
    assert equal(tensors_of(back), tensors_of(grouped))
    before, after = (AutoConfig.from_pretrained(one).to_dict() for one in (grouped, back))
    assert {**after, "_name_or_path": ""} == {**before, "_name_or_path": ""}
    assert (back / "tokenizer.json").read_bytes() == (grouped / "tokenizer.json").read_bytes()


def test_eight_shards_as_of_the_largest_sizes(tiny_base, tmp_path):
    base = random_llama(tmp_path / "base", tiny_base, torch.float16, num_key_value_heads=8)
    meta = run(base, tmp_path / "meta", to_meta=True, num_shards=8)
    parts = [torch.load(file, weights_only=True)["output.weight"] for file in sorted(meta.glob("*.pth"))]

    assert [len(part) for part in parts] == [225] * 7 + [228]
    assert equal(tensors_of(run(meta, tmp_path / "back", config_from=str(base))), tensors_of(base))


def test_a_merged_model_keeps_its_template_in_either_layout(grouped, tmp_path):
    merged = Path(shutil.copytree(grouped, tmp_path / "merged"))
    (merged / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    (merged / "run_args.json").write_text('{"prompt_type": "chat"}', encoding="utf-8")
    back = run(run(merged, tmp_path / "meta", to_meta=True, num_shards=1), tmp_path / "back")

    for name in ("chat_template.jinja", "run_args.json"):
        assert (back / name).read_bytes() == (merged / name).read_bytes()


def test_shards_are_cut_by_rows_and_columns_and_the_last_has_the_remainder(grouped, meta):
    first, second = (torch.load(meta / f"consolidated.0{i}.pth", weights_only=True) for i in (0, 1))
    whole = tensors_of(grouped)

    assert (len(first["output.weight"]), len(second["output.weight"])) == (901, 902)
    rows, columns = ("output", "layers.1.feed_forward.w1"), ("tok_embeddings", "layers.1.feed_forward.w2")
    names = ("lm_head", "model.layers.1.mlp.gate_proj", "model.embed_tokens", "model.layers.1.mlp.down_proj")
    for i, (meta_name, name) in enumerate(zip(rows + columns, names, strict=True)):
        joined = torch.cat([first[f"{meta_name}.weight"], second[f"{meta_name}.weight"]], 0 if i < 2 else 1)
        assert torch.equal(joined, whole[f"{name}.weight"])
    assert torch.equal(first["norm.weight"], second["norm.weight"])
    assert torch.equal(first["norm.weight"], whole["model.norm.weight"])


def test_without_a_config_what_params_json_leaves_open_is_taken_for_granted_and_said(meta, tmp_path, capsys):
    back = AutoConfig.from_pretrained(run(meta, tmp_path / "back"))

    assert (back.rope_parameters["rope_theta"], back.num_key_value_heads, back.vocab_size) == (5e4, 4, 1803)
    assert (back.max_position_embeddings, back.bos_token_id, back.eos_token_id) == (2048, 1, 2)
    assert back.rms_norm_eps == 1e-6
    said = capsys.readouterr().err
    assert "max_seq_len 2048" in said
    assert "rope_theta" not in said


def test_the_converted_tokenizer_has_the_ids_of_sentencepiece_also_for_other_programs(meta, tmp_path):
    back = run(meta, tmp_path / "back")
    ours, theirs = TextTokenizer(back), AutoTokenizer.from_pretrained(back)

    for text in ("静夜思\n床前明月光", "  two spaces, (a+b)*2", "𠮷 🦙", "User:你好"):
        assert theirs(text)["input_ids"] == [ours.bos_id, *ours.encode(text)]


def test_an_equal_head_is_tied_again(tiny_base, tmp_path):
    tied = random_llama(tmp_path / "tied", tiny_base, tie_word_embeddings=True)
    back = run(run(tied, tmp_path / "meta", to_meta=True, num_shards=4), tmp_path / "back")

    assert AutoConfig.from_pretrained(back).tie_word_embeddings
    assert equal(tensors_of(back), tensors_of(tied))


def test_sizes_lie_in_their_own_folders_with_the_tokenizer_above(meta, grouped, tmp_path):
    above = tmp_path / "llama"
    shutil.copytree(meta, above / "7B")
    shutil.move(above / "7B/tokenizer.model", above / "tokenizer.model")

    assert equal(tensors_of(run(above, tmp_path / "alone")), tensors_of(grouped))
    shutil.copytree(meta, above / "13B")
    assert equal(tensors_of(run(above, tmp_path / "named", model_size="13B")), tensors_of(grouped))
    with pytest.raises(UserError, match=r"holds the sizes 13B, 7B: pass the folder of one of them"):
        run(above, tmp_path / "which")


def test_the_tokenizer_alone_is_converted(meta, tmp_path):
    output = run(meta, tmp_path / "tokenizer", model_size="tokenizer_only")

    assert sorted(file.name for file in output.iterdir()) == [
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
    ]


def test_the_original_merges_params_json_of_all_sizes_is_understood(meta, grouped, tmp_path):
    broken = tmp_path / "7B"
    shutil.copytree(meta, broken)
    params = json.loads((meta / "params.json").read_text(encoding="utf-8"))
    table = {"7B": {**params, "dim": 4096}, "13B": params, "30B": {**params, "dim": 6656}}
    (broken / "params.json").write_text(json.dumps(table), encoding="utf-8")

    assert equal(tensors_of(run(broken, tmp_path / "back")), tensors_of(grouped))


def test_llama_3s_way_to_cut_embeddings_is_understood(meta, grouped, tmp_path):
    shutil.copytree(meta, tmp_path / "7B")
    whole = tensors_of(grouped)["model.embed_tokens.weight"]
    for i, rows in enumerate((whole[:901], whole[901:])):
        file = tmp_path / f"7B/consolidated.0{i}.pth"
        torch.save({**torch.load(file, weights_only=True), "tok_embeddings.weight": rows.clone()}, file)

    assert equal(tensors_of(run(tmp_path / "7B", tmp_path / "back")), tensors_of(grouped))


def test_shards_that_cut_a_head_are_read(grouped, tmp_path):
    """No program of ours writes them, but the original's reshard did not look."""
    one = run(grouped, tmp_path / "meta", to_meta=True, num_shards=1)
    whole = torch.load(one / "consolidated.00.pth", weights_only=True)
    cuts = {"tok_embeddings": 1, "wo": 1, "w2": 1}
    for i in range(8):  # of 4 key/value heads
        parts = {}
        for name, tensor in whole.items():
            cut = cuts.get(name.split(".")[-2], 0)
            parts[name] = tensor if "norm" in name else tensor.tensor_split(8, cut)[i].clone()
        torch.save(parts, one / f"consolidated.0{i}.pth")

    assert equal(tensors_of(run(one, tmp_path / "back")), tensors_of(grouped))


def test_a_number_of_shards_that_cuts_a_head_is_refused_with_those_that_do_not(grouped, tmp_path):
    with pytest.raises(
        UserError, match=r"--num_shards 8 would split a head.* 8 query and 4 key/value heads.*work: 1, 2, 4\."
    ):
        run(grouped, tmp_path / "out", to_meta=True, num_shards=8)
    assert list(tmp_path.iterdir()) == []
    assert valid_shard_counts(LlamaShape(8192, 28672, 80, 64, 8, 32000)) == [1, 2, 4, 8]


def test_the_pth_is_a_sound_archive_and_as_torch_saves_it(meta, tmp_path):
    file = meta / "consolidated.00.pth"
    saved = tmp_path / file.name
    torch.save(torch.load(file, weights_only=True), saved)

    with zipfile.ZipFile(file) as ours, zipfile.ZipFile(saved) as theirs:
        assert ours.testzip() is None
        sums = [
            {info.filename: info.CRC for info in one.infolist() if "/data/" in info.filename} for one in (ours, theirs)
        ]
    assert len(sums[0]) > 10
    assert sums[0] == sums[1]


def test_an_existing_output_is_refused_and_not_touched(grouped, tmp_path):
    (tmp_path / "out").mkdir()

    with pytest.raises(UserError, match=r"--output_dir .*out exists; nothing is ever written over"):
        run(grouped, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def rewritten(file: Path, change: Callable[[dict], dict]) -> None:
    """A shard, or params.json, with something changed."""
    if file.suffix == ".json":
        file.write_text(json.dumps(change(json.loads(file.read_text(encoding="utf-8")))), encoding="utf-8")
    else:
        torch.save(change(torch.load(file, weights_only=True)), file)


def only_old_llama_cpp(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()
    (folder / "ggml-model-f16.bin").write_bytes(struct.pack("<I", 0x67676D6C) + bytes(64))


FIRST, SECOND, PARAMS = "consolidated.00.pth", "consolidated.01.pth", "params.json"
LOST = "layers.1.attention.wq.weight"
FAULTS = {
    "missing shard": lambda at: (at / SECOND).rename(at / "consolidated.02.pth"),
    "one shard short": lambda at: (at / SECOND).unlink(),
    "another model": lambda at: rewritten(at / SECOND, lambda one: {**one, "norm.weight": one["norm.weight"] + 1}),
    "tensor missing": lambda at: rewritten(at / FIRST, lambda one: {k: v for k, v in one.items() if k != LOST}),
    "torn": lambda at: (at / FIRST).write_bytes((at / FIRST).read_bytes()[:50000]),
    "no params": lambda at: (at / PARAMS).unlink(),
    "no tokenizer": lambda at: (at / "tokenizer.model").unlink(),
    "moe": lambda at: rewritten(at / PARAMS, lambda one: {**one, "moe": {"num_experts": 8}}),
    "heads": lambda at: rewritten(at / PARAMS, lambda one: {**one, "n_heads": 7}),
    "no number": lambda at: rewritten(at / PARAMS, lambda one: {**one, "norm_eps": "small"}),
    "no list": lambda at: rewritten(at / PARAMS, lambda one: {**one, "rope_theta": [10000.0]}),
    "deep": lambda at: (at / PARAMS).write_text('{"dim": ' + "[" * 3000 + "]" * 3000 + "}", encoding="utf-8"),
    "llama.cpp": only_old_llama_cpp,
}


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("missing shard", r"has consolidated\.02\.pth but no consolidated\.01\.pth: shards are missing"),
        ("one shard short", r"shards are missing, or belong to another model"),
        ("another model", r"differ in norm\.weight: they are not of one model"),
        ("tensor missing", r"consolidated\.00\.pth lacks 1 tensors, such as layers\.1\.attention\.wq\.weight"),
        ("torn", r"consolidated\.00\.pth has 50,000 bytes and no end: the download or the copy was broken off"),
        ("no params", r"has no params\.json: copy the one that was published"),
        ("no tokenizer", r"there is no tokenizer\.model beside the shards"),
        ("moe", r"says moe, which is LLaMA 3's or later"),
        ("heads", r"n_heads 7 and n_kv_heads 4, which do not divide"),
        ("no number", r"params\.json: norm_eps is 'small'; expected a number"),
        ("no list", r"params\.json: rope_theta is \[10000\.0\]; expected a number"),
        ("deep", r"params\.json has 3,001 lists and objects, nested 3001 deep"),
        ("llama.cpp", r"ggml-model-f16\.bin is in a format that llama\.cpp dropped in 2023.*tools/export_gguf\.py"),
    ],
)
def test_what_is_wrong_with_shards_is_said_in_a_sentence_and_nothing_is_left(meta, tmp_path, what, message):
    shutil.copytree(meta, tmp_path / "in")
    FAULTS[what](tmp_path / "in")

    with pytest.raises(UserError, match=message):
        run(tmp_path / "in", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_config_of_another_model_is_refused(meta, tiny_base, tmp_path):
    with pytest.raises(UserError, match=r"is of another model: its hidden is 32, in .* it is 64"):
        run(meta, tmp_path / "back", config_from=str(tiny_base))


def test_an_index_whose_files_are_missing_is_refused(grouped, tmp_path):
    shutil.copytree(grouped, tmp_path / "in")
    (tmp_path / "in/model.safetensors").unlink()
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (tmp_path / "in/model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")

    with pytest.raises(UserError, match=r"lacks 2 of the 2 files that .*index\.json names, such as model-00001-of"):
        run(tmp_path / "in", tmp_path / "out", to_meta=True)


def test_the_program_says_its_refusals_in_a_line(program, tmp_path):
    done = program("tools/convert_llama.py", "--input_dir", tmp_path / "none", "--output_dir", tmp_path / "out")

    assert done.returncode == 1
    assert done.stderr.startswith("convert_llama.py: error: --input_dir")
    assert done.stderr.count("\n") == 1
