"""A base on several devices: split between decoder blocks only, and answering as on one."""

import copy
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from vicuna.answer.engine import GenerationRequest
from vicuna.answer.flags import ServeFlags
from vicuna.answer.hf_engine import HFEngine
from vicuna.answer.loading import load_assistant
from vicuna.answer.worker import Worker
from vicuna.errors import UserError
from vicuna.model.base import check_base, load_base
from vicuna.model.config import meta_model
from vicuna.model.flags import ModelFlags
from vicuna.model.placement import device_map

GIB = 1 << 30
SHAPES = {
    "7B": LlamaConfig(
        vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32,
    ),
    "8B, grouped heads": LlamaConfig(
        vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8,
    ),
    "tied head": LlamaConfig(
        vocab_size=151936, hidden_size=2048, intermediate_size=11008, num_hidden_layers=36, num_attention_heads=16,
        num_key_value_heads=2, tie_word_embeddings=True,
    ),
}  # fmt: skip
BYTES = {16: 2, 4: 0.5}


def place_of(name: str, places: dict[str, int]) -> int:
    """The device of a tensor: that of the longest entry it lies in."""
    within = [entry for entry in places if not entry or name == entry or name.startswith(f"{entry}.")]
    return places[max(within, key=len)]


@pytest.mark.parametrize("bits", BYTES)
@pytest.mark.parametrize("gpus", [1, 2, 3, 4])
@pytest.mark.parametrize("shape", SHAPES)
def test_decoder_blocks_are_never_split_and_a_tied_head_follows_its_embedding(shape, gpus, bits):
    model = meta_model(SHAPES[shape])
    linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)} - {"lm_head"}
    sizes = {
        name: tensor.numel() * (BYTES[bits] if name.removesuffix(".weight") in linear else 2)
        for name, tensor in model.named_parameters()  # a tied head is there once
    }
    for slack in (1.25, 1.9):
        free = {gpu: int(slack * sum(sizes.values()) / gpus) for gpu in range(gpus)}
        if max(sizes.values()) > 0.9 * free[0]:  # not even the embedding
            with pytest.raises(UserError, match="free, some of which answers need"):
                device_map(SHAPES[shape], bits, torch.float16, free)
            continue
        places = device_map(SHAPES[shape], bits, torch.float16, free)
        blocks: dict[str, set[int]] = {}
        for name in sizes:
            if ".layers." in name:
                blocks.setdefault(name.split(".layers.")[1].split(".")[0], set()).add(place_of(name, places))
        assert len(blocks) == SHAPES[shape].num_hidden_layers
        assert all(len(devices) == 1 for devices in blocks.values())
        order = [min(blocks[str(n)]) for n in range(len(blocks))]
        assert order == sorted(order)  # a token goes from each device to the next once
        if SHAPES[shape].tie_word_embeddings:
            assert place_of("lm_head.weight", places) == place_of("model.embed_tokens.weight", places)
        used = {gpu: sum(size for name, size in sizes.items() if place_of(name, places) == gpu) for gpu in free}
        assert all(used[gpu] <= free[gpu] for gpu in free)
        assert sum(map(bool, used.values())) >= min(gpus, 2)


def test_what_fits_one_gpu_easily_stays_there():
    assert device_map(SHAPES["7B"], 8, torch.float16, {0: 16 * GIB, 1: 16 * GIB}) == {"": 0}
    assert set(device_map(SHAPES["7B"], 16, torch.float16, {0: 16 * GIB, 1: 16 * GIB}).values()) == {0, 1}


def test_gpus_of_different_sizes_get_what_they_have_room_for():
    places = device_map(SHAPES["7B"], 16, torch.float16, {0: 4 * GIB, 1: 12 * GIB})
    blocks = [place_of(f"model.layers.{n}.mlp.up_proj.weight", places) for n in range(32)]
    assert 0 < blocks.count(0) < 10


@pytest.mark.parametrize("gpus", [1, 3])
def test_what_fits_no_gpus_is_refused_in_a_sentence(gpus):
    with pytest.raises(UserError, match=rf"the base takes 12\.6 GiB at 16 bits, and {gpus} GPUs have 4\.0.* free"):
        device_map(SHAPES["7B"], 16, torch.float16, dict.fromkeys(range(gpus), 4 * GIB))


# --- a real run ---------------------------------------------------------------------------------------------------

CHOSEN = {
    "greedy": {"do_sample": False, "num_beams": 1},
    "sampling": {"do_sample": True, "num_beams": 1, "temperature": 0.9, "top_k": 30},
    "beam search": {"do_sample": False, "num_beams": 3},
    "beam sampling": {"do_sample": True, "num_beams": 3, "temperature": 0.9, "top_k": 30},
}
LENGTHS = {"max_new_tokens": 12, "min_new_tokens": 12, "repetition_penalty": 1.2}


@pytest.fixture(scope="module")
def base(tiny_base: Path):
    return check_base(str(tiny_base))


@pytest.fixture(scope="module")
def whole(base):
    return load_base(base, 32).eval()


@pytest.fixture(scope="module")
def halved(base, tmp_path_factory):
    """The tiny base with one of its two blocks offloaded to the disk by accelerate."""
    places = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk"}
    places |= {"model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    model = AutoModelForCausalLM.from_pretrained(
        base.path, device_map=places, offload_folder=tmp_path_factory.mktemp("offloaded"), dtype=torch.float32
    )
    model.generation_config = base.generation_config
    assert model.model.layers[1].mlp.up_proj.weight.is_meta
    assert not model.model.layers[0].mlp.up_proj.weight.is_meta
    return model.eval()


def test_half_of_the_blocks_on_the_disk_give_the_same_logits(whole, halved):
    ids = torch.tensor([[1, *range(300, 360)]])
    with torch.inference_mode():
        assert torch.equal(whole(ids).logits, halved(ids).logits)


@pytest.mark.parametrize("mode", CHOSEN)
def test_half_of_the_blocks_on_the_disk_give_the_same_answers(base, whole, halved, mode):
    worker, found = Worker(), []
    for model in (whole, halved):
        engine = HFEngine(base, model, {}, 1)
        turns = []
        ids = [1, *range(300, 640)]
        for _ in range(2):  # the second with what the first left in the prefix cache
            *_, last = engine.stream(GenerationRequest(ids, {**CHOSEN[mode], **LENGTHS}, 3), worker.submit)
            turns.append([beam.ids for beam in last.beams])
            ids = ids + last.beams[0].ids + [5, 6]
        found.append((turns, engine.embed([[1, 300, 301], [1, 500]], "")))
    assert found[0] == found[1]


def test_inputs_go_to_the_device_of_the_embedding(base, whole):
    """On a machine without a second device: one of PyTorch's that computes nothing shows where tensors were made."""
    moved = copy.deepcopy(whole)
    moved.set_input_embeddings(moved.get_input_embeddings().to("meta"))
    seen = []

    def look(module, args) -> None:
        seen.append(args[0].device.type)
        raise RuntimeError("seen")

    moved.get_input_embeddings().register_forward_pre_hook(look)
    engine, worker = HFEngine(base, moved, {}, 0), Worker()
    asked = GenerationRequest([1, *range(300, 640)], {**CHOSEN["greedy"], **LENGTHS}, 3)
    with pytest.raises(UserError, match="seen"):
        list(engine.stream(asked, worker.submit))
    with pytest.raises(RuntimeError, match="seen"):
        engine.embed([[1, 5]], "")
    assert seen == ["meta"] * 2


def test_one_device_is_named_as_it_was(tiny_base):
    assistant = load_assistant(ModelFlags(model_path=str(tiny_base), bits=32), ServeFlags())
    assert assistant.where == "32 bit, float32 · CPU"
