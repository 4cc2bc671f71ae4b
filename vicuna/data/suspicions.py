"""What good rows hold that probably no one wants to teach: it is learnt as it is, and named with counts.

Code between backticks is left out, since a row about HTML or about templates shows it there.
"""

import re
from collections.abc import Callable, Sequence

from vicuna.prompt.templates import Message

CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.DOTALL)
SHOWN_CHARACTERS = 40
ASKS = r"(?:Human|User|人类|用户)"
ANSWERS = r"(?:Assistant|Bot|Belle|助手)"
HTML_TAGS = "a|b|body|code|div|em|h[1-6]|html|i|li|ol|p|pre|section|span|strong|sub|sup|table|tbody|td|th|tr|u|ul"
MARKERS = (
    r"<\|im_start\|>|<\|(?:user|assistant|start_header_id)\|>|\[/INST\]|^### (?:Instruction|Response|Human|Assistant):"
)
FLAGS = re.MULTILINE | re.IGNORECASE
ASKED, ANSWERED = (re.compile(rf"^[ \t]*{who}[ \t]*[:：]", FLAGS) for who in (ASKS, ANSWERS))
MARKER = re.compile(MARKERS, FLAGS)
OPENED, CLOSED = re.compile(rf"<({HTML_TAGS})\b[^<>]*>", FLAGS), re.compile(rf"</({HTML_TAGS})>", FLAGS)
ALONE = re.compile(r"<br ?/?>|&(?:lt|gt|amp|quot|nbsp|#\d{2,5});", FLAGS)


def _dialogue(text: str) -> tuple[int, int] | None:
    """Where a question and its answer, or a marker of such, begin and end in a text."""
    found = [one.span() for one in [MARKER.search(text)] if one]
    # Where no answer stands behind the first question, none stands behind a later one.
    if (asked := ASKED.search(text)) and (answered := ANSWERED.search(text, asked.end())):
        found.append((asked.start(), answered.end()))
    return min(found, default=None)


def _html(text: str) -> tuple[int, int] | None:
    """Where the first element that is closed, or a sign that needs no closing, begins and ends in a text."""
    found = [one.span() for one in [ALONE.search(text)] if one]
    last = {one[1].lower(): one.start() for one in CLOSED.finditer(text)}
    if opened := next((one for one in OPENED.finditer(text) if last.get(one[1].lower(), -1) >= one.end()), None):
        closed = re.compile(f"</{opened[1]}>", FLAGS).search(text, opened.end())
        found.append((opened.start(), closed.end()))
    return min(found, default=None)


def _matched(pattern: str) -> Callable[[str], tuple[int, int] | None]:
    """What tells where a pattern is found first, which looks at no sign of a text twice."""
    sign = re.compile(pattern)
    return lambda text: found.span() if (found := sign.search(text)) else None


# Kind -> what tells where the first of it begins and ends in a text.
SIGNS = {
    "a dialogue within one text": _dialogue,
    "HTML": _html,
    "placeholders that were not filled in": _matched(r"\{\{ ?[\w.\-]{1,40} ?\}\}"),
    # A character in place of lost ones; what UTF-8 looks like as GBK; and as Latin-1.
    "damaged characters": _matched("�|锟斤拷|烫烫烫|[ÃÂ][\u0080-\u00bf]|[äåæçèé][\u0080-\u00bf]{2}"),
}
# A text without any of these has none of the signs.
HINTS = re.compile(r"[:：]|<|&|\[/|\{\{|###|[�锟烫ÃÂäåæçèé]")


def suspicions(messages: Sequence[Message]) -> dict[str, str]:
    """Kind -> the first place of it in a dialogue, as text."""
    found: dict[str, str] = {}
    for message in messages:
        for text in (message["content"], message.get("input", "")):
            if not HINTS.search(text):
                continue
            plain = CODE.sub("", text)
            for kind, sign in SIGNS.items():
                if kind not in found and (place := sign(plain)):
                    found[kind] = plain[place[0] : place[1]][:SHOWN_CHARACTERS]
    return found
