"""What both pages give the browser beside their parts: their look, and scripts with the words that they say."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vicuna.pages.strings import GRADIO, STRINGS

# On a phone: question, answer, then the settings.
CSS = """
.prose hr { margin: var(--spacing-xl) 0; }
/* What has no effect as things stand; moving it gives it one. */
.inert { opacity: 0.5; }
/* The thinking before an answer. */
.prose details { color: var(--body-text-color-subdued); border-left: 2px solid var(--border-color-primary);
    padding-left: var(--spacing-md); margin-bottom: var(--spacing-md); }
.prose summary { cursor: pointer; }
@media (max-width: 640px) {
    #columns { flex-direction: column; }
    #columns > * { min-width: 100% !important; }
    #left { display: contents; }
    #ask { order: 1; } #right { order: 2; } #controls { order: 3; }
}
"""

# Puts a text into the clipboard: what a message was written as, where Gradio's own button copies what is shown.
COPY_TEXT = """(text) => {
    if (!text) return;
    if (navigator.clipboard) { navigator.clipboard.writeText(text); return; }
    const area = document.createElement("textarea");
    area.value = text;
    document.body.prepend(area);
    area.select();
    document.execCommand("copy");
    area.remove();
}"""


def head(words: Sequence[str] = (), scripts: Sequence[str] = (), **numbers: Any) -> str:
    """What stands in the page's head: `page.js` and other scripts, and the table of what they say.

    Args:
        words: keys of STRINGS that the scripts say.
        numbers: what else they read in their table.
    """
    tables = {
        language: {
            "language": {"en": "en", "zh": "zh-CN"}[language],
            "words": {name: strings[name] for name in words},
            "gradio": [[pattern, said[language]] for pattern, said in GRADIO.items()],
            **numbers,
        }
        for language, strings in STRINGS.items()
    }
    table = json.dumps(tables, ensure_ascii=False).replace("<", "\\u003c")
    choice = 'navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en"'
    code = [Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("page.js", *scripts)]
    return "".join(f"<script>{one}</script>" for one in (f"window.vicunaTable = ({table})[{choice}];", *code))
