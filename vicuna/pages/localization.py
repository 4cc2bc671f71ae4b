"""The pages' words in the language of whoever reads them.

Static labels follow the browser's language through `i18n`; lines that hold numbers are written per request.
"""

import gradio as gr

from vicuna.pages.strings import STRINGS, Strings

# Gradio looks a browser's language up by its full tag first.
i18n = gr.I18n(**{**STRINGS, "zh-CN": STRINGS["zh"], "zh-TW": STRINGS["zh"]})


def request_strings(request: gr.Request | None) -> Strings:
    """The strings in the language of the browser that asks."""
    return strings_in((request.headers.get("accept-language") or "") if request else "")


def strings_in(languages: str) -> Strings:
    """The strings in the first of a browser's languages."""
    return STRINGS["zh" if languages.lower().startswith("zh") else "en"]
