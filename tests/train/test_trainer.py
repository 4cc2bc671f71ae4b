"""A training step from the inside: the loss at supervised positions alone, checkpointing, precisions, memory."""

import gc
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from random_llama import Steps, random_base, random_batch, weight_bytes
from torch.nn.functional import cross_entropy

from vicuna.model import base as base_model
from vicuna.model.adapter import save_adapter
from vicuna.model.base import checkpointing_kwargs, compute_dtype
from vicuna.prompt.templates import IGNORE_INDEX
from vicuna.train.batches import collate
from vicuna.train.loss import step_loss, supervised_positions, token_losses
from vicuna.train.trainer import compute_as_trained

CPU = torch.device("cpu")
SHAPE = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 320,
}  # fmt: skip
MIB = 2**20


def with_adapter(bits: int, dtype: torch.dtype = torch.float32, shape: dict[str, int] = SHAPE) -> PeftModel:
    """A base of random weights with an adapter that changes the output, in training mode, without dropout."""
    torch.manual_seed(0)
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "v_proj", "down_proj"])
    model = get_peft_model(random_base(shape, bits, dtype, CPU), config).train()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.normal_(std=0.05)
    return model


def ragged_batch() -> dict[str, torch.Tensor]:
    """Four rows: one with a short answer, one of answer only, one cut inside, one with nothing to learn."""
    generator = torch.Generator().manual_seed(1)
    rows = []
    for length, prompt in ((19, 12), (7, 0), (11, 3), (1, 1)):
        ids = torch.randint(3, 320, (length,), generator=generator).tolist()
        rows.append({"input_ids": ids, "labels": [IGNORE_INDEX] * prompt + ids[prompt:]})
    return collate(rows)


def gradients(model: PeftModel) -> dict[str, torch.Tensor]:
    """The adapter's gradients, taken off the model."""
    found = {name: value.grad for name, value in model.named_parameters() if value.requires_grad}
    model.zero_grad(set_to_none=True)
    return found


def assert_alike(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert value.any(), name
        assert torch.allclose(value, other[name], rtol=1e-4, atol=1e-6 * value.abs().max().item()), name


# --- the loss -----------------------------------------------------------------------------------------------------


def test_supervised_rows_alone_give_the_loss_and_gradients_of_all_logits():
    model, batch = with_adapter(32), ragged_batch()
    labels = batch.pop("labels")
    count = (labels[:, 1:] != IGNORE_INDEX).sum()

    narrow = model(**batch)
    loss = step_loss(narrow, labels, count)
    loss.backward()
    found = gradients(model)
    keep = batch.pop("logits_to_keep")
    logits = model(**batch).logits
    plain = cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORE_INDEX)
    plain.backward()

    assert narrow.logits.shape == (int(count), 320)
    assert torch.equal(keep.sum(), count)
    assert loss.item() == pytest.approx(plain.item(), rel=1e-6)
    assert_alike(found, gradients(model))


def test_padding_changes_no_loss():
    model, batch = with_adapter(32), ragged_batch()
    labels = batch.pop("labels")
    with torch.no_grad():
        together = token_losses(model(**batch).logits, labels)
        apart = []
        for i, length in enumerate((19, 7, 11)):
            own = labels[i : i + 1, :length]
            ids = batch["input_ids"][i : i + 1, :length]
            apart.append(token_losses(model(input_ids=ids, logits_to_keep=supervised_positions(own)).logits, own))

    assert torch.allclose(together, torch.cat(apart), atol=1e-5)


def test_rows_without_anything_to_learn_give_a_loss_of_zero_and_gradients_of_zero():
    model = with_adapter(32)
    batch = collate([{"input_ids": [0], "labels": [IGNORE_INDEX]}])
    labels = batch.pop("labels")

    loss = step_loss(model(**batch), labels, torch.tensor(5))
    loss.backward()

    assert loss.item() == 0
    assert not any(value.any() for value in gradients(model).values())


# --- precisions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bits", "dtype"),
    [(4, torch.bfloat16), (4, torch.float16), (8, torch.bfloat16), (8, torch.float16), (16, torch.bfloat16),
     (16, torch.float16), (32, torch.float32)],
)  # fmt: skip
def test_adapter_and_loss_are_float32_at_every_precision(bits, dtype):
    model = with_adapter(bits, dtype)
    steps = Steps(model, random_batch(2, 16, 320, CPU), dtype, learning_rate=1e-2)

    loss = steps.loss()
    first, *_ = steps.settle()
    for _ in range(5):
        last = steps.step()

    assert loss.dtype is torch.float32
    assert {value.dtype for value in steps.trainable} == {torch.float32}
    assert steps.scaler.is_enabled() == (dtype is torch.float16)
    assert last < first
    if bits == 16:
        assert {value.dtype for value in model.parameters() if not value.requires_grad} == {dtype}


def test_a_step_whose_gradient_overflows_is_skipped_and_the_scale_halved():
    model = with_adapter(8, torch.float16)
    steps = Steps(model, random_batch(2, 16, 320, CPU), torch.float16)
    steps.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120)
    before = [value.detach().clone() for value in steps.trainable]

    steps.step()

    assert steps.skipped == 1
    assert steps.scaler.get_scale() == 2.0**119
    assert all(torch.equal(value, old) for value, old in zip(steps.trainable, before, strict=True))


@pytest.mark.parametrize(("capability", "dtype"), [((7, 5), torch.float16), ((8, 6), torch.bfloat16)])
@pytest.mark.parametrize("bits", [4, 8, 16])
def test_a_gpu_that_only_emulates_bfloat16_computes_in_float16(monkeypatch, bits, capability, dtype):
    monkeypatch.setattr(base_model, "device", lambda: torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda where: capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *args: True)  # as on a 2080 Ti

    assert compute_dtype(bits)[0] is dtype


@pytest.mark.parametrize("bits", [4, 8])
def test_a_random_base_is_quantised_as_a_loaded_one(tmp_path, bits):
    from peft import prepare_model_for_kbit_training
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, LlamaConfig

    AutoModelForCausalLM.from_config(LlamaConfig(**SHAPE)).save_pretrained(tmp_path)
    base = base_model.Base(tmp_path, AutoConfig.from_pretrained(tmp_path), None, GenerationConfig())
    loaded = prepare_model_for_kbit_training(base_model.load_base(base, bits), True, checkpointing_kwargs(bits))
    made = random_base(SHAPE, bits, compute_dtype(bits)[0], CPU)

    def facts(model):
        return {name: (type(one), one.dtype, one.shape, one.requires_grad) for name, one in model.named_parameters()}

    assert facts(made) == facts(loaded)
    assert weight_bytes(made) == weight_bytes(loaded)
    assert {name: type(one) for name, one in made.named_modules()} == {
        name: type(one) for name, one in loaded.named_modules()
    }


def test_an_evaluation_at_8_bits_computes_what_is_trained():
    """bitsandbytes on a CPU evaluates by another function, where a row's result depends on those beside it."""
    model, batch = with_adapter(8), ragged_batch()
    del batch["labels"], batch["logits_to_keep"]
    trained = model(**batch).logits
    model.eval()
    with torch.no_grad():
        otherwise = model(**batch).logits
        compute_as_trained(model)
        evaluated = model(**batch).logits
        alone = model(batch["input_ids"][:1], attention_mask=batch["attention_mask"][:1]).logits
    again = model.train()(**batch).logits

    assert torch.equal(evaluated, trained)
    assert torch.equal(again, trained)
    assert torch.allclose(alone, evaluated[:1], rtol=0, atol=1e-5 * trained.abs().max().item())
    assert not torch.allclose(otherwise, trained, rtol=0, atol=1e-3 * trained.abs().max().item())


# --- checkpointing and memory -------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [4, 8, 32])
def test_activation_checkpointing_changes_neither_loss_nor_gradients(bits):
    found = []
    for on in (True, False):
        model = with_adapter(bits)
        if not on:
            model.get_base_model().activation_checkpointing_disable()
        loss = Steps(model, ragged_batch(), torch.float32).loss()
        loss.backward()
        found.append((loss.item(), gradients(model)))

    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    assert_alike(found[0][1], found[1][1])


def resident() -> int:
    """Bytes of this process in main memory."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak_since_reset(reset: bool = False) -> int:
    """The highest `resident` since the last call that reset it."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def held_between_the_passes(bits: int) -> int:
    """Bytes that a forward pass leaves for the backward pass, with activation checkpointing."""
    shape = SHAPE | {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 6}
    steps = Steps(with_adapter(bits, torch.float32, shape), random_batch(1, 1024, 320, CPU), torch.float32)
    steps.step()
    gc.collect()
    before = resident()
    loss = steps.loss()
    held = resident() - before
    loss.backward()
    return held


def peaks(bits: int, folder: Path) -> tuple[int, int, int]:
    """Bytes of the base; peak of a step, and peak while the adapter is saved, above what was there before each."""
    shape = SHAPE | {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 3 if bits == 32 else 12}
    model = with_adapter(bits, torch.float32, shape)
    steps = Steps(model, random_batch(1, 64, 320, CPU), torch.float32)
    steps.step()
    before = resident()
    peak_since_reset(reset=True)
    steps.step()
    step = peak_since_reset() - before
    before = resident()
    peak_since_reset(reset=True)
    save_adapter(model, folder)
    return weight_bytes(model), step, peak_since_reset() - before


def measurements(folder: Path) -> dict:
    torch.set_num_threads(1)
    held = {bits: held_between_the_passes(bits) for bits in (8, 32)}
    return {"held": held, "peaks": {bits: peaks(bits, folder / str(bits)) for bits in (8, 32)}}


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> dict:
    """Memory in a process of its own, whose allocator gives large tensors back to the system at once."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("memory is read from Linux's /proc")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MALLOC_MMAP_THRESHOLD_", "65536")
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            return pool.submit(measurements, tmp_path_factory.mktemp("memory")).result()


def test_checkpointing_at_8_bits_holds_no_more_than_without_quantisation(measured):
    """bitsandbytes 0.50 keeps the input of each 8-bit product, which only reentrant checkpointing drops."""
    assert measured["held"][8] < 1.5 * measured["held"][32]


@pytest.mark.parametrize("bits", [8, 32])
def test_saving_needs_no_more_memory_than_a_step(measured, bits):
    base, step, saving = measured["peaks"][bits]

    assert base > 150 * MIB
    assert saving < step
    assert saving < base / 8
