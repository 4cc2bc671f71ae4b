"""The decoding controls of a page: presets, sliders, what they mean together, and what they ask of generate()."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from vicuna.answer.decoding import DEFAULTS, SAMPLING_ONLY, decoding_mode, effective_kwargs, generation_kwargs
from vicuna.answer.engine import Engine
from vicuna.answer.flags import PRESETS, DecodingFlags
from vicuna.errors import UserError
from vicuna.pages.events import LATEST, debounce
from vicuna.pages.localization import i18n, request_strings
from vicuna.pages.strings import Strings
from vicuna.sentences import Sentence

PRESET_CHOICES = [
    ("Precise 精确", "precise"),
    ("Balanced 均衡", "balanced"),
    ("Creative 创意", "creative"),
    ("Beam 束搜索", "beam"),
    ("Chinese-Alpaca", "chinese_alpaca"),
    ("Original 原版", "original"),
]
MAX_VALUE = 32768  # no control goes further, whatever a request says
UNSET = {"temperature": 0.1, "top_p": 0.75, "top_k": 40, **DEFAULTS}  # where a slider stands that a preset leaves open
SLIDERS = {
    "temperature": (0, 2, 0.05),
    "top_p": (0, 1, 0.05),
    "top_k": (0, 100, 1),
    "num_beams": (1, 10, 1),
    "max_new_tokens": (1, MAX_VALUE, 1),
    "min_new_tokens": (1, MAX_VALUE, 1),
    "repetition_penalty": (0.1, 10, 0.1),
}
LENGTHS = ("max_new_tokens", "min_new_tokens")  # which end at the base's context
CONTROL_NAMES = ("do_sample", *SLIDERS)
SAMPLING_SLIDERS = [name for name in SAMPLING_ONLY if name in SLIDERS]


def longest(engine: Engine) -> int:
    """Where the controls of lengths end."""
    return min(engine.context, MAX_VALUE)


@dataclass(frozen=True)
class ControlSpec:
    """What the decoding controls of a page offer: the original's defaults of that page.

    Attributes:
        original: what preset "original" sets there beyond `vicuna.answer.decoding`.
    """

    original: dict[str, Any] = field(default_factory=dict)

    def values(self, preset: str) -> dict[str, Any]:
        """What the checkbox and the sliders show under a preset."""
        values = {**UNSET, **PRESETS[preset], **(self.original if preset == "original" else {})}
        return {name: values[name] for name in CONTROL_NAMES}

    def initial_values(self, flags: DecodingFlags, engine: Engine) -> dict[str, Any]:
        """What they show at the start: what flags and model say, and the preset's where they say nothing."""
        values = {**self.values(flags.preset), **generation_kwargs(flags, engine.generation_config)}
        return {name: values[name] for name in CONTROL_NAMES}


ASK_CONTROLS = ControlSpec()
CHAT_CONTROLS = ControlSpec({"temperature": 1.0, "top_p": 0.9, "top_k": 60, "min_new_tokens": 5})


class DecodingControls:
    """Presets, the sample checkbox, the sliders, and the line that says what they mean.

    Attributes:
        initial: values of the checkbox and the sliders at the start; beams that the engine cannot search with are grey.
        inputs: the components whose values `kwargs_from_controls` takes, in its order.
    """

    def __init__(self, spec: ControlSpec, flags: DecodingFlags, engine: Engine):
        self.spec, self.max_beams, self.longest = spec, engine.max_beams, longest(engine)
        self.initial = self._limited(spec.initial_values(flags, engine))
        is_preset = self._limited(spec.values(flags.preset)) == self.initial
        self.initial_preset = flags.preset if is_preset else None
        self.preset = gr.Radio(PRESET_CHOICES, value=self.initial_preset, label=i18n("preset"), elem_id="preset")
        self.mode = gr.Markdown(elem_id="mode")
        with gr.Accordion(i18n("settings"), open=False, elem_id="settings"):
            self.do_sample = gr.Checkbox(
                self.initial["do_sample"], label=i18n("do_sample"), info=i18n("do_sample_info"), elem_id="do_sample"
            )
            self.sliders = {name: self._slider(name) for name in SLIDERS}
        self.inputs = [self.do_sample, *self.sliders.values()]
        self.sampling_sliders = [self.sliders[name] for name in SAMPLING_SLIDERS]
        self._connect()

    def _slider(self, name: str) -> gr.Slider:
        low, high, step = SLIDERS[name]
        high, value = self.longest if name in LENGTHS else high, self.initial[name]
        beams_are_grey = name == "num_beams" and self.max_beams == 1
        info = "one_beam" if beams_are_grey else "temperature_info" if name == "temperature" else None
        return gr.Slider(
            low, max(high, value), value, step=step, label=i18n(name), elem_id=name,
            info=i18n(info) if info else None, interactive=not beams_are_grey,
        )  # fmt: skip

    def _limited(self, values: dict[str, Any]) -> dict[str, Any]:
        """Values that the engine and its context have room for."""
        most = {"num_beams": self.max_beams, **dict.fromkeys(LENGTHS, self.longest)}
        return {name: min(value, most.get(name, value)) for name, value in values.items()}

    def _connect(self) -> None:
        self.preset.input(self._fill, self.preset, self.inputs, **LATEST)
        for component in self.inputs:
            component.input(None, None, self.preset, js="() => null")  # it is none of them any more
        for slider in self.sampling_sliders:
            slider.input(None, None, self.do_sample, js="() => true")

    def _fill(self, preset: str) -> list[Any]:
        if preset not in PRESETS:
            return [gr.skip()] * len(CONTROL_NAMES)
        return list(self._limited(self.spec.values(preset)).values())

    def connect_mode_line(self, blocks: gr.Blocks, all_beams: gr.Checkbox) -> None:
        """Say the mode in the visitor's language once the page is there, and whenever it changes.

        Args:
            all_beams: there while there are beams to show.
        """
        triggers = [blocks.load, *(component.change for component in self.inputs)]
        debounce(triggers, _describe_mode, self.inputs, [self.mode, all_beams, *self.sampling_sliders])


def all_beams_checkbox(value: bool, controls: DecodingControls) -> gr.Checkbox:
    """Whether all beams are shown; not there while there is one only."""
    several = controls.initial["num_beams"] > 1
    return gr.Checkbox(value and controls.max_beams > 1, label=i18n("show_beam"), visible=several, elem_id="show_beam")


def _describe_mode(request: gr.Request, *values: Any) -> list[Any]:
    chosen = dict(zip(CONTROL_NAMES, values, strict=True))
    inert = [] if chosen["do_sample"] else ["inert"]
    usable = not (chosen["do_sample"] and chosen["temperature"] == 0)
    others = [gr.update(interactive=usable, elem_classes=inert) for _ in SAMPLING_SLIDERS[1:]]
    beams = gr.update(visible=chosen["num_beams"] > 1)
    return [mode_line(request_strings(request), chosen), beams, gr.update(elem_classes=inert), *others]


def kwargs_from_controls(values: Sequence[Any]) -> dict[str, Any]:
    """generate()'s arguments from the controls' values.

    Raises:
        UserError: a value that no slider has; a request need not come from the page.
    """
    found = dict(zip(CONTROL_NAMES, values, strict=True))
    for name, (low, _, step) in SLIDERS.items():
        value = found[name]
        if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= MAX_VALUE:
            raise UserError(Sentence("bad_number", name=name, value=value, low=low))
        found[name] = int(value) if step == 1 else float(value)
    return effective_kwargs({**found, "do_sample": bool(found["do_sample"])})


def mode_line(strings: Strings, values: dict[str, Any]) -> str:
    """What the settings amount to, and which of them have no effect in it."""
    real = effective_kwargs(values)
    hint = ""
    if not real["do_sample"]:
        hint = strings["zero"] if values["do_sample"] else strings["inert"]
    return strings["mode"].format(mode=strings[decoding_mode(real)]) + hint
