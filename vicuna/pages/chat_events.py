"""The page of chat.py put together: which handler each event of its layout calls."""

from typing import Any

import gradio as gr

from vicuna.answer.assistant import Assistant
from vicuna.answer.flags import ChatFlags, DecodingFlags, ServeFlags
from vicuna.pages import assets, chat_assets, server
from vicuna.pages.chat_assets import Script
from vicuna.pages.chat_controller import ChatController
from vicuna.pages.chat_handlers import ChatHandlers
from vicuna.pages.chat_layout import SETTING_NAMES, ChatLayout
from vicuna.pages.events import ANSWERING, IMMEDIATE, LATEST, debounce
from vicuna.pages.turns import attended


def build_page(
    assistant: Assistant, flags: ChatFlags, serve: ServeFlags, decoding: DecodingFlags, with_login: bool = False
) -> server.Page:
    """The multi-turn page of a loaded model."""
    with gr.Blocks(title="Chinese-Vicuna", **server.BLOCKS_KWARGS) as blocks:
        layout = ChatLayout(assistant, flags, decoding, with_login)
        controller = ChatController(assistant, decoding.seed, serve.use_typewriter)
        parts = {**layout.place, **layout.changing, "loaded": layout.loaded}
        handlers = ChatHandlers(assistant, flags.save_path, controller, parts, layout.initial)
        script = Script(SETTING_NAMES)
        changing = list(layout.changing.values())
        _connect_answers(layout, handlers, changing)
        _connect_turns(layout, handlers, changing, script)
        _connect_storage(blocks, layout, handlers, changing, script)
        _connect_files(layout, handlers, changing, script)
        _connect_settings(blocks, layout, handlers, changing)
        layout.show_history.click(None, None, None, js=assets.panel("history"))
        blocks.unload(handlers.close_tab)
    return server.Page(blocks, chat_assets.CSS, chat_assets.head())


def _connect_answers(layout: ChatLayout, handlers: ChatHandlers, changing: list[Any]) -> None:
    settings, answering = layout.settings, {**ANSWERING, "outputs": changing}
    asked = [layout.message, layout.stored, layout.editing, *settings, layout.visit]
    layout.message.submit(attended(handlers.send, handlers.close_tab), asked, api_name="predict", **answering)
    regenerate = attended(handlers.regenerate, handlers.close_tab)
    layout.chatbot.retry(regenerate, [layout.stored, *settings, layout.visit], api_visibility="private", **answering)
    layout.message.stop(handlers.stop, None, None, **IMMEDIATE)
    layout.chatbot.example_select(handlers.pick_example, None, layout.message, **IMMEDIATE)


def _connect_turns(layout: ChatLayout, handlers: ChatHandlers, changing: list[Any], script: Script) -> None:
    stored, settings = layout.stored, layout.settings
    layout.chatbot.undo(handlers.undo, [stored, *settings], changing, **IMMEDIATE)
    layout.act.click(
        handlers.act, [layout.wanted, stored, layout.message, *settings], changing, js=script.acted, **IMMEDIATE
    )
    layout.back.click(handlers.bring_back, [stored, *settings], changing, **IMMEDIATE)
    layout.close.click(handlers.close_edit, layout.editing, changing, **IMMEDIATE)
    layout.returned.change(
        None, [layout.returned, layout.message], [layout.message, layout.returned], js=script.returned
    )
    layout.chatbot.copy(handlers.original_text, stored, layout.plain, **IMMEDIATE).then(
        None, layout.plain, None, js=assets.COPY_TEXT
    )


def _connect_storage(
    blocks: gr.Blocks, layout: ChatLayout, handlers: ChatHandlers, changing: list[Any], script: Script
) -> None:
    stored, kept_settings, place = layout.stored, layout.kept_settings, list(layout.place.values())
    outputs = [*place, *changing, *kept_settings]
    here = [*place, stored, layout.message, *kept_settings]
    blocks.load(handlers.user_name, None, layout.owner, **IMMEDIATE).then(
        handlers.restore, here, outputs, js=script.read, **IMMEDIATE
    ).then(None, None, None, js=script.shown)
    stored.change(None, [layout.owner, stored, layout.visit, layout.origin], None, js=script.keep)
    layout.message.change(None, layout.message, None, js=script.keep_typed)
    gr.on([part.change for part in kept_settings], None, kept_settings, None, js=script.keep_settings)
    layout.origin.change(
        handlers.discard_stale_update, [*here, layout.visit, layout.origin], outputs, js=script.read_loaded, **LATEST
    )
    for begun, js in ((layout.new, script.begin), (layout.open, script.open)):
        begun.click(handlers.open_conversation, here, outputs, js=js, **IMMEDIATE).then(
            None, None, None, js=script.shown
        )


def _connect_files(layout: ChatLayout, handlers: ChatHandlers, changing: list[Any], script: Script) -> None:
    stored, kept_settings, place = layout.stored, layout.kept_settings, list(layout.place.values())
    saved = [layout.conversation_id, layout.form, stored, layout.title, *kept_settings]
    for button in (layout.save, layout.export):
        button.click(handlers.save_chat, saved, [layout.file, layout.hint], js=script.saving, **IMMEDIATE).then(
            None, [layout.file, layout.form], None, js=script.download
        )
    layout.load.click(handlers.load_chat, layout.file, [layout.loaded, layout.hint], js=script.pick, **IMMEDIATE)
    visit, loaded = [layout.visit, layout.origin, stored], layout.loaded
    layout.loaded.change(None, [layout.owner, loaded], visit, js=script.keep_loaded).then(
        handlers.show_loaded,
        [*place, stored, layout.message, *kept_settings, loaded],
        [*place, *changing, *kept_settings],
        js=script.read_loaded,
        **IMMEDIATE,
    ).then(None, None, None, js=script.shown)


def _connect_settings(blocks: gr.Blocks, layout: ChatLayout, handlers: ChatHandlers, changing: list[Any]) -> None:
    settings, decoding = layout.settings, layout.decoding
    status = [layout.status, layout.warning, layout.system, layout.thinking]
    debounce([layout.adapter.input], handlers.trained_prompt_type, [layout.adapter], [layout.prompt_type])
    triggers = [blocks.load, layout.adapter.change, layout.prompt_type.change, layout.system.change]
    debounce(triggers, handlers.describe, [layout.adapter, layout.prompt_type, layout.system], status)
    if layout.warnings:
        blocks.load(handlers.warnings, None, layout.warnings, **IMMEDIATE)
    decoding.connect_mode_line(blocks, layout.all_beams)
    parts = (layout.prompt_type, layout.thinking, layout.system, layout.max_memory, decoding.sliders["max_new_tokens"])
    inputs = [layout.stored, layout.forgotten, *settings]
    debounce([part.change for part in parts], handlers.refresh_memory, inputs, changing)
    layout.reset.click(lambda: list(layout.initial.values()), None, layout.kept_settings, **IMMEDIATE)
