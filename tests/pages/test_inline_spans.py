"""Marks that open and are never closed: found as before, in a walk whose length is that of the text."""

import random
import re
import threading

import pytest

from vicuna.answer import leaving
from vicuna.pages.conversation import MAX_BYTES
from vicuna.pages.inline_spans import MARKS_AT_ONCE, Ends, Kind, inline_spans
from vicuna.pages.markup import safe_markdown
from vicuna.pages.rendering import chatbot_messages
from vicuna.pages.strings import STRINGS

# What a span is, said the short way, which takes the square of a text's length where nothing is closed.
SHORT = re.compile(
    r"""
      (?P<BLOCK>\$\$.+?\$\$ | \\\[.+?\\\])
    | (?P<INLINE>\\\(.+?\\\) | \$(?=\S)[^$\n]+?(?<=\S)\$(?!\d))
    | (?P<CODE>(?P<ticks>(?<!`)`+(?!`))(?:.+?)(?<!`)(?P=ticks)(?!`))
    | (?P<ESCAPED>\\[!-/:-@\[-`{-~])
    | (?P<SPECIAL>[<&`] | !(?=\[) | (?<=\]): | ~{3,} | %(?=%%LATEX))
    """,
    re.VERBOSE | re.DOTALL,
)
SIGNS = (
    "$",
    "$$",
    "\\(",
    "\\)",
    "\\[",
    "\\]",
    "`",
    "``",
    "```",
    "\\",
    "<",
    "&",
    "!",
    "[",
    "]",
    ":",
    "~",
    "~~~",
    "%%%LATEX",
)
# Every mark that opens something whose end has to be looked for, and never comes; and what else could be repeated.
NEVER_CLOSED = ("$ x", "$$x", "$x\n", "\\(", "\\[x", "``a`")
REPEATED = (
    *(
        "$",
        "$x$1 ",
        "\\",
        "`",
        "`a``b",
        "~",
        "~~~ ",
        "<",
        "&",
        "![",
        "]:",
        "%%%LATEX",
        "<think>",
        "<details>\n",
        "```\n",
    ),
    *("~~~~\n", "```py\nx\n```\n", "    a\n", "- a\n\n", "> ", "|", "\n", " "),
)


@pytest.mark.parametrize("seed", range(10))
def test_the_spans_are_those_of_the_short_way(seed):
    chance = random.Random(seed)
    for _ in range(200):
        text = "".join(chance.choices([*SIGNS, "a", "1", " ", "\n", "词"], k=chance.randint(1, 24)))
        # Signs that stand beside one another are one span here, and several there.
        assert _signs(text, [(span.kind, span.start, span.end) for span in inline_spans(text)]) == _signs(
            text, [(Kind[found.lastgroup], *found.span()) for found in SHORT.finditer(text)]
        )


def _signs(text: str, spans: list) -> list:
    return [
        one
        for kind, start, end in spans
        for one in (((kind, i, text[i]) for i in range(start, end)) if kind == Kind.SPECIAL else [(kind, start, end)])
    ]


@pytest.mark.parametrize(
    ("mark", "size"), [*((mark, MAX_BYTES) for mark in NEVER_CLOSED), *((mark, MAX_BYTES // 64) for mark in REPEATED)]
)
def test_two_megabytes_of_an_opening_mark_are_gone_through_once_for_each_kind_of_end(mark, size):
    text = (mark * size)[:size]
    ends = Ends(text)
    last = 0
    for span in inline_spans(text, ends):
        assert span.end > span.start >= last
        last = span.end
    assert ends.steps <= 6 * len(text)  # $$, $, \], \), the end of a line, and ticks


def test_what_a_conversation_of_two_megabytes_is_shown_as_is_made_by_walks_that_end(monkeypatch):
    made = []

    class Counted(Ends):
        def __init__(self, text: str):
            super().__init__(text)
            made.append(self)

    monkeypatch.setattr("vicuna.pages.inline_spans.Ends", Counted)
    text = ("".join([*NEVER_CLOSED, *REPEATED]) * 2000)[: MAX_BYTES // 16]
    (shown, _) = chatbot_messages(
        STRINGS["en"], [{"role": "user", "content": text}, {"role": "assistant", "content": ""}]
    )
    assert len(shown["content"]["text"]) > len(text) / 2
    assert sum(one.steps for one in made) <= 6 * len(text)


def test_what_is_made_for_a_visitor_who_has_left_is_not_made_to_its_end():
    looked = []

    class Gone(threading.Event):
        def is_set(self) -> bool:
            looked.append(self)
            return len(looked) > 3

    def render() -> None:
        leaving.work_until(Gone())
        with pytest.raises(leaving.VisitorLeft):
            safe_markdown("$ x" * 9 * MARKS_AT_ONCE)

    worker = threading.Thread(target=render)
    worker.start()
    worker.join(60)
    assert len(looked) == 4


def test_steps_made_in_other_threads_end_with_their_visitor():
    gone, made = threading.Event(), []

    def steps():
        try:
            for n in range(10):
                leaving.check()
                made.append(n)
                yield n
        finally:
            made.append("closed")

    given = leaving.steps_until(gone, steps())
    results = []

    def one() -> None:
        results.append(next(given, None))

    for n in range(3):
        if n == 2:
            gone.set()
        worker = threading.Thread(target=one)
        worker.start()
        worker.join(60)
    assert results == [0, 1, None]
    assert made == [0, 1, "closed"]
    leaving.check()  # nothing of it is left in this thread
