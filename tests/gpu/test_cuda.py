"""On a GPU: loading, precision, falling loss, memory. Needs torch, transformers, peft, bitsandbytes, pytest alone."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft", reason="peft is not installed")
pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")

from peft import LoraConfig, PeftModel, get_peft_model  # noqa: E402
from random_llama import Steps, random_base, random_batch  # noqa: E402
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM  # noqa: E402

from vicuna.model.adapter import save_adapter  # noqa: E402
from vicuna.model.base import Base, compute_dtype, load_base  # noqa: E402

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU that this PyTorch can use"),
]

SMALL = {
    "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 4, "num_attention_heads": 4, "vocab_size": 2000,
}  # fmt: skip
SEVEN_B = {
    "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
    "vocab_size": 32000,
}  # fmt: skip
SEVEN_B_BYTES = 11e9  # what a step of 4 x 256 tokens at 8 bits may take, for a card of 11 GB
BITS = [4, 8, 16, 32]


@pytest.fixture
def where() -> "torch.device":
    return torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def clean_memory():
    """Begin every test with an empty cache of the allocator and a new peak."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()


def trainable(bits: int, where, shape=SMALL, dtype=None) -> PeftModel:
    torch.manual_seed(0)
    base = random_base(shape, bits, dtype or compute_dtype(bits)[0], where)
    config = LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"])
    return get_peft_model(base, config).train()


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Base:
    """A base on disk; no tokenizer, which these tests need not have."""
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    config = LlamaConfig(**SMALL)
    LlamaForCausalLM(config).save_pretrained(folder)
    return Base(folder, config, None, GenerationConfig())


def logits(model, where) -> "torch.Tensor":
    ids = torch.arange(3, 35, device=where)[None]
    with torch.no_grad():
        return model.eval()(input_ids=ids).logits.float()


# --- loading ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bits", "kind", "alike"), [(4, "Linear4bit", 0.95), (8, "Linear8bitLt", 0.999)])
def test_a_base_loads_quantised_onto_the_gpu_and_computes_alike(base, where, bits, kind, alike):
    model = load_base(base, bits)
    exact = logits(load_base(base, 32), where)

    assert type(model.model.layers[0].self_attn.q_proj).__name__ == kind
    assert {value.device for value in model.parameters()} == {where}
    assert torch.nn.functional.cosine_similarity(logits(model, where).flatten(), exact.flatten(), dim=0) > alike


@pytest.mark.parametrize("bits", BITS)
def test_bfloat16_is_computed_in_only_where_the_hardware_does(bits):
    dtype, reason = compute_dtype(bits)

    if bits == 32:
        assert dtype is torch.float32
    elif torch.cuda.get_device_capability() >= (8, 0):
        assert dtype is torch.bfloat16
    else:
        assert dtype is torch.float16
        assert "only emulates bfloat16" in reason


# --- training -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", BITS)
def test_the_loss_falls_and_adapter_and_loss_are_float32(where, bits):
    steps = Steps(trainable(bits, where), random_batch(2, 64, 2000, where), compute_dtype(bits)[0], learning_rate=1e-2)
    first, *_ = steps.settle()
    losses = [steps.step() for _ in range(10)]

    assert steps.loss().dtype is torch.float32
    assert {value.dtype for value in steps.trainable} == {torch.float32}
    assert losses[-1] < first - 0.05


@pytest.mark.parametrize("bits", [4, 8])
def test_float16_alone_trains_with_a_scaled_loss(where, bits):
    """As on a 2080 Ti, whatever this GPU is."""
    model = trainable(bits, where, dtype=torch.float16)
    steps = Steps(model, random_batch(2, 64, 2000, where), torch.float16, learning_rate=1e-2)
    first, *_ = steps.settle()
    losses = [steps.step() for _ in range(10)]

    assert losses[-1] < first - 0.05
    assert steps.scaler.get_scale() > 1
    assert steps.loss().dtype is torch.float32
    assert torch.bfloat16 not in {value.dtype for value in model.parameters()}


def test_a_step_whose_gradient_overflows_is_skipped(where):
    steps = Steps(trainable(8, where), random_batch(2, 64, 2000, where), torch.float16)
    steps.scaler = torch.amp.GradScaler("cuda", init_scale=2.0**120)
    before = [value.detach().clone() for value in steps.trainable]
    steps.step()

    assert steps.skipped == 1
    assert all(torch.equal(value, old) for value, old in zip(steps.trainable, before, strict=True))


@pytest.mark.parametrize(("bits", "tolerance"), [(4, 2e-2), (8, 2e-2), (32, 1e-5)])
def test_supervised_rows_alone_give_the_loss_of_all_logits(where, bits, tolerance):
    model, batch = trainable(bits, where), random_batch(3, 64, 2000, where)
    dtype = compute_dtype(bits)[0]
    with torch.no_grad():
        narrow, full = (Steps(model, batch, dtype, full_logits=full).loss().item() for full in (False, True))

    assert narrow == pytest.approx(full, rel=tolerance)


# --- memory -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [4, 8, 32])
def test_supervised_rows_alone_take_less_memory_than_all_logits(where, bits):
    model, peaks = trainable(bits, where, SMALL | {"vocab_size": 32000}), []
    for full in (False, True):
        steps = Steps(model, random_batch(4, 256, 32000, where), compute_dtype(bits)[0], full_logits=full)
        steps.settle()
        torch.cuda.reset_peak_memory_stats()
        steps.step()
        peaks.append(torch.cuda.max_memory_allocated())

    assert peaks[0] < peaks[1]


@pytest.mark.parametrize("bits", [4, 8])
def test_checkpointing_drops_the_activations_of_quantised_layers(where, bits):
    """bitsandbytes 0.50 keeps the input of each 8-bit product, which only reentrant checkpointing drops."""
    held = []
    for kind in (bits, 32):
        steps = Steps(trainable(kind, where), random_batch(4, 512, 2000, where), torch.float32)
        steps.settle()
        before = torch.cuda.memory_allocated()
        loss = steps.loss()
        held.append(torch.cuda.memory_allocated() - before)
        del loss, steps

    assert held[0] < 1.5 * held[1]


def test_saving_takes_no_more_memory_than_a_step(where, tmp_path):
    for bits in (4, 8):
        model = trainable(bits, where)
        steps = Steps(model, random_batch(2, 64, 2000, where), compute_dtype(bits)[0])
        steps.settle()
        torch.cuda.reset_peak_memory_stats()
        steps.step()
        step = torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        save_adapter(model, tmp_path / str(bits))

        assert torch.cuda.max_memory_allocated() <= step


def test_a_7b_base_at_8_bits_trains_within_11_gb(where):
    if torch.cuda.mem_get_info()[0] < 0.95 * SEVEN_B_BYTES:
        pytest.skip(f"less than {SEVEN_B_BYTES / 1e9:.0f} GB of GPU memory are free")
    steps = Steps(trainable(8, where, SEVEN_B), random_batch(4, 256, 32000, where), compute_dtype(8)[0])
    steps.settle()
    steps.step()

    assert torch.cuda.max_memory_allocated() < SEVEN_B_BYTES
