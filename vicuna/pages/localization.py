"""The pages' words in the language of whoever reads them.

Static labels follow the browser's language through `i18n`; lines that hold numbers are written per request.
"""

import gradio as gr

from vicuna.pages.strings import STRINGS, Strings

# Gradio looks a browser's language up by its full tag first.
i18n = gr.I18n(**{**STRINGS, "zh-CN": STRINGS["zh"], "zh-TW": STRINGS["zh"]})


def request_strings(request: gr.Request | None) -> Strings:
    """The strings in the language of the browser that asks."""
    language = (request.headers.get("accept-language") or "en") if request else "en"
    return STRINGS["zh" if language.lower().startswith("zh") else "en"]
