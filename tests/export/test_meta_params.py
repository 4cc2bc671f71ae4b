"""params.json: Meta's formula for the width of the FFN, and the published sizes."""

import json
from types import SimpleNamespace

import pytest

from vicuna.export.meta_params import LlamaShape, default_shard_count, ffn_width, make_params


@pytest.mark.parametrize(
    ("hidden", "ffn"), [(4096, 11008), (5120, 13824), (6656, 17920), (8192, 22016), (8192, 28672), (64, 172), (64, 171)]
)
def test_metas_formula_gives_back_every_width(hidden, ffn):
    config = SimpleNamespace(rms_norm_eps=1e-5, rope_parameters={"rope_theta": 10000.0})
    params = make_params(config, LlamaShape(hidden, ffn, 2, 4, 4, 100))

    assert ffn_width(hidden, params["multiple_of"], params.get("ffn_dim_multiplier")) == ffn
    assert not {"n_kv_heads", "rope_theta"} & params.keys()


@pytest.mark.parametrize("size", ["7B", "13B", "30B", "65B"])
def test_published_sizes_get_their_published_params_json(shared, size):
    published = json.loads((shared / f"llama-params/{size}/params.json").read_text(encoding="utf-8"))
    hidden, heads = published["dim"], published["n_heads"]
    config = SimpleNamespace(rms_norm_eps=published["norm_eps"], rope_parameters=None)
    shape = LlamaShape(hidden, ffn_width(hidden, 256), published["n_layers"], heads, heads, 32000)

    assert make_params(config, shape) == published
    assert default_shard_count(shape) == {"7B": 1, "13B": 2, "30B": 4, "65B": 8}[size]
