"""The Gradio parts that the pages share, and every word of theirs in English and Chinese.

Static labels follow the browser's language through `gr.I18n`; lines that hold numbers are written per request.
"""

import re
from typing import Any

import gradio as gr

from vicuna.stream import DEFAULTS, PRESETS, Update, effective, mode

CURSOR = " ▌"

# On a phone: question, answer, then the settings.
CSS = """
@media (max-width: 640px) {
    #columns { flex-direction: column; }
    #left { display: contents; }
    #ask { order: 1; } #right { order: 2; } #controls { order: 3; }
}
"""

STRINGS = {
    "en": {
        "question": "Input",
        "question_hint": "Tell me about alpacas.",
        "extra": "Additional input (optional)",
        "extra_hint": "A text the instruction speaks of",
        "examples": "Examples",
        "generate": "Generate",
        "stop": "Stop",
        "continue": "Continue",
        "preset": "Decoding",
        "settings": "All settings",
        "do_sample": "Use sample",
        "do_sample_info": "Off: the likeliest tokens. Moving temperature, top p or top k switches it on.",
        "temperature": "Temperature",
        "temperature_info": "0 is greedy; higher is more random",
        "top_p": "Top p",
        "top_k": "Top k",
        "num_beams": "Beams Number",
        "max_new_tokens": "Max New Tokens",
        "min_new_tokens": "Min New Tokens",
        "repetition_penalty": "Repetition Penalty",
        "show_beam": "Show all beams",
        "output": "Output",
        "prompt": "The exact prompt sent",
        "mode": "Decoding now: **{mode}**.",
        "inert": " Temperature, top p and top k have no effect in it; moving one switches sampling on.",
        "zero": " Temperature 0 is greedy: top p and top k have no effect.",
        "greedy": "greedy",
        "sampling": "sampling",
        "beam search": "beam search",
        "beam sampling": "beam sampling",
        "beam": "Beam {n} · {score:.2f}",
        "final": " · final",
        "stats": "{tokens} tokens · {speed:.1f} tokens/s · first token {first:.2f} s",
        "eos": " · complete (eos)",
        "length": " · length limit reached",
        "stopped": " · stopped by you",
        "cut": " · the last character was incomplete and is left out",
        "tokens": "{tokens} tokens",
        "empty": "Please type a question first.",
    },
    "zh": {
        "question": "输入",
        "question_hint": "给我讲讲羊驼。",
        "extra": "补充输入（可不填）",
        "extra_hint": "指令所说的那段文字",
        "examples": "示例",
        "generate": "生成",
        "stop": "停止",
        "continue": "继续",
        "preset": "解码方式",
        "settings": "全部设置",
        "do_sample": "使用采样",
        "do_sample_info": "关闭时取最可能的词。移动温度、top p 或 top k 会打开采样。",
        "temperature": "温度",
        "temperature_info": "0 为贪心解码；越高越随机",
        "top_p": "Top p",
        "top_k": "Top k",
        "num_beams": "束数",
        "max_new_tokens": "最大生成长度",
        "min_new_tokens": "最小生成长度",
        "repetition_penalty": "重复惩罚",
        "show_beam": "显示所有束",
        "output": "输出",
        "prompt": "实际发送的提示词",
        "mode": "当前解码：**{mode}**。",
        "inert": "温度、top p 和 top k 在此方式下不起作用；移动其中之一会打开采样。",
        "zero": "温度为 0 即贪心解码：top p 和 top k 不起作用。",
        "greedy": "贪心",
        "sampling": "采样",
        "beam search": "束搜索",
        "beam sampling": "束采样",
        "beam": "第 {n} 束 · {score:.2f}",
        "final": " · 最终",
        "stats": "{tokens} 个词元 · {speed:.1f} 词元/秒 · 首字 {first:.2f} 秒",
        "eos": " · 已答完（eos）",
        "length": " · 已到长度上限",
        "stopped": " · 已由你停止",
        "cut": " · 最后一个字不完整，未显示",
        "tokens": "{tokens} 个词元",
        "empty": "请先输入问题。",
    },
}
# Gradio looks a browser's language up by its full tag first.
TRANSLATIONS = {"en": STRINGS["en"], "zh": STRINGS["zh"], "zh-CN": STRINGS["zh"], "zh-TW": STRINGS["zh"]}

PRESET_CHOICES = [
    ("Precise 精确", "precise"),
    ("Balanced 均衡", "balanced"),
    ("Creative 创意", "creative"),
    ("Beam 束搜索", "beam"),
    ("Original 原版", "original"),
    ("Custom 自定", "custom"),
]
# name -> (minimum, maximum, step), the original's ranges
SLIDERS = {
    "temperature": (0, 1, 0.05),
    "top_p": (0, 1, 0.05),
    "top_k": (0, 100, 1),
    "num_beams": (1, 10, 1),
    "max_new_tokens": (1, 2000, 1),
    "min_new_tokens": (1, 300, 1),
    "repetition_penalty": (0.1, 10, 0.1),
}
IDLE = {"temperature": 0.1, "top_p": 0.75, "top_k": 40, **DEFAULTS}  # where a slider stands that a preset leaves open


def words(request: gr.Request | None) -> dict[str, str]:
    """The strings in the language of the browser that asks."""
    language = (request.headers.get("accept-language") or "en") if request else "en"
    return STRINGS["zh" if language.lower().startswith("zh") else "en"]


def preset_values(name: str) -> dict[str, Any]:
    """What the checkbox and the sliders show under a preset."""
    values = {**IDLE, **PRESETS[name]}
    return {key: values[key] for key in ("do_sample", *SLIDERS)}


class Decoding:
    """The decoding controls: presets, the sample checkbox, the sliders, and the line that says what they mean."""

    def __init__(self, i18n: gr.I18n, preset: str, values: dict[str, Any]):
        custom = preset_values(preset) != values
        self.preset = gr.Radio(
            PRESET_CHOICES, value="custom" if custom else preset, label=i18n("preset"), elem_id="preset"
        )
        self.mode = gr.Markdown(mode_line(STRINGS["en"], values), elem_id="mode")
        with gr.Accordion(i18n("settings"), open=False, elem_id="settings"):
            self.do_sample = gr.Checkbox(
                values["do_sample"], label=i18n("do_sample"), info=i18n("do_sample_info"), elem_id="do_sample"
            )
            self.sliders = {
                name: gr.Slider(
                    low, high, values[name], step=step, label=i18n(name), elem_id=name,
                    info=i18n("temperature_info") if name == "temperature" else None,
                )
                for name, (low, high, step) in SLIDERS.items()
            }  # fmt: skip
        self._connect()

    @property
    def inputs(self) -> list[Any]:
        """The components whose values `chosen` takes, in its order."""
        return [self.do_sample, *self.sliders.values()]

    def _connect(self) -> None:
        drawing = [self.sliders[name] for name in ("temperature", "top_p", "top_k")]
        self.preset.input(lambda name: _fill(name), self.preset, self.inputs, queue=False)
        for slider in self.sliders.values():
            slider.input(lambda: "custom", None, self.preset, queue=False)
        for slider in drawing:
            slider.input(lambda: True, None, self.do_sample, queue=False)
        self.do_sample.input(lambda: "custom", None, self.preset, queue=False)
        for component in self.inputs:
            component.change(_describe, self.inputs, [self.mode, *drawing[1:]], queue=False, show_progress="hidden")

    def on_load(self, page: gr.Blocks) -> None:
        """Say the mode in the visitor's language once the page is there."""
        page.load(_describe, self.inputs, [self.mode, self.sliders["top_p"], self.sliders["top_k"]], queue=False)


def _fill(name: str) -> list[Any]:
    if name == "custom":
        return [gr.skip()] * (1 + len(SLIDERS))
    return list(preset_values(name).values())


def _describe(request: gr.Request, *values: Any) -> list[Any]:
    chosen = dict(zip(("do_sample", *SLIDERS), values, strict=True))
    usable = not (chosen["do_sample"] and chosen["temperature"] == 0)
    return [mode_line(words(request), chosen), gr.update(interactive=usable), gr.update(interactive=usable)]


def chosen(values: tuple[Any, ...]) -> dict[str, Any]:
    """generate()'s arguments from the controls' values."""
    return effective(dict(zip(("do_sample", *SLIDERS), values, strict=True)))


def mode_line(strings: dict[str, str], values: dict[str, Any]) -> str:
    """What the settings amount to, and which of them have no effect in it."""
    real = effective(values)
    hint = ""
    if not real["do_sample"]:
        hint = strings["zero"] if values["do_sample"] else strings["inert"]
    return strings["mode"].format(mode=strings[mode(real)]) + hint


def stats_line(strings: dict[str, str], update: Update) -> str:
    """Tokens, speed, first token, and why the answer ended."""
    line = strings["stats"].format(tokens=update.tokens, speed=update.tokens_per_s, first=update.first_s)
    return line + (strings[update.finish] if update.finish else "") + (strings["cut"] if update.cut_character else "")


def show_answer(strings: dict[str, str], update: Update, before: str = "", all_beams: bool = True) -> str:
    """The answer as Markdown: one beam as it is, several one below the other, best first."""
    cursor = "" if update.finish else CURSOR
    if len(update.beams) == 1 or not all_beams:
        return safe_markdown(before + update.text) + cursor
    parts = []
    for n, beam in enumerate(update.beams, 1):
        head = strings["beam"].format(n=n, score=beam.score) + (strings["final"] if update.finish and n == 1 else "")
        parts.append(f"**{head}**\n\n{safe_markdown(before + beam.text)}{cursor}")
    return "\n\n---\n\n".join(parts)


_CODE = re.compile(r"(^```.*?(?:^```[^\S\n]*$|\Z)|`[^`\n]+`)", re.MULTILINE | re.DOTALL)


def safe_markdown(text: str) -> str:
    """`text` for a Markdown component: no raw HTML, no image that the browser would fetch; code stays as it is."""
    parts = _CODE.split(text)
    for i in range(0, len(parts), 2):
        escaped = parts[i].replace("&", "&amp;").replace("<", "&lt;")
        parts[i] = escaped.replace("![", "!\\[")
    return "".join(parts)
