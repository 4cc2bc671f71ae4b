"""Chat templates as other programs are to render them: as training did, whatever these know of the text or the day.

llama-cpp-python replaces four texts by code of its own, which makes other prompts. Llama 3.2's template and others
write the day on which a prompt is made; a model that was trained with one day is asked with that day.
"""

import re
from datetime import date
from hashlib import sha256

# The beginnings of the SHA-256 of ChatML in one line, Mistral's and Mixtral's of 2023, and the first of Llama 3.
REPLACED = ("153280e3ff55d19d", "7e995b379ec01747", "26a59556925c9873", "ba03a121d097859c")
_COMMENT = "{# rendered as it stands #}"
_TODAY = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")


def foreign_template(text: str, day: str = "") -> str:
    """A template that renders the same in other programs.

    Args:
        day: what it took for today in training, as YYYY-MM-DD; "" where it is to take today.
    """
    if sha256(text.encode()).hexdigest()[:16] in REPLACED:
        return _COMMENT + text  # in front: behind the text, a line feed at its end would count
    if not day or not ("date_string" in text or "strftime_now" in text):
        return text
    then = date.fromisoformat(day)
    fixed = _TODAY.sub(lambda found: repr(then.strftime(found[2])), text)
    return f'{{%- set date_string = "{then:%d %b %Y}" -%}}{fixed}' if "date_string" in text else fixed
