"""The one iterator of answers: every decoding mode gives what `generate` returns; errors reach the caller."""

import json

import pytest
import torch

from tests.answer.modes import BARE, MODES, chosen_for, counted, long_ids
from vicuna.answer.decoding import decoding_mode, generation_kwargs
from vicuna.answer.flags import DecodingFlags, ServeFlags
from vicuna.answer.loading import load_assistant
from vicuna.answer.stream import EMPTY_RESULT, PENDING, Step, Streamer
from vicuna.errors import UserError
from vicuna.log import log
from vicuna.model.flags import ModelFlags


@pytest.mark.parametrize("name", MODES)
def test_the_streamed_answer_is_what_generate_returns(assistant, prompt_ids, name):
    chosen = chosen_for(name)
    assert decoding_mode(chosen) == name
    *_, last = assistant.stream(prompt_ids, chosen, seed=7)
    torch.manual_seed(7)
    beams = chosen["num_beams"]
    expected = assistant.engine.model.generate(
        torch.tensor([prompt_ids]), attention_mask=torch.ones(1, len(prompt_ids)), num_return_sequences=beams, **chosen
    )[:, len(prompt_ids) :].tolist()
    got = [beam.ids for beam in last.beams]
    assert len(got) == beams
    for ids, row in zip(got, expected, strict=True):
        assert ids == row[: len(ids)]
        assert not any(row[len(ids) :])  # generate pads with 0 behind eos


@pytest.mark.parametrize("name", MODES)
def test_every_step_is_seen_and_growing(assistant, prompt_ids, name):
    updates = list(assistant.stream(prompt_ids, chosen_for(name), seed=7))
    lengths = [update.tokens for update in updates]
    assert lengths[:5] == [1, 2, 3, 4, 5]
    assert all(not update.finish for update in updates[:-1])
    assert updates[-1].finish in ("eos", "length")
    assert len(updates[3].beams) <= chosen_for(name)["num_beams"]


def test_running_beams_are_scored_best_first(assistant, prompt_ids):
    chosen = chosen_for("beam search", repetition_penalty=1.0)
    update = list(assistant.stream(prompt_ids, chosen))[10]
    scores = [beam.score for beam in update.beams]
    assert scores == sorted(scores, reverse=True)
    model, ids = assistant.engine.model, torch.tensor([prompt_ids + update.beams[0].ids])
    with torch.inference_mode():
        logs = model(ids).logits[0, len(prompt_ids) - 1 : -1].log_softmax(-1)
    expected = logs.gather(1, torch.tensor(update.beams[0].ids)[:, None]).sum().item()
    assert update.beams[0].score == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("name", ["beam search", "beam sampling"])
def test_running_scores_are_what_the_search_adds_up(assistant, prompt_ids, name):
    more = {"repetition_penalty": 1.7, "min_new_tokens": 12}
    *_, ended = assistant.stream(prompt_ids, chosen_for(name, max_new_tokens=12, **more), seed=5)
    running = next(u for u in assistant.stream(prompt_ids, chosen_for(name, **more), seed=5) if u.tokens == 12)
    # In the end a search divides by the length. One that samples ends with the beams drawn first, not the best ones.
    ends = {tuple(beam.ids): beam.score * 12 for beam in ended.beams}
    scores = {tuple(beam.ids): beam.score for beam in running.beams}
    both = sorted(ends.keys() & scores.keys())
    assert len(both) == 3 if name == "beam search" else both
    assert [scores[ids] for ids in both] == pytest.approx([ends[ids] for ids in both], abs=1e-4)


def test_a_reader_who_is_slow_gets_the_newest_step_and_keeps_no_others(assistant):
    streamer = Streamer(assistant.tokenizer)
    for n in range(1, 5 * PENDING + 1):
        streamer.put([[5] * n], [None])
    streamer.end(EMPTY_RESULT)
    seen = []
    while isinstance(item := streamer.get(1), Step):
        seen.append(len(item.ids[0]))
    assert item is EMPTY_RESULT
    assert seen == sorted(seen)
    assert len(seen) <= PENDING
    assert seen[-1] == 5 * PENDING


def test_a_step_that_is_taken_again_is_not_shown_again(assistant):
    streamer = Streamer(assistant.tokenizer)
    for n in (1, 2, 3, 1, 2, 3, 4):
        streamer.put([[5] * n], [None])
    assert [len(streamer.get(1).ids[0]) for _ in range(4)] == [1, 2, 3, 4]
    assert streamer.get(0.01) is None


def test_an_error_in_the_thread_reaches_the_caller_as_a_sentence(assistant, caplog):
    log.propagate = True  # a program that ran before may have set it up for itself
    with pytest.raises(UserError, match=r"failed while answering \(IndexError: index out of range in self\)") as caught:
        list(assistant.stream([1, 10**6], chosen_for("greedy")))
    assert isinstance(caught.value.__cause__, IndexError)
    assert "Traceback" in caplog.text
    assert list(assistant.stream([1, 5], chosen_for("greedy")))[-1].finish  # the worker goes on


def test_a_prompt_that_fills_the_context_is_refused(assistant):
    with pytest.raises(UserError, match="the prompt has 512 tokens, the base's context is 512"):
        next(assistant.stream([5] * 512, chosen_for("greedy")))


def test_the_answer_never_passes_the_context(assistant):
    *_, last = assistant.stream([5] * 505, chosen_for("greedy", max_new_tokens=100, min_new_tokens=100))
    assert last.tokens == 7
    assert last.finish == "length"


@pytest.mark.parametrize("name", MODES)
@pytest.mark.parametrize("length", [256, 257, 258, 480])
def test_a_prompt_computed_in_chunks_gives_what_generate_returns(assistant, name, length):
    ids, chosen = long_ids(assistant, length), chosen_for(name, max_new_tokens=16)
    assistant.engine.prefixes.clear()
    sizes, hook = counted(assistant)
    *_, last = assistant.stream(ids, chosen, seed=7)
    hook.remove()
    assert max(sizes) <= 256
    torch.manual_seed(7)
    expected = assistant.engine.model.generate(
        torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), num_return_sequences=chosen["num_beams"], **chosen
    )[:, len(ids) :].tolist()
    for beam, row in zip(last.beams, expected, strict=True):
        assert beam.ids == row[: len(beam.ids)]


def test_no_update_shows_half_a_character(assistant, prompt_ids):
    hot = chosen_for("sampling", temperature=5.0, top_p=1.0, top_k=0, max_new_tokens=200)
    tokenizer = assistant.tokenizer
    for update in assistant.stream(prompt_ids, hot, seed=3):
        ids = tokenizer.drop_partial_character(update.beams[0].ids)
        pending = [i for i in update.beams[0].ids[len(ids) :] if i != tokenizer.eos_id]
        assert len(pending) <= 3
        assert update.text == tokenizer.decode_continuation([i for i in ids if i != tokenizer.eos_id])


def test_the_same_seed_draws_the_same_answer(assistant, prompt_ids):
    chosen = chosen_for("sampling")
    answers = [list(assistant.stream(prompt_ids, chosen, seed=seed))[-1].text for seed in (1, 1, 2)]
    assert answers[0] == answers[1] != answers[2]


def test_what_the_base_suppresses_never_appears(tiny_base, assistant, prompt_ids):
    chosen = chosen_for("greedy")
    first = list(assistant.stream(prompt_ids, chosen))[-1].beams[0].ids[0]
    assistant.engine.model.generation_config.suppress_tokens = [first]
    try:
        ids = list(assistant.stream(prompt_ids, chosen))[-1].beams[0].ids
    finally:
        assistant.engine.model.generation_config.suppress_tokens = None
    assert first not in ids


@pytest.mark.parametrize("declared", [{"use_cache": False}, {"cache_implementation": "static"}], ids=str)
@pytest.mark.parametrize("name", ["greedy", "beam search"])
def test_what_the_base_declares_of_caches_is_no_hindrance(assistant, prompt_ids, name, declared):
    *_, before = assistant.stream(prompt_ids, chosen_for(name))
    config = assistant.engine.model.generation_config
    config.update(**declared)
    try:
        *_, last = assistant.stream(prompt_ids, chosen_for(name))
    finally:
        config.update(use_cache=True, cache_implementation=None)
    assert [beam.ids for beam in last.beams] == [beam.ids for beam in before.beams]


def test_real_adapters_of_every_layout_give_the_recorded_poem(shared):

    folder = shared / "lora/poem-zh-lora-generated"
    recorded = json.loads((folder / "expected.json").read_text(encoding="utf-8"))["r8-qv"]
    chosen = generation_kwargs(DecodingFlags(repetition_penalty=1.0), BARE)
    base = str(shared / "models/poem-zh-750k-hf")
    for bits in (32, 8):
        for layout in ("peft-safetensors", "peft-bin", "checkpoint-200"):
            lora_path = str(folder / "r8-qv" / layout)
            assistant = load_assistant(
                ModelFlags(model_path=base, bits=bits), ServeFlags(prompt_type="text"), [lora_path]
            )
            ids = assistant.prompt_ids([{"role": "user", "content": recorded["prompt"]}])
            *_, last = assistant.stream(ids, chosen)
            assert recorded["prompt"] + last.text == recorded["greedy"], (bits, layout)
            assert bool(assistant.warnings) == (layout == "checkpoint-200")
