"""What the pages say, without a browser: lines about an answer and its settings, in both languages."""

import re

from vicuna.answer.stream import Beam, Update
from vicuna.pages.decoding_controls import ASK_CONTROLS, SLIDERS, mode_line
from vicuna.pages.rendering import answer_markdown, stats_line
from vicuna.pages.strings import STRINGS


def test_the_sliders_have_the_originals_ranges_but_for_temperature_and_lengths():
    assert SLIDERS["temperature"][:2] == (0, 2)
    assert SLIDERS["top_k"] == (0, 100, 1)
    assert SLIDERS["num_beams"] == (1, 10, 1)
    assert SLIDERS["repetition_penalty"] == (0.1, 10, 0.1)
    original = ASK_CONTROLS.values("original")
    assert [original[name] for name in SLIDERS] == [0.1, 0.75, 40, 4, 256, 1, 2.0]


def test_both_languages_have_the_same_strings():
    assert STRINGS["en"].keys() == STRINGS["zh"].keys()
    for key, english in STRINGS["en"].items():
        assert re.findall(r"\{\w+", english) == re.findall(r"\{\w+", STRINGS["zh"][key]), key


def test_the_lines_of_an_update_name_speed_reason_and_beams():
    update = Update([Beam([5, 6], "甲", -0.5), Beam([5, 7], "乙", -0.9)], 2, 1.2, 0.2, "length", cut_character=True)
    line = stats_line(STRINGS["en"], update)
    assert line.startswith("2 tokens · 1.0 tokens/s · first token 0.20 s · length limit reached")
    assert "incomplete" in line
    shown = answer_markdown(STRINGS["zh"], update)
    assert "第 1 束 · -0.50 · 最终" in shown
    assert "第 2 束 · -0.90**" in shown
    assert answer_markdown(STRINGS["zh"], update, all_beams=False) == "甲"


def test_the_mode_line_says_what_has_no_effect():
    greedy = ASK_CONTROLS.values("precise")
    assert mode_line(STRINGS["en"], greedy).endswith("moving one switches sampling on.")
    assert mode_line(STRINGS["en"], {**greedy, "do_sample": True}) == "Decoding now: **sampling**."
