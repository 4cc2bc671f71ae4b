"""The Gradio parts that the pages share.

Static labels follow the browser's language through `gr.I18n`; lines that hold numbers are written per request.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from vicuna.answer.stream import DEFAULTS, DRAWING, PRESETS, Update, decoding_mode, effective_kwargs
from vicuna.errors import UserError
from vicuna.pages.markup import display
from vicuna.pages.strings import STRINGS

CURSOR = " ▌"
UPDATE_S = 0.05  # between two updates of a page: faster than eyes read, slower than a small model's tokens

# On a phone: question, answer, then the settings.
CSS = """
.prose hr { margin: var(--spacing-xl) 0; }
/* What has no effect as things stand; moving it gives it one. */
.inert { opacity: 0.5; }
@media (max-width: 640px) {
    #columns { flex-direction: column; }
    #columns > * { min-width: 100% !important; }
    #left { display: contents; }
    #ask { order: 1; } #right { order: 2; } #controls { order: 3; }
}
"""

PRESET_CHOICES = [
    ("Precise 精确", "precise"),
    ("Balanced 均衡", "balanced"),
    ("Creative 创意", "creative"),
    ("Beam 束搜索", "beam"),
    ("Original 原版", "original"),
    ("Custom 自定", "custom"),
]


@dataclass(frozen=True)
class Controls:
    """What the decoding controls of a page offer: the original's ranges and defaults of that page.

    Attributes:
        ranges: name -> (minimum, maximum, step).
        original: what preset "original" sets there beyond `vicuna.answer.stream`.
    """

    ranges: dict[str, tuple[float, float, float]]
    original: dict[str, Any] = field(default_factory=dict)

    def values(self, preset: str) -> dict[str, Any]:
        """What the checkbox and the sliders show under a preset."""
        values = {**IDLE, **PRESETS[preset], **(self.original if preset == "original" else {})}
        return {name: values[name] for name in NAMES}


# How an event answers that calls no model: at once, and without a sign of waiting.
QUIET = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
# The same for what may come again before it is answered: no answer overtakes a later one, and the last one comes.
QUIET_LAST = {**QUIET, "trigger_mode": "always_last"}
MOST = 32768  # no control goes further, whatever a request says
IDLE = {"temperature": 0.1, "top_p": 0.75, "top_k": 40, **DEFAULTS}  # where a slider stands that a preset leaves open
SLIDERS = {
    "temperature": (0, 1, 0.05),
    "top_p": (0, 1, 0.05),
    "top_k": (0, 100, 1),
    "num_beams": (1, 10, 1),
    "max_new_tokens": (1, 2000, 1),
    "min_new_tokens": (1, 300, 1),
    "repetition_penalty": (0.1, 10, 0.1),
}
NAMES = ("do_sample", *SLIDERS)
ONE_QUESTION = Controls(SLIDERS)
CHAT = Controls(
    {**SLIDERS, "max_new_tokens": (1, 2048, 1), "min_new_tokens": (1, 1024, 1)},
    {"temperature": 1.0, "top_p": 0.9, "top_k": 60, "min_new_tokens": 5},
)


def words(request: gr.Request | None) -> dict[str, str]:
    """The strings in the language of the browser that asks."""
    language = (request.headers.get("accept-language") or "en") if request else "en"
    return STRINGS["zh" if language.lower().startswith("zh") else "en"]


def whenever(triggers: Sequence[Any], fn: Callable, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
    """Call a quiet function whenever one of several values changes.

    One event for all, for the answers of two may overtake each other; and a moment later, for Gradio sends a request
    for each of several changes at once, such as those of an event's outputs, of which it makes one after the other.
    """
    gr.on(triggers, None, None, None, js="() => new Promise((done) => setTimeout(done))").then(
        fn, inputs, outputs, **QUIET_LAST
    )


def beams_checkbox(i18n: gr.I18n, value: bool, max_beams: int) -> gr.Checkbox:
    """Whether all beams are shown; grey, with the reason, where there is one only."""
    one = max_beams == 1
    info = i18n("one_beam") if one else None
    return gr.Checkbox(value and not one, label=i18n("show_beam"), info=info, interactive=not one, elem_id="show_beam")


class Decoding:
    """The decoding controls: presets, the sample checkbox, the sliders, and the line that says what they mean.

    Args:
        values: of the checkbox and the sliders at the start.
        max_beams: what the engine can search with; beams it cannot are grey.
    """

    def __init__(
        self,
        i18n: gr.I18n,
        preset: str,
        values: dict[str, Any],
        controls: Controls = ONE_QUESTION,
        max_beams: int = 10,
    ):
        self.controls, self.max_beams = controls, max_beams
        self.start = self._possible(values)
        self.start_preset = preset if controls.values(preset) == self.start else "custom"
        self.preset = gr.Radio(PRESET_CHOICES, value=self.start_preset, label=i18n("preset"), elem_id="preset")
        self.mode = gr.Markdown(mode_line(STRINGS["en"], self.start), elem_id="mode")
        with gr.Accordion(i18n("settings"), open=False, elem_id="settings"):
            self.do_sample = gr.Checkbox(
                self.start["do_sample"], label=i18n("do_sample"), info=i18n("do_sample_info"), elem_id="do_sample"
            )
            self.sliders = {name: self._slider(i18n, name) for name in SLIDERS}
        self._connect()

    def _slider(self, i18n: gr.I18n, name: str) -> gr.Slider:
        low, high, step = self.controls.ranges[name]
        value = self.start[name]
        beams_are_grey = name == "num_beams" and self.max_beams == 1
        info = "one_beam" if beams_are_grey else "temperature_info" if name == "temperature" else None
        return gr.Slider(
            low, max(high, value), value, step=step, label=i18n(name), elem_id=name,
            info=i18n(info) if info else None, interactive=not beams_are_grey,
        )  # fmt: skip

    def _possible(self, values: dict[str, Any]) -> dict[str, Any]:
        return {**values, "num_beams": min(values["num_beams"], self.max_beams)}

    @property
    def inputs(self) -> list[Any]:
        """The components whose values `chosen` takes, in its order."""
        return [self.do_sample, *self.sliders.values()]

    @property
    def _drawing(self) -> list[gr.Slider]:
        return [self.sliders[name] for name in DRAWING]

    def _connect(self) -> None:
        self.preset.input(self._fill, self.preset, self.inputs, **QUIET_LAST)
        for component in self.inputs:
            component.input(None, None, self.preset, js="() => 'custom'")
        for slider in self._drawing:
            slider.input(None, None, self.do_sample, js="() => true")

    def _fill(self, name: str) -> list[Any]:
        if name == "custom":
            return [gr.skip()] * len(NAMES)
        return list(self._possible(self.controls.values(name)).values())

    def describe_on(self, page: gr.Blocks) -> None:
        """Say the mode in the visitor's language once the page is there, and whenever it changes."""
        triggers = [page.load, *(component.change for component in self.inputs)]
        whenever(triggers, _describe, self.inputs, [self.mode, *self._drawing])


def start_values(controls: Controls, preset: str, chosen: dict[str, Any]) -> dict[str, Any]:
    """What the controls show at the start: what was chosen, and the preset's where nothing was."""
    values = {**controls.values(preset), **chosen}
    return {name: values[name] for name in NAMES}


def _describe(request: gr.Request, *values: Any) -> list[Any]:
    chosen = dict(zip(NAMES, values, strict=True))
    inert = [] if chosen["do_sample"] else ["inert"]
    usable = not (chosen["do_sample"] and chosen["temperature"] == 0)
    others = [gr.update(interactive=usable, elem_classes=inert) for _ in DRAWING[1:]]
    return [mode_line(words(request), chosen), gr.update(elem_classes=inert), *others]


def chosen(values: Sequence[Any]) -> dict[str, Any]:
    """generate()'s arguments from the controls' values.

    Raises:
        UserError: a value that no slider has; a request need not come from the page.
    """
    found = dict(zip(NAMES, values, strict=True))
    for name, (low, _, step) in SLIDERS.items():
        value = found[name]
        if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= MOST:
            raise UserError(f"{name} {value!r} is not possible: expected a number from {low}.")
        found[name] = int(value) if step == 1 else float(value)
    return effective_kwargs({**found, "do_sample": bool(found["do_sample"])})


def mode_line(strings: dict[str, str], values: dict[str, Any]) -> str:
    """What the settings amount to, and which of them have no effect in it."""
    real = effective_kwargs(values)
    hint = ""
    if not real["do_sample"]:
        hint = strings["zero"] if values["do_sample"] else strings["inert"]
    return strings["mode"].format(mode=strings[decoding_mode(real)]) + hint


def paced(updates: Iterator[Update], typewriter: bool) -> Iterator[Update]:
    """Updates no closer to each other than UPDATE_S; the last one always, the others only with a typewriter."""
    shown_at = 0.0
    for update in updates:
        now = time.monotonic()
        if update.finish or (typewriter and now - shown_at >= UPDATE_S):
            shown_at = now
            yield update


def notice(problem: object) -> str:
    """What went wrong, as Markdown."""
    return f"⚠ {display(str(problem))}"


def stats_line(strings: dict[str, str], update: Update) -> str:
    """Tokens, speed, first token, and why the answer ended."""
    line = strings["stats"].format(tokens=update.tokens, speed=update.tokens_per_s, first=update.first_s)
    return line + (strings[update.finish] if update.finish else "") + (strings["cut"] if update.cut_character else "")


# Puts a text into the clipboard: what a message was written as, where Gradio's own button copies what is shown.
COPY = """(text) => {
    if (!text) return;
    if (navigator.clipboard) { navigator.clipboard.writeText(text); return; }
    const area = document.createElement("textarea");
    area.value = text;
    document.body.prepend(area);
    area.select();
    document.execCommand("copy");
    area.remove();
}"""


def show_answer(strings: dict[str, str], update: Update, before: str = "", all_beams: bool = True) -> str:
    """The answer as Markdown: one beam as it is, several one below the other, best first."""
    cursor = "" if update.finish else CURSOR
    if len(update.beams) == 1 or not all_beams:
        return display(before + update.text) + cursor
    parts = []
    for n, beam in enumerate(update.beams, 1):
        head = strings["beam"].format(n=n, score=beam.score) + (strings["final"] if update.finish and n == 1 else "")
        parts.append(f"**{head}**\n\n{display(before + beam.text)}{cursor}")
    return "\n\n---\n\n".join(parts)
