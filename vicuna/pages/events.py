"""How the pages' events are called, and how often an answer is shown while it grows."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gradio as gr

from vicuna.answer.stream import Update

# Answers that may wait for the model at once. Each holds one of the 40 threads that everything else needs too. Who is
# let in to wait, `vicuna.pages.turns` says, for Gradio's own limit knows no visitors.
MAX_ANSWERS = 16
UPDATE_INTERVAL_S = 0.05  # between two updates of a page: faster than eyes read, slower than a small model's tokens

# How an event is called that calls no model: at once, and without a sign of waiting.
IMMEDIATE = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
# The same for what may come again before it is answered: no answer overtakes a later one, and the last one comes.
LATEST = {**IMMEDIATE, "trigger_mode": "always_last"}
# How an event is called that has the model answer.
ANSWERING = {
    "show_progress": "hidden",
    "concurrency_limit": None,
    "concurrency_id": "model",
    "trigger_mode": "multiple",  # "once" drops a click until the answer before is closed, not only shown
}


def debounce(triggers: Sequence[Any], fn: Callable, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
    """Call a function that calls no model whenever one of several values changes.

    One event for all, for the answers of two may overtake each other; and a moment later, for Gradio sends a request
    for each of several changes at once, such as those of an event's outputs, of which it makes one after the other.
    """
    gr.on(triggers, None, None, None, js="() => new Promise((done) => setTimeout(done))").then(
        fn, inputs, outputs, **LATEST
    )


def throttle(updates: Iterator[Update], typewriter: bool) -> Iterator[Update]:
    """Updates at least UPDATE_INTERVAL_S apart; the last one always, the others only with a typewriter."""
    shown_at = 0.0
    for update in updates:
        now = time.monotonic()
        if update.finish or (typewriter and now - shown_at >= UPDATE_INTERVAL_S):
            shown_at = now
            yield update
