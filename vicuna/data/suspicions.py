"""What good rows hold that probably no one wants to teach: it is learnt as it is, and named with counts.

Code between backticks is left out, since a row about HTML or about templates shows it there.
"""

import re
from collections.abc import Sequence

from vicuna.prompt.templates import Message

CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.DOTALL)
SHOWN_CHARACTERS = 40
ASKS = r"(?:Human|User|人类|用户)"
ANSWERS = r"(?:Assistant|Bot|Belle|助手)"
HTML_TAGS = "a|b|body|code|div|em|h[1-6]|html|i|li|ol|p|pre|section|span|strong|sub|sup|table|tbody|td|th|tr|u|ul"
MARKERS = (
    r"<\|im_start\|>|<\|(?:user|assistant|start_header_id)\|>|\[/INST\]|^### (?:Instruction|Response|Human|Assistant):"
)
# Kind -> what tells it.
SIGNS = {
    "a dialogue within one text": re.compile(
        rf"^[ \t]*{ASKS}[ \t]*[:：].*?^[ \t]*{ANSWERS}[ \t]*[:：]|{MARKERS}",
        re.DOTALL | re.MULTILINE | re.IGNORECASE,
    ),
    "HTML": re.compile(
        rf"<({HTML_TAGS})\b[^<>]*>.*?</\1>|<br ?/?>|&(?:lt|gt|amp|quot|nbsp|#\d{{2,5}});", re.DOTALL | re.IGNORECASE
    ),
    "placeholders that were not filled in": re.compile(r"\{\{ ?[\w.\-]{1,40} ?\}\}"),
    # A character in place of lost ones; what UTF-8 looks like as GBK; and as Latin-1.
    "damaged characters": re.compile("�|锟斤拷|烫烫烫|[ÃÂ][\u0080-\u00bf]|[äåæçèé][\u0080-\u00bf]{2}"),
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
                if kind not in found and (match := sign.search(plain)):
                    found[kind] = match.group()[:SHOWN_CHARACTERS]
    return found
