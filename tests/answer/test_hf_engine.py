"""Several adapters in one model, memory that runs out, embeddings, and precisions below float32."""

import threading

import pytest
import torch
from torch.nn.functional import cosine_similarity, normalize

from tests.answer.adapters import GREEDY, PROMPTS, SAMPLING, SEARCH, answer, loaded
from tests.served import at_work, wait_for
from vicuna.answer.assistant import Assistant
from vicuna.answer.engine import GenerationRequest
from vicuna.answer.hf_engine import HFEngine
from vicuna.answer.stream import OUT_OF_MEMORY
from vicuna.answer.worker import Worker
from vicuna.errors import UserError
from vicuna.model.base import check_base, compute_dtype, load_base


@pytest.fixture(scope="module")
def several(tiny_base, adapters) -> Assistant:
    return loaded(tiny_base, list(adapters.values()))


def answers(assistant: Assistant, name: str | None, client: str = "") -> list:
    return [
        answer(assistant, name, ids, chosen, client) for chosen in (GREEDY, SAMPLING, SEARCH) for ids in PROMPTS[1:]
    ]


@pytest.fixture(scope="module")
def alone(tiny_base, adapters) -> dict[str, list]:
    """What each adapter, and the base, answers when nothing else is loaded."""
    found = {name: answers(loaded(tiny_base, [folder], cache_gib=0), name) for name, folder in adapters.items()}
    return {**found, "": answers(loaded(tiny_base, [], cache_gib=0), None)}


def test_every_choice_answers_as_if_it_were_alone(several, alone):
    assert list(several.choices) == ["lora.v1.0", "all", "whole", ""]
    assert len({str(found) for found in alone.values()}) == 4
    for name in [*several.choices, *reversed(several.choices)]:
        assert answers(several, name) == alone[name]
    assert answers(several, None) == alone["lora.v1.0"]


def test_choices_interleaved_from_three_threads_answer_as_in_sequence(several, alone):
    found: dict[str, list] = {}

    def ask(name: str) -> None:
        found[name] = answers(several, name, client=f"client of {name}")

    threads = [threading.Thread(target=ask, args=(name,)) for name in ("lora.v1.0", "whole", "")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert found == {name: alone[name] for name in ("lora.v1.0", "whole", "")}


def test_adapters_never_share_a_prefix(tiny_base, adapters):
    assistant = loaded(tiny_base, [adapters["lora.v1.0"], adapters["all"]])
    sizes: list[int] = []
    embedding = assistant.engine.model.get_input_embeddings()
    embedding.register_forward_hook(lambda module, args, output: sizes.append(args[0].shape[-1]))
    prefill = []
    for name in ("lora.v1.0", "all", "", "lora.v1.0", "all", ""):
        sizes.clear()
        answer(assistant, name, PROMPTS[0], GREEDY)
        prefill.append(sizes[0])
    assert prefill == [len(PROMPTS[0])] * 3 + [1] * 3


def test_an_adapter_that_is_not_loaded_is_refused(several, tiny_base):
    with pytest.raises(UserError, match=r"no adapter 'x' is loaded; there is lora\.v1\.0, all, whole"):
        list(several.stream(PROMPTS[0], GREEDY, adapter="x"))
    with pytest.raises(UserError, match="no adapter 'x' is loaded; there is none"):
        loaded(tiny_base, []).embed([[1, 5]], "x")


# --- memory that runs out -----------------------------------------------------------------------------------------


@pytest.fixture
def plain(tiny_base) -> Assistant:
    return loaded(tiny_base, [])


def out_of_room(times: int, after: int = 0):
    """A hook that asks the CPU for more memory than there is, `times` times, behind `after` calls that work."""
    left = [after, times]

    def hook(*_) -> None:
        if left[0]:
            left[0] -= 1
        elif left[1]:
            left[1] -= 1
            torch.empty(1 << 50)

    return hook


@pytest.mark.parametrize("after", [0, 5])
@pytest.mark.parametrize("chosen", [GREEDY, SAMPLING, SEARCH], ids=["greedy", "sampling", "beam search"])
def test_when_memory_runs_out_the_prefix_cache_goes_first(plain, chosen, after):
    expected = [update.beams[0].ids for update in plain.stream(PROMPTS[1], chosen, seed=4)]
    answer(plain, None, PROMPTS[0], GREEDY)
    assert plain.engine.prefixes.bytes > 0
    layer = plain.engine.model.model.layers[1]
    handle = layer.register_forward_pre_hook(out_of_room(1, after))
    updates = list(plain.stream(PROMPTS[1], chosen, seed=4))
    handle.remove()
    assert updates[-1].finish == "length"
    assert [update.beams[0].ids for update in updates] == expected  # no step twice, though some were taken twice


def test_an_answer_without_a_seed_goes_on_as_it_began(plain):
    answer(plain, None, PROMPTS[0], GREEDY)
    handle = plain.engine.model.model.layers[1].register_forward_pre_hook(out_of_room(1, after=8))
    updates = list(plain.stream(PROMPTS[1], SAMPLING))
    handle.remove()
    assert [update.tokens for update in updates] == [*range(1, 17), 16]
    for update in updates[:-1]:
        assert updates[-1].beams[0].ids[: update.tokens] == update.beams[0].ids


def test_when_memory_runs_out_for_good_it_is_said_in_a_sentence(plain):
    answer(plain, None, PROMPTS[0], GREEDY)
    handle = plain.engine.model.model.layers[1].register_forward_pre_hook(out_of_room(2))
    with pytest.raises(UserError) as caught:
        list(plain.stream(PROMPTS[1], GREEDY))
    assert str(caught.value) == OUT_OF_MEMORY
    handle.remove()
    assert plain.engine.prefixes.bytes == 0
    handle = plain.engine.model.model.layers[1].register_forward_pre_hook(out_of_room(1))
    with pytest.raises(UserError) as caught:  # nothing to drop: no second attempt
        list(plain.stream(PROMPTS[1], GREEDY))
    assert str(caught.value) == OUT_OF_MEMORY
    handle.remove()
    assert answer(plain, None, PROMPTS[1], GREEDY)


def test_a_device_that_is_full_is_told_from_a_fault(plain):
    def full(*_) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    handle = plain.engine.model.model.layers[0].register_forward_pre_hook(full)
    with pytest.raises(UserError) as caught:
        list(plain.stream(PROMPTS[1], SEARCH))
    handle.remove()
    assert str(caught.value) == OUT_OF_MEMORY


# --- embeddings ---------------------------------------------------------------------------------------------------


def test_embeddings_are_the_mean_of_the_last_states(several):
    rows = [[1, 300, 400, 500], [1], [1, *range(300, 800)], [1, 300, 400, 501], [1, 7] * 100] * 3
    found = torch.tensor(several.embed(rows, ""))
    assert found.shape == (15, 32)
    assert torch.allclose(found.norm(dim=-1), torch.ones(15), atol=1e-5)
    with torch.inference_mode(), several.engine.model.disable_adapter():
        for ids, vector in zip(rows, found, strict=True):
            states = several.engine.model(torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0]
            assert torch.allclose(vector, normalize(states.mean(dim=0), dim=-1), atol=1e-5)


def test_embeddings_are_those_of_the_adapter_asked_for(several, tiny_base, adapters):
    rows = [[1, 300, 400, 500], [1, 600, 700]]
    base = torch.tensor(several.embed(rows, ""))
    for name, folder in adapters.items():
        found = torch.tensor(several.embed(rows, name))
        assert torch.allclose(found, torch.tensor(loaded(tiny_base, [folder]).embed(rows)), atol=1e-6)
        assert (cosine_similarity(found, base) < 0.999).all()
    assert torch.equal(torch.tensor(several.embed(rows)), torch.tensor(several.embed(rows, several.first.name)))


def test_a_text_that_is_too_long_to_embed_is_refused(plain):
    assert len(plain.embed([[5] * 512])) == 1
    with pytest.raises(UserError, match="text 2 has 513 tokens; expected 1 to 512"):
        plain.embed([[1], [5] * 513])
    with pytest.raises(UserError, match="text 1 has 0 tokens"):
        plain.embed([[]])
    assert plain.embed([]) == []


def test_embedding_makes_room_too(plain):
    answer(plain, None, PROMPTS[0], GREEDY)
    handle = plain.engine.model.model.layers[1].register_forward_pre_hook(out_of_room(1))
    assert len(plain.embed([[1, 5]])) == 1
    handle.remove()
    assert plain.engine.prefixes.bytes == 0
    handle = plain.engine.model.model.layers[1].register_forward_pre_hook(out_of_room(1))
    with pytest.raises(UserError) as caught:
        plain.embed([[1, 5]])
    handle.remove()
    assert str(caught.value) == OUT_OF_MEMORY


def test_embedding_waits_for_its_turn(plain):
    found: list = []
    asking = threading.Thread(target=lambda: found.append(plain.embed([[1, 5]], client="me")))
    with at_work(plain.worker):
        asking.start()
        wait_for(lambda: plain.worker.waiting)
        assert not found
    asking.join()
    assert len(found[0]) == 1


# --- precisions ---------------------------------------------------------------------------------------------------

# Largest difference of the first new token's logits with and without the prefix cache, of the largest logit. The same
# products in other shapes are rounded otherwise; int8 also scales by what it is given. At 4 bits it depends on
# the CPU whether products are computed in bfloat16, as at 16 bits, or in float32.
BOUNDS = {32: 1e-5, 16: 0.02, 8: 0.05, 4: 0.02 if compute_dtype(4)[0] is torch.bfloat16 else 1e-4}


@pytest.mark.parametrize("bits", BOUNDS)
def test_the_first_logits_differ_little_with_a_prefix_cache(tiny_base, bits):
    base = check_base(str(tiny_base))
    model = load_base(base, bits).eval()
    if bits == 16:
        model = model.to(torch.bfloat16)  # this CPU may compute 16 bits in float32
    logits: list[torch.Tensor] = []
    model.get_output_embeddings().register_forward_hook(lambda m, args, output: logits.append(output[0, -1].float()))
    cached, plain, worker = HFEngine(base, model, {}, 1), HFEngine(base, model, {}, 0), Worker()
    short = {**GREEDY, "max_new_tokens": 3, "min_new_tokens": 3}
    distances = []
    for ids in PROMPTS:
        *_, first = cached.stream(GenerationRequest(ids, short), worker.submit)
        follow = ids + first.beams[0].ids + ids[:7]
        found = []
        for engine in (cached, plain):
            logits.clear()
            list(engine.stream(GenerationRequest(follow, short), worker.submit))
            found.append(logits[0])
        distances.append(((found[0] - found[1]).abs().max() / found[1].abs().max()).item())
    print(f"{bits} bits: {max(distances):.1e}")
    assert max(distances) < BOUNDS[bits]
