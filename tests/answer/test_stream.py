"""The one iterator of answers: every decoding mode, stop, errors, and which setting wins."""

import gc
import threading
import time

import pytest
import torch
from transformers import GenerationConfig

from tests.answer.stops import Awaited
from vicuna.answer.assistant import load_assistant
from vicuna.answer.decoding import decoding_mode, generation_kwargs
from vicuna.answer.flags import DecodingFlags, ServeFlags
from vicuna.answer.stream import EMPTY_RESULT, PENDING, Step, Streamer
from vicuna.errors import UserError
from vicuna.log import log
from vicuna.model.flags import ModelFlags

BARE = GenerationConfig()  # a base that declares nothing
MODES = {
    "greedy": {"num_beams": 1, "do_sample": False},
    "sampling": {"temperature": 0.9, "top_p": 0.9, "top_k": 30},
    "beam search": {"num_beams": 3, "do_sample": False},
    "beam sampling": {"num_beams": 3, "temperature": 0.9, "top_k": 30},
}


@pytest.fixture(scope="module")
def assistant(tiny_base):
    return load_assistant(ModelFlags(model_path=str(tiny_base), bits=32), ServeFlags())


@pytest.fixture
def prompt_ids(assistant):
    return assistant.prompt_ids([{"role": "user", "content": "春天的花有哪些？"}])


def chosen_for(name: str, **more) -> dict:
    return generation_kwargs(
        DecodingFlags(**{"max_new_tokens": 24, "repetition_penalty": 1.2, **MODES[name], **more}), BARE
    )


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


@pytest.mark.parametrize("name", MODES)
def test_stop_in_the_middle_keeps_what_was_said(assistant, prompt_ids, name):
    stop = Awaited()
    seen = []
    for update in assistant.stream(prompt_ids, chosen_for(name, max_new_tokens=200), seed=1, stop=stop):
        seen.append(update)
        if len(seen) == 3:
            stop.set()
    assert seen[-1].finish == "stopped"
    assert 3 <= seen[-1].tokens < 200
    assert seen[-1].text


def test_closing_the_iterator_ends_the_answer(assistant, prompt_ids):
    sizes, counter = counted(assistant)
    slow = assistant.engine.model.register_forward_pre_hook(lambda *_: time.sleep(0.01))
    answers = assistant.stream(prompt_ids, chosen_for("greedy", max_new_tokens=300, min_new_tokens=300))
    next(answers)
    answers.close()
    made = len(sizes)
    assert made < 300
    assistant.worker.submit(lambda: None).done.wait()
    slow.remove()
    counter.remove()
    assert len(sizes) == made


def test_an_abandoned_iterator_may_be_collected_in_the_models_own_thread(assistant, prompt_ids):
    abandoned = threading.Event()

    def collect(module, args):
        passes.append(1)
        if len(passes) == 3:
            abandoned.wait()
            gc.collect()

    passes: list[int] = []
    hook = assistant.engine.model.register_forward_pre_hook(collect)
    gc.disable()  # but where the hook says so
    answers = assistant.stream(prompt_ids, chosen_for("greedy", max_new_tokens=300, min_new_tokens=300))
    next(answers)
    cycle = [answers]
    cycle.append(cycle)
    del answers, cycle
    abandoned.set()
    goes_on = assistant.worker.submit(lambda: None).done.wait(60)
    gc.enable()
    hook.remove()
    assert goes_on
    assert len(passes) < 10


@pytest.mark.parametrize("name", MODES)
def test_who_is_stopped_before_the_turn_comes_gets_an_empty_answer(assistant, prompt_ids, busy, name):
    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()
    (last,) = assistant.stream(prompt_ids, chosen_for(name), stop=stop)
    assert (last.finish, last.text, last.tokens, len(last.beams)) == ("stopped", "", 0, 1)
    assert assistant.worker.waiting == 0


@pytest.mark.parametrize("name", MODES)
def test_who_has_been_stopped_before_the_start_gets_an_empty_answer(assistant, prompt_ids, name):
    stop = threading.Event()
    stop.set()
    (last,) = assistant.stream(prompt_ids, chosen_for(name, max_new_tokens=200), seed=1, stop=stop)
    assert (last.finish, last.text, last.tokens) == ("stopped", "", 0)


def test_a_reader_who_gives_up_before_the_turn_comes_leaves_the_queue(assistant, prompt_ids, busy):
    class Interrupted(threading.Event):
        """Looked at while waiting, as Ctrl-C would come."""

        def is_set(self) -> bool:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        next(assistant.stream(prompt_ids, chosen_for("greedy"), stop=Interrupted()))
    assert assistant.worker.waiting == 0


def test_the_callers_event_is_the_callers(assistant, prompt_ids):
    stop = threading.Event()
    answers = assistant.stream(prompt_ids, chosen_for("greedy", max_new_tokens=100), stop=stop)
    next(answers)
    answers.close()
    assert not stop.is_set()


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


def long_ids(assistant, length: int) -> list[int]:
    """A prompt of real words."""
    words = assistant.tokenizer.encode("春天的花有哪些？请写一首诗。Tell me about alpacas, please.\n" * 40)
    return [assistant.tokenizer.bos_id, *words][:length]


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


def counted(assistant) -> tuple[list[int], object]:
    """Positions of every forward pass from now on, and the hook to remove."""
    sizes: list[int] = []
    embedding = assistant.engine.model.get_input_embeddings()
    return sizes, embedding.register_forward_hook(lambda module, args, output: sizes.append(args[0].shape[-1]))


@pytest.mark.parametrize("name", ["greedy", "beam search"])
def test_a_long_prompt_can_be_stopped_between_two_chunks(assistant, name):
    ids, stop = long_ids(assistant, 500), threading.Event()
    assistant.engine.prefixes.clear()
    embedding = assistant.engine.model.get_input_embeddings()
    hook = embedding.register_forward_hook(lambda *_: stop.set())  # in the middle of the first chunk
    sizes, counter = counted(assistant)
    (last,) = assistant.stream(ids, chosen_for(name), stop=stop)
    hook.remove()
    counter.remove()
    assert sizes in ([244], [256])
    assert (last.finish, last.text, last.tokens) == ("stopped", "", 0)


def whole_text(assistant, prompt_ids, chosen) -> str:
    *_, last = assistant.stream(prompt_ids, chosen, seed=7)
    return last.beams[0].text


@pytest.mark.parametrize("name", MODES)
@pytest.mark.parametrize("width", [1, 4])
def test_a_stop_text_ends_the_answer_and_is_never_shown(assistant, prompt_ids, name, width):
    chosen = chosen_for(name, max_new_tokens=60, min_new_tokens=40)
    tokenizer = assistant.tokenizer
    text = whole_text(assistant, prompt_ids, chosen)
    stop = text[12 : 12 + width]  # of another answer, in a search: that one may win without it
    updates = list(assistant.stream(prompt_ids, chosen, seed=7, stops=["not there", stop, ""]))
    last = updates[-1]
    assert not any(stop in beam.text for update in updates for beam in update.beams)
    if chosen["num_beams"] == 1:
        before = text[: text.index(stop)]
        assert (last.finish, last.text) == ("stop", before)
        assert tokenizer.decode_continuation(last.beams[0].ids).startswith(before + stop)  # ids go on to its end
        assert stop not in tokenizer.decode_continuation(last.beams[0].ids[:-1])  # and no further
        assert last.tokens == len(last.beams[0].ids) < 60
        assert all(before.startswith(update.text) for update in updates)
    for beam in last.beams:
        if stop in (said := tokenizer.decode_continuation(beam.ids)):
            assert beam.text == said[: said.index(stop)]
            assert tokenizer.eos_id not in beam.ids


def test_a_search_whose_best_beam_has_the_stop_text_ends_with_it(assistant, prompt_ids):
    chosen = chosen_for("beam search", max_new_tokens=60)
    *_, last = assistant.stream(prompt_ids, chosen, stops=list("的一是不了在人有我他这中大来上个国到说们"))
    assert last.finish == "stop"
    assert last.tokens < 60


def test_what_might_become_a_stop_text_is_shown_once_it_does_not(assistant, prompt_ids):
    chosen = chosen_for("greedy", max_new_tokens=30)
    text = whole_text(assistant, prompt_ids, chosen)
    updates = list(assistant.stream(prompt_ids, chosen, seed=7, stops=[text[5:9] + "…", text[-2:] + "…"]))
    assert updates[-1].text == text
    assert updates[-1].finish == "length"
    assert not any(update.text.endswith(text[5:9]) for update in updates[:-1])


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
    chosen = generation_kwargs(DecodingFlags(**given), BARE)
    assert {name: chosen[name] for name in expected} == expected
    if not chosen["do_sample"]:
        assert not {"temperature", "top_p", "top_k"} & set(chosen)


def test_what_the_base_declares_stands_between_the_preset_and_the_default():
    base = GenerationConfig(max_new_tokens=33, repetition_penalty=1.7, top_k=7)
    chosen = generation_kwargs(DecodingFlags(preset="precise"), base)
    assert chosen["max_new_tokens"] == 33  # the preset leaves it open
    assert chosen["repetition_penalty"] == 1.1  # the preset's
    assert generation_kwargs(DecodingFlags(max_new_tokens=5, temperature=0.5), base)["max_new_tokens"] == 5
    assert generation_kwargs(DecodingFlags(temperature=0.5), base)["top_k"] == 7


def test_whole_numbers_are_numbers_to_whatever_looks_at_them(assistant, prompt_ids):
    declared = GenerationConfig(temperature=2, top_p=1)
    chosen = generation_kwargs(DecodingFlags(do_sample=True, repetition_penalty=2, max_new_tokens=3), declared)
    assert list(assistant.stream(prompt_ids, chosen, seed=1))[-1].finish


def test_real_adapters_of_every_layout_give_the_recorded_poem(shared):
    import json

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
