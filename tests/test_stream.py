"""The one iterator of answers: every decoding mode, stop, errors, and which setting wins."""

import threading

import pytest
import torch
from transformers import GenerationConfig

from vicuna.args import DecodingFlags, ModelFlags, ServeFlags
from vicuna.errors import UserError
from vicuna.serving import load
from vicuna.stream import mode, settings

BARE = GenerationConfig()  # a base that declares nothing
MODES = {
    "greedy": {"num_beams": 1, "do_sample": False},
    "sampling": {"temperature": 0.9, "top_p": 0.9, "top_k": 30},
    "beam search": {"num_beams": 3, "do_sample": False},
    "beam sampling": {"num_beams": 3, "temperature": 0.9, "top_k": 30},
}


@pytest.fixture(scope="module")
def assistant(tiny_base):
    return load(ModelFlags(model_path=str(tiny_base), bits=32), ServeFlags())


@pytest.fixture
def prompt_ids(assistant):
    return assistant.prompt_ids([{"role": "user", "content": "春天的花有哪些？"}])


def chosen_for(name: str, **more) -> dict:
    return settings(DecodingFlags(**{"max_new_tokens": 24, "repetition_penalty": 1.2, **MODES[name], **more}), BARE)


@pytest.mark.parametrize("name", MODES)
def test_the_streamed_answer_is_what_generate_returns(assistant, prompt_ids, name):
    chosen = chosen_for(name)
    assert mode(chosen) == name
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
    update = list(assistant.stream(prompt_ids, chosen_for("beam search")))[10]
    scores = [beam.score for beam in update.beams]
    assert scores == sorted(scores, reverse=True)
    model, ids = assistant.engine.model, torch.tensor([prompt_ids + update.beams[0].ids])
    with torch.inference_mode():
        logs = model(ids).logits[0, len(prompt_ids) - 1 : -1].log_softmax(-1)
    plain = logs.gather(1, torch.tensor(update.beams[0].ids)[:, None]).sum().item()
    without_penalty = chosen_for("beam search", repetition_penalty=1.0)
    unpenalised = list(assistant.stream(prompt_ids, without_penalty))[10]
    with torch.inference_mode():
        ids = torch.tensor([prompt_ids + unpenalised.beams[0].ids])
        logs = model(ids).logits[0, len(prompt_ids) - 1 : -1].log_softmax(-1)
    expected = logs.gather(1, torch.tensor(unpenalised.beams[0].ids)[:, None]).sum().item()
    assert unpenalised.beams[0].score == pytest.approx(expected, abs=1e-3)
    assert update.beams[0].score != pytest.approx(plain, abs=1e-3)  # a penalty changes what the beams are ranked by


@pytest.mark.parametrize("name", MODES)
def test_a_generation_that_is_told_to_stop_takes_one_more_token(assistant, prompt_ids, name):
    stop = threading.Event()
    stop.set()
    *_, last = assistant.stream(prompt_ids, chosen_for(name, max_new_tokens=200), seed=1, stop=stop)
    assert last.finish == "stopped"
    assert last.tokens == 1


@pytest.mark.parametrize("name", MODES)
def test_stop_in_the_middle_keeps_what_was_said(assistant, prompt_ids, name):
    stop = threading.Event()
    seen = []
    for update in assistant.stream(prompt_ids, chosen_for(name, max_new_tokens=200), seed=1, stop=stop):
        seen.append(update)
        if len(seen) == 3:
            stop.set()
    assert seen[-1].finish == "stopped"
    assert 3 <= seen[-1].tokens < 200
    assert seen[-1].text


def test_closing_the_iterator_ends_the_thread(assistant, prompt_ids):
    before = threading.active_count()
    answers = assistant.stream(prompt_ids, chosen_for("greedy", max_new_tokens=300))
    next(answers)
    answers.close()
    assert threading.active_count() == before


def test_an_error_in_the_thread_reaches_the_caller(assistant):
    with pytest.raises(IndexError):
        list(assistant.stream([1, 10**6], chosen_for("greedy")))


def test_a_prompt_that_fills_the_context_is_refused(assistant):
    with pytest.raises(UserError, match="the prompt has 512 tokens, the base's context is 512"):
        next(assistant.stream([5] * 512, chosen_for("greedy")))


def test_the_answer_never_passes_the_context(assistant):
    *_, last = assistant.stream([5] * 505, chosen_for("greedy", max_new_tokens=100, min_new_tokens=100))
    assert last.tokens == 7
    assert last.finish == "length"


def test_no_update_shows_half_a_character(assistant, prompt_ids):
    hot = chosen_for("sampling", temperature=5.0, top_p=1.0, top_k=0, max_new_tokens=200)
    tokenizer = assistant.tokenizer
    for update in assistant.stream(prompt_ids, hot, seed=3):
        ids = tokenizer.complete(update.beams[0].ids)
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


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.1}),
        ({"temperature": 0.5}, {"do_sample": True, "temperature": 0.5}),
        ({"top_k": 5}, {"do_sample": True, "top_k": 5}),
        ({"temperature": 0.0}, {"do_sample": False}),
        ({"temperature": 0.0, "top_p": 0.5}, {"do_sample": False}),
        ({"preset": "balanced"}, {"do_sample": True, "temperature": 0.7}),
        ({"preset": "balanced", "temperature": 0.0}, {"do_sample": False}),
        ({"preset": "balanced", "do_sample": False}, {"do_sample": False}),
        ({"preset": "original", "num_beams": 2}, {"num_beams": 2, "repetition_penalty": 2.0, "do_sample": False}),
        ({"repetition_penalty": 1.5, "preset": "beam"}, {"num_beams": 4, "repetition_penalty": 1.5}),
        ({"max_new_tokens": 3, "min_new_tokens": 9}, {"max_new_tokens": 3, "min_new_tokens": 3}),
    ],
)
def test_a_flag_wins_over_the_preset_and_the_preset_over_the_default(given, expected):
    chosen = settings(DecodingFlags(**given), BARE)
    assert {name: chosen[name] for name in expected} == expected
    if not chosen["do_sample"]:
        assert not {"temperature", "top_p", "top_k"} & set(chosen)


def test_what_the_base_declares_stands_between_the_preset_and_the_default():
    base = GenerationConfig(max_new_tokens=33, repetition_penalty=1.7, top_k=7)
    chosen = settings(DecodingFlags(preset="precise"), base)
    assert chosen["max_new_tokens"] == 33  # the preset leaves it open
    assert chosen["repetition_penalty"] == 1.1  # the preset's
    assert settings(DecodingFlags(max_new_tokens=5, temperature=0.5), base)["max_new_tokens"] == 5
    assert settings(DecodingFlags(temperature=0.5), base)["top_k"] == 7


def test_real_adapters_of_every_layout_give_the_recorded_poem(shared):
    import json

    folder = shared / "lora/poem-zh-lora-generated"
    recorded = json.loads((folder / "expected.json").read_text(encoding="utf-8"))["r8-qv"]
    chosen = settings(DecodingFlags(repetition_penalty=1.0), BARE)
    base = str(shared / "models/poem-zh-750k-hf")
    for bits in (32, 8):
        for layout in ("peft-safetensors", "peft-bin", "checkpoint-200"):
            lora_path = str(folder / "r8-qv" / layout)
            assistant = load(ModelFlags(model_path=base, bits=bits), ServeFlags(prompt_type="text"), [lora_path])
            ids = assistant.prompt_ids([{"role": "user", "content": recorded["prompt"]}])
            *_, last = assistant.stream(ids, chosen)
            assert recorded["prompt"] + last.text == recorded["greedy"], (bits, layout)
            assert bool(assistant.warnings) == (layout == "checkpoint-200")
