"""Answers that are ended: by who asked, by who reads no more, and by a text that ends answers."""

import gc
import threading
import time

import pytest

from tests.answer.modes import MODES, chosen_for, counted, long_ids
from tests.answer.stops import Awaited


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
