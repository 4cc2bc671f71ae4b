"""What is at the top of both pages: the heading, and the buttons that every page has."""

import gradio as gr

from vicuna.pages import assets
from vicuna.pages.localization import i18n

HEADING = "# Chinese-Vicuna 中文小羊驼"


def page_buttons(with_login: bool) -> None:
    """The buttons to log out, for light and dark, and for the settings, with what they do in the browser."""
    scripts = {"logout": assets.LOG_OUT, "theme": assets.SWITCH_THEME, "show_controls": assets.panel("controls")}
    for name, script in scripts.items():
        if with_login or name != "logout":
            gr.Button(i18n(name), size="sm", elem_id=name).click(None, None, None, js=script)
