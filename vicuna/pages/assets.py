"""What both pages give the browser beside their parts: their look, and scripts with the words that they say."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vicuna.pages.strings import GRADIO, STRINGS

# On a phone: a row of buttons, question and answer, and the panels as drawers below that row.
CSS = """
:focus-visible { outline: 2px solid var(--primary-700) !important; outline-offset: 1px; }
.dark :focus-visible { outline-color: var(--primary-400) !important; }
/* Inside of what would cut it off. */
textarea:focus-visible, input:is([type=number], [role=combobox], [type=search]):focus-visible,
.reset-button:focus-visible { outline-offset: -2px; }
#title h1 { font-size: var(--text-lg); margin: 0; }
#status p, #warnings p { font-size: var(--text-sm); margin: 0; }
#actions { flex-wrap: wrap; align-items: center; gap: var(--spacing-sm); }
#actions > * { flex: 0 0 auto; min-width: 0 !important; width: auto; }
html[data-controls="closed"] #controls, html[data-history="closed"] #history { display: none; }
.prose hr { margin: var(--spacing-xl) 0; }
/* What has no effect as things stand; moving it gives it one. */
.inert { opacity: 0.8; filter: grayscale(1); }
/* The thinking before an answer. */
.prose details { color: var(--body-text-color-subdued); border-left: 2px solid var(--border-color-primary);
    padding-left: var(--spacing-md); margin-bottom: var(--spacing-md); }
.prose summary { cursor: pointer; }
@media (max-width: 640px) {
    #columns { flex-direction: column; }
    #columns > * { min-width: 100% !important; }
    #left { display: contents; }
    #ask { order: 1; } #right { order: 2; } #more { order: 3; }
    /* Seen by screen readers alone. */
    #title { position: absolute; width: 1px; height: 1px; overflow: clip !important; clip-path: inset(50%); }
    #status { display: none; }
    #actions { flex-wrap: nowrap; overflow-x: auto; position: sticky; top: 0; z-index: 101;
        background: var(--body-background-fill); }
    #actions > #show_history, #actions > #show_controls { order: -1; }
    #columns #controls, #columns #history { position: fixed; z-index: 100; inset: 44px 0 0 0; max-width: none;
        overflow-y: auto; background: var(--body-background-fill); padding: 8px; }
    #columns #controls > * { flex-shrink: 0; }
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

# By a form and not by a link, which any page could have a visitor follow.
LOG_OUT = """() => {
    const form = document.createElement("form");
    form.method = "post";
    form.action = "/logout";
    document.body.append(form);
    form.submit();
}"""
SWITCH_THEME = "() => vicunaPage.switchTheme()"


def panel(name: str) -> str:
    """Open or close a panel."""
    return f"() => vicunaPage.panel({json.dumps(name)})"


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
